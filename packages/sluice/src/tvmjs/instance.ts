import { describe } from '../runtime/errors.js';
import { connectWebGPU } from '../runtime/gpu.js';
import type { ModelLoader } from '../runtime/load.js';
import { RuntimeObject } from '../runtime/object.js';
import { Runtime } from '../runtime/runtime.js';
import type { ShapeTuple } from '../runtime/shapes.js';
import { emptyTensor } from '../runtime/tensor.js';
import { Device, Pointer as RuntimePointer } from '../runtime/values.js';
import type { ModelStore } from '../store/model_store.js';
import { cellOfPacked, TheirConversion } from './conversion.js';
import { Environment } from './environment.js';
import { FFILibrary, RuntimeContext } from './library.js';
import type { Memory } from './memory.js';
import type { DLDataType } from './objects.js';
import {
  deviceName,
  DLDevice,
  Module,
  Scalar,
  ShapeObject,
  Tensor,
  TVMArray,
  VirtualMachine,
  type AsyncPackedFunc,
  type FObjectConstructor,
  type PackedFunc,
  type TVMObject,
} from './objects.js';
import { assert, LinearCongruentialGenerator, type RNGState } from './support.js';
import {
  accessOptions,
  fetchIntoTensorCache,
  type FetchTensorCacheOptions,
} from './tensor_cache.js';
import type { AnyFunction, Disposable, Pointer, Untyped } from './types.js';
import { WebGPUContext, type FunctionInfo } from './webgpu.js';

export interface InitProgressReport {
  /** From 0 to 1. */
  progress: number;
  /** Seconds, rounded up. */
  timeElapsed: number;
  text: string;
}

export type InitProgressCallback = (report: InitProgressReport) => void;

/** What the entry for browsers and that for Node do each in their way. */
export interface Host {
  loadModel: ModelLoader;
  /** The local store; rejects where there is none. */
  openStore: () => Promise<ModelStore>;
}

/** First argument of the callback of an asynchronous server function. */
const ASYNC_RETURN = 4;
const ASYNC_EXCEPTION = 5;

/**
 * One instance of a wasm module: the runtime, or a compiled model that was linked with it. Every object that it gives
 * belongs to the scope that was begun last, and is released when that ends.
 */
export class InstanceBase implements Disposable {
  memory: Memory;
  // eslint-disable-next-line @typescript-eslint/no-unsafe-function-type -- as tvmjs types it
  exports: Record<string, Function>;
  cacheMetadata: Record<string, Untyped> = {};
  protected readonly lib: FFILibrary;
  protected readonly env: Environment;
  protected readonly ctx: RuntimeContext;
  readonly #host: Host;
  readonly #conversion: TheirConversion;
  readonly #runtime: Runtime;
  readonly #rng = new LinearCongruentialGenerator();
  readonly #shapes = new WeakMap<ShapeTuple, ShapeObject>();
  readonly #progressCallbacks: InitProgressCallback[] = [];
  #disposed = false;

  constructor(
    host: Host,
    wasmModule: WebAssembly.Module,
    importObject: Record<string, Untyped> = {},
    wasmInstance?: WebAssembly.Instance,
    env?: Environment,
  ) {
    let instance = wasmInstance;
    if (instance instanceof WebAssembly.Instance) {
      assert(env instanceof Environment, 'env must be provided when passing in instance');
    } else {
      assert(env === undefined);
      env = new Environment(importObject);
      instance = new WebAssembly.Instance(wasmModule, env.imports as WebAssembly.Imports);
    }
    env.start(instance);
    this.#host = host;
    this.env = env;
    this.lib = new FFILibrary(instance, env);
    this.ctx = new RuntimeContext();
    this.#conversion = new TheirConversion(this.lib, this.ctx);
    this.lib.conversion = this.#conversion;
    this.#runtime = new Runtime(this.lib.core, host.loadModel);
    this.memory = this.lib.memory;
    this.exports = this.lib.exports;
    this.registerObjectConstructor(
      'ffi.Array',
      (handle, lib, ctx) => new TVMArray(handle, lib, ctx),
    );
    this.registerObjectConstructor(
      'ffi.Module',
      (handle, lib, ctx) => new Module(handle, lib, ctx),
    );
    this.#registerHostFunctions();
  }

