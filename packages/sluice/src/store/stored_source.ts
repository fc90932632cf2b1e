import { asSluiceError, SluiceError } from '../errors.js';
import type {
  ByteStream,
  ModelSource,
  ModelStream,
  Source,
  StoredBytes,
} from '../sources/source.js';
import type { ExtentWriter } from './extent_writer.js';
import type { ModelSession } from './session.js';
import type { Run } from './store_module.js';

const NO_VALIDATORS = { etag: '', lastModified: '' };

/**
 * A source in front of another: what is stored comes from the store, verified; what is not comes from `origin` and is
 * stored as it passes.
 */
export class StoredSource implements ModelSource {
  readonly hint: string | undefined;
  readonly #session: ModelSession;
  readonly #origin: Source;
  /** The manifest is being read: files that a completed load did not have are not there. */
  #opening = true;

  constructor(session: ModelSession, origin: Source) {
    this.#session = session;
    this.#origin = origin;
    this.hint = origin.hint;
  }

  get unbuffered(): boolean | undefined {
    return this.#origin.unbuffered;
  }

  /** The manifest is read; from now on files are its own. */
  opened(): void {
    this.#opening = false;
  }

  describe(path: string): string {
    return this.#origin.describe(path);
  }

  async open(path: string, begin: number, end: number | undefined): Promise<ModelStream> {
    const session = this.#session;
    if (this.#opening && session.loaded && !session.has(path)) {
      const file = this.describe(path);
      throw new SluiceError('not_found', `${file}: no such file when the model was stored`, {
        file,
      });
    }
    // Whoever has to fetch does so alone
    if (!session.loaded) await session.writable();
    if (session.mustValidate(path)) await this.#validate(path);
    const stream = new StoredStream(session, this.#origin, path, begin, end);
    await stream.start();
    return stream;
  }

  /** Asks for a byte of the file, to learn which version the server has. */
  async #validate(path: string): Promise<void> {
    try {
      const stream = await this.#origin.open(path, 0, 1);
      stream.cancel();
      this.#session.learn(path, stream.fileBytes, stream.validators ?? NO_VALIDATORS);
    } catch (cause) {
      const error = asSluiceError(cause);
      if (error.code === 'not_found') this.#session.drop(path);
      if (error.code !== 'range_out_of_bounds') throw error;
      this.#session.learn(path, 0, NO_VALIDATORS); // an empty file has no first byte
    }
  }

  close(): void {
    this.#origin.close();
  }
}

/** One range, from the store where it is there and else from the origin. */
class StoredStream implements ModelStream {
  begin: number;
  ranged = true;
  readonly #session: ModelSession;
  readonly #origin: Source;
  readonly #path: string;
  readonly #end: number | undefined;
  /** Offset of the next byte given. */
  #at: number;
  /** The reader was told where the stream begins. */
  #started = false;
  #cancelled = false;
  /** Where the origin's answer ends at the latest. */
  #innerEnd = Infinity;
  /** The origin came to an end before that. */
  #ended = false;
  #inner: ByteStream | undefined;
  /** Offset of the next byte that the origin gives. */
  #innerAt = 0;
  #writer: ExtentWriter | undefined;
  /** Bytes of the store that were given last, until the next read(). */
  #lent: StoredBytes | undefined;

  constructor(
    session: ModelSession,
    origin: Source,
    path: string,
    begin: number,
    end: number | undefined,
  ) {
    this.#session = session;
    this.#origin = origin;
    this.#path = path;
    this.begin = begin;
    this.#at = begin;
    this.#end = end;
  }

  get fileBytes(): number | undefined {
    return this.#inner?.fileBytes ?? this.#session.fileBytes(this.#path);
  }

