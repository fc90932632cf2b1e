import type { Core } from './core.js';
import { RuntimeError, describe, typeError } from './errors.js';

/** Shapes whose objects are kept at a time. */
const KEPT = 1024;
const BUCKETS = 2048;

/**
 * A shape of whose object in wasm memory the runtime takes care: made when it is first passed, kept while it is among the
 * 1,024 last used, made again after that. Nothing to dispose.
 */
export class ShapeTuple {
  readonly dims: readonly number[];
  /** Of ShapeCache alone: the object (0: none), and the neighbours by time of use and in the bucket. */
  handle = 0;
  born = 0;
  kept = false;
  readonly bucket: number;
  newer: ShapeTuple | undefined = undefined;
  older: ShapeTuple | undefined = undefined;
  next: ShapeTuple | undefined = undefined;

  /** Of the runtime alone: runtime.shape(dims). */
  constructor(dims: readonly number[], bucket: number) {
    this.dims = dims;
    this.bucket = bucket;
  }
}

/** The last shapes that were used, so that one that is used again costs no crossing. */
export class ShapeCache {
  readonly #core: Core;
  readonly #buckets = new Array<ShapeTuple | undefined>(BUCKETS).fill(undefined);
  #newest: ShapeTuple | undefined;
  #oldest: ShapeTuple | undefined;
  #size = 0;

  constructor(core: Core) {
    this.#core = core;
  }

  get size(): number {
    return this.#size;
  }

  /** The one tuple of these numbers, which must be safe integers. */
  get(dims: readonly number[]): ShapeTuple {
    if (!Array.isArray(dims))
      throw typeError(`a shape is an array of integers, not ${describe(dims)}`);
    const tuple = this.find(dims);
    if (tuple) return tuple;
    throw notADimension(
      dims,
      dims.findIndex((dim) => !Number.isInteger(dim)),
    );
  }

  /** The same, or undefined where they are not nothing but integers. Throws where one is beyond 2^53 - 1. */
  find(dims: readonly unknown[]): ShapeTuple | undefined {
    const { length } = dims;
    let hash = length;
    for (let i = 0; i < length; i++) {
      const dim = dims[i] as number;
      // Most are small; also what only looks like an integer is none: '2', NaN, a hole
      if ((dim | 0) !== dim) {
        if (!Number.isInteger(dim)) return undefined;
        if (!Number.isSafeInteger(dim)) throw notADimension(dims, i);
      }
      hash = (Math.imul(hash, 31) + dim) | 0;
    }
    const bucket = (hash ^ (hash >>> 11)) & (BUCKETS - 1);
    for (let tuple = this.#buckets[bucket]; tuple; tuple = tuple.next) {
      if (tuple.dims.length !== length) continue;
      let i = 0;
      while (i < length && tuple.dims[i] === dims[i]) i++;
      if (i === length) {
        if (tuple !== this.#newest) this.#touch(tuple);
        return tuple;
      }
    }
    // + 0: no -0
    const own = Object.freeze((dims as readonly number[]).map((dim) => dim + 0));
    const tuple = new ShapeTuple(own, bucket);
    this.#insert(tuple);
    return tuple;
  }

  /** The object of a tuple, valid for one call's arguments. */
  handle(tuple: ShapeTuple): number {
    if (tuple.handle === 0) {
      tuple.handle = this.#core.makeShape(tuple.dims);
      // The call whose arguments are being written uses it already
      tuple.born = this.#core.calls - 1;
      if (!tuple.kept) this.#insert(tuple);
    }
    return tuple.handle;
  }

  #insert(tuple: ShapeTuple): void {
    tuple.kept = true;
    tuple.next = this.#buckets[tuple.bucket];
    this.#buckets[tuple.bucket] = tuple;
    this.#link(tuple);
    if (++this.#size > KEPT && this.#oldest) this.#evict(this.#oldest);
  }

  #touch(tuple: ShapeTuple): void {
    this.#unlink(tuple);
    this.#link(tuple);
  }

  #link(tuple: ShapeTuple): void {
    tuple.older = this.#newest;
    if (this.#newest) this.#newest.newer = tuple;
    this.#newest = tuple;
    this.#oldest ??= tuple;
  }

  #unlink(tuple: ShapeTuple): void {
    if (tuple.newer) tuple.newer.older = tuple.older;
    else this.#newest = tuple.older;
    if (tuple.older) tuple.older.newer = tuple.newer;
    else this.#oldest = tuple.newer;
    tuple.newer = tuple.older = undefined;
  }

  #evict(tuple: ShapeTuple): void {
    this.#unlink(tuple);
    this.#size--;
    tuple.kept = false;
    let at = this.#buckets[tuple.bucket];
    if (at === tuple) {
      this.#buckets[tuple.bucket] = tuple.next;
    } else {
      while (at && at.next !== tuple) at = at.next;
      if (at) at.next = tuple.next;
    }
    tuple.next = undefined;
    if (tuple.handle === 0) return;
    this.#core.release(tuple.handle, tuple.born);
    tuple.handle = 0;
  }
}

function notADimension(dims: readonly unknown[], index: number): RuntimeError {
  const value = dims[index];
  if (typeof value === 'number' && Number.isInteger(value)) {
    return new RuntimeError(
      'RangeError',
      `dimension ${index} of a shape is ${value}, beyond 2^53 - 1`,
    );
  }
  return typeError(`dimension ${index} of a shape is ${describe(value)}, no integer`);
}