  /** Milliseconds that `run` takes, the mean of `number` runs, `repeat` times. The GPU is waited for. */
  async benchmark(run: () => void, dev: DLDevice, number = 10, repeat = 1): Promise<number[]> {
    // The first may compile and load
    this.withNewScope(run);
    await dev.sync();
    const results: number[] = [];
    for (let k = 0; k < repeat; k++) {
      const begin = performance.now();
      for (let i = 0; i < number; i++) this.withNewScope(run);
      await dev.sync();
      results.push((performance.now() - begin) / number);
    }
    return results;
  }

  /** False: nothing here needs Asyncify. */
  asyncifyEnabled(): boolean {
    return false;
  }

  /** Ends the instance, and the GPU device that it was given. Objects of it throw from now on. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.ctx.dispose();
    this.lib.dispose();
  }

  /** Bytes and submissions of the GPU; empty without one. */
  runtimeStatsText(): string {
    return this.lib.webGPUContext?.runtimeStatsText() ?? '';
  }

  // ---- Scopes ----

  beginScope(): void {
    this.ctx.beginScope();
  }

  /** Releases what was made since beginScope(), but for what was moved or detached. */
  endScope(): void {
    this.ctx.endScope();
  }

  /** Runs `action` in a scope of its own, which ends also where it throws. */
  withNewScope<T>(action: () => T): T {
    const { depth } = this.ctx;
    this.beginScope();
    try {
      return action();
    } finally {
      this.ctx.endScopesTo(depth);
    }
  }

  attachToCurrentScope<T extends Disposable>(obj: T): T {
    return this.ctx.attachToCurrentScope(obj);
  }

  moveToParentScope<T extends Disposable>(obj: T): T {
    return this.ctx.moveToParentScope(obj);
  }

  detachFromCurrentScope<T extends Disposable>(obj: T): T {
    return this.ctx.detachFromCurrentScope(obj);
  }

  // ---- Functions ----

  /** The module of what a linked model has registered. */
  systemLib(): Module {
    return this.lib.callGlobal('ffi.SystemLib') as Module;
  }

  listGlobalFuncNames(): string[] {
    return this.lib.guard(() => this.#runtime.functionNames());
  }

  /** Throws where the name is taken, unless `override` is true. */
  // eslint-disable-next-line @typescript-eslint/no-unsafe-function-type -- as tvmjs types it
  registerFunc(name: string, func: PackedFunc | Function, override = false): void {
    if (typeof func !== 'function') {
      throw new Error(`registerFunc('${name}') takes a function, not ${describe(func)}`);
    }
    const { core } = this.lib;
    const packed = cellOfPacked(func);
    const handle =
      packed?.getHandle() ??
      core.makeFunction(this.#conversion.callback(func as unknown as AnyFunction));
    try {
      this.lib.guard(() => {
        core.withName(name, (span) => {
          core.checkStatus(core.exports.TVMFFIFunctionSetGlobal(span, handle, override ? 1 : 0));
        });
      });
    } finally {
      if (!packed) core.release(handle, core.calls);
    }
  }

  /** Throws where there is none. */
  getGlobalFunc(name: string): PackedFunc {
    const { core } = this.lib;
    const handle = this.lib.guard(() => core.findGlobal(name));
    if (handle === 0) throw new Error(`Cannot find global function ${name}`);
    return this.#packed(handle);
  }

  isPackedFunc(func: unknown): boolean {
    return typeof func === 'function' && Object.hasOwn(func, '_tvmPackedCell');
  }

  /** A function of JavaScript as one that C++ holds; one that it is already comes back as it is. */
  // eslint-disable-next-line @typescript-eslint/no-unsafe-function-type -- as tvmjs types it
  toPackedFunc(func: Function): PackedFunc {
    if (this.isPackedFunc(func)) return func as unknown as PackedFunc;
    const { core } = this.lib;
    const callback = this.#conversion.callback(func as AnyFunction);
    return this.#packed(this.lib.guard(() => core.makeFunction(callback)));
  }

  #packed(handle: Pointer): PackedFunc {
    const object = new RuntimeObject(this.lib.core, handle);
    return this.ctx.attachToCurrentScope(this.#conversion.packed(object));
  }

  /** The compiled model that the wasm module holds, on a device. */
  createVirtualMachine(dev: DLDevice): VirtualMachine {
    const load = this.systemLib().getFunction('vm_load_executable') as PackedFunc | undefined;
    if (!load) throw new Error('Cannot find vm_load_executable: the wasm module holds no model');
    const mod = this.ctx.detachFromCurrentScope(load() as Module);
    return this.ctx.attachToCurrentScope(new VirtualMachine(mod, dev));
  }

  // ---- The tensor cache, where compiled models look for their parameters ----

  /** `cb` hears from every fetchTensorCache() and asyncLoadWebGPUPipelines(). */
  registerInitProgressCallback(cb: InitProgressCallback): void {
    this.#progressCallbacks.push(cb);
  }

  #report(report: InitProgressReport): void {
    for (const callback of this.#progressCallbacks) callback({ ...report });
  }

  /** The tensors `prefix_0`, `prefix_1`, …; -1 are as many as there are. */
  getParamsFromCache(prefix: string, numParams: number): TVMObject {
    const name = 'vm.builtin.param_module_from_cache';
    return this.#params(
      this.lib.callGlobal(name, prefix, new Scalar(numParams, 'int32')) as Module,
    );
  }

  getParamsFromCacheByName(paramNames: string[]): TVMObject {
    const name = 'vm.builtin.param_module_from_cache_by_name';
    return this.#params(this.lib.callGlobal(name, paramNames) as Module);
  }

  #params(module: Module): TVMObject {
    return module.getFunction('get_params')() as TVMObject;
  }

