import { asSluiceError, SluiceError } from '../errors.js';
import { Lifeline } from './lifeline.js';
import { checkPlan, checkRange } from './pieces.js';
import type { BufferPlan, DirectSink } from './sink.js';

/**
 * Takes bytes [offset, offset + bytes.length) of buffer `index`. The array is valid until the call, or the
 * promise it returns, is done.
 */
export type Consumer = (index: number, offset: number, bytes: Uint8Array) => void | Promise<void>;

/** Passes every piece to a function and keeps nothing: for digests, checks and other destinations. */
export class ConsumerSink implements DirectSink {
  readonly kind = 'direct';
  readonly #consume: Consumer;
  readonly #lifeline = new Lifeline();
  readonly #plans = new Map<number, BufferPlan>();
  readonly #writes = new Set<Promise<void>>();

  constructor(consume: Consumer) {
    this.#consume = consume;
  }

  async allocate(index: number, plan: BufferPlan): Promise<void> {
    this.#lifeline.check();
    checkPlan(index, plan);
    this.#plans.set(index, plan);
  }

  /** Fails with what the consumer throws, as a SluiceError; nothing is passed on after that. */
  write(index: number, offset: number, bytes: Uint8Array): void | Promise<void> {
    this.#lifeline.check();
    const plan = this.#plans.get(index);
    if (plan === undefined) throw new SluiceError('internal', `buffer ${index} is not allocated`);
    checkRange(index, plan, offset, bytes.byteLength);
    let done: void | Promise<void>;
    try {
      done = this.#consume(index, offset, bytes);
    } catch (error) {
      throw this.#fail(error);
    }
    // A short arrow function returns whatever its expression gives, like a hash that was updated
    if (typeof (done as Partial<Promise<void>> | undefined)?.then !== 'function') return;
    const write = this.#lifeline.race(
      Promise.resolve(done).catch((error: unknown) => {
        throw this.#fail(error);
      }),
    );
    this.#writes.add(write);
    const forget = (): void => void this.#writes.delete(write);
    write.then(forget, forget);
    return write;
  }

  async flush(): Promise<void> {
    await Promise.allSettled([...this.#writes]);
    this.#lifeline.check();
  }

  close(_keepBuffers: boolean): void {
    this.#lifeline.end(new SluiceError('aborted', 'the consumer sink was closed'));
    this.#plans.clear();
  }

  #fail(error: unknown): SluiceError {
    this.#lifeline.end(asSluiceError(error));
    return this.#lifeline.error ?? asSluiceError(error);
  }
}
