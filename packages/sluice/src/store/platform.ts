import type { StoreFolder } from './files.js';
import type { Locks } from './locks.js';
import type { StorePlace, StoreWorkers } from './remote_io.js';

/** What the store needs of where it runs: browser.ts and node.ts of this folder. */
export interface StorePlatform {
  readonly place: StorePlace;
  readonly locks: Locks;
  /** Whether several handles may be open on one file; where not, everything is done by the calling thread. */
  readonly sharedFiles: boolean;
  /** Whether the calling thread may open files itself. */
  readonly ownFiles: boolean;
  /** How many threads may write and verify. */
  readonly threads: number;
  /** The store's wasm, compiled once. */
  module(): Promise<WebAssembly.Module>;
  openRoot(): Promise<StoreFolder>;
  /** Workers that serve store operations. */
  readonly workers: StoreWorkers;
  /** Bytes that can still be stored; undefined where that is not known. */
  free(): Promise<number | undefined>;
}