  tensorCacheGet(name: string): Tensor | undefined {
    return this.lib.callGlobal('vm.builtin.tensor_cache.get', name) as Tensor | undefined;
  }

  tensorCacheRemove(name: string): Tensor | undefined {
    return this.lib.callGlobal('vm.builtin.tensor_cache.remove', name) as Tensor | undefined;
  }

  tensorCacheUpdate(name: string, arr: Tensor, override = false): void {
    const flag = this.scalar(override ? 1 : 0, 'int32');
    this.lib.callGlobal('vm.builtin.tensor_cache.update', name, arr, flag);
  }

  tensorCacheClear(): void {
    this.lib.callGlobal('vm.builtin.tensor_cache.clear');
  }

  /**
   * Loads the tensors of `tensor-cache.json` at a URL into the tensor cache, with the package's loader and from its local
   * store, where what is fetched is kept. Rejects with what failed, or with the signal's reason.
   */
  async fetchTensorCache(
    tensorCacheUrl: string,
    device: DLDevice,
    options?: FetchTensorCacheOptions,
  ): Promise<Untyped>;
  async fetchTensorCache(
    tensorCacheUrl: string,
    device: DLDevice,
    cacheScope?: string,
    cacheType?: string,
    signal?: AbortSignal,
  ): Promise<Untyped>;
  async fetchTensorCache(
    tensorCacheUrl: string,
    device: DLDevice,
    scopeOrOptions: string | FetchTensorCacheOptions = 'tvmjs',
    cacheType = 'cache',
    signal?: AbortSignal,
  ): Promise<Untyped> {
    const options: FetchTensorCacheOptions = accessOptions(scopeOrOptions, cacheType);
    const { signal: wanted = signal } = options;
    try {
      const metadata = await fetchIntoTensorCache(
        {
          core: this.lib.core,
          host: this.#host,
          report: (report) => {
            this.#report(report);
          },
          update: (name, handle) => {
            this.tensorCacheUpdate(name, handle);
          },
          wrap: (tensor) => new Tensor(this.lib.own(tensor), this.lib, this.ctx, false),
          decode: (tensor, bytes, format, dtype) => {
            this.lib.callGlobal('tvmjs.array.decode_storage', tensor, bytes, format, dtype);
          },
        },
        tensorCacheUrl,
        new Device(device.deviceType, device.deviceId),
        { ...options, ...(wanted ? { signal: wanted } : {}) },
      );
      this.cacheMetadata = { ...this.cacheMetadata, ...metadata };
    } catch (error) {
      if (wanted?.aborted) throw wanted.reason;
      this.env.logger(`Error: Cannot fetch ${tensorCacheUrl} err= ${String(error)}`);
      throw error;
    }
  }

  // ---- Values ----

  scalar(value: number, dtype: string): Scalar {
    return new Scalar(value, dtype);
  }

  device(deviceType: number | string, deviceId = 0): DLDevice {
    return new DLDevice(deviceType, deviceId, this.lib);
  }

  cpu(deviceId = 0): DLDevice {
    return this.device('cpu', deviceId);
  }

