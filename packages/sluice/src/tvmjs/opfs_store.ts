import { hex } from '../util/bytes.js';

/** "sync": by handles that only dedicated workers have; "auto": by those where they are. */
export type OPFSAccessMode = 'async' | 'sync' | 'auto';

const ROOT = 'tvmjs-opfs-store';

interface FileRecord {
  url: string;
  nbytes: number;
  contentType?: string;
}

interface SyncHandle {
  getSize(): number;
  read(buffer: Uint8Array, options: { at: number }): number;
  write(buffer: Uint8Array, options: { at: number }): number;
  truncate(size: number): void;
  flush(): void;
  close(): void;
}
type SyncFile = FileSystemFileHandle & {
  createSyncAccessHandle?: (options: { mode: string }) => Promise<SyncHandle>;
};

/**
 * Files by URL in the origin private file system, laid out as tvmjs does: below `tvmjs-opfs-store` and the parts of the
 * scope, the SHA-256 of the URL with `.bin` for the bytes and `.record.json` for what is known of them. The record is
 * written last, so that a file without one, or of another size, is not there.
 */
export class OPFSStore {
  readonly #scope: string;
  readonly #mode: OPFSAccessMode;
  #folder: Promise<FileSystemDirectoryHandle> | undefined;

  constructor(scope: string, accessMode: OPFSAccessMode = 'async') {
    this.#scope = scope;
    this.#mode = accessMode;
  }

  static isAvailable(): boolean {
    const storage = typeof navigator === 'undefined' ? undefined : navigator.storage;
    return typeof (storage as Partial<StorageManager> | undefined)?.getDirectory === 'function';
  }

  async has(url: string): Promise<boolean> {
    return (await this.#find(url)) !== undefined;
  }

  /** The file as a response with its content type; undefined where there is none. */
  async read(url: string): Promise<Response | undefined> {
    const found = await this.#find(url);
    if (!found) return undefined;
    const { contentType } = found.record;
    return new Response(
      await this.#payload(found.file),
      contentType === undefined ? undefined : { headers: { 'content-type': contentType } },
    );
  }

  async write(url: string, response: Response): Promise<void> {
    const folder = await this.#open();
    const name = await nameOf(url);
    await remove(folder, `${name}.record.json`);
    const file = await folder.getFileHandle(`${name}.bin`, { create: true });
    const nbytes = await this.#fill(file, response);
    const contentType = response.headers.get('content-type');
    const record: FileRecord = { url, nbytes, ...(contentType === null ? {} : { contentType }) };
    const writable = await (
      await folder.getFileHandle(`${name}.record.json`, { create: true })
    ).createWritable();
    await writable.write(JSON.stringify(record));
    await writable.close();
  }

  async remove(url: string): Promise<void> {
    const folder = await this.#open();
    const name = await nameOf(url);
    await remove(folder, `${name}.record.json`);
    await remove(folder, `${name}.bin`);
  }

  async #find(url: string): Promise<{ file: SyncFile; record: FileRecord } | undefined> {
    try {
      const folder = await this.#open();
      const name = await nameOf(url);
      const handle = await folder.getFileHandle(`${name}.record.json`);
      const record = JSON.parse(await (await handle.getFile()).text()) as Partial<FileRecord>;
      const file: SyncFile = await folder.getFileHandle(`${name}.bin`);
      const whole = record.url === url && (await file.getFile()).size === record.nbytes;
      return whole ? { file, record: record as FileRecord } : undefined;
    } catch (error) {
      const name = error instanceof Error ? error.name : '';
      // Cleared by the browser or by another tab, or cut short
      if (name === 'InvalidStateError') this.#folder = undefined;
      if (['NotFoundError', 'InvalidStateError', 'SyntaxError'].includes(name)) return undefined;
      throw error;
    }
  }

  async #payload(file: SyncFile): Promise<BodyInit> {
    const handle = await this.#syncHandle(file, 'read-only');
    if (!handle) return file.getFile();
    try {
      const bytes = new Uint8Array(handle.getSize());
      handle.read(bytes, { at: 0 });
      return bytes;
    } finally {
      handle.close();
    }
  }

  async #fill(file: SyncFile, response: Response): Promise<number> {
    const chunks = response.body ?? new Blob([]).stream();
    const handle = await this.#syncHandle(file, 'readwrite');
    let nbytes = 0;
    if (handle) {
      try {
        handle.truncate(0);
        for await (const chunk of chunks) {
          handle.write(chunk, { at: nbytes });
          nbytes += chunk.byteLength;
        }
        handle.flush();
      } finally {
        handle.close();
      }
      return nbytes;
    }
    const writable = await file.createWritable();
    try {
      for await (const chunk of chunks) {
        await writable.write(chunk);
        nbytes += chunk.byteLength;
      }
      await writable.close();
    } catch (error) {
      await writable.abort().catch(() => undefined);
      throw error;
    }
    return nbytes;
  }

  /** A handle of a worker; undefined where the mode does not want one, or may do without. */
  async #syncHandle(file: SyncFile, mode: string): Promise<SyncHandle | undefined> {
    if (this.#mode === 'async') return undefined;
    if (typeof file.createSyncAccessHandle !== 'function') {
      if (this.#mode === 'auto') return undefined;
      const error = new Error(
        'OPFSStore: createSyncAccessHandle unavailable; sync OPFS access requires a dedicated worker.',
      );
      error.name = 'NotSupportedError';
      throw error;
    }
    try {
      return await file.createSyncAccessHandle({ mode });
    } catch (error) {
      const locked = error instanceof Error && error.name === 'NoModificationAllowedError';
      if (this.#mode === 'auto' && locked) return undefined;
      throw error;
    }
  }

  #open(): Promise<FileSystemDirectoryHandle> {
    if (!OPFSStore.isAvailable()) {
      return Promise.reject(new Error('OPFSStore: OPFS API unavailable.'));
    }
    this.#folder ??= (async () => {
      let folder = await navigator.storage.getDirectory();
      const parts = this.#scope.split('/').filter((part) => part !== '');
      for (const part of [ROOT, ...parts.map(encodeURIComponent)]) {
        folder = await folder.getDirectoryHandle(part, { create: true });
      }
      return folder;
    })();
    this.#folder.catch(() => (this.#folder = undefined));
    return this.#folder;
  }
}

async function nameOf(url: string): Promise<string> {
  return hex(new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(url))));
}

async function remove(folder: FileSystemDirectoryHandle, name: string): Promise<void> {
  try {
    await folder.removeEntry(name);
  } catch (error) {
    if (!(error instanceof Error && error.name === 'NotFoundError')) throw error;
  }
}
