import type { RuntimeExports } from './abi.js';
import { writeArray } from './arguments.js';
import { Core, importsOf } from './core.js';
import { describe, RuntimeError, typeError } from './errors.js';
import { cellOf, makeFunction, objectOf, type Owned, type RuntimeFunction } from './function.js';
import { RuntimeArray, RuntimeModule } from './object.js';
import { checkMovable, type Scope } from './scope.js';
import type { ShapeTuple } from './shapes.js';
import type { Tensor } from './tensor.js';
import {
  loadTensors,
  type LoadedTensors,
  type LoadTensorsOptions,
  type ModelLoader,
  type ModelSource,
} from './load.js';
import { dataType, emptyTensor } from './tensor.js';
import type { TensorData } from './tensor_data.js';
import {
  Device,
  type Argument,
  type Callback,
  type DataType,
  type DeviceName,
  type Value,
} from './values.js';

export interface ScopeOptions {
  /** True for one that is the innermost only in its run(): for asynchronous code. */
  detached?: boolean;
}

/** One instance of the runtime's wasm module: functions, tensors and scopes. Made by createRuntime(). */
export class Runtime implements Disposable {
  readonly #core: Core;
  readonly #loadModel: ModelLoader | undefined;

  constructor(core: Core, loadModel?: ModelLoader) {
    this.#core = core;
    this.#loadModel = loadModel;
  }

  /** For `sluice/tvmjs` and the like. */
  get core(): Core {
    return this.#core;
  }

  /** An instance of a compiled module. Errors: what it imports and does not get, and what it lacks. */
  static async instantiate(module: WebAssembly.Module, loadModel?: ModelLoader): Promise<Runtime> {
    checkModule(module);
    const holder: { core?: Core } = {};
    const instance: WebAssembly.Instance = await WebAssembly.instantiate(module, {
      env: importsOf(holder) as unknown as WebAssembly.ModuleImports,
    });
    const core = new Core(instance.exports as unknown as RuntimeExports);
    holder.core = core;
    return new Runtime(core, loadModel);
  }

  // ---- Functions ----

  /**
   * The global function of that name. Throws where there is none. The type arguments are the caller's word for what it
   * takes and gives.
   */
  getFunction<Arguments extends readonly Argument[] = readonly Argument[], Result = Value>(
    name: string,
  ): RuntimeFunction<Arguments, Result> {
    const handle = this.core.findGlobal(name);
    if (handle === 0) {
      throw new RuntimeError('AttributeError', `there is no global function '${name}'`, {
        hint: 'functionNames() lists those that there are',
      });
    }
    return makeFunction(this.core, handle, name) as unknown as RuntimeFunction<Arguments, Result>;
  }

  /** Whether getFunction() would find it. */
  hasFunction(name: string): boolean {
    const handle = this.core.findGlobal(name);
    if (handle === 0) return false;
    this.core.release(handle, this.core.calls);
    return true;
  }

  /** Makes a function of JavaScript a global one. Throws where the name is taken, unless `override` is true. */
  registerFunction(
    name: string,
    callback: Callback | RuntimeFunction,
    { override = false }: { override?: boolean } = {},
  ): void {
    const { core } = this;
    if (typeof callback !== 'function') {
      throw typeError(`registerFunction('${name}') takes a function, not ${describe(callback)}`);
    }
    const made = cellOf(callback) === undefined;
    const handle = cellOf(callback)?.handle ?? core.makeFunction(callback);
    try {
      core.withName(name, (span) =>
        core.checkStatus(core.exports.TVMFFIFunctionSetGlobal(span, handle, override ? 1 : 0)),
      );
    } finally {
      if (made) core.release(handle, core.calls);
    }
  }

  /** A function of JavaScript as a function object: for functions that are passed again and again. */
  makeFunction(callback: Callback): RuntimeFunction {
    return makeFunction(this.core, this.core.makeFunction(callback));
  }

  /** Removes a global function. False where there is none. */
  removeFunction(name: string): boolean {
    if (!this.hasFunction(name)) return false;
    this.core.call(this.core.global('ffi.FunctionRemoveGlobal'), [name]);
    return true;
  }

  /** The names of all global functions. */
  functionNames(): string[] {
    return this.withScope(() => {
      const functor = this.core.call(this.core.global('ffi.FunctionListGlobalNamesFunctor'), []);
      if (typeof functor !== 'function') throw typeError('there is no list of functions');
      const count = Number(functor(-1));
      return Array.from({ length: count }, (_, i) => functor(i) as string);
    });
  }

  /** The module that holds what a compiled model, linked with the runtime, has registered. */
  systemLibrary(): RuntimeModule {
    const module = this.core.call(this.core.global('ffi.SystemLib'), []);
    if (!(module instanceof RuntimeModule)) throw typeError('ffi.SystemLib gave no module');
    return module;
  }

  // ---- Values ----

  /** The CPU, whose memory is the wasm memory. */
  cpu(id = 0): Device {
    return new Device('cpu', id);
  }

  webgpu(id = 0): Device {
    return new Device('webgpu', id);
  }

  device(type: DeviceName | number, id = 0): Device {
    return new Device(type, id);
  }

  /** The element type of that name: `float32`, `int4`, `float8_e4m3fn`, `float16x4`. Throws where there is none. */
  dtype(name: string): DataType {
    return dataType(this.core, name);
  }