  webgpu(deviceId = 0): DLDevice {
    return this.device('webgpu', deviceId);
  }

  /** A tensor whose elements are whatever lies there. */
  empty(
    shape: number[] | number,
    dtype: string | DLDataType = 'float32',
    dev: DLDevice = this.cpu(),
  ): Tensor {
    const { lib } = this;
    const { core } = lib;
    const made = lib.guard(() =>
      emptyTensor(
        core,
        typeof shape === 'number' ? [shape] : shape,
        core.dtype(String(dtype)),
        new Device(dev.deviceType, dev.deviceId),
      ),
    );
    return this.ctx.attachToCurrentScope(new Tensor(lib.own(made), lib, this.ctx, false));
  }

  /** A float32 tensor of numbers from `low` to `high`, of the instance's own generator. */
  uniform(shape: number[], low: number, high: number, dev: DLDevice): Tensor {
    const tensor = this.empty(shape, 'float32', dev);
    const size = shape.reduce((product, dim) => product * dim, 1);
    const values = Float32Array.from(
      { length: size },
      () => low + this.#rng.randomFloat() * (high - low),
    );
    return tensor.copyFrom(values);
  }

  setSeed(seed: number): void {
    this.#rng.setSeed(seed);
  }

  getRNGState(): RNGState {
    return this.#rng.getState();
  }

  setRNGState(state: RNGState): void {
    this.#rng.setState(state);
  }

  // ---- Samplers: of float32 tensors on the CPU ----

  /** The token that top-p sampling draws, or the first of the largest where the temperature is 0. */
  sampleTopPFromLogits(logits: Tensor, temperature: number, top_p: number): number {
    const name = 'vm.builtin.sample_top_p_from_logits';
    const drawn = this.#rng.randomFloat();
    return this.lib.callGlobal(name, logits, temperature, top_p, drawn) as number;
  }

