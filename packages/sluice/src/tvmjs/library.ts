import { Core, type RawFunction } from '../runtime/core.js';
import type { RuntimeExports } from '../runtime/abi.js';
import { RuntimeError } from '../runtime/errors.js';
import type { RuntimeObject } from '../runtime/object.js';
import type { Value } from '../runtime/values.js';
import type { Environment } from './environment.js';
import { Memory } from './memory.js';
import type { AnyFunction, Disposable, Pointer } from './types.js';
import type { WebGPUContext } from './webgpu.js';

/** Between the values of tvmjs and those of `sluice/runtime`; conversion.ts has the one there is. */
export interface Conversion {
  /** What a function is given, as core.call() takes it. Throws where tvmjs takes no such value. */
  argument(value: unknown): unknown;
  /** What a function gave. Objects are the current scope's. */
  result(value: Value): unknown;
  /** A function of JavaScript as C++ calls it. */
  callback(func: AnyFunction): RawFunction;
}

/** One instance of a wasm module: calls into it, its memory, its GPU. What tvmjs's objects know as `lib`. */
export class FFILibrary implements Disposable {
  readonly wasm32 = true;
  readonly core: Core;
  readonly memory: Memory;
  // eslint-disable-next-line @typescript-eslint/no-unsafe-function-type -- as tvmjs types it
  readonly exports: Record<string, Function>;
  webGPUContext: WebGPUContext | undefined;
  /** Set by the Instance, before the first call. */
  conversion!: Conversion;

  constructor(instance: WebAssembly.Instance, environment: Environment) {
    const { exports } = instance;
    const missing = ['TVMWasmAllocSpace', 'TVMWasmFreeSpace'].filter(
      (name) => typeof exports[name] !== 'function',
    );
    if (missing.length > 0) throw new Error(`Cannot find ${missing.join()} in exports`);
    const memory = [
      exports['memory'],
      (environment.imports['env'] as { memory?: unknown } | undefined)?.memory,
    ].find((each) => each instanceof WebAssembly.Memory);
    if (!memory) throw new Error('Cannot detect wasm memory from imports or exports');
    // eslint-disable-next-line @typescript-eslint/no-unsafe-function-type -- as tvmjs types it
    this.exports = exports as Record<string, Function>;
    this.memory = new Memory(memory);
    // A module that its provider has started would not bear to be started again
    const initialize = environment.starts ? undefined : exports['_initialize'];
    this.core = new Core({
      ...(exports as unknown as RuntimeExports),
      memory,
      _initialize: (initialize ?? (() => undefined)) as () => void,
    });
    environment.holder.core = this.core;
  }

  sizeofPtr(): number {
    return 4;
  }

  /** Throws what C++ raised, where a function of the C ABI gave anything but 0. */
  checkCall(code: number): void {
    this.guard(() => {
      this.core.checkStatus(code);
    });
  }

  /** Calls a function object with values of tvmjs, which are put into the runtime's own, in place. */
  call(handle: Pointer, args: unknown[]): unknown {
    const { conversion } = this;
    const { length } = args;
    let value: Value;
    try {
      for (let i = 0; i < length; i++) args[i] = conversion.argument(args[i]);
      value = this.core.call(handle, args);
    } catch (error) {
      throw theirs(error);
    }
    return conversion.result(value);
  }

  /** The same for a global function, which is looked up once. */
  callGlobal(name: string, ...args: unknown[]): unknown {
    return this.call(this.global(name), args);
  }

  /** The handle of a global function, kept. Throws as getGlobalFunc() where there is none. */
  global(name: string): Pointer {
    return this.guard(() => this.core.global(name));
  }

  /** Runs `act`, whose errors become tvmjs's. */
  guard<T>(act: () => T): T {
    try {
      return act();
    } catch (error) {
      throw theirs(error);
    }
  }

  /** Takes an object out of the scope of `sluice/runtime` that holds it: tvmjs's scopes hold what is around it. */
  own<T extends RuntimeObject>(object: T): T {
    object.scope?.remove(object);
    return object;
  }

  dispose(): void {
    this.webGPUContext?.dispose();
    this.core.dispose();
  }
}

/**
 * An error as tvmjs throws it: an Error whose message begins with the kind that C++ raised. What a callback threw comes
 * out as it is.
 */
export function theirs(error: unknown): unknown {
  if (!(error instanceof RuntimeError)) return error;
  return new Error(`${error.kind}: ${error.message}`, { cause: error });
}

/** The scopes of an instance. What tvmjs's objects know as `ctx`. */
export class RuntimeContext implements Disposable {
  /** Of each scope what it holds; undefined while that is nothing. */
  readonly #scopes: (Disposable[] | undefined)[] = [];

  get depth(): number {
    return this.#scopes.length;
  }

  beginScope(): void {
    this.#scopes.push(undefined);
  }

  endScope(): void {
    if (this.#scopes.length === 0) throw new Error('tvm.endScope called when the stack is empty.');
    this.endScopesTo(this.#scopes.length - 1);
  }

  /** Ends scopes until so many are left. */
  endScopesTo(depth: number): void {
    const scopes = this.#scopes;
    while (scopes.length > depth) {
      const scope = scopes.pop();
      if (scope) for (const object of scope) object.dispose();
    }
  }

  /** Throws, and disposes of the object, where there is no scope. */
  attachToCurrentScope<T extends Disposable>(object: T): T {
    if (this.#scopes.length === 0) {
      object.dispose();
      throw new Error('Must call beginScope to use functions that returns TVM objects');
    }
    return this.#attach(this.#scopes.length - 1, object);
  }

  moveToParentScope<T extends Disposable>(object: T): T {
    const parent = this.#scopes.length - 2;
    if (parent < 0) throw new Error('moveToParentScope: Parent scope do not exist');
    return this.#attach(parent, this.detachFromCurrentScope(object));
  }

  #attach<T extends Disposable>(at: number, object: T): T {
    (this.#scopes[at] ??= []).push(object);
    return object;
  }

  detachFromCurrentScope<T extends Disposable>(object: T): T {
    const scope = this.#scopes.at(-1) ?? [];
    // Mostly the last one
    const place = scope.lastIndexOf(object);
    if (place < 0) throw new Error('Cannot find obj in the current auto conversion pool');
    scope.splice(place, 1);
    if (scope.includes(object)) throw new Error('Value attached to scope multiple times');
    return object;
  }

  /** Nothing: what scopes hold goes with the runtime. */
  dispose(): void {
    this.#scopes.length = 0;
  }
}
