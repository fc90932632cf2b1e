/** The objects that functions give, and the values that stand for numbers, devices and types. */
import { DEVICE_CPU, DEVICE_WEBGPU, TypeIndex } from '../runtime/abi.js';
import { RuntimeObject } from '../runtime/object.js';
import type { ShapeTuple } from '../runtime/shapes.js';
import { Tensor as RuntimeTensor } from '../runtime/tensor.js';
import type { FFILibrary, RuntimeContext } from './library.js';
import { assert } from './support.js';
import type { Disposable, Pointer, Untyped } from './types.js';

/** A number with its type: `int…` and `uint…` pass as int, `float…` as float, `handle` as a pointer. */
export class Scalar {
  value: number;
  dtype: string;

  constructor(value: number, dtype: string) {
    this.value = value;
    this.dtype = dtype;
  }
}

const DEVICE_NAMES: Record<number, string> = {
  1: 'cpu',
  2: 'cuda',
  4: 'opencl',
  8: 'metal',
  15: 'webgpu',
};
const DEVICE_TYPES: Record<string, number> = {
  cpu: 1,
  cuda: 2,
  cl: 4,
  opencl: 4,
  vulkan: 7,
  metal: 8,
  webgpu: 15,
};

export const deviceName = (type: number): string => DEVICE_NAMES[type] ?? `device${type}`;

/** Where a tensor is: DLPack's number of the device's type, and its index. */
export class DLDevice {
  deviceType: number;
  deviceId: number;
  readonly #lib: FFILibrary;

  constructor(deviceType: number | string, deviceId: number, lib: FFILibrary) {
    if (typeof deviceType === 'string') {
      const type = DEVICE_TYPES[deviceType];
      if (type === undefined) throw new Error(`Cannot recogonize deviceType ${deviceType}`);
      this.deviceType = type;
    } else if (typeof deviceType === 'number') {
      this.deviceType = deviceType;
    } else {
      throw new Error(`Cannot take type ${typeof deviceType} as deviceType`);
    }
    this.deviceId = deviceId;
    this.#lib = lib;
  }

  /** Waits until the GPU has done everything so far, and what is read from it has arrived. Rejects with what failed. */
  async sync(): Promise<void> {
    if (this.deviceType !== DEVICE_WEBGPU) return;
    const { webGPUContext } = this.#lib;
    assert(webGPUContext !== undefined, 'WebGPU was not initialized');
    await webGPUContext.sync();
  }

  toString(): string {
    return `${deviceName(this.deviceType)}:${this.deviceId}`;
  }
}

const CODE_NAMES = ['int', 'uint', 'float', 'handle', 'bfloat'];

/** An element type as DLPack has it. */
export class DLDataType {
  code: number;
  bits: number;
  lanes: number;

  constructor(code: number, bits: number, lanes: number) {
    this.code = code;
    this.bits = bits;
    this.lanes = lanes;
  }

  toString(): string {
    const name = `${CODE_NAMES[this.code] ?? `code${this.code}_`}${this.bits}`;
    return this.lanes === 1 ? name : `${name}x${this.lanes}`;
  }

  numStorageBytes(): number {
    return (this.bits * this.lanes + 7) >> 3;
  }
}

/** An object of the C ABI, of which this holds a reference until dispose(). */
export class TVMObject implements Disposable {
  protected readonly lib: FFILibrary;
  protected readonly ctx: RuntimeContext;
  /** The reference; undefined where it was made of the handle 0. */
  readonly #object: RuntimeObject | undefined;

  /** Takes the reference over. */
  constructor(handle: Pointer | RuntimeObject, lib: FFILibrary, ctx: RuntimeContext) {
    this.lib = lib;
    this.ctx = ctx;
    if (typeof handle !== 'number') this.#object = handle;
    else if (handle !== 0) this.#object = lib.own(new RuntimeObject(lib.core, handle));
  }

  /** Its address; 0 once it is disposed. */
  protected get handle(): Pointer {
    const object = this.#object;
    return object === undefined || object.disposed ? 0 : object.handle;
  }

  dispose(): void {
    this.#object?.dispose();
  }

  getHandle(requireNotNull = true): Pointer {
    const { handle } = this;
    if (requireNotNull && handle === 0) throw new Error('Object has already been disposed');
    return handle;
  }

  typeIndex(): number {
    if (this.handle === 0) throw new Error('The current Object has already been disposed');
    return this.#object?.typeIndex ?? 0;
  }

