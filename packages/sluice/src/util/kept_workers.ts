/** How long a worker waits for the next load. */
const IDLE_MS = 10_000;

/** What is done with a worker that waits. */
export interface Waiting<W> {
  /** It waits from now on, and keeps nobody else waiting; `gone` is to be called if it ends by itself. */
  rest(worker: W, gone: () => void): void;
  end(worker: W): void;
}

/** Workers that are kept for a while when they are done: one starts in the time in which 100 MB are read. */
export class KeptWorkers<W> {
  readonly #waiting: Waiting<W>;
  readonly #most: number;
  readonly #kept: { worker: W; timer: ReturnType<typeof setTimeout> }[] = [];

  /** `most` are kept at a time. */
  constructor(most: number, waiting: Waiting<W>) {
    this.#most = most;
    this.#waiting = waiting;
  }

  /** One that waits, where there is any. */
  take(): W | undefined {
    const kept = this.#kept.pop();
    clearTimeout(kept?.timer);
    return kept?.worker;
  }

  /** Takes back one that has closed everything. */
  give(worker: W): void {
    if (this.#kept.length >= this.#most) {
      this.#waiting.end(worker);
      return;
    }
    const forget = (): void => {
      clearTimeout(kept.timer);
      const at = this.#kept.indexOf(kept);
      if (at >= 0) this.#kept.splice(at, 1);
    };
    const timer = setTimeout(() => {
      forget();
      this.#waiting.end(worker);
    }, IDLE_MS);
    // In Node a timer keeps a program running that has come to its end
    if (typeof timer === 'object') timer.unref();
    const kept = { worker, timer };
    this.#waiting.rest(worker, forget);
    this.#kept.push(kept);
  }
}