  /** A shape whose numbers are checked and whose object is kept; a plain array does as well, everywhere. */
  shape(dims: readonly number[]): ShapeTuple {
    return this.core.shapes.get(dims);
  }

  /** An array of values: also of integers, which would pass as a shape otherwise. */
  array(values: readonly Argument[]): RuntimeArray {
    const { core } = this;
    core.enter();
    const { top, blocks } = core.arena;
    const { temporaries } = core;
    core.memory.check();
    try {
      const handle = writeArray(core, values, { text: () => 'array()' });
      core.exports.TVMFFIObjectIncRef(handle);
      return new RuntimeArray(core, handle);
    } finally {
      core.leave();
      core.endFrame(top, blocks, temporaries);
    }
  }

  // ---- Tensors ----

  /** A tensor whose elements are whatever lies there. On the CPU unless a device is given. */
  empty(shape: readonly number[], dtype: string | DataType = 'float32', device = CPU): Tensor {
    return emptyTensor(this.core, shape, dataType(this.core, dtype), checkDevice(device));
  }

  /** A tensor of these elements, as Tensor.set() takes them. On the CPU unless a device is given. */
  tensor(
    data: TensorData,
    shape: readonly number[],
    dtype: string | DataType = 'float32',
    device = CPU,
  ): Tensor {
    const tensor = this.empty(shape, dtype, device);
    try {
      return tensor.set(data);
    } catch (error) {
      tensor.dispose();
      throw error;
    }
  }

  /**
   * Loads a model's tensors, from what loadModel() takes and with its options: to the CPU straight into the wasm memory, each
   * where it stays; to WebGPU each into a buffer of its own. Rejects with a SluiceError; everything is freed then.
   */
  async loadTensors(from: ModelSource, options: LoadTensorsOptions = {}): Promise<LoadedTensors> {
    if (!this.#loadModel) throw typeError('this runtime was made without loadModel()');
    return loadTensors(this.core, this.#loadModel, from, options);
  }

  // ---- Scopes ----

  /**
   * Opens a scope, the innermost until it is disposed: `using scope = runtime.scope()`. It gets every object that the
   * runtime hands out meanwhile; see Scope about asynchronous code.
   */
  scope({ detached = false }: ScopeOptions = {}): Scope {
    return detached ? this.core.scopes.detached() : this.core.scopes.open();
  }

  /**
   * Runs `act` in a scope of its own and releases what was made in it, but for the object, or the objects in the array, that
   * `act` returns: those go to the scope around it, or to the caller. Throws where `act` returns a promise, since the scope
   * is over before that is settled.
   */
  withScope<T>(act: () => T): T {
    const scope = this.scope();
    try {
      const result = act();
      if (typeof (result as { then?: unknown } | null | undefined)?.then === 'function') {
        throw typeError(
          'withScope(): the function returned a promise, and the scope ends before it is settled',
          'use runtime.scope({ detached: true }), with run() between the awaits',
        );
      }
      if (Array.isArray(result)) for (const each of result as unknown[]) moveOut(scope, each);
      else moveOut(scope, result);
      return result;
    } finally {
      scope.dispose();
    }
  }

  /** Takes an object out of the scope that holds it: from now on it is the caller's to dispose. */
  detach<T extends Owned>(object: T): T {
    const held = objectOf(object);
    if (held) checkMovable(held);
    held?.scope?.remove(held);
    return object;
  }

  /** Waits until the GPU has done everything so far, and rejects with what failed. Without a GPU there is nothing to wait for. */
  async sync(): Promise<void> {
    await this.core.gpu?.sync();
  }

  /** Bytes of the wasm memory, which never shrinks. */
  get memoryBytes(): number {
    return this.core.memory.nbytes;
  }

  /** Ends the runtime: everything of it throws from now on, and its memory goes when nothing refers to it any more. */
  dispose(): void {
    this.core.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const CPU = new Device('cpu', 0);

function checkDevice(device: Device): Device {
  if (device instanceof Device) return device;
  throw typeError(`a device is a Device, not ${describe(device)}`, "runtime.device('cpu')");
}

function moveOut(scope: Scope, value: unknown): void {
  const object = objectOf(value);
  if (object?.scope === scope) scope.moveOut(object);
}

const PROVIDED = new Set(['env.TVMFFIWasmSafeCall', 'env.TVMFFIWasmFunctionDeleter']);
const NEEDED = ['memory', 'TVMWasmAllocSpace', 'TVMWasmFreeSpace', 'TVMFFIFunctionCall'];

function checkModule(module: WebAssembly.Module): void {
  const missing = WebAssembly.Module.imports(module)
    .map((each) => `${each.module}.${each.name}`)
    .filter((name) => !PROVIDED.has(name));
  if (missing.length > 0) {
    throw new RuntimeError('ValueError', `the wasm module imports ${list(missing)}`, {
      hint: 'link the model with the runtime of this package',
    });
  }
  const exported = new Set(WebAssembly.Module.exports(module).map(({ name }) => name));
  const lacking = NEEDED.filter((name) => !exported.has(name));
  if (lacking.length > 0) {
    throw new RuntimeError('ValueError', `the wasm module does not export ${list(lacking)}`, {
      hint: 'it is no runtime',
    });
  }
}

const list = (names: readonly string[]): string =>
  names.slice(0, 4).join(', ') + (names.length > 4 ? ` and ${names.length - 4} others` : '');
