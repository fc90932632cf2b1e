import type { LocalIo, StoreIo } from './io.js';
import type { Run } from './store_module.js';

/** Extents that are verified ahead of the one that is wanted. */
const VERIFY_AHEAD = 6;

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
  #next = 0;

  constructor(target: VerifierTarget) {
    this.#target = target;
  }

  /** Whether the bytes of an extent have the digest that was stored with them. Rejects where they cannot be read. */
  verify(path: string, run: Run): Promise<boolean> {
    const ios = this.#ready();
    const wanted = this.#once(path, run, ios);
    // The calling thread has better to do than to look ahead
    if (ios[0] !== this.#target.local) this.#ahead(path, run.end, ios);
    return wanted;
  }

  /** The extent at `begin` is right: it was digested as it was written. */
  trust(path: string, begin: number): void {
    this.#verified.set(keyOf(path, begin), Promise.resolve(true));
  }

  /** What was found of one file, or of all, no longer holds. */
  forget(path?: string): void {
    for (const key of this.#verified.keys()) {
      if (path === undefined || key.startsWith(`${path}\n`)) this.#verified.delete(key);
    }
  }

  /** Who can look at stored bytes now: workers that run; until one does, this thread, rather than wait for it. */
  #ready(): readonly StoreIo[] {
    const { ios, local } = this.#target;
    const ready = ios.filter((io) => io.ready);
    if (ready.length > 0) return ready;
    return local ? [local] : ios;
  }

  /** Looks at the extents that come next, in this file and the one behind it. */
  #ahead(path: string, begin: number, ios: readonly StoreIo[]): void {
    const target = this.#target;
    let file = path;
    let next = begin;
    for (let ahead = 0; ahead < VERIFY_AHEAD; ahead++) {
      let following = target.find(file, next);
      if (!following.stored && file === path) {
        // Another transfer may have it already, or it is not wanted: then it was looked at for nothing
        const after = target.behind(path);
        if (after === undefined) return;
        file = after;
        following = target.find(file, 0);
      }
      if (!following.stored) return;
      void this.#once(file, following, ios).catch(() => undefined);
      next = following.end;
    }
  }

  #once(path: string, run: Run, ios: readonly StoreIo[]): Promise<boolean> {
    const key = keyOf(path, run.begin);
    let verified = this.#verified.get(key);
    if (!verified) {
      const io = ios[this.#next++ % ios.length];
      verified =
        io
          ?.digest(this.#target.nameOf(path), run.begin, run.end)
          .then((digest) => digest?.low === run.digest.low && digest.high === run.digest.high) ??
        Promise.resolve(false);
      this.#verified.set(key, verified);
    }
    return verified;
  }
}

function keyOf(path: string, begin: number): string {
  return `${path}\n${begin}`;
}