  typeKey(): string {
    return this.lib.guard(() => this.lib.core.typeKey(this.typeIndex()));
  }

  /** For conversion.ts: what calls are given. Throws once it is disposed. */
  asArgument(): unknown {
    const object = this.#object;
    if (object === undefined || object.disposed) {
      throw new Error('Object has already been disposed');
    }
    return object;
  }
}

/** The reference that a PackedFunc holds. */
export class PackedFuncCell extends TVMObject {}

/** A function of C++, or one of JavaScript that C++ holds. Numbers pass as float: an integer is a Scalar. */
export type PackedFunc = ((...args: Untyped) => Untyped) &
  Disposable & { _tvmPackedCell: PackedFuncCell };

/** One that gives a promise. */
export type AsyncPackedFunc = ((...args: Untyped) => Promise<Untyped>) &
  Disposable & { _tvmPackedCell: PackedFuncCell };

/** A shape. It is kept by the runtime, and dispose() has nothing to do. */
export class ShapeObject extends TVMObject {
  readonly #tuple: ShapeTuple;

  constructor(tuple: ShapeTuple, lib: FFILibrary, ctx: RuntimeContext) {
    super(0, lib, ctx);
    this.#tuple = tuple;
  }

  protected override get handle(): Pointer {
    const { core } = this.lib;
    return this.lib.guard(() => {
      core.enter();
      try {
        core.memory.check();
        return core.shapes.handle(this.#tuple);
      } finally {
        core.leave();
      }
    });
  }

  override typeIndex(): number {
    return TypeIndex.SHAPE;
  }

  override asArgument(): unknown {
    return this.#tuple;
  }
}

type TypedArray =
  | Float32Array
  | Float64Array
  | Int32Array
  | Int8Array
  | Uint8Array
  | Uint8ClampedArray
  | Uint32Array;

interface ArrayType {
  new (): TypedArray;
  from(values: ArrayLike<number>): TypedArray;
}

const ARRAYS: Record<string, ArrayType> = {
  float32: Float32Array,
  float64: Float64Array,
  int32: Int32Array,
  int8: Int8Array,
  uint8: Uint8Array,
  uint32: Uint32Array,
};

/** Elements of one type on one device. `shape` and the like stay readable after dispose(). */
export class Tensor extends TVMObject {
  ndim: number;
  dtype: string;
  shape: number[];
  device: DLDevice;
  /** Whether it is only valid while a callback runs. */
  isView: boolean;
  readonly #tensor: RuntimeTensor;

  constructor(
    handle: Pointer | RuntimeTensor,
    lib: FFILibrary,
    ctx: RuntimeContext,
    isView: boolean,
  ) {
    const tensor =
      typeof handle === 'number'
        ? lib.own(new RuntimeTensor(lib.core, handle, { borrowed: isView }))
        : handle;
    super(tensor, lib, ctx);
    this.#tensor = tensor;
    this.isView = isView;
    this.shape = [...tensor.shape];
    this.ndim = this.shape.length;
    this.dtype = tensor.dtype;
    const { type, id } = tensor.device;
    this.device = new DLDevice(type, id, lib);
  }

  /** 0 for a view as well, which is no object. */
  protected override get handle(): Pointer {
    return this.isView ? 0 : super.handle;
  }

  /** A tensor over the same memory, of another shape, or of another type. */
  view(shape: number[], dtype?: string): Tensor {
    const view = this.lib.guard(() =>
      this.#tensor.view(shape, dtype === undefined ? {} : { dtype }),
    );
    return this.ctx.attachToCurrentScope(new Tensor(this.lib.own(view), this.lib, this.ctx, false));
  }

