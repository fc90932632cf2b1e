/** How many transfers run at a time: as many as the link makes something of, and no more than its server takes. */

/** So many at first: what most links fill, and what a load of less than an interval is done with. */
export const FIRST_TRANSFERS = 4;
/** Throughput is compared over so many milliseconds at least, and over several times a request's latency. */
const INTERVAL_MS = 250;
const LATENCIES = 4;
/** What one transfer more has to add, of the share that it would add on a link without a limit. */
const MARGIN = 0.4;
/** Of an interval's bytes, those that may come while fewer run than may, as one ends and the next begins. */
const MOST_SHORT = 0.2;
/** After one that added nothing, so many intervals pass until the next is tried; twice as many each time. */
const FIRST_PAUSE = 8;
const MAX_PAUSE = 64;
/** After a failure, so many milliseconds pass until one more is tried; twice as many each time. */
const FIRST_CALM_MS = 1000;
const MAX_CALM_MS = 60_000;

/**
 * Decides by what it is told: bytes that arrive, transfers that begin, answer, end and fail, each with its time in
 * milliseconds of any one clock. Where one more transfer raises the throughput clearly, another is added; where it does
 * not, it is taken back. Each that fails (a busy server, a broken or stalled connection) takes its place away until
 * there has been calm for a while. Running transfers are never stopped: a lower limit holds the next ones back.
 */
export class Concurrency {
  readonly #max: number;
  #limit: number;
  #running = 0;
  #most = 0;
  #latencyMs = 0;
  /** Of the current interval. */
  #since = NaN;
  #bytes = 0;
  /** Of these, those that came while fewer ran than may. */
  #short = 0;
  /** Bytes a millisecond before the last one was added; undefined where none is on trial. */
  #before: number | undefined;
  #pause = FIRST_PAUSE;
  /** Intervals until the next trial. */
  #wait = 0;
  /** No transfer is added before that. */
  #calmAt = -Infinity;
  #calmMs = FIRST_CALM_MS;

  /** `max` is at least 1. */
  constructor(max: number) {
    this.#max = Math.max(max, 1);
    this.#limit = Math.min(this.#max, FIRST_TRANSFERS);
  }

  /** How many may run now; at least 1. */
  get limit(): number {
    return this.#limit;
  }

  /** Whether one more may begin. */
  get free(): boolean {
    return this.#running < this.#limit;
  }

  /** The most that ran at a time. */
  get most(): number {
    return this.#most;
  }

  began(): void {
    this.#running++;
    this.#most = Math.max(this.#most, this.#running);
  }

  /** A request was answered after so many milliseconds. */
  answered(latencyMs: number): void {
    // The slowest of late, forgotten slowly
    this.#latencyMs = Math.max(latencyMs, this.#latencyMs * 0.9);
  }

  /** A transfer is over, having failed or not; `failed` where fewer transfers may help. */
  ended(now: number, failed = false): void {
    this.#running--;
    if (!failed) return;
    // What still runs is what is borne
    const borne = Math.max(this.#running, 1);
    if (borne < this.#limit) {
      this.#limit = borne;
      // Those that fail together count once
      if (now >= this.#calmAt) this.#calmMs = Math.min(this.#calmMs * 2, MAX_CALM_MS);
    }
    this.#calmAt = now + this.#calmMs;
    this.#restart(now);
  }

  /** Bytes have arrived. True where the limit has risen by it. */
  received(nbytes: number, now: number): boolean {
    if (Number.isNaN(this.#since)) this.#restart(now);
    this.#bytes += nbytes;
    if (this.#running < this.#limit) this.#short += nbytes;
    const elapsed = now - this.#since;
    if (elapsed < Math.max(INTERVAL_MS, LATENCIES * this.#latencyMs)) return false;
    const rate = this.#bytes / elapsed;
    const full = this.#short <= this.#bytes * MOST_SHORT;
    const before = this.#before;
    this.#restart(now);
    // With fewer under way than may be, nothing is learned: the next transfer is about to begin, or there is none
    if (!full) {
      this.#before = before;
      return false;
    }
    if (before !== undefined && rate < before * (1 + MARGIN / (this.#limit - 1))) {
      this.#limit--;
      this.#wait = this.#pause;
      this.#pause = Math.min(this.#pause * 2, MAX_PAUSE);
      return false;
    }
    if (before !== undefined) this.#pause = FIRST_PAUSE;
    if (this.#wait > 0) {
      this.#wait--;
      return false;
    }
    if (this.#limit === this.#max || now < this.#calmAt) return false;
    this.#limit++;
    this.#before = rate;
    return true;
  }

  #restart(now: number): void {
    this.#since = now;
    this.#bytes = 0;
    this.#short = 0;
    this.#before = undefined;
  }
}