  /** The same, of what applySoftmaxWithTemperature() gave. */
  sampleTopPFromProb(prob: Tensor, top_p: number): number {
    const name = 'vm.builtin.sample_top_p_from_prob';
    return this.lib.callGlobal(name, prob, top_p, this.#rng.randomFloat()) as number;
  }

  applyRepetitionPenalty(logits: Tensor, token_ids: Tensor, penalty: number): Untyped {
    const name = 'vm.builtin.apply_repetition_penalty';
    return this.lib.callGlobal(name, logits, token_ids, penalty);
  }

  /** In place. `token_freqs[i]` is how often `token_ids[i]` has come, at least 1. */
  applyPresenceAndFrequencyPenalty(
    logits: Tensor,
    token_ids: Tensor,
    token_freqs: Tensor,
    presence_penalty: number,
    frequency_penalty: number,
  ): Untyped {
    return this.lib.callGlobal(
      'vm.builtin.apply_presence_and_frequency_penalty',
      logits,
      token_ids,
      token_freqs,
      presence_penalty,
      frequency_penalty,
    );
  }

  applySoftmaxWithTemperature(logits: Tensor, temperature: number): Untyped {
    return this.lib.callGlobal('vm.builtin.apply_softmax_with_temperature', logits, temperature);
  }

  // ---- A canvas ----

  bindCanvas(canvas: HTMLCanvasElement): void {
    this.lib.webGPUContext?.bindCanvas(canvas);
  }

  /** Shows an image: height x width of uint32, the bytes r, g, b, a each, on the GPU. */
  showImage(dataRGBA: Tensor): void {
    const { shape, device, dtype } = dataRGBA;
    const [height, width] = shape;
    if (height === undefined || width === undefined || shape.length !== 2) {
      throw new Error(
        `Require a height x width uint32 Tensor in RGBA, get shape=${shape.toString()} instead.`,
      );
    }
    if (device.deviceType !== 15) {
      throw new Error(
        `Can only run showImage on WebGPU array, get ${deviceName(device.deviceType)} instead.`,
      );
    }
    if (dtype !== 'uint32') {
      throw new Error(`Require a height x width uint32 Tensor in RGBA, get ${dtype} instead.`);
    }
    this.lib.webGPUContext?.drawImageFromBuffer(dataRGBA.getDataPtr(), height, width);
  }

  clearCanvas(): void {
    this.lib.webGPUContext?.clearCanvas();
  }

  // ---- Objects ----

  makeTVMArray(inputs: unknown[]): TVMArray {
    return this.lib.call(this.lib.global('ffi.Array'), [...inputs]) as TVMArray;
  }

  /** Tensors of shape (m_i, hidden_size) as one, of the sum of the m_i. */
  concatEmbeddings(embeddings: Tensor[]): Tensor {
    const hidden = embeddings[0]?.shape[1];
    if (embeddings.some(({ shape }) => shape.length !== 2 || shape[1] !== hidden)) {
      throw new Error('Expect embeddings to concatenate have shape (m_i, hidden_size).');
    }
    return this.lib.callGlobal('tvmjs.runtime.ConcatEmbeddings', ...embeddings) as Tensor;
  }

  /** A shape to pass, of no scope. A repeated one costs no call, and an array of integers does as well. */
  makeShapeTuple(shape: number[]): TVMObject {
    const tuple = this.lib.guard(() => this.lib.core.shapes.get(shape));
    let object = this.#shapes.get(tuple);
    if (!object) {
      object = new ShapeObject(tuple, this.lib, this.ctx);
      this.#shapes.set(tuple, object);
    }
    return object;
  }

  typeKey2Index(typeKey: string): number {
    const { core, exports } = this.lib;
    return this.lib.guard(() =>
      core.withName(typeKey, (span) => {
        const out = core.arena.reserve(8);
        const find = exports['TVMFFITypeKeyToIndex'] as (span: number, out: number) => number;
        core.checkStatus(find(span, out));
        core.memory.check();
        return core.memory.u32(out);
      }),
    );
  }

  /** Objects of a type are made by `func` from now on. Throws where they are already, unless `override` is true. */
  registerObjectConstructor(typeKey: string, func: FObjectConstructor, override = false): void {
    const typeIndex = this.typeKey2Index(typeKey);
    const { constructors } = this.#conversion;
    if (constructors.has(typeIndex) && !override) {
      throw new Error(`Type ${typeKey} already registered`);
    }
    constructors.set(typeIndex, func);
  }

  // ---- Asynchrony ----

  /** A function that gives a promise of what `func` gives. */
  wrapAsyncifyPackedFunc(func: PackedFunc): AsyncPackedFunc {
    const call = async (...args: unknown[]): Promise<unknown> => func(...args) as unknown;
    return Object.assign(call, {
      dispose: () => {
        func.dispose();
      },
      _tvmPackedCell: func._tvmPackedCell,
    });
  }

  /** Registers a function that may give a value, and not a promise: C++ cannot wait without Asyncify. */
  registerAsyncifyFunc(
    name: string,
    func: (...args: Untyped[]) => Promise<Untyped>,
    override = false,
  ): void {
    const wrapped = (...args: unknown[]): unknown => {
      const value: unknown = func(...args);
      if (typeof (value as { then?: unknown } | undefined)?.then === 'function') {
        throw new Error(
          `Asyncify is not enabled: '${name}' gave a promise, and C++ cannot wait for it`,
        );
      }
      return value;
    };
    this.registerFunc(name, wrapped, override);
  }

  /** Registers `__async.name`, whose last argument is called with what the promise of `func` gives. */
  // eslint-disable-next-line @typescript-eslint/no-unsafe-function-type -- as tvmjs types it
  registerAsyncServerFunc(name: string, func: Function, override = false): void {
    const started = (...args: unknown[]): void => {
      const callback = this.ctx.detachFromCurrentScope(args.at(-1) as PackedFunc);
      const answer = (code: number, value: unknown): void => {
        this.withNewScope(() => {
          callback(this.scalar(code, 'int32'), value);
        });
        callback.dispose();
      };
      (func as unknown as (...args: unknown[]) => Promise<unknown>)(...args.slice(0, -1)).then(
        (value) => {
          answer(ASYNC_RETURN, value);
        },
        (reason: unknown) => {
          answer(ASYNC_EXCEPTION, String(reason));
        },
      );
    };
    this.registerFunc(`__async.${name}`, started, override);
  }

  // ---- WebGPU ----

  /** Compiles every kernel of a module ahead, side by side. */
  async asyncLoadWebGPUPipelines(mod: Module): Promise<void> {
    const context = this.lib.webGPUContext;
    if (context === undefined) throw new Error('WebGPU not initialied');
    const [kernels, getShader, updatePrebuild] = this.withNewScope(() => {
      const list = mod.getFunction('webgpu.get_fmap', true)() as string;
      return [
        Object.entries(JSON.parse(list) as Record<string, FunctionInfo>),
        this.ctx.detachFromCurrentScope(mod.getFunction('webgpu.get_shader')),
        this.ctx.detachFromCurrentScope(mod.getFunction('webgpu.update_prebuild')),
      ] as const;
    });
    const begin = performance.now();
    let reported = begin;
    let done = 0;
    const load = async ([key, info]: [string, FunctionInfo]): Promise<void> => {
      assert(key === info.name);
      const kernel = await context.createShaderAsync(info, getShader(key) as string);
      const launch = (...args: (number | RuntimePointer)[]): void => {
        kernel(...args.map((arg) => (arg instanceof RuntimePointer ? arg.address : arg)));
      };
      this.withNewScope(() => {
        // Launched as often as a model runs, so without conversions on the way
        const { core } = this.lib;
        const handle = core.makeFunction(launch);
        updatePrebuild(key, this.#packed(handle));
      });
      done++;
      const now = performance.now();
      if (now - reported < 1000 && done !== kernels.length) return;
      reported = now;
      const progress = done / kernels.length;
      const timeElapsed = Math.ceil((now - begin) / 1000);
      const text =
        `Loading GPU shader modules[${done}/${kernels.length}]: ` +
        `${Math.floor(progress * 100)}% completed, ${timeElapsed} secs elapsed.`;
      this.#report({ progress, timeElapsed, text });
    };
    try {
      await Promise.all(kernels.map(load));
    } finally {
      getShader.dispose();
      updatePrebuild.dispose();
    }
  }

  /** Gives the instance its GPU, which dispose() ends; the loss of the device ends the instance. */
  initWebGPU(device: GPUDevice): void {
    device.addEventListener('uncapturederror', (event) => {
      // eslint-disable-next-line no-console -- nobody else hears of it
      console.error('A WebGPU error was not captured: ', event);
    });
    void device.lost.then((info) => {
      if (this.#disposed) return;
      // eslint-disable-next-line no-console -- nobody else hears of it
      console.error('Device lost, calling Instance.dispose(). Please initialize again. ', info);
      this.dispose();
    });
    const context = new WebGPUContext(this.memory, device);
    connectWebGPU(this.#runtime, context.gpu);
    this.registerAsyncServerFunc('wasm.WebGPUWaitForTasks', () => context.sync(), true);
    this.lib.webGPUContext = context;
  }

  /** What C++ and RPC clients may call on this side. */
  #registerHostFunctions(): void {
    this.registerFunc(
      'sluice.log',
      (message: string) => {
        this.env.logger(message);
      },
      true,
    );
    this.registerAsyncServerFunc('wasm.TimeExecution', this.#timeExecution.bind(this), true);
    const addOne = async (x: number): Promise<number> => {
      await new Promise((resolve) => setTimeout(resolve, 100));
      return x + 1;
    };
    this.registerAsyncServerFunc('testing.asyncAddOne', addOne, true);
  }

  /** Seconds of each of `repeat` measurements, as the bytes of float64 values. */
  async #timeExecution(
    run: PackedFunc,
    device: DLDevice,
    nstep: number,
    repeat: number,
    minRepeatMs: number,
    limitZeroTimeIterations: number,
    cooldownIntervalMs: number,
    repeatsToCooldown: number,
  ): Promise<Uint8Array> {
    this.ctx.detachFromCurrentScope(run);
    try {
      run(this.scalar(1, 'int32'));
      await device.sync();
      const seconds = new Float64Array(repeat);
      let steps = nstep;
      for (let i = 0; i < repeat; i++) {
        let duration = 0;
        let zeros = 0;
        do {
          // Until one measurement takes long enough
          if (duration > 0) {
            const enough = minRepeatMs / (duration / steps) + 1;
            steps = Math.floor(Math.max(enough, steps * 1.618));
          }
          const begin = performance.now();
          run(this.scalar(steps, 'int32'));
          await device.sync();
          duration = performance.now() - begin;
          if (duration === 0) zeros++;
        } while (duration < minRepeatMs && zeros < limitZeroTimeIterations);
        seconds[i] = duration / steps / 1000;
        if (cooldownIntervalMs > 0 && i % repeatsToCooldown === 0) {
          await new Promise((resolve) => setTimeout(resolve, cooldownIntervalMs));
        }
      }
      return new Uint8Array(seconds.buffer);
    } finally {
      run.dispose();
    }
  }
}
