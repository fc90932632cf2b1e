/** Blocks of memory on their way to the store: a fixed number, so that a slow disk slows the download and not the page. */
export class BlockPool {
  readonly blockBytes: number;
  #most: number;
  #made = 0;
  readonly #idle: ArrayBuffer[] = [];
  readonly #waiting: ((block: ArrayBuffer | undefined) => void)[] = [];
  readonly #spill: () => void;
  #closed = false;

  /**
   * At most `nbytes` bytes in all, in at least two blocks of 4 KiB, and of 1 MiB at most. `spill` is called when somebody has to wait: who
   * holds a block that is not full is to hand it on, since what would fill it may wait for the one who waits here.
   */
  constructor(nbytes: number, spill: () => void) {
    this.#spill = spill;
    this.blockBytes = Math.max(Math.min(2 ** 20, nbytes / 8), 2 ** 12) & ~0xfff;
    this.#most = Math.max(Math.floor(nbytes / this.blockBytes), 2);
  }

  /** Bytes of all blocks. */
  get nbytes(): number {
    return this.#most * this.blockBytes;
  }

  /** From now on at most `nbytes` bytes in all, but no fewer than there are, and at least two blocks. */
  limit(nbytes: number): void {
    this.#most = Math.min(
      this.#most,
      Math.max(Math.floor(nbytes / this.blockBytes), this.#made, 2),
    );
  }

  /** The next free block; undefined once the pool is closed. */
  async take(): Promise<ArrayBuffer | undefined> {
    if (this.#closed) return undefined;
    const idle = this.#idle.pop();
    if (idle) return idle;
    if (this.#made < this.#most) {
      this.#made++;
      return new ArrayBuffer(this.blockBytes);
    }
    return new Promise((resolve) => {
      this.#waiting.push(resolve);
      this.#spill();
    });
  }

  give(block: ArrayBuffer): void {
    if (this.#closed) return;
    const next = this.#waiting.shift();
    if (next) next(block);
    else this.#idle.push(block);
  }

  close(): void {
    this.#closed = true;
    this.#idle.length = 0;
    for (const wake of this.#waiting.splice(0)) wake(undefined);
  }
}
