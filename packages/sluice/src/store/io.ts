import { SluiceError } from '../errors.js';
import type { StoreFolder, SyncFile } from './files.js';
import type { Digest, RunningDigest, StoreModule } from './store_module.js';

/**
 * What is done with a stored model's files. In the calling thread (LocalIo) or in a worker (remote_io.ts). Files
 * are named as in the folder: data files '0', '1', … Offsets and counts are bytes.
 */
export interface StoreIo {
  /** What is asked now is begun at once; a worker is still being started otherwise. */
  readonly ready: boolean;
  /** Makes a file `nbytes` long, and the quota's share with it. */
  resize(file: string, nbytes: number): Promise<void>;
  /**
   * Writes the first `nbytes` bytes of `block` at `at` and digests them, behind what `writer` has written before.
   * The block is handed over and comes back; with `last` also the digest, as of end().
   */
  write(
    writer: number,
    file: string,
    at: number,
    block: ArrayBuffer,
    nbytes: number,
    last: boolean,
  ): Promise<{ block: ArrayBuffer; digest?: Digest }>;
  /** The digest of what `writer` has written since it last ended. */
  end(writer: number): Promise<Digest>;
  /** Opens a file that will be read soon, if it is not open yet. */
  prepare(file: string): Promise<void>;
  /** The digests of ranges of a file; undefined where the file is shorter. */
  digests(file: string, ranges: readonly ByteRange[]): Promise<(Digest | undefined)[]>;
  /**
   * Reads a range of a file into the beginning of `block`, which is handed over and comes back, and digests those very
   * bytes; the digest is undefined where the file is shorter.
   */
  extent(
    file: string,
    range: ByteRange,
    block: ArrayBuffer,
  ): Promise<{ block: ArrayBuffer; digest: Digest | undefined }>;
  /** The checksum of a whole file of `nbytes` bytes, in lower-case hexadecimal digits. */
  checksum(file: string, nbytes: number, algorithm: 'md5' | 'sha256'): Promise<string>;
  /** Reads into `block`, which is handed over and comes back, at most `nbytes` bytes. */
  read(
    file: string,
    at: number,
    block: ArrayBuffer,
    nbytes: number,
  ): Promise<{ block: ArrayBuffer; nbytes: number }>;
  /** Reads `rowBytes` bytes at `begin + row * rowBytes` for each row, one behind the other. */
  rows(
    file: string,
    begin: number,
    rowBytes: number,
    rows: Uint32Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>>;
  /** Makes `bytes` the end of a file, from offset `at` on; what was behind is cut off. */
  append(file: string, at: number, bytes: Uint8Array<ArrayBuffer>): Promise<void>;
  /** Has the system write what is still in its memory. */
  flush(): Promise<void>;
  /** Closes every file. Never rejects. */
  close(): Promise<void>;
}

/** Bytes [begin, end). */
export interface ByteRange {
  readonly begin: number;
  readonly end: number;
}

/** How much of a file is held for a checksum. */
const CHECKSUM_BYTES = 1024 * 1024;

/** Carries out the operations at once, in the thread that calls. */
export class LocalIo implements StoreIo {
  readonly ready = true;
  readonly #folder: StoreFolder;
  readonly #module: StoreModule;
  readonly #files = new Map<string, Promise<SyncFile>>();
  /** A writer's digest, and its last write, which may still wait for the file to be opened. */
  readonly #writers = new Map<number, { digest: RunningDigest; last: Promise<unknown> }>();
  #reader: RunningDigest | undefined;
  #closed = false;

  constructor(folder: StoreFolder, module: StoreModule) {
    this.#folder = folder;
    this.#module = module;
  }

