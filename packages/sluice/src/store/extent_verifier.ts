import { EXTENT_BYTES } from './extent_writer.js';
import type { ByteRange, LocalIo, StoreIo } from './io.js';
import { nextTask } from '../util/task.js';
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
  /** Its bytes, until somebody takes them or the memory is needed. */
  block?: ArrayBuffer | undefined;
}

/**
 * Whether stored extents are still what was stored: each is looked at once, those that come next ahead of time. Where
 * there is memory for it, who looks hands over the bytes as well, so that the loading thread need not read them again
 * and uses the very bytes that were digested.
 */
export class ExtentVerifier {
  readonly #target: VerifierTarget;
  readonly #looks = new Map<string, Look>();
  /** Of those, extents that nobody has wanted yet. */
  readonly #ahead = new Set<string>();
  /** Looks that bring bytes, of those that nobody has taken yet. */
  readonly #bringing = new Map<string, Look>();
  /** Free memory for them. */
  readonly #blocks: ArrayBuffer[] = [];
  #blocksMade = 0;
  #mostBlocks = 0;
  /** Where the next one is that nobody has looked at. */
  #frontier = { path: '', offset: 0 };
  #next = 0;

  constructor(target: VerifierTarget) {
    this.#target = target;
  }

  /** From now on there is memory for the bytes of so many extents: with fewer than before, what was read ahead is dropped. */
  useBlocks(count: number): void {
    this.#mostBlocks = count;
    if (this.#blocksMade <= count) return;
    this.#dropBrought();
    for (const block of this.#blocks.splice(0)) this.give(block);
  }

  /**
   * Whether the bytes of an extent have the digest that was stored with them. Rejects where they cannot be read. With
   * `taking` they are wanted, and those of the extents behind it: take() may have them.
   */
  verify(path: string, run: Run, taking = false): Promise<boolean> {
    const key = keyOf(path, run.begin);
    const known = this.#looks.get(key);
    const foreseen = this.#ahead.delete(key);
    if (known && !foreseen) return known.verified;
    const ios = this.#ready();
    if (!foreseen) {
      // What was looked at elsewhere may not be wanted at all
      this.#ahead.clear();
      this.#dropBrought();
      this.#goTo(path, run.end, ios);
    }
    if (!known) this.#look(path, [run], ios, taking);
    // The calling thread has better to do than to look ahead
    if (ios[0] !== this.#target.local) this.#lookAhead(ios, taking);
    return this.#looks.get(key)?.verified ?? Promise.resolve(false);
  }

  /** The bytes of the extent at `begin`, at the beginning of a block, if it is right and they are at hand. To be given back. */
  take(path: string, begin: number): ArrayBuffer | undefined {
    const key = keyOf(path, begin);
    const look = this.#bringing.get(key);
    const block = look?.block;
    if (!look || !block) return undefined;
    this.#bringing.delete(key);
    look.block = undefined;
    return block;
  }

  /** Whether take() may have the bytes of the extent at `begin`, now or later. */
  brings(path: string, begin: number): boolean {
    return this.#bringing.has(keyOf(path, begin));
  }

  /** A block that take() gave is free again. */
  give(block: ArrayBuffer): void {
    if (this.#blocksMade > this.#mostBlocks) this.#blocksMade--;
    else this.#blocks.push(block);
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
      this.#drop(key);
    }
  }

  /** Nobody will take the bytes of any extent that was looked at so far. */
  #dropBrought(): void {
    for (const key of this.#bringing.keys()) this.#drop(key);
  }

  /** Nobody will take these bytes: their memory is free, at once or when they come. */
  #drop(key: string): void {
    const look = this.#bringing.get(key);
    if (!this.#bringing.delete(key) || !look?.block) return;
    this.give(look.block);
    look.block = undefined;
  }

  /** Memory for the bytes of an extent; undefined where all is in use. */
  #block(): ArrayBuffer | undefined {
    const block = this.#blocks.pop();
    if (block || this.#blocksMade >= this.#mostBlocks) return block;
    this.#blocksMade++;
    return new ArrayBuffer(EXTENT_BYTES);
  }

  #hasBlock(): boolean {
    return this.#blocks.length > 0 || this.#blocksMade < this.#mostBlocks;
  }

  /** Who can look at stored bytes now: workers that run; until one does, this thread, rather than wait for it. */
  #ready(): readonly StoreIo[] {
    const { ios, local } = this.#target;
    const ready = ios.filter((io) => io.ready);
    if (ready.length > 0) return ready;
    return local ? [local] : ios;
  }

  /** Looks at the extents that come next, in this file and those behind it: with `taking` as many as there are blocks for. */
  #lookAhead(ios: readonly StoreIo[], taking: boolean): void {
    const target = this.#target;
    const bringing = taking && (this.#bringing.size > 0 || this.#hasBlock());
    if (!bringing && this.#ahead.size > VERIFY_AHEAD - BATCH) return;
    while (this.#ahead.size < VERIFY_AHEAD && (!bringing || this.#hasBlock())) {
      const { path } = this.#frontier;
      // The first ones are wanted soon; and an answer brings the bytes of one
      const most = bringing ? 1 : Math.max(Math.min(this.#ahead.size >> 1, BATCH), 1);
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
        this.#look(path, runs, ios, bringing);
        continue;
      }
      // Another transfer may have it already, or it is not wanted: then it was looked at for nothing
      const behind = target.behind(path);
      if (behind === undefined || !target.find(behind, 0).stored) return;
      this.#goTo(behind, 0, ios);
    }
  }

  /** The next extent to be looked at ahead is there. */
  #goTo(path: string, offset: number, ios: readonly StoreIo[]): void {
    const target = this.#target;
    const another = path !== this.#frontier.path;
    this.#frontier = { path, offset };
    const next = another && ios[0] !== target.local ? target.behind(path) : undefined;
    if (next === undefined || !target.find(next, 0).stored) return;
    // To open a file takes as long as to read an extent or two
    for (const io of ios) io.prepare(target.nameOf(next)).catch(() => undefined); // heard by who reads
  }

  /** Has somebody look at extents of one file; with `taking` at a single one, whose bytes are wanted. */
  #look(path: string, runs: readonly Run[], ios: readonly StoreIo[], taking: boolean): void {
    const io = ios[this.#next++ % ios.length];
    if (!io) return;
    const name = this.#target.nameOf(path);
    // Workers that start say so by messages, which this thread would not hear of while it looks
    const { ios: all, local } = this.#target;
    const turn = io === local && !all.includes(local) ? nextTask() : Promise.resolve();
    const [first] = runs;
    if (taking && first && first.end - first.begin <= EXTENT_BYTES) {
      const block = this.#block();
      if (block) {
        this.#bring(
          path,
          first,
          turn.then(() => io.extent(name, rangeOf(first), block)),
        );
        return;
      }
    }
    const digests = turn.then(() => io.digests(name, runs.map(rangeOf)));
    for (const [i, run] of runs.entries()) {
      const verified = digests.then((found) => {
        look.good = isRight(run, found[i]);
        return look.good;
      });
      const look: Look = { verified, good: false };
      this.#note(path, run, look);
    }
  }

  /** Notes a look that brings bytes, which wait there for take(). */
  #bring(path: string, run: Run, answer: ReturnType<StoreIo['extent']>): void {
    const key = keyOf(path, run.begin);
    const verified = answer.then(
      ({ block, digest }) => {
        look.good = isRight(run, digest);
        if (look.good && this.#bringing.get(key) === look) {
          look.block = block;
          return true;
        }
        if (this.#bringing.get(key) === look) this.#bringing.delete(key);
        this.give(block);
        return look.good;
      },
      (error: unknown) => {
        if (this.#bringing.get(key) === look) this.#bringing.delete(key);
        this.#blocksMade--; // it is lost with the answer
        throw error;
      },
    );
    const look: Look = { verified, good: false };
    this.#bringing.set(key, look);
    this.#note(path, run, look);
  }

  #note(path: string, { begin }: Run, look: Look): void {
    look.verified.catch(() => undefined); // heard by who wants it
    this.#looks.set(keyOf(path, begin), look);
  }
}

function rangeOf({ begin, end }: Run): ByteRange {
  return { begin, end };
}

function isRight({ digest }: Run, found: Digest | undefined): boolean {
  return found?.low === digest.low && found.high === digest.high;
}

function keyOf(path: string, begin: number): string {
  return `${path}\n${begin}`;
}
