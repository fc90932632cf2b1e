import type { BlockPool } from './block_pool.js';
import type { StoreIo } from './io.js';
import type { Digest, Run } from './store_module.js';

/** An extent ends at the latest at a multiple of this, so that damage costs no more. */
export const EXTENT_BYTES = 4 * 2 ** 20;
/** A slow download's extent ends after so many milliseconds, so that a crash costs no more. */
const EXTENT_MS = 1000;

/** What a writer needs of its session. */
export interface ExtentTarget {
  readonly pool: BlockPool;
  /** The extent or gap at `offset`. */
  find(offset: number): Run;
  /** Who writes and digests the extent at `offset`. */
  io(offset: number): { io: StoreIo; writer: number; file: string };
  /** To be waited for before the session ends; a failure ends storing. */
  pending(work: Promise<void>): void;
  /** Bytes [begin, end) are all on their way, and committed when `work` is done. */
  arriving(begin: number, end: number, work: Promise<void>): void;
  /** Bytes [begin, end) are written. */
  commit(begin: number, end: number, digest: Digest): void;
}

interface OpenExtent {
  readonly io: StoreIo;
  readonly writer: number;
  readonly file: string;
  readonly begin: number;
  /** Where it ends at the latest. */
  readonly limit: number;
  readonly since: number;
}

/**
 * Writes one transfer's bytes to the store, extent by extent. Bytes are either copied, by write(), which skips what is
 * stored already; or read into a block by room(), which saves the copy, and took(). One of the two at a time.
 */
export class ExtentWriter {
  readonly #target: ExtentTarget;
  #open: OpenExtent | undefined;
  /** Where the next byte goes. */
  #at = -1;
  #block: ArrayBuffer | undefined;
  #used = 0;
  /** The reader still looks at the block's bytes. */
  #lent = false;
  #ended = false;

  constructor(target: ExtentTarget) {
    this.#target = target;
  }

  /** Copies bytes that lie at `at`; resolves when the caller may have them back and fetch more. */
  async write(bytes: Uint8Array, at: number): Promise<void> {
    this.#moveTo(at);
    for (let done = 0; done < bytes.byteLength && !this.#ended;) {
      const extent = this.#open ?? this.#begin();
      if (extent === undefined) {
        const skipped = Math.min(
          this.#target.find(this.#at).end - this.#at,
          bytes.byteLength - done,
        );
        this.#at += skipped;
        done += skipped;
        continue;
      }
      this.#block ??= await this.#take();
      if (this.#block === undefined) return;
      const count = Math.min(
        bytes.byteLength - done,
        this.#target.pool.blockBytes - this.#used,
        extent.limit - this.#at,
      );
      new Uint8Array(this.#block, this.#used, count).set(bytes.subarray(done, done + count));
      this.#used += count;
      this.#at += count;
      done += count;
      if (this.#used === this.#target.pool.blockBytes) this.#post();
      if (this.#at === extent.limit) this.#endExtent();
    }
    this.#endSlowExtent();
  }

  /**
   * Memory for the bytes at `at`, to be handed to took() with some of them in it, or to back() if none came. Undefined
   * where they are stored already, or nothing is stored any more: then they are to be read elsewhere, and written.
   */
  async room(at: number): Promise<Uint8Array<ArrayBuffer> | undefined> {
    this.#lent = false;
    if (this.#open?.limit === this.#at) this.#endExtent();
    this.#post();
    this.#moveTo(at);
    this.#endSlowExtent();
    const extent = this.#ended ? undefined : (this.#open ?? this.#begin());
    const block = extent && (await this.#take());
    return block && new Uint8Array(block, 0, Math.min(block.byteLength, extent.limit - at));
  }

  /** What room() gave has come back with bytes at its beginning, which stay the reader's until the next call. */
  took(bytes: Uint8Array<ArrayBuffer>): void {
    if (this.#ended) {
      this.#target.pool.give(bytes.buffer);
      return;
    }
    this.#block = bytes.buffer;
    this.#used = bytes.byteLength;
    this.#at += bytes.byteLength;
    this.#lent = true;
  }

  /** What room() gave was not needed, or has not come back. */
  back(room: Uint8Array<ArrayBuffer>): void {
    const { pool } = this.#target;
    pool.give(room.buffer.byteLength > 0 ? room.buffer : new ArrayBuffer(pool.blockBytes));
  }

  /** No more bytes come; what there is of the last extent is kept. */
  end(): void {
    this.#endExtent();
    this.#ended = true;
  }

  /** Hands on the block at hand, though it is not full: others wait for one. */
  spill(): void {
    if (!this.#lent) this.#post();
  }

  #hasEnded(): boolean {
    return this.#ended;
  }

  /** A free block; undefined where storing, or this transfer, has ended meanwhile. */
  async #take(): Promise<ArrayBuffer | undefined> {
    const block = await this.#target.pool.take();
    if (block === undefined || this.#hasEnded()) {
      if (block) this.#target.pool.give(block);
      this.#ended = true;
      return undefined;
    }
    this.#used = 0;
    return block;
  }

  #moveTo(at: number): void {
    if (at !== this.#at) this.#endExtent();
    this.#at = at;
  }

  /** Begins an extent where the next byte goes; undefined where that is stored already. */
  #begin(): OpenExtent | undefined {
    const run = this.#target.find(this.#at);
    if (run.stored) return undefined;
    const boundary = (Math.floor(this.#at / EXTENT_BYTES) + 1) * EXTENT_BYTES;
    this.#open = {
      ...this.#target.io(this.#at),
      begin: this.#at,
      limit: Math.min(boundary, run.end),
      since: performance.now(),
    };
    return this.#open;
  }

  #post(): void {
    const written = this.#write(false);
    if (written) this.#target.pending(written.then(() => undefined));
  }

  /** Writes what is in the block; `last` ends the extent and gives its digest. */
  #write(last: boolean): Promise<Digest | undefined> | undefined {
    const block = this.#block;
    const extent = this.#open;
    const used = this.#used;
    this.#block = undefined;
    if (!block) return undefined;
    if (!extent || used === 0) {
      this.#target.pool.give(block);
      return undefined;
    }
    const { io, writer, file } = extent;
    return io.write(writer, file, this.#at - used, block, used, last).then((back) => {
      this.#target.pool.give(back.block);
      return back.digest;
    });
  }

  #endSlowExtent(): void {
    if (this.#open && performance.now() - this.#open.since > EXTENT_MS) this.#endExtent();
  }

  #endExtent(): void {
    const extent = this.#open;
    const written = this.#write(true);
    this.#open = undefined;
    if (!extent || this.#at === extent.begin) return;
    const end = this.#at;
    const digested = written ?? extent.io.end(extent.writer);
    const work = digested.then((digest) => {
      if (digest) this.#target.commit(extent.begin, end, digest);
    });
    this.#target.pending(work);
    this.#target.arriving(extent.begin, end, work);
  }
}
