/** What happened in one interval. */
interface Bin {
  /** Bytes received by its end. */
  bytes: number;
  /** Most bytes of the budget that were held in it. */
  held: number;
}

export interface Point {
  /** Milliseconds since the load's first bytes. */
  at: number;
  value: number;
}

const FIRST_INTERVAL_MS = 50;
const MOST_BINS = 256;
/** Chunks come in bursts; a rate over less than this says little. */
const SMOOTHING_MS = 400;

/**
 * Bytes received and memory held over time, in intervals of equal length. When there are too many, two
 * become one, so that a load of any length is drawn as quickly.
 */
export class TimeSeries {
  #interval = FIRST_INTERVAL_MS;
  #bins: Bin[] = [];
  /** Where the last interval ends, once the load has. */
  #closed: number | undefined;

  /** `at` milliseconds in, `bytes` have been received and `held` bytes of the budget are in use. */
  add(at: number, bytes: number, held: number): void {
    while (at >= this.#interval * MOST_BINS) this.#halve();
    const index = Math.max(0, Math.floor(at / this.#interval));
    const before = this.#bins.at(-1);
    // A pause leaves everything as it was
    while (before && this.#bins.length < index) this.#bins.push({ ...before });
    const bin = this.#bins[index];
    if (bin) {
      bin.bytes = bytes;
      bin.held = Math.max(bin.held, held);
    } else {
      this.#bins.push({ bytes, held });
    }
  }

  /** The load ended `at` milliseconds in. */
  close(at: number): void {
    this.#closed = at;
  }

  /** Bytes per second at the end of each interval that is over, over a window of a few before it. */
  rates(): Point[] {
    const span = Math.max(1, Math.ceil(SMOOTHING_MS / this.#interval));
    return this.#bins.flatMap(({ bytes }, i) => {
      const last = i === this.#bins.length - 1;
      if (last && this.#closed === undefined) return [];
      const at = last ? (this.#closed ?? 0) : (i + 1) * this.#interval;
      const from = Math.max(0, i + 1 - span);
      const earlier = this.#bins[from - 1]?.bytes ?? 0;
      const milliseconds = Math.max(1, at - from * this.#interval);
      return [{ at, value: (1000 * (bytes - earlier)) / milliseconds }];
    });
  }

  /** Most bytes held in each interval, at its end. */
  held(): Point[] {
    return this.#bins.map(({ held }, i) => {
      const end = (i + 1) * this.#interval;
      return { at: Math.min(end, this.#closed ?? end), value: held };
    });
  }

  /** Bytes per second over about the last `milliseconds` before `at`; undefined when nothing is known yet. */
  recentRate(at: number, milliseconds: number): number | undefined {
    const last = this.#bins.at(-1);
    if (!last || at < FIRST_INTERVAL_MS) return undefined;
    const first = Math.floor((at - milliseconds) / this.#interval) - 1;
    const earlier = this.#bins[first]?.bytes ?? 0;
    const since = first >= 0 ? (first + 1) * this.#interval : 0;
    return (1000 * (last.bytes - earlier)) / Math.max(1, at - since);
  }

  #halve(): void {
    this.#interval *= 2;
    const pairs: Bin[] = [];
    for (let i = 0; i < this.#bins.length; i += 2) {
      const [a, b = a] = this.#bins.slice(i, i + 2);
      if (a && b) pairs.push({ bytes: b.bytes, held: Math.max(a.held, b.held) });
    }
    this.#bins = pairs;
  }
}
