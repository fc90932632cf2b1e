/** Checksums that others publish. Bundled with its library for the browser; loaded where one is wanted. */
import { createMD5, createSHA256 } from 'hash-wasm';

export interface Checksum {
  update(bytes: Uint8Array): void;
  /** Lower-case hexadecimal digits. */
  digest(): string;
}

export async function createChecksum(algorithm: 'md5' | 'sha256'): Promise<Checksum> {
  const hasher = await (algorithm === 'md5' ? createMD5() : createSHA256());
  hasher.init();
  return {
    update(bytes) {
      hasher.update(bytes);
    },
    digest: () => hasher.digest('hex'),
  };
}
