import type { Disposable } from './types.js';

/** At most `maxSize` values; the one that was not used for the longest time goes first, after `onEvict` was told. */
export class LRUCache<K, V> {
  readonly #entries = new Map<K, V>();
  readonly #maxSize: number;
  readonly #onEvict: ((key: K, value: V) => void) | undefined;

  constructor(maxSize: number, onEvict?: (key: K, value: V) => void) {
    this.#maxSize = maxSize;
    this.#onEvict = onEvict;
  }

  /** The value of a key, which `constructor` makes where there is none. */
  get(key: K, constructor: () => V): V {
    const entries = this.#entries;
    if (entries.has(key)) {
      const value = entries.get(key) as V;
      entries.delete(key);
      entries.set(key, value);
      return value;
    }
    if (entries.size >= this.#maxSize) {
      for (const [oldest, value] of entries) {
        this.#onEvict?.(oldest, value);
        entries.delete(oldest);
        break;
      }
    }
    const value = constructor();
    entries.set(key, value);
    return value;
  }

  /** Whether get() of this key would have to evict another. */
  needEviction(key: K): boolean {
    return !this.#entries.has(key) && this.#entries.size >= this.#maxSize;
  }

  /** Forgets every value, and disposes of none. */
  invalidate(): void {
    this.#entries.clear();
  }

  get size(): number {
    return this.#entries.size;
  }

  values(): IterableIterator<V> {
    return this.#entries.values();
  }
}

/** A bounded cache of shapes by their text. Here for who uses it: shapes of an Instance are kept by `sluice/runtime`. */
export class CacheState {
  readonly shapeCache: LRUCache<string, Disposable>;

  constructor(shapeCacheSize = 256) {
    this.shapeCache = new LRUCache(shapeCacheSize, (_key, value) => {
      value.dispose();
    });
  }

  static computeShapeKey(shape: number[]): string {
    return shape.toString();
  }

  dispose(): void {
    for (const shape of this.shapeCache.values()) shape.dispose();
    this.shapeCache.invalidate();
  }
}