  /** Opens the origin where the first byte is not stored, so that its errors are those of open(). */
  async start(): Promise<void> {
    if (!(await this.#stored())) await this.#openOrigin();
    this.#started = true;
  }

  async read(): Promise<Uint8Array | StoredBytes | null> {
    this.#takeBack();
    for (;;) {
      if (this.#cancelled) throw new SluiceError('aborted', `${this.#path}: cancelled`);
      if (this.#inner) {
        const chunk = await this.#readOrigin(this.#inner);
        if (chunk) return chunk;
        continue;
      }
      // That was all there is, whatever was promised: the reader knows what it misses
      if (this.#ended) return null;
      const size = this.#session.fileBytes(this.#path);
      const stop = Math.min(this.#end ?? Infinity, size ?? Infinity);
      if (this.#at >= stop) return null;
      const run = await this.#stored();
      const bytes = run && (await this.#session.bytes(this.#path, run, this.#at, stop));
      if (bytes) {
        this.#at += bytes.byteLength;
        if (!(bytes instanceof Uint8Array)) this.#lent = bytes;
        if (this.#hasBeenCancelled()) this.#takeBack();
        return bytes;
      }
      await this.#openOrigin();
    }
  }

  cancel(): void {
    this.#cancelled = true;
    this.#takeBack();
    this.#leaveOrigin();
  }

  #takeBack(): void {
    this.#lent?.release?.();
    this.#lent = undefined;
  }

  /** The verified extent in which the next byte lies, or undefined. */
  async #stored(): Promise<Run | undefined> {
    // A manifest's end and a tensor's beginning are often of one request
    await this.#session.arrived(this.#path, this.#at);
    const size = this.#session.fileBytes(this.#path);
    if (size !== undefined && this.#at >= size) return undefined;
    const run = this.#session.find(this.#path, this.#at);
    return run.stored && (await this.#session.verify(this.#path, run, true)) ? run : undefined;
  }

  async #openOrigin(): Promise<void> {
    // Another load may have stored it while this one waited to be the writer
    if ((await this.#session.writable()) && (await this.#stored())) return;
    const path = this.#path;
    const gap = this.#session.find(path, this.#at);
    const gapEnd = Math.min(gap.end, this.#end ?? Infinity);
    const inner = await this.#origin.open(path, this.#at, gapEnd === Infinity ? undefined : gapEnd);
    if (this.#hasBeenCancelled()) {
      inner.cancel();
      throw new SluiceError('aborted', `${path}: cancelled`);
    }
    this.#inner = inner;
    this.#innerAt = inner.begin;
    this.#innerEnd = gapEnd;
    try {
      this.#session.learn(path, inner.fileBytes, inner.validators ?? NO_VALIDATORS);
      this.#writer = await this.#session.writer(path);
    } catch (error) {
      this.#leaveOrigin();
      throw error;
    }
    if (this.#started) return;
    // The reader knows how to skip; and it must know that ranges are not to be had
    this.begin = inner.begin;
    this.#at = inner.begin;
    this.ranged = inner.ranged;
  }

  #hasBeenCancelled(): boolean {
    return this.#cancelled;
  }

  /** The origin's next bytes that are wanted; undefined where it has ended, or gave only what was given already. */
  async #readOrigin(inner: ByteStream): Promise<Uint8Array | undefined> {
    const writer = this.#writer;
    const room = await writer?.room(this.#innerAt);
    let chunk: Uint8Array | null;
    let taken = false;
    try {
      if (this.#inner !== inner) return undefined; // cancelled meanwhile
      chunk = await inner.read(room);
      taken = chunk !== null && room?.buffer.byteLength === 0;
    } catch (error) {
      this.#leaveOrigin();
      if (error instanceof SluiceError && error.code === 'source_changed') {
        this.#session.drop(this.#path);
      }
      throw error;
    } finally {
      if (room && !taken) writer?.back(room);
    }
    if (chunk === null) {
      const size = this.#session.fileBytes(this.#path);
      this.#ended = this.#innerAt < Math.min(this.#innerEnd, size ?? Infinity);
      // A body whose length nobody had told has told it now
      if (this.#end === undefined && size === undefined) {
        this.#session.sawEnd(this.#path, this.#innerAt);
      }
      this.#leaveOrigin();
      return undefined;
    }
    const at = this.#innerAt;
    this.#innerAt += chunk.byteLength;
    if (taken) writer?.took(chunk as Uint8Array<ArrayBuffer>);
    else await this.#writer?.write(chunk, at);
    if (this.#innerAt <= this.#at) return undefined;
    const wanted = at < this.#at ? chunk.subarray(this.#at - at) : chunk;
    this.#at = this.#innerAt;
    return wanted;
  }

  #leaveOrigin(): void {
    if (this.#writer) this.#session.ended(this.#writer);
    this.#writer = undefined;
    this.#inner?.cancel();
    this.#inner = undefined;
  }
}