  /** Where its allocation begins: an address, or a number of the GPU's. */
  getDataPtr(): Pointer {
    if (this.#tensor.disposed) throw new Error('Tensor has already been disposed');
    return this.#tensor.data;
  }

  /** Where its first element is in the wasm memory. */
  getCPUDataAddress(): Pointer {
    if (this.device.deviceType !== DEVICE_CPU) {
      throw new Error('Can only obtain a linear-memory address for a CPU Tensor');
    }
    return this.getDataPtr() + this.#tensor.byteOffset;
  }

  /**
   * Fills it: from a tensor of as many bytes, or from as many numbers as it has elements. From the GPU to the CPU the bytes
   * are there after device.sync().
   */
  copyFrom(data: Tensor | number[] | TypedArray): this {
    if (data instanceof Tensor) {
      this.lib.callGlobal('runtime.TVMTensorCopyFromTo', data, this);
      return this;
    }
    const size = this.shape.reduce((product, dim) => product * dim, 1);
    if (data.length !== size) {
      throw new Error(`data size and shape mismatch data.length${data.length} vs ${size}`);
    }
    const type = ARRAYS[this.dtype];
    if (!type) throw new Error(`Unsupported data type ${this.dtype}`);
    const same = !Array.isArray(data) && data instanceof type;
    const values = same ? data : type.from(data);
    return this.copyFromRawBytes(
      new Uint8Array(values.buffer, values.byteOffset, values.byteLength),
    );
  }

  /** Fills it with as many bytes as it has. */
  copyFromRawBytes(data: Uint8Array): this {
    const tensor = this.#tensor;
    if (tensor.disposed) throw new Error('Tensor has already been disposed');
    if (data.length !== tensor.nbytes) {
      throw new Error(`Expect the data's length equals nbytes=${tensor.nbytes}`);
    }
    this.lib.guard(() => tensor.set(data));
    return this;
  }

  /** A copy of its bytes, which must be on the CPU. */
  toRawBytes(): Uint8Array {
    if (this.device.deviceType !== DEVICE_CPU) {
      throw new Error(
        'Can only sync copy CPU array, use cpu_arr.copyfrom(gpu_arr) then sync instead.',
      );
    }
    if (this.#tensor.disposed) throw new Error('Tensor has already been disposed');
    return this.lib.guard(() => this.#tensor.bytes());
  }

  /** A copy of its elements, which must be on the CPU. */
  toArray(): Float32Array | Float64Array | Int32Array | Int8Array | Uint8Array {
    switch (this.dtype) {
      case 'float32':
        return new Float32Array(this.toRawBytes().buffer);
      case 'float64':
        return new Float64Array(this.toRawBytes().buffer);
      case 'int32':
        return new Int32Array(this.toRawBytes().buffer);
      case 'int8':
        return new Int8Array(this.toRawBytes().buffer);
      case 'uint8':
        return this.toRawBytes();
      default:
        throw new Error(`Unsupported data type ${this.dtype}`);
    }
  }
}

/** A module: a compiled model, or what a function gave. */
export class Module extends TVMObject {
  /** A function of it, and of what it imports unless `queryImports` is false; undefined where there is none. */
  getFunction(name: string, queryImports = true): PackedFunc {
    // As tvmjs types it, and as code that asks whether there is one uses it
    return this.lib.callGlobal('ffi.ModuleGetFunction', this, name, queryImports) as PackedFunc;
  }

  importModule(mod: Module): void {
    this.lib.callGlobal('ffi.ModuleImportModule', this, mod);
  }
}

/** An array of objects and values. */
export class TVMArray extends TVMObject {
  size(): number {
    return this.lib.callGlobal('ffi.ArraySize', this) as number;
  }

  get(index: number): TVMObject | PackedFunc {
    return this.lib.callGlobal('ffi.ArrayGetItem', this, new Scalar(index, 'int32')) as
      TVMObject | PackedFunc;
  }
}

/** Makes an object of a class of the caller's; it takes the reference over. */
export type FObjectConstructor = (
  handle: Pointer,
  lib: FFILibrary,
  ctx: RuntimeContext,
) => TVMObject;

/** Of vm_initialization. */
const POOLED_ALLOCATOR = 2;

/** A compiled model, ready to run on a device. */
export class VirtualMachine implements Disposable {
  readonly #module: Module;

  /** Takes `mod` over, which must be detached from its scope. */
  constructor(mod: Module, device: DLDevice) {
    this.#module = mod;
    const int = (value: number): Scalar => new Scalar(value, 'int');
    const initialize = mod.getFunction('vm_initialization');
    // The model's device, then the host's
    initialize(
      int(device.deviceType),
      int(device.deviceId),
      int(POOLED_ALLOCATOR),
      int(DEVICE_CPU),
      int(0),
      int(POOLED_ALLOCATOR),
    );
  }

  dispose(): void {
    this.#module.dispose();
  }

  getFunction(name: string): PackedFunc {
    return this.#module.getFunction(name);
  }

  getInternalModule(): Module {
    return this.#module;
  }
}
