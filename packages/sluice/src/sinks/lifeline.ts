import type { SluiceError } from '../errors.js';

/**
 * What ends a sink: its first fatal error, and every wait that must not outlive it. GPU promises and
 * answers from another thread may never settle once their other end is gone; a race against the lifeline
 * always does.
 */
export class Lifeline {
  #error: SluiceError | undefined;
  readonly #waiting = new Set<(error: SluiceError) => void>();

  /** The error that ended it, or undefined while it lives. */
  get error(): SluiceError | undefined {
    return this.#error;
  }

  /** Ends it and rejects every pending race. Only the first call counts. */
  end(error: SluiceError): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    const waiting = [...this.#waiting];
    this.#waiting.clear();
    for (const reject of waiting) reject(error);
  }

  /** Throws the error that ended it. */
  check(): void {
    if (this.#error !== undefined) throw this.#error;
  }

  /** Calls `listener` when it ends, at once if it has. */
  onEnd(listener: (error: SluiceError) => void): void {
    if (this.#error !== undefined) listener(this.#error);
    else this.#waiting.add(listener);
  }

  /** Settles as `work` does, or rejects with the ending error if that comes first. */
  race<T>(work: Promise<T>): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      if (this.#error !== undefined) {
        work.catch(() => undefined);
        reject(this.#error);
        return;
      }
      this.#waiting.add(reject);
      const forget = (): void => void this.#waiting.delete(reject);
      work.then(forget, forget);
      work.then(resolve, reject);
    });
  }
}
