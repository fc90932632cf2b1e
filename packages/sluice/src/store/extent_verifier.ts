import type { LocalIo, StoreIo } from './io.js';
import type { Run } from './store_module.js';

/** Extents that are verified ahead of those that were wanted. */
const VERIFY_AHEAD = 16;

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

/** Whether stored extents are still what was stored: each is looked at once, those that come next ahead of time. */
export class ExtentVerifier {
  readonly #target: VerifierTarget;
  readonly #verified = new Map<string, Promise<boolean>>();
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
    const known = this.#verified.get(key);
    const foreseen = this.#ahead.delete(key);
    if (known && !foreseen) return known;
    const ios = this.#ready();
    const wanted = known ?? this.#look(key, path, run, ios);
    if (!foreseen) {
      // What was looked at elsewhere may not be wanted at all
      this.#ahead.clear();
      this.#frontier = { path, offset: run.end };
    }
    // The calling thread has better to do than to look ahead
    if (ios[0] !== this.#target.local) this.#lookAhead(ios);
    return wanted;
  }

  /** The extent at `begin` is right: it was digested as it was written. */
  trust(path: string, begin: number): void {
    this.#verified.set(keyOf(path, begin), Promise.resolve(true));
  }

  /** What was found of one file, or of all, no longer holds. */
  forget(path?: string): void {
    for (const key of this.#verified.keys()) {
      if (path !== undefined && !key.startsWith(`${path}\n`)) continue;
      this.#verified.delete(key);
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
    while (this.#ahead.size < VERIFY_AHEAD) {
      const { path, offset } = this.#frontier;
      const run = target.find(path, offset);
      if (!run.stored) {
        // Another transfer may have it already, or it is not wanted: then it was looked at for nothing
        const behind = target.behind(path);
        if (behind === undefined || !target.find(behind, 0).stored) return;
        this.#frontier = { path: behind, offset: 0 };
        continue;
      }
      this.#frontier = { path, offset: run.end };
      const key = keyOf(path, run.begin);
      if (this.#verified.has(key)) continue;
      this.#ahead.add(key);
      void this.#look(key, path, run, ios).catch(() => undefined);
    }
  }

  #look(key: string, path: string, run: Run, ios: readonly StoreIo[]): Promise<boolean> {
    const io = ios[this.#next++ % ios.length];
    const verified =
      io
        ?.digest(this.#target.nameOf(path), run.begin, run.end)
        .then((digest) => digest?.low === run.digest.low && digest.high === run.digest.high) ??
      Promise.resolve(false);
    this.#verified.set(key, verified);
    return verified;
  }
}

function keyOf(path: string, begin: number): string {
  return `${path}\n${begin}`;
}
