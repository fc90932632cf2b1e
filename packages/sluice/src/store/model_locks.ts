import type { Locks, Release } from './locks.js';

/**
 * Names of the locks of one model. 'use' is shared by everybody, so that nobody removes the model; 'write' is held by
 * the one who fetches. 'read' is shared by who takes bytes, and held by the one who writes others in their place.
 */
export function lockName(root: string, folder: string, what: 'use' | 'read' | 'write'): string {
  return `sluice/${root}/${folder}/${what}`;
}

/** What one session holds of the locks of its model. */
export class ModelLocks {
  readonly #locks: Locks;
  readonly #root: string;
  readonly #folder: string;
  /** Ends what waits for a lock. */
  readonly #signal: AbortSignal;
  #use: Release | undefined;
  /** The lock 'read', shared unless #alone. */
  #reading: Promise<Release | undefined> | undefined;
  #alone: Promise<boolean> | undefined;
  #write: Release | undefined;

  constructor(locks: Locks, root: string, folder: string, signal: AbortSignal) {
    this.#locks = locks;
    this.#root = root;
    this.#folder = folder;
    this.#signal = signal;
  }

  /** Nobody removes the model from here on. Rejects with `aborted`. */
  async use(): Promise<void> {
    this.#use ??= await this.#take('use', 'shared');
  }

  /** This session is the one who may write. */
  get writing(): boolean {
    return this.#write !== undefined;
  }

  /** Becomes the one who may write; without `wait`, unless another is. Rejects with `aborted`. */
  async write(wait: boolean): Promise<boolean> {
    this.#write ??= await this.#take('write', 'exclusive', wait);
    return this.#write !== undefined;
  }

  /** Others may write. */
  async endWrite(): Promise<void> {
    await this.#write?.();
    this.#write = undefined;
  }

  /** From here on nobody writes other bytes where those lie that this session takes. */
  async read(): Promise<void> {
    this.#reading ??= this.#take('read', 'shared');
    await this.#reading;
  }

  /** Nobody else takes bytes of this model until the session ends; false where somebody does now. */
  readAlone(): Promise<boolean> {
    if (!this.#alone) {
      const before = this.#reading?.catch(() => undefined);
      const taken = (async () => {
        await (
          await before
        )?.();
        const alone = await this.#take('read', 'exclusive', false);
        return { alone, lock: alone ?? (await this.#take('read', 'shared')) };
      })();
      this.#reading = taken.then(({ lock }) => lock);
      this.#reading.catch(() => undefined); // heard where it is awaited
      this.#alone = taken.then(
        ({ alone }) => alone !== undefined,
        () => false,
      );
    }
    return this.#alone;
  }

  /** Others may read along with a session that stays. */
  async readAlong(): Promise<void> {
    if (!(await this.#alone)) return;
    await (
      await this.#reading
    )?.();
    this.#reading = undefined;
    this.#alone = undefined;
    await this.read();
  }

  /** Gives up all of them. */
  async release(): Promise<void> {
    await this.endWrite();
    await (
      await this.#reading?.catch(() => undefined)
    )?.();
    await this.#use?.();
    this.#use = undefined;
  }

  #take(
    what: 'use' | 'read' | 'write',
    mode: 'shared' | 'exclusive',
    wait = true,
  ): Promise<Release | undefined> {
    const name = lockName(this.#root, this.#folder, what);
    return this.#locks.take(name, mode, wait ? { wait, signal: this.#signal } : { wait });
  }
}
