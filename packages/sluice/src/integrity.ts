import { SluiceError } from './errors.js';
import { fromBase64, hex } from './util/bytes.js';

/** A SHA-256 that the caller pins a model to, in lower-case hexadecimal digits. */
export type PinnedDigest = string & { readonly pinned: unique symbol };

/**
 * The option `integrity`: `sha256-` and the digest in base64, as for subresource integrity (W3C SRI, 3.2). Throws
 * `invalid_argument`.
 */
export function parseIntegrity(integrity: string): PinnedDigest {
  const [, base64 = ''] = /^sha256-([A-Za-z0-9+/]{43}=)$/.exec(integrity) ?? [];
  if (base64 === '') {
    throw new SluiceError(
      'invalid_argument',
      `option integrity is '${integrity}'; expected 'sha256-' and the digest in base64`,
    );
  }
  return hex(fromBase64(base64)) as PinnedDigest;
}

/** Throws `checksum_mismatch` where a manifest is not the pinned one. */
export async function checkManifest(
  place: string,
  bytes: Uint8Array<ArrayBuffer>,
  pinned: PinnedDigest,
): Promise<void> {
  const actual = hex(new Uint8Array(await crypto.subtle.digest('SHA-256', bytes)));
  if (actual === pinned) return;
  throw new SluiceError(
    'checksum_mismatch',
    `${place}: the sha256 of its ${bytes.byteLength} bytes is ${actual}, and it is pinned to ${pinned}`,
    { file: place, hint: 'the publisher has changed the model, or somebody else has' },
  );
}