  /** A file of the folder, made where it is not there; closed by close(). */
  file(name: string): Promise<SyncFile> {
    if (this.#closed) return Promise.reject(new SluiceError('aborted', 'the store was closed'));
    let file = this.#files.get(name);
    if (!file) {
      file = this.#folder.file(name, true);
      this.#files.set(name, file);
      file.catch(() => this.#files.delete(name));
    }
    return file;
  }

  async resize(name: string, nbytes: number): Promise<void> {
    const file = await this.file(name);
    if (file.size() !== nbytes) file.truncate(nbytes);
  }

  write(
    writer: number,
    name: string,
    at: number,
    block: ArrayBuffer,
    nbytes: number,
    last: boolean,
  ): Promise<{ block: ArrayBuffer; digest?: Digest }> {
    let state = this.#writers.get(writer);
    if (!state) {
      state = { digest: this.#module.hash(), last: Promise.resolve() };
      this.#writers.set(writer, state);
    }
    const { digest, last: before } = state;
    const written = Promise.all([this.file(name), before]).then(([file]) => {
      const bytes = new Uint8Array(block, 0, nbytes);
      digest.update(bytes);
      file.write(bytes, at);
    });
    state.last = written;
    if (!last) return written.then(() => ({ block }));
    return this.end(writer).then((ended) => ({ block, digest: ended }));
  }

  async end(writer: number): Promise<Digest> {
    const state = this.#writers.get(writer);
    if (!state) throw new SluiceError('internal', `writer ${writer} has written nothing`);
    this.#writers.delete(writer);
    try {
      await state.last;
      return state.digest.finish();
    } finally {
      state.digest.free();
    }
  }

  /** A file to read from; undefined where another tab holds it and slice() gives its bytes. */
  async readable(name: string): Promise<SyncFile | undefined> {
    try {
      return await this.file(name);
    } catch (error) {
      if (this.#closed || !this.#folder.slice) throw error;
      return undefined;
    }
  }

  /** Bytes [begin, end) of a file that another tab may hold. Rejects with `store_corrupt` where it ends before. */
  async slice(name: string, begin: number, end: number): Promise<Uint8Array> {
    const bytes = await this.#folder.slice?.(name, begin, end);
    if (bytes?.byteLength === end - begin) return bytes;
    throw shortFile(name, end, begin + (bytes?.byteLength ?? 0));
  }

  async prepare(name: string): Promise<void> {
    await this.readable(name);
  }

  async digests(name: string, ranges: readonly ByteRange[]): Promise<(Digest | undefined)[]> {
    const digests: (Digest | undefined)[] = [];
    for (const range of ranges) digests.push(await this.#digest(name, range));
    return digests;
  }

  async extent(
    name: string,
    range: ByteRange,
    block: ArrayBuffer,
  ): Promise<{ block: ArrayBuffer; digest: Digest | undefined }> {
    return { block, digest: await this.#digest(name, range, new Uint8Array(block)) };
  }

  /** The digest of a range, whose bytes are also copied to `into`, where there is one. */
  async #digest(
    name: string,
    { begin, end }: ByteRange,
    into?: Uint8Array,
  ): Promise<Digest | undefined> {
    const file = await this.readable(name);
    const held = file ? undefined : await this.#folder.slice?.(name, begin, end);
    // From here on nothing waits: the digest is that of all who read here
    const digest = (this.#reader ??= this.#module.hash());
    if (!file) {
      if (held?.byteLength !== end - begin) return undefined;
      into?.set(held);
      digest.update(held);
      return digest.finish();
    }
    let whole = true;
    let result: Digest;
    try {
      for (let at = begin; at < end && whole;) {
        const window = digest.window(end - at);
        whole = file.read(window, at) === window.byteLength;
        digest.take(window.byteLength);
        into?.set(window, at - begin);
        at += window.byteLength;
      }
    } finally {
      result = digest.finish(); // also what was read before an error
    }
    return whole ? result : undefined;
  }

  async checksum(name: string, nbytes: number, algorithm: 'md5' | 'sha256'): Promise<string> {
    const file = await this.readable(name);
    const { createChecksum } = await import('./checksum.js');
    const checksum = await createChecksum(algorithm);
    const bytes = new Uint8Array(Math.min(CHECKSUM_BYTES, nbytes));
    for (let at = 0; at < nbytes;) {
      const part = file
        ? bytes.subarray(0, file.read(bytes.subarray(0, nbytes - at), at))
        : await this.slice(name, at, Math.min(at + CHECKSUM_BYTES, nbytes));
      if (part.byteLength === 0) throw shortFile(name, nbytes, at);
      checksum.update(part);
      at += part.byteLength;
    }
    return checksum.digest();
  }

  async read(
    name: string,
    at: number,
    block: ArrayBuffer,
    nbytes: number,
  ): Promise<{ block: ArrayBuffer; nbytes: number }> {
    const file = await this.readable(name);
    const into = new Uint8Array(block, 0, nbytes);
    if (file) return { block, nbytes: file.read(into, at) };
    into.set(await this.slice(name, at, at + nbytes));
    return { block, nbytes };
  }

  async rows(
    name: string,
    begin: number,
    rowBytes: number,
    rows: Uint32Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const file = await this.readable(name);
    const bytes = new Uint8Array(rows.length * rowBytes);
    for (let i = 0; i < rows.length; i++) {
      const part = bytes.subarray(i * rowBytes, (i + 1) * rowBytes);
      const at = begin + (rows[i] ?? 0) * rowBytes;
      if (!file) part.set(await this.slice(name, at, at + rowBytes));
      else if (file.read(part, at) !== rowBytes) throw shortFile(name, at + rowBytes, file.size());
    }
    return bytes;
  }

  async append(name: string, at: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    const file = await this.file(name);
    if (file.size() > at) file.truncate(at);
    file.write(bytes, at);
  }

  async flush(): Promise<void> {
    for (const file of this.#files.values()) (await file).flush();
  }

  async close(): Promise<void> {
    this.#closed = true;
    const files = [...this.#files.values()];
    this.#files.clear();
    for (const { digest } of this.#writers.values()) digest.free();
    this.#writers.clear();
    await Promise.all(
      files.map(async (file) => {
        const open = await file.catch(() => undefined);
        // Others have their turn in between: in Chromium each takes 0.3 ms
        await new Promise((resume) => setTimeout(resume));
        open?.close();
      }),
    );
  }
}

function shortFile(name: string, expected: number, actual: number): SluiceError {
  return new SluiceError(
    'store_corrupt',
    `stored file ${name} has ${actual} bytes where ${expected} were stored`,
    { file: name, expected, actual, hint: 'Load the model again: what is missing is fetched.' },
  );
}
