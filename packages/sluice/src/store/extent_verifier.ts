import type { LocalIo, StoreIo } from './io.js';
import type { Digest, Run } from './store_module.js';

/** Extents that are verified ahead of those that were wanted, at most. */
const VERIFY_AHEAD = 16;
/** Extents that are looked at together, at most: a message to a worker and its answer take as long as half a MiB. */
const BATCH = 4;

/** What is verified, and who looks at it. */
export interface VerifierTarget {
  /** Workers, of which some may still be starting. */
  readonly ios: readonly StoreIo[];
  /** The calling thread, where it may open files itself. */
  readonly local: LocalIo | undefined;
  /** The extent or gap at `offset` of a file. */
  find(path: string, offset: number): Run;
  /** The name of a file in the model's folder. */
  nameOf(path: string): string;
  /** The file that is mostly loaded after this one. */
  behind(path: string): string | undefined;
}

/** What is known of an extent. */
interface Look {
  readonly verified: Promise<boolean>;
  /** It was found to be right. */
  good: boolean;
}

/** Whether stored extents are still what was stored: each is looked at once, those that come next ahead of time. */
export class ExtentVerifier {
  readonly #target: VerifierTarget;
  readonly #looks = new Map<string, Look>();
  /** Of those, extents that nobody has wanted yet. */
  readonly #ahead = new Set<string>();
  /** Where the next one is that nobody has looked at. */
  #frontier = { path: '', offset: 0 };
  #next = 0;

  constructor(target: VerifierTarget) {
    this.#target = target;
  }

  /** Whether the bytes of an extent have the digest that was stored with them. Rejects where they cannot be read. */
  verify(path: string, run: Run): Promise<boolean> {
    const key = keyOf(path, run.begin);
    const known = this.#looks.get(key);
    const foreseen = this.#ahead.delete(key);
    if (known && !foreseen) return known.verified;
    const ios = this.#ready();
    if (!known) this.#look(path, [run], ios);
    if (!foreseen) {
      // What was looked at elsewhere may not be wanted at all
      this.#ahead.clear();
      this.#frontier = { path, offset: run.end };
    }
    // The calling thread has better to do than to look ahead
    if (ios[0] !== this.#target.local) this.#lookAhead(ios);
    return this.#looks.get(key)?.verified ?? Promise.resolve(false);
  }

  /** An extent was found to be right. */
  isGood(path: string, begin: number): boolean {
    return this.#looks.get(keyOf(path, begin))?.good ?? false;
  }

  /** The extent at `begin` is right: it was digested as it was written. */
  trust(path: string, begin: number): void {
    this.#looks.set(keyOf(path, begin), { verified: Promise.resolve(true), good: true });
  }

  /** What was found of one file, or of all, no longer holds. */
  forget(path?: string): void {
    for (const key of this.#looks.keys()) {
      if (path !== undefined && !key.startsWith(`${path}\n`)) continue;
      this.#looks.delete(key);
      this.#ahead.delete(key);
    }
  }

  /** Who can look at stored bytes now: workers that run; until one does, this thread, rather than wait for it. */
  #ready(): readonly StoreIo[] {
    const { ios, local } = this.#target;
    const ready = ios.filter((io) => io.ready);
    if (ready.length > 0) return ready;
    return local ? [local] : ios;
  }

  /** Looks at the extents that come next, in this file and those behind it. */
  #lookAhead(ios: readonly StoreIo[]): void {
    const target = this.#target;
    if (this.#ahead.size > VERIFY_AHEAD - BATCH) return;
    while (this.#ahead.size < VERIFY_AHEAD) {
      const { path } = this.#frontier;
      // The first ones are wanted soon
      const most = Math.max(Math.min(this.#ahead.size >> 1, BATCH), 1);
      const runs: Run[] = [];
      while (runs.length < most && this.#ahead.size < VERIFY_AHEAD) {
        const run = target.find(path, this.#frontier.offset);
        if (!run.stored) break;
        this.#frontier.offset = run.end;
        const key = keyOf(path, run.begin);
        if (this.#looks.has(key)) continue;
        this.#ahead.add(key);
        runs.push(run);
      }
      if (runs.length > 0) {
        this.#look(path, runs, ios);
        continue;
      }
      // Another transfer may have it already, or it is not wanted: then it was looked at for nothing
      const behind = target.behind(path);
      if (behind === undefined || !target.find(behind, 0).stored) return;
      this.#frontier = { path: behind, offset: 0 };
    }
  }

  /** Has somebody look at extents of one file. */
  #look(path: string, runs: readonly Run[], ios: readonly StoreIo[]): void {
    const io = ios[this.#next++ % ios.length];
    const digests =
      io?.digests(
        this.#target.nameOf(path),
        runs.map(({ begin, end }) => ({ begin, end })),
      ) ?? Promise.resolve<(Digest | undefined)[]>([]);
    for (const [i, { begin, digest }] of runs.entries()) {
      const verified = digests.then((found) => {
        look.good = found[i]?.low === digest.low && found[i].high === digest.high;
        return look.good;
      });
      const look: Look = { verified, good: false };
      verified.catch(() => undefined); // heard by who wants it
      this.#looks.set(keyOf(path, begin), look);
    }
  }
}

function keyOf(path: string, begin: number): string {
  return `${path}\n${begin}`;
}
