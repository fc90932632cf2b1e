import { SluiceError } from '../errors.js';
import type { StoreFolder, SyncFile } from './files.js';

/** What TypeScript's DOM library does not know yet. */
interface SyncAccessHandleOptions {
  mode: 'readwrite' | 'read-only' | 'readwrite-unsafe';
}
interface WorkerFileHandle {
  createSyncAccessHandle(options?: SyncAccessHandleOptions): Promise<SyncAccessHandle>;
}
interface SyncAccessHandle {
  read(into: Uint8Array, options: { at: number }): number;
  write(from: Uint8Array, options: { at: number }): number;
  truncate(nbytes: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}
interface ListableDirectory {
  values(): AsyncIterable<FileSystemHandle>;
}

/** How often a file is looked at that somebody else is writing to. */
const PEEK_ATTEMPTS = 10;

/** Folder `name` of the origin private file system. Throws `io` where the browser has none, or not here. */
export async function opfsRoot(name: string): Promise<StoreFolder> {
  const storage = (globalThis.navigator as Partial<Navigator> | undefined)?.storage as
    Partial<StorageManager> | undefined;
  if (storage?.getDirectory === undefined) {
    throw new SluiceError('io', 'this browser has no origin private file system here', {
      hint: 'it needs a secure context: https, or localhost',
    });
  }
  try {
    const root = await storage.getDirectory();
    return new OpfsFolder(await root.getDirectoryHandle(name, { create: true }), name);
  } catch (cause) {
    throw fileError(name, 'opened', cause);
  }
}

class OpfsFolder implements StoreFolder {
  readonly #handle: FileSystemDirectoryHandle;
  readonly #path: string;

  constructor(handle: FileSystemDirectoryHandle, path: string) {
    this.#handle = handle;
    this.#path = path;
  }

  async file(name: string, create: boolean): Promise<SyncFile> {
    const path = `${this.#path}/${name}`;
    try {
      const file = (await this.#handle.getFileHandle(name, {
        create,
      })) as unknown as Partial<WorkerFileHandle>;
      if (file.createSyncAccessHandle === undefined) {
        throw new SluiceError(
          'io',
          `${path}: there are no synchronous file handles in this thread`,
        );
      }
      // Several threads and tabs have a file open at once; who writes is settled by Web Locks
      return new OpfsFile(await file.createSyncAccessHandle({ mode: 'readwrite-unsafe' }), path);
    } catch (cause) {
      throw fileError(path, 'opened', cause);
    }
  }

  async folder(name: string, create: boolean): Promise<StoreFolder> {
    const path = `${this.#path}/${name}`;
    try {
      return new OpfsFolder(await this.#handle.getDirectoryHandle(name, { create }), path);
    } catch (cause) {
      throw fileError(path, 'opened', cause);
    }
  }

  async entries(): Promise<{ name: string; kind: 'file' | 'folder'; nbytes: number }[]> {
    const found: { name: string; kind: 'file' | 'folder'; nbytes: number }[] = [];
    try {
      for await (const entry of (this.#handle as unknown as ListableDirectory).values()) {
        if (entry.kind === 'directory') {
          found.push({ name: entry.name, kind: 'folder', nbytes: 0 });
        } else {
          const { size } = await (entry as FileSystemFileHandle).getFile();
          found.push({ name: entry.name, kind: 'file', nbytes: size });
        }
      }
    } catch (cause) {
      throw fileError(this.#path, 'listed', cause);
    }
    return found;
  }

  async peek(name: string, limit: number): Promise<Uint8Array | undefined> {
    try {
      return await this.slice(name, 0, limit);
    } catch (error) {
      if (error instanceof SluiceError && error.code === 'not_found') return undefined;
      throw error;
    }
  }

  async slice(name: string, begin: number, end: number): Promise<Uint8Array> {
    for (let attempt = 1; ; attempt++) {
      try {
        const file = await (await this.#handle.getFileHandle(name)).getFile();
        return new Uint8Array(await file.slice(begin, end).arrayBuffer());
      } catch (cause) {
        const error = fileError(`${this.#path}/${name}`, 'read', cause);
        if (error.code === 'not_found') throw error;
        // NotReadableError where somebody has written to the file since getFile()
        if (attempt === PEEK_ATTEMPTS) throw error;
        await new Promise((resume) => setTimeout(resume, 10 * attempt));
      }
    }
  }

  async remove(name: string): Promise<void> {
    try {
      await this.#handle.removeEntry(name, { recursive: true });
    } catch (cause) {
      const error = fileError(`${this.#path}/${name}`, 'removed', cause);
      if (error.code !== 'not_found') throw error;
    }
  }
}

class OpfsFile implements SyncFile {
  readonly #handle: SyncAccessHandle;
  readonly #path: string;
  #closed = false;

  constructor(handle: SyncAccessHandle, path: string) {
    this.#handle = handle;
    this.#path = path;
  }

  read(into: Uint8Array, at: number): number {
    try {
      return this.#handle.read(into, { at });
    } catch (cause) {
      throw fileError(this.#path, 'read', cause);
    }
  }

  write(from: Uint8Array, at: number): void {
    let written: number;
    try {
      written = this.#handle.write(from, { at });
    } catch (cause) {
      throw fileError(this.#path, 'written', cause);
    }
    if (written === from.byteLength) return;
    throw new SluiceError(
      'quota_exceeded',
      `${this.#path}: ${written} of ${from.byteLength} bytes could be written at ${at}`,
      { file: this.#path, expected: from.byteLength, actual: written },
    );
  }

  truncate(nbytes: number): void {
    try {
      this.#handle.truncate(nbytes);
    } catch (cause) {
      throw fileError(this.#path, `made ${nbytes} bytes long`, cause);
    }
  }

  size(): number {
    try {
      return this.#handle.getSize();
    } catch (cause) {
      throw fileError(this.#path, 'examined', cause);
    }
  }

  flush(): void {
    try {
      this.#handle.flush();
    } catch (cause) {
      throw fileError(this.#path, 'flushed', cause);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#handle.close();
  }
}

/** What went wrong with a file or folder, as a SluiceError: `cannot be ${what}`. */
export function fileError(path: string, what: string, cause: unknown): SluiceError {
  if (cause instanceof SluiceError) return cause;
  const { name, message } = cause instanceof Error ? cause : { name: '', message: String(cause) };
  const code =
    name === 'NotFoundError'
      ? 'not_found'
      : name === 'QuotaExceededError'
        ? 'quota_exceeded'
        : 'io';
  return new SluiceError(code, `${path} cannot be ${what}: ${message}`, { file: path, cause });
}
