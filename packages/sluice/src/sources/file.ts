import { open, stat, type FileHandle } from 'node:fs/promises';
import { resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { SluiceError } from '../errors.js';
import type { ByteStream, Source } from './source.js';

export interface FileSourceOptions {
  /** Bytes read at once (1 MiB); an open stream holds two blocks. */
  blockBytes?: number;
}

/** What is remembered of a file when it is first opened, to notice that it was replaced. */
interface Version {
  size: number;
  mtimeMs: number;
  ino: number;
}

/** Files of a local folder, in Node. Links in it are followed. */
export class FileSource implements Source {
  readonly #folder: string;
  readonly #blockBytes: number;
  readonly #streams = new Set<FileStream>();
  readonly #versions = new Map<string, Version>();
  #closed = false;

  constructor(folder: string | URL, options: FileSourceOptions = {}) {
    this.#folder = resolve(folder instanceof URL ? fileURLToPath(folder) : folder);
    this.#blockBytes = options.blockBytes ?? 1024 * 1024;
    if (!Number.isSafeInteger(this.#blockBytes) || this.#blockBytes <= 0) {
      throw new SluiceError(
        'invalid_argument',
        `blockBytes must be a positive integer, not ${this.#blockBytes}`,
      );
    }
  }

  describe(path: string): string {
    return resolve(this.#folder, path);
  }

  async open(path: string, begin: number, end: number | undefined): Promise<ByteStream> {
    const file = this.#resolve(path);
    if (!isOffset(begin) || (end !== undefined && (!isOffset(end) || end < begin))) {
      throw new SluiceError(
        'invalid_argument',
        `${file}: bytes [${begin}, ${end ?? 'end'}) are not a range`,
        { file },
      );
    }
    this.#checkOpen(file);
    let handle: FileHandle | undefined;
    try {
      // Before open(), which would wait for a writer if this were a pipe.
      const kind = await stat(file);
      if (!kind.isFile()) throw new SluiceError('io', `${file}: not a regular file`, { file });
      handle = await open(file, 'r');
      const info = await handle.stat();
      this.#checkVersion(file, info);
      if (begin > 0 && begin >= info.size && begin !== end) {
        throw new SluiceError(
          'range_out_of_bounds',
          `${file}: bytes [${begin}, ${end ?? 'end'}) were asked and the file has ${info.size} bytes`,
          { file, expected: end ?? begin + 1, actual: info.size },
        );
      }
      this.#checkOpen(file);
      const stop = Math.min(end ?? info.size, info.size);
      const stream = new FileStream(file, handle, begin, stop, info.size, this.#blockBytes, () =>
        this.#streams.delete(stream),
      );
      this.#streams.add(stream);
      return stream;
    } catch (error) {
      await handle?.close().catch(() => undefined);
      throw ioError(file, error);
    }
  }

  close(): void {
    this.#closed = true;
    for (const stream of [...this.#streams]) stream.cancel();
  }

  #checkOpen(file: string): void {
    if (this.#closed) throw new SluiceError('aborted', `${file}: the source is closed`, { file });
  }

  #resolve(path: string): string {
    const file = resolve(this.#folder, path);
    const prefix = this.#folder.endsWith(sep) ? this.#folder : this.#folder + sep;
    if (!file.startsWith(prefix) || path.includes('\0')) {
      throw new SluiceError('invalid_argument', `'${path}' is not a file in ${this.#folder}`, {
        file: path,
        hint: 'Paths are relative to the folder of the model and stay in it.',
      });
    }
    return file;
  }

  #checkVersion(file: string, info: Version): void {
    const first = this.#versions.get(file);
    if (!first) {
      this.#versions.set(file, { size: info.size, mtimeMs: info.mtimeMs, ino: info.ino });
    } else if (
      first.size !== info.size ||
      first.mtimeMs !== info.mtimeMs ||
      first.ino !== info.ino
    ) {
      throw changedError(file, first.size, info.size);
    }
  }
}

/** Reads a block ahead: while the caller has one block, the other is being filled. */
class FileStream implements ByteStream {
  readonly begin: number;
  readonly ranged = true;
  readonly fileBytes: number;
  readonly #file: string;
  readonly #handle: FileHandle;
  readonly #end: number;
  readonly #blocks: [Uint8Array, Uint8Array];
  readonly #onEnd: () => void;
  #at: number;
  #turn: 0 | 1 = 0;
  #next: Promise<Uint8Array | null> | undefined;
  #ended = false;
  #error: SluiceError | undefined;

  constructor(
    file: string,
    handle: FileHandle,
    begin: number,
    end: number,
    fileBytes: number,
    blockBytes: number,
    onEnd: () => void,
  ) {
    this.begin = begin;
    this.fileBytes = fileBytes;
    this.#file = file;
    this.#handle = handle;
    this.#end = end;
    this.#at = begin;
    this.#onEnd = onEnd;
    const nbytes = Math.max(0, Math.min(blockBytes, end - begin));
    this.#blocks = [new Uint8Array(nbytes), new Uint8Array(nbytes)];
  }

  async read(): Promise<Uint8Array | null> {
    if (this.#error) throw this.#error;
    if (this.#ended) return null;
    const fill = this.#next ?? this.#fill();
    this.#next = undefined;
    let block: Uint8Array | null;
    try {
      block = await fill;
    } catch (error) {
      this.#error ??= ioError(this.#file, error);
      this.#finish();
    }
    if (this.#error) throw this.#error;
    block ??= null;
    if (block === null) {
      this.#finish();
    } else {
      this.#next = this.#fill();
      // Whoever reads next hears of it; nobody need.
      this.#next.catch(() => undefined);
    }
    return block;
  }

  cancel(): void {
    if (this.#ended) return;
    this.#error ??= new SluiceError('aborted', `${this.#file}: the transfer was cancelled`, {
      file: this.#file,
    });
    this.#finish();
  }

  async #fill(): Promise<Uint8Array | null> {
    if (this.#at >= this.#end) return null;
    const block = this.#blocks[this.#turn];
    this.#turn = this.#turn === 0 ? 1 : 0;
    const length = Math.min(block.length, this.#end - this.#at);
    const { bytesRead } = await this.#handle.read(block, 0, length, this.#at);
    if (bytesRead === 0) throw changedError(this.#file, this.fileBytes, this.#at);
    this.#at += bytesRead;
    return block.subarray(0, bytesRead);
  }

  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#onEnd();
    // Waits for a read that is still under way.
    this.#handle.close().catch(() => undefined);
  }
}

function isOffset(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function changedError(file: string, before: number, after: number): SluiceError {
  return new SluiceError(
    'source_changed',
    `${file}: the file was replaced while it was loading: it had ${before} bytes, now ${after}`,
    { file, expected: before, actual: after, hint: 'Load the model again.' },
  );
}

function ioError(file: string, error: unknown): SluiceError {
  if (error instanceof SluiceError) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  const text = error instanceof Error ? error.message : String(error);
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return new SluiceError('not_found', `${file}: no such file`, {
      file,
      hint: "Check the path; the model's files must lie beside each other.",
      cause: error,
    });
  }
  return new SluiceError('io', `${file}: ${text}`, {
    file,
    ...(code === 'EACCES' || code === 'EPERM'
      ? { hint: 'Check the permissions of the file.' }
      : {}),
    cause: error,
  });
}
