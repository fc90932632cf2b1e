import { SluiceError } from '../../errors.js';
import { watchDevice } from '../../sinks/gpu_buffers.js';
import { Lifeline } from '../../sinks/lifeline.js';

/** What an error scope caught, and what was being done when it was opened. */
interface Failure {
  readonly order: number;
  readonly error: SluiceError;
}

export interface CaptureOptions {
  /** Default: all three. Fewer cost less. */
  filters?: readonly GPUErrorFilter[];
  /** Says more about a failure than the browser's first line does. */
  explain?: () => Promise<string | undefined>;
  hint?: string;
}

const ALL: readonly GPUErrorFilter[] = ['internal', 'validation', 'out-of-memory'];

/**
 * The errors of one device. WebGPU tells of a failure a while after the call that caused it; so each call that can fail
 * stands between error scopes, with words for what it does, and settle() throws the first failure in those words. When
 * the device is lost, or its user is disposed of, check() throws, and no wait outlives it.
 */
export class GpuErrors {
  readonly lifeline = new Lifeline();
  readonly #device: GPUDevice;
  readonly #unwatch: () => void;
  #open = new Outcomes();
  #earlier: Promise<unknown> = Promise.resolve();
  #failures: Failure[] = [];
  #captures = 0;

  constructor(device: GPUDevice) {
    this.#device = device;
    this.#unwatch = watchDevice(device, this.lifeline);
  }

  /** Throws what ended the device, in the words of the call that finds it ended. */
  check(what: string): void {
    const { error } = this.lifeline;
    if (error !== undefined) throw inWords(what, error);
  }

  /**
   * Runs `act` between error scopes and returns what it returns. Push, act and pop are one synchronous step, so that calls may
   * overlap each other and the scopes of whoever else uses the device.
   */
  capture<T>(what: string | (() => string), act: () => T, options: CaptureOptions = {}): T {
    const { filters = ALL } = options;
    const device = this.#device;
    const order = this.#captures++;
    for (const filter of filters) device.pushErrorScope(filter);
    try {
      return act();
    } finally {
      const call = { order, what, options };
      const outcomes = this.#open;
      for (let i = filters.length - 1; i >= 0; i--) {
        outcomes.begin();
        const filter = filters[i] ?? 'internal';
        device.popErrorScope().then(
          (error) => {
            if (error === null) outcomes.end();
            else void this.#keep(call, filter, error.message).finally(() => outcomes.end());
          },
          // A lost device refuses to pop; the lifeline tells why
          () => outcomes.end(),
        );
      }
    }
  }

  /** Settles as `work` does, or rejects, in words, with what ends the device if that comes first. */
  async race<T>(what: string, work: Promise<T>): Promise<T> {
    try {
      return await this.lifeline.race(work);
    } catch (cause) {
      this.check(what);
      throw cause;
    }
  }

  /** Keeps a failure for settle(). */
  add(error: SluiceError): void {
    this.#failures.push({ order: this.#captures++, error });
  }

  /**
   * Waits until the outcome of every call so far is known, and throws the first failure; the others, which mostly follow
   * from it, are counted in its message. Each failure is thrown once.
   */
  async settle(what: string): Promise<void> {
    this.check(what);
    this.#earlier = Promise.all([this.#earlier, this.#open.all()]);
    this.#open = new Outcomes();
    await this.race(what, this.#earlier);
    this.check(what);
    const failures = this.#failures.sort((a, b) => a.order - b.order);
    this.#failures = [];
    const [first] = failures;
    if (first === undefined) return;
    const { error } = first;
    const others = failures.length - 1;
    if (others === 0) throw error;
    throw new SluiceError(
      error.code,
      `${error.message} (and ${others} more ${others === 1 ? 'error' : 'errors'} after it)`,
      { cause: error, ...(error.hint === undefined ? {} : { hint: error.hint }) },
    );
  }

  /** Ends every wait and all further use with `error`. */
  end(error: SluiceError): void {
    this.#unwatch();
    this.lifeline.end(error);
  }

  async #keep({ order, what, options }: Call, filter: GPUErrorFilter, said: string): Promise<void> {
    const explained = await options.explain?.().catch(() => undefined);
    const text = explained ?? `${KINDS[filter]}: ${oneLine(said)}`;
    const words = typeof what === 'string' ? what : what();
    const { hint } = options;
    const error = new SluiceError(
      CODES[filter],
      `${words}: ${text}`,
      hint === undefined ? {} : { hint },
    );
    this.#failures.push({ order, error });
  }
}

/** A call between error scopes. */
interface Call {
  readonly order: number;
  readonly what: string | (() => string);
  readonly options: CaptureOptions;
}

/** Outcomes that are not known yet; a number of them costs less than a promise for each. */
class Outcomes {
  #count = 0;
  #resolve: (() => void) | undefined;

  begin(): void {
    this.#count++;
  }

  end(): void {
    if (--this.#count === 0) this.#resolve?.();
  }

  /** Resolves when there are none. Nothing begins after that. */
  all(): Promise<void> {
    return new Promise((resolve) => {
      this.#resolve = resolve;
      if (this.#count === 0) resolve();
    });
  }
}

const CODES = {
  'out-of-memory': 'out_of_device_memory',
  validation: 'invalid_argument',
  internal: 'internal',
} as const;

const KINDS = {
  'out-of-memory': 'out of device memory',
  validation: 'refused by WebGPU',
  internal: 'the GPU driver failed',
} as const;

/** Compilers and validators write one sentence and then where they were: all on one line. */
const oneLine = (text: string): string => text.trim().replace(/\s*\n\s*(- )?/g, '; ');

/** `error` with words before its message. */
export function inWords(what: string, error: SluiceError): SluiceError {
  return new SluiceError(error.code, `${what}: ${error.message}`, {
    cause: error,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
  });
}
