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

/** Writes one transfer's bytes to the store, extent by extent; skips what is stored already. */
export class ExtentWriter {
  readonly #target: ExtentTarget;
  #open: OpenExtent | undefined;
  /** Where the next byte goes. */
  #at = -1;
  #block: ArrayBuffer | undefined;
  #used = 0;
  #ended = false;

  constructor(target: ExtentTarget) {
    this.#target = target;
  }

  /** Copies bytes that lie at `at`; resolves when the caller may have them back and fetch more. */
  async write(bytes: Uint8Array, at: number): Promise<void> {
    if (at !== this.#at) this.#endExtent();
    this.#at = at;
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
      if (this.#block === undefined) {
        const block = await this.#target.pool.take();
        // The session may have ended storing meanwhile, or this transfer may have been cancelled
        if (block === undefined || this.#hasEnded()) {
          if (block) this.#target.pool.give(block);
          this.#ended = true;
          return;
        }
        this.#block = block;
        this.#used = 0;
      }
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
    if (this.#open && performance.now() - this.#open.since > EXTENT_MS) this.#endExtent();
  }

  /** No more bytes come; what there is of the last extent is kept. */
  end(): void {
    this.#endExtent();
    this.#ended = true;
  }

  /** Hands on the block at hand, though it is not full: others wait for one. */
  spill(): void {
    this.#post();
  }

  #hasEnded(): boolean {
    return this.#ended;
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
    const block = this.#block;
    const extent = this.#open;
    this.#block = undefined;
    if (!block || !extent) return;
    const used = this.#used;
    if (used === 0) {
      this.#target.pool.give(block);
      return;
    }
    const { io, writer, file } = extent;
    this.#target.pending(
      io.write(writer, file, this.#at - used, block, used).then((back) => {
        this.#target.pool.give(back);
      }),
    );
  }

  #endExtent(): void {
    this.#post();
    const extent = this.#open;
    this.#open = undefined;
    if (!extent || this.#at === extent.begin) return;
    const end = this.#at;
    const work = extent.io.end(extent.writer).then((digest) => {
      this.#target.commit(extent.begin, end, digest);
    });
    this.#target.pending(work);
    this.#target.arriving(extent.begin, end, work);
  }
}
