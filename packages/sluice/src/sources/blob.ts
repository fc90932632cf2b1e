import { SluiceError } from '../errors.js';
import type { ByteStream, Source } from './source.js';

/** Files by path: '/'-separated, relative to the model's folder. */
export type FileMap = ReadonlyMap<string, Blob | FileSystemFileHandle>;

/** A source for a model among files, and the name by which core/formats/open.h knows it. */
export function blobModel({ files, name }: { files: FileMap; name: string }): {
  source: BlobSource;
  name: string;
} {
  return { source: new BlobSource(files), name };
}

/**
 * Files of the visitor's: `File`s, `Blob`s and file handles. What a handle leads to is looked up when it is first
 * read, and must stay as it is from then on.
 *
 * Errors: those of `Source`; `source_changed` where the browser says that a file can no longer be read, as it does
 * when it was written to.
 */
export class BlobSource implements Source {
  readonly #files: FileMap;
  readonly #blobs = new Map<string, Promise<Blob>>();
  readonly #streams = new Set<BlobStream>();
  #closed = false;

  constructor(files: FileMap) {
    this.#files = files;
  }

  describe(path: string): string {
    return path;
  }

  async open(path: string, begin: number, end: number | undefined): Promise<ByteStream> {
    if (!isOffset(begin) || (end !== undefined && (!isOffset(end) || end < begin))) {
      throw new SluiceError(
        'invalid_argument',
        `${path}: bytes [${begin}, ${end ?? 'end'}) are not a range`,
        { file: path },
      );
    }
    this.#checkOpen(path);
    let blob: Blob;
    try {
      blob = await this.#blob(path);
      // Chromium gives a file that was deleted before it was looked at the size 0
      if (blob.size === 0) await blob.arrayBuffer();
    } catch (error) {
      throw readError(path, error);
    }
    this.#checkOpen(path);
    const { size } = blob;
    if (begin > 0 && begin >= size && begin !== end) {
      throw new SluiceError(
        'range_out_of_bounds',
        `${path}: bytes [${begin}, ${end ?? 'end'}) were asked and the file has ${size} bytes`,
        { file: path, expected: end ?? begin + 1, actual: size },
      );
    }
    const stream = new BlobStream(path, blob, begin, Math.min(end ?? size, size), () =>
      this.#streams.delete(stream),
    );
    this.#streams.add(stream);
    return stream;
  }

  close(): void {
    this.#closed = true;
    for (const stream of [...this.#streams]) stream.cancel();
  }

  #checkOpen(path: string): void {
    if (this.#closed) {
      throw new SluiceError('aborted', `${path}: the source is closed`, { file: path });
    }
  }

  /** The path's file, as it was when it was first asked for: a later state of it does not read. */
  #blob(path: string): Promise<Blob> {
    let blob = this.#blobs.get(path);
    if (!blob) {
      const file = this.#files.get(path);
      if (!file) throw missing(path, `it is not among the ${this.#files.size} files given`);
      blob = 'getFile' in file ? file.getFile() : Promise.resolve(file);
      this.#blobs.set(path, blob);
    }
    return blob;
  }
}

/**
 * Bytes [begin, end) of a blob by its own stream. In Chromium, four at a time give 0.7 to 0.9 GB/s where
 * arrayBuffer() of slices of 1 to 4 MiB, read one ahead, gives 0.4 to 0.6 (two cores, a file on disk); and a
 * stream holds less.
 */
class BlobStream implements ByteStream {
  readonly begin: number;
  readonly ranged = true;
  readonly fileBytes: number;
  readonly #file: string;
  readonly #blob: Blob;
  readonly #end: number;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #onEnd: () => void;
  #at: number;
  #ended = false;
  #error: SluiceError | undefined;

  constructor(file: string, blob: Blob, begin: number, end: number, onEnd: () => void) {
    this.begin = begin;
    this.fileBytes = blob.size;
    this.#file = file;
    this.#blob = blob;
    this.#at = begin;
    this.#end = Math.max(begin, end);
    this.#reader = blob.slice(begin, this.#end).stream().getReader();
    this.#onEnd = onEnd;
  }

  async read(): Promise<Uint8Array | null> {
    if (this.#error) throw this.#error;
    if (this.#ended) return null;
    try {
      for (;;) {
        const { done, value } = await this.#reader.read();
        // cancel() may have run meanwhile, which ends the stream as if it were complete
        const error = this.#error as SluiceError | undefined;
        if (error) throw error;
        if (done) break;
        if (value.length === 0) continue;
        this.#at += value.length;
        return value;
      }
      if (this.#at !== this.#end) {
        throw new SluiceError(
          'source_changed',
          `${this.#file}: the file ended at byte ${this.#at}, it had ${this.fileBytes} bytes when it was opened`,
          { file: this.#file, expected: this.#end, actual: this.#at, hint: CHOOSE_AGAIN },
        );
      }
      this.#finish();
      return null;
    } catch (thrown) {
      const error = thrown instanceof SluiceError ? thrown : await this.#why(thrown);
      this.#error ??= readError(this.#file, error);
      this.#finish();
      throw this.#error;
    }
  }

  /** Chromium's streams fail with "network error" whatever happened; arrayBuffer() tells. */
  async #why(error: unknown): Promise<unknown> {
    try {
      await this.#blob.slice(this.#at, this.#at + 1).arrayBuffer();
      return error;
    } catch (why) {
      return why;
    }
  }

  cancel(): void {
    if (this.#ended) return;
    this.#error ??= new SluiceError('aborted', `${this.#file}: the transfer was cancelled`, {
      file: this.#file,
    });
    this.#finish();
  }

  #finish(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#onEnd();
    this.#reader.cancel().catch(() => undefined);
  }
}

const CHOOSE_AGAIN = 'Choose the file again, and let nothing write to it while it loads.';

function isOffset(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}

function missing(file: string, why: string, cause?: unknown): SluiceError {
  return new SluiceError('not_found', `${file}: no such file: ${why}`, {
    file,
    hint: 'Give all files of the model, or the folder that holds them.',
    ...(cause === undefined ? {} : { cause }),
  });
}

/** The File API's exceptions (https://w3c.github.io/FileAPI/#dfn-error-codes) as ours. */
export function readError(file: string, error: unknown): SluiceError {
  if (error instanceof SluiceError) return error;
  const name = error instanceof Error ? error.name : '';
  const text = error instanceof Error ? error.message : String(error);
  switch (name) {
    case 'NotFoundError':
      return missing(file, 'it was moved or deleted since it was chosen', error);
    case 'NotReadableError':
      return new SluiceError(
        'source_changed',
        `${file}: the file can no longer be read; it was changed since it was chosen: ${text}`,
        { file, hint: CHOOSE_AGAIN, cause: error },
      );
    case 'NotAllowedError':
    case 'SecurityError':
      return new SluiceError('io', `${file}: the browser does not allow to read it: ${text}`, {
        file,
        hint: 'Choose the file or folder again, or call requestPermission() of its handle in a click.',
        cause: error,
      });
    default:
      return new SluiceError('io', `${file}: ${text}`, { file, cause: error });
  }
}
