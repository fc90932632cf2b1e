import type { Port } from './remote_io.js';

/** How long a worker waits for the next load. */
const IDLE_MS = 10_000;

/** Workers that serve store operations, kept for a while: one starts in the time in which 100 MB are read. */
export class WorkerPool {
  readonly #start: () => Promise<Port>;
  readonly #most: number;
  readonly #idle: { port: Port; timer: ReturnType<typeof setTimeout> }[] = [];

  /** `most` are kept at a time. */
  constructor(start: () => Promise<Port>, most: number) {
    this.#start = start;
    this.#most = most;
  }

  /** One that waits, or a new one. Its failures are the taker's to hear. */
  take(): Promise<Port> {
    const kept = this.#idle.pop();
    if (!kept) return this.#start();
    clearTimeout(kept.timer);
    return Promise.resolve(kept.port);
  }

  /** Takes back one that has closed everything. */
  give(port: Port): void {
    if (this.#idle.length >= this.#most) {
      port.terminate();
      return;
    }
    const forget = (): void => {
      clearTimeout(kept.timer);
      const at = this.#idle.indexOf(kept);
      if (at >= 0) this.#idle.splice(at, 1);
    };
    const timer = setTimeout(() => {
      forget();
      port.terminate();
    }, IDLE_MS);
    // In Node a timer keeps a program running that has come to its end
    if (typeof timer === 'object') timer.unref();
    const kept = { port, timer };
    port.listen(() => undefined, forget);
    port.hold(false); // listening holds it
    this.#idle.push(kept);
  }
}
