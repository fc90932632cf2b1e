import { ANY_BYTES, ARRAY_SIZE, OBJECT_BYTES, OBJECT_TYPE, SPAN_SIZE, TypeIndex } from './abi.js';
import type { Core } from './core.js';
import { RuntimeError, typeError, valueError } from './errors.js';
import type { RuntimeFunction } from './function.js';
import type { Scope } from './scope.js';
import type { Value } from './values.js';

/** An object of the C ABI, of which this holds one reference until dispose(). */
export class RuntimeObject implements Disposable {
  readonly #core: Core;
  /** Of Scope alone: the scope that holds it, and where. */
  scope: Scope | undefined = undefined;
  place = 0;
  readonly #born: number;
  #handle: number;

  /** Of the runtime alone. Takes the reference over, and is held by the innermost scope. */
  constructor(core: Core, handle: number) {
    this.#core = core;
    this.#handle = handle;
    this.#born = core.calls;
    core.scopes.current?.hold(this);
  }

  /** The runtime that it belongs to. */
  get core(): Core {
    return this.#core;
  }

  /** Its address. Throws once it is disposed. */
  get handle(): number {
    if (this.#handle === 0) throw this.disposedError();
    return this.#handle;
  }

  get disposed(): boolean {
    return this.#handle === 0;
  }

  /** The type's name in the C ABI: `ffi.Array`. */
  get typeKey(): string {
    return this.core.typeKey(this.typeIndex);
  }

  get typeIndex(): number {
    const { handle } = this;
    this.core.memory.check();
    return this.borrowed ? TypeIndex.DL_TENSOR : this.core.memory.u32(handle + OBJECT_TYPE);
  }

  /** Whether this is only valid while a callback runs, and no object but a `DLTensor*`. */
  get borrowed(): boolean {
    return false;
  }

  /** Gives the reference back. Safe to call again, and while a call that was given the object runs. */
  dispose(): void {
    const handle = this.#handle;
    if (handle === 0) return;
    this.#handle = 0;
    this.scope?.remove(this);
    this.releaseHandle(handle, this.#born);
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  protected releaseHandle(handle: number, born: number): void {
    this.core.release(handle, born);
  }

  /** What messages call it. */
  protected describe(): string {
    return 'object';
  }

  protected disposedError(): RuntimeError {
    return valueError(`the ${this.describe()} was disposed`, {
      hint: 'a scope releases what was made in it; keep an object with scope.moveOut() or runtime.detach()',
    });
  }
}

/** A module: a compiled model, or what a function gave. */
export class RuntimeModule extends RuntimeObject {
  /** A function of the module, and of what it imports unless `queryImports` is false. Throws where there is none. */
  getFunction(name: string, queryImports = true): RuntimeFunction {
    const get = this.core.global('ffi.ModuleGetFunction');
    const found = this.core.call(get, [this, name, queryImports]);
    if (typeof found !== 'function') {
      throw new RuntimeError('AttributeError', `the module has no function '${name}'`);
    }
    return found;
  }

  /** Whether getFunction() would find it. */
  hasFunction(name: string, queryImports = true): boolean {
    const has = this.core.global('ffi.ModuleImplementsFunction');
    return this.core.call(has, [this, name, queryImports]) === true;
  }

  import(module: RuntimeModule): void {
    this.core.call(this.core.global('ffi.ModuleImportModule'), [this, module]);
  }

  protected override describe(): string {
    return 'module';
  }
}

/** An array of values, which does not change. */
export class RuntimeArray extends RuntimeObject implements Iterable<Value> {
  get length(): number {
    const { handle } = this;
    this.core.memory.check();
    return this.core.memory.safeInteger(handle + OBJECT_BYTES + ARRAY_SIZE, 'the size of an array');
  }

  /** The element, as a function would give it: objects are the caller's. */
  get(index: number): Value {
    const { length } = this;
    if (!(Number.isInteger(index) && index >= 0 && index < length)) {
      throw new RuntimeError('IndexError', `index ${index} of an array of ${length}`);
    }
    const items = this.core.memory.u32(this.handle + OBJECT_BYTES);
    return this.core.readShared(items + ANY_BYTES * index);
  }

  /** Every element. */
  toArray(): Value[] {
    return [...this];
  }

  *[Symbol.iterator](): Iterator<Value> {
    for (let i = 0; i < this.length; i++) yield this.get(i);
  }

  protected override describe(): string {
    return 'array';
  }
}

/** The numbers in the shape at `handle`. */
export function readShape(core: Core, handle: number): number[] {
  const { memory } = core;
  const data = memory.u32(handle + OBJECT_BYTES);
  const size = memory.u32(handle + OBJECT_BYTES + SPAN_SIZE);
  return memory.safeIntegers(data, size, 'a dimension of a shape');
}

export function foreign(what: string): RuntimeError {
  return typeError(`the ${what} belongs to another runtime`);
}
