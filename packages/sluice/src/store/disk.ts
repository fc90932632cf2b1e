/** The store's folders on a disk, for Node. */
import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';
import { mkdir, open, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { SluiceError } from '../errors.js';
import type { StoreFolder, SyncFile } from './files.js';

/** The folder at `path`, made where it is not there. */
export async function diskRoot(path: string): Promise<StoreFolder> {
  await attempt(path, 'opened', () => mkdir(path, { recursive: true }));
  return new DiskFolder(path);
}

class DiskFolder implements StoreFolder {
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  async file(name: string, create: boolean): Promise<SyncFile> {
    const path = join(this.#path, name);
    // Never 'w+': another thread may have made the file, and written to it, a moment ago
    const flags = constants.O_RDWR | (create ? constants.O_CREAT : 0);
    return attempt(path, 'opened', () => new DiskFile(openSync(path, flags), path));
  }

  async folder(name: string, create: boolean): Promise<StoreFolder> {
    const path = join(this.#path, name);
    await attempt(path, 'opened', async () => {
      if (create) await mkdir(path, { recursive: true });
      else await stat(path);
    });
    return new DiskFolder(path);
  }

  async entries(): Promise<{ name: string; kind: 'file' | 'folder'; nbytes: number }[]> {
    return attempt(this.#path, 'listed', async () => {
      const found = await readdir(this.#path, { withFileTypes: true });
      return Promise.all(
        found.map(async (entry) => {
          const folder = entry.isDirectory();
          const nbytes = folder ? 0 : (await stat(join(this.#path, entry.name))).size;
          return {
            name: entry.name,
            kind: folder ? ('folder' as const) : ('file' as const),
            nbytes,
          };
        }),
      );
    });
  }

  async peek(name: string, limit: number): Promise<Uint8Array | undefined> {
    const path = join(this.#path, name);
    return attempt(path, 'read', async () => {
      try {
        const file = await open(path, 'r');
        try {
          const { size } = await file.stat();
          const bytes = new Uint8Array(Math.min(size, limit));
          const { bytesRead } = await file.read(bytes, 0, bytes.byteLength, 0);
          return bytes.subarray(0, bytesRead);
        } finally {
          await file.close();
        }
      } catch (error) {
        if (codeOf(error) === 'ENOENT') return undefined;
        throw error;
      }
    });
  }

  async remove(name: string): Promise<void> {
    const path = join(this.#path, name);
    await attempt(path, 'removed', () => rm(path, { recursive: true, force: true }));
  }
}

class DiskFile implements SyncFile {
  readonly #path: string;
  readonly #descriptor: number;
  #closed = false;

  constructor(descriptor: number, path: string) {
    this.#descriptor = descriptor;
    this.#path = path;
  }

  read(into: Uint8Array, at: number): number {
    return this.#attempt('read', () => {
      let done = 0;
      while (done < into.byteLength) {
        const count = readSync(this.#descriptor, into, done, into.byteLength - done, at + done);
        if (count === 0) break;
        done += count;
      }
      return done;
    });
  }

  write(from: Uint8Array, at: number): void {
    this.#attempt('written', () => {
      for (let done = 0; done < from.byteLength;) {
        done += writeSync(this.#descriptor, from, done, from.byteLength - done, at + done);
      }
    });
  }

  truncate(nbytes: number): void {
    this.#attempt(`made ${nbytes} bytes long`, () => {
      ftruncateSync(this.#descriptor, nbytes);
    });
  }

  size(): number {
    return this.#attempt('examined', () => fstatSync(this.#descriptor).size);
  }

  flush(): void {
    this.#attempt('flushed', () => {
      fsyncSync(this.#descriptor);
    });
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    closeSync(this.#descriptor);
  }

  #attempt<T>(what: string, act: () => T): T {
    try {
      return act();
    } catch (error) {
      throw diskError(this.#path, what, error);
    }
  }
}

async function attempt<T>(path: string, what: string, act: () => T | Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    throw diskError(path, what, error);
  }
}

function codeOf(error: unknown): string | undefined {
  return error instanceof Error ? (error as NodeJS.ErrnoException).code : undefined;
}

function diskError(path: string, what: string, cause: unknown): SluiceError {
  if (cause instanceof SluiceError) return cause;
  const reason = cause instanceof Error ? cause.message : String(cause);
  const code = codeOf(cause);
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new SluiceError('quota_exceeded', `${path} cannot be ${what}: the disk is full`, {
      file: path,
      cause,
    });
  }
  return new SluiceError(
    code === 'ENOENT' ? 'not_found' : 'io',
    `${path} cannot be ${what}: ${reason}`,
    { file: path, cause },
  );
}
