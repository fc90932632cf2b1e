/** Throws where a condition does not hold. */
export function assert(condition: boolean, message?: string): asserts condition {
  if (!condition) throw new Error(`AssertError:${message ?? ''}`);
}

/** What a generator continues from: an integer from 1 to 2^31 - 2. */
export type RNGState = number;

/**
 * Pseudo-random numbers that a seed repeats: C++'s `minstd_rand`, as TVM draws them. Products stay below 2^48, so that numbers
 * hold them exactly.
 */
export class LinearCongruentialGenerator {
  readonly modulus = 2 ** 31 - 1;
  readonly multiplier = 48271;
  readonly increment = 0;
  #state = 1;

  /** Seeded by the time. */
  constructor() {
    this.setSeed(Date.now());
  }

  /** Any integer; multiples of the modulus count as 1. */
  setSeed(seed: number): void {
    if (!Number.isInteger(seed)) throw new Error('Seed should be an integer.');
    this.#state = seed % this.modulus || 1;
    this.#check();
  }

  getState(): RNGState {
    return this.#state;
  }

  /** What getState() gave. */
  setState(state: RNGState): void {
    if (!Number.isInteger(state)) throw new Error('RNG state should be an integer.');
    if (state <= 0 || state >= this.modulus) {
      throw new Error(`RNG state should be an integer in (0, ${this.modulus}).`);
    }
    this.#state = state;
  }

  /** The next integer, above 0 and below the modulus. */
  nextInt(): number {
    this.#state = (this.multiplier * this.#state + this.increment) % this.modulus;
    this.#check();
    return this.#state;
  }

  /** The next number between 0 and 1, neither of which it is. */
  randomFloat(): number {
    return this.nextInt() / this.modulus;
  }

  #check(): void {
    if (this.#state <= 0) throw new Error('Random state is unexpectedly not strictly positive.');
  }
}
