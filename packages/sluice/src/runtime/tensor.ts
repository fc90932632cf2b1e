import { ANY_VALUE, DEVICE_CPU, DEVICE_WEBGPU, DL_TENSOR, OBJECT_BYTES, TypeIndex } from './abi.js';
import type { Core, DeviceMemory } from './core.js';
import { describe, RuntimeError, typeError, valueError } from './errors.js';
import { foreign, RuntimeObject } from './object.js';
import { arrayFor, bytesOf, type TensorArray, type TensorData } from './tensor_data.js';
import { DataType, Device } from './values.js';

export interface ViewOptions {
  /** The element type; the tensor's own unless given. */
  dtype?: string | DataType;
  /** Bytes from the tensor's first one. */
  byteOffset?: number;
}

/** What is known of a tensor before its memory is looked at. */
export interface TensorFacts {
  readonly shape?: readonly number[];
  readonly dtype?: DataType;
  readonly device?: Device;
  /** A `DLTensor*`, valid while a callback runs, and not a reference. */
  readonly borrowed?: boolean;
}

/** Elements of one type in memory of one device, row-major. Holds a reference until dispose(). */
export class Tensor extends RuntimeObject {
  /** What errors call it. */
  name: string | undefined = undefined;
  readonly #borrowed: boolean;
  #shape: readonly number[] | undefined;
  #dtype: DataType | undefined;
  #device: Device | undefined;

  /** Of the runtime alone. */
  constructor(core: Core, handle: number, facts: TensorFacts = {}) {
    super(core, handle);
    this.#borrowed = facts.borrowed ?? false;
    this.#shape = facts.shape;
    this.#dtype = facts.dtype;
    this.#device = facts.device;
  }

  override get borrowed(): boolean {
    return this.#borrowed;
  }

  /** Elements, outermost dimension first; empty for a 0-d tensor. */
  get shape(): readonly number[] {
    const at = this.#at();
    if (this.#shape) return this.#shape;
    const { memory } = this.core;
    const ndim = memory.i32(at + DL_TENSOR.ndim);
    const dims = memory.u32(at + DL_TENSOR.shape);
    return (this.#shape = memory.safeIntegers(dims, ndim, 'a dimension of a tensor'));
  }

  /** The element type's name: `float32`. */
  get dtype(): string {
    return this.dataType.name;
  }

  get dataType(): DataType {
    const at = this.#at();
    return (this.#dtype ??= this.core.dtypeOf(this.core.memory.u32(at + DL_TENSOR.dtype)));
  }

  get device(): Device {
    const at = this.#at();
    const { memory } = this.core;
    return (this.#device ??= new Device(
      memory.i32(at + DL_TENSOR.deviceType),
      memory.i32(at + DL_TENSOR.deviceId),
    ));
  }

  /** How many elements there are. */
  get size(): number {
    return this.shape.reduce((product, dim) => product * dim, 1);
  }

  /** Bytes of the elements, those of less than a byte packed. */
  get nbytes(): number {
    return this.dataType.storageBytes(this.size);
  }

  /** Where the elements begin: an address in the wasm memory, or a number of the device. With byteOffset. */
  get data(): number {
    return this.core.memory.u32(this.#at() + DL_TENSOR.data);
  }

  /** Bytes from `data` to the first element. */
  get byteOffset(): number {
    return this.core.memory.safeInteger(this.#at() + DL_TENSOR.byteOffset, 'a byte offset');
  }

  /** Whether the elements lie one behind the other. */
  get contiguous(): boolean {
    const at = this.#at();
    const { memory } = this.core;
    const strides = memory.u32(at + DL_TENSOR.strides);
    const { shape } = this;
    if (strides === 0 || shape.includes(0)) return true;
    let expected = 1;
    for (let i = shape.length - 1; i >= 0; i--) {
      const dim = shape[i] as number;
      if (dim !== 1 && memory.integer(strides + 8 * i) !== expected) return false;
      expected *= dim;
    }
    return true;
  }

  /**
   * A tensor over the same memory, which it keeps: of another shape, another type, or beginning later. Its elements must lie
   * within this one's.
   */
  view(shape: readonly number[], { dtype, byteOffset = 0 }: ViewOptions = {}): Tensor {
    const { core } = this;
    const type = dtype === undefined ? this.dataType : dataType(core, dtype);
    if (!Number.isSafeInteger(byteOffset) || byteOffset < 0) {
      throw this.#error(`a view at byte ${describe(byteOffset)}; it must be an integer from 0 on`);
    }
    const tuple = core.shapes.get(shape);
    const size = tuple.dims.reduce((product, dim) => product * dim, 1);
    const end = byteOffset + type.storageBytes(size);
    if (tuple.dims.some((dim) => dim < 0) || !(end <= this.nbytes)) {
      throw this.#error(
        `a view of ${type.name}[${tuple.dims.join(',')}] at byte ${byteOffset} ends at byte ${end} of ${this.nbytes}`,
      );
    }
    this.#needContiguous('view');
    const create = core.global('runtime.TVMTensorCreateView');
    const view = core.call(create, [this, tuple, type, byteOffset]);
    if (!(view instanceof Tensor)) throw notATensor('runtime.TVMTensorCreateView', view);
    return view;
  }

  /**
   * Writes every element: from a tensor of the same type and shape, on whichever device; from the packed bytes, of
   * any type (a `Uint8Array` or an `ArrayBuffer`); from a typed array of the element type; or from numbers, each of
   * which the type must hold.
   */
  set(data: TensorData | Tensor): this {
    if (data instanceof Tensor) {
      this.#copyFrom(data);
      return this;
    }
    const { dataType, nbytes } = this;
    const bytes = bytesOf(data, dataType, () => this.describe());
    if (bytes.byteLength !== nbytes) {
      throw this.#error(`${bytes.byteLength} bytes were given for ${nbytes}`, {
        expected: nbytes,
        actual: bytes.byteLength,
      });
    }
    if (this.device.type === DEVICE_CPU) {
      this.inPlace().set(bytes);
      return this;
    }
    this.#needContiguous('write');
    this.#gpu().copyBytesToBuffer(bytes, this.data, this.byteOffset);
    return this;
  }

  /** A copy of the bytes of a tensor on the CPU. */
  bytes(): Uint8Array<ArrayBuffer> {
    return this.inPlace().slice();
  }

  /**
   * A copy of the elements of a tensor on the CPU, in the array of its type: `Float32Array`, `BigInt64Array`, …. float16 is a
   * `Float16Array` where there is one and its bits in a `Uint16Array` elsewhere; bfloat16 its bits in a `Uint16Array`;
   * types of 8 bits and less, packed, a `Uint8Array`, but int8.
   */
  toArray(): TensorArray {
    return arrayFor(this.dataType, this.bytes().buffer);
  }

  /**
   * The bytes of a tensor on the CPU where they lie. Any call of the runtime may make this array empty, since the memory
   * moves when it grows, so use it at once.
   */
  inPlace(): Uint8Array<ArrayBuffer> {
    const { device } = this;
    if (device.type !== DEVICE_CPU) {
      throw this.#error(
        'its memory is not on the CPU',
        {},
        'await read(), or copy it to a tensor on the CPU',
      );
    }
    this.#needContiguous('reading or writing');
    const begin = this.data + this.byteOffset;
    return this.core.memory.bytes.subarray(begin, begin + this.nbytes);
  }

  /** A copy of the bytes, from whichever device, after all work that was given to it before. */
  async read(): Promise<Uint8Array<ArrayBuffer>> {
    if (this.device.type === DEVICE_CPU) return this.bytes();
    this.#needContiguous('read');
    return this.#gpu().readBytes(this.data, this.byteOffset, this.nbytes);
  }

  override toString(): string {
    return this.disposed ? `Tensor(disposed)` : `Tensor(${this.describe()})`;
  }

  protected override releaseHandle(handle: number, born: number): void {
    if (!this.#borrowed) super.releaseHandle(handle, born);
  }

  protected override describe(): string {
    const type = this.#dtype ?? (this.disposed ? undefined : this.dataType);
    const shape = this.#shape ?? (this.disposed ? undefined : this.shape);
    const what = type && shape ? ` ${type.name}[${shape.join(',')}]` : '';
    return this.name === undefined ? `tensor${what}` : `tensor '${this.name}'${what}`;
  }

  #copyFrom(source: Tensor): void {
    if (source.core !== this.core) throw foreign('tensor to copy from');
    const from = source.dataType;
    const to = this.dataType;
    if (from !== to || source.shape.join() !== this.shape.join()) {
      throw this.#error(`a ${source.describe()} cannot be copied to it`);
    }
    this.core.call(this.core.global('runtime.TVMTensorCopyFromTo'), [source, this]);
  }

  #gpu(): DeviceMemory {
    const { gpu } = this.core;
    if (this.device.type === DEVICE_WEBGPU && gpu) return gpu;
    throw this.#error(`there is no device ${String(this.device)}`, {}, 'createRuntime({ device })');
  }

  #needContiguous(what: string): void {
    if (!this.contiguous) {
      throw this.#error(`its elements do not lie one behind the other; ${what} needs that`);
    }
  }

  /** The address of its DLTensor, in memory that check() has seen. */
  #at(): number {
    const { handle } = this;
    this.core.memory.check();
    return this.#borrowed ? handle : handle + OBJECT_BYTES;
  }

  #error(
    message: string,
    numbers: { expected?: number; actual?: number } = {},
    hint?: string,
  ): RuntimeError {
    return valueError(`${this.describe()}: ${message}`, {
      ...numbers,
      ...(this.name === undefined ? {} : { tensor: this.name }),
      ...(hint === undefined ? {} : { hint }),
    });
  }
}

export function dataType(core: Core, dtype: string | DataType): DataType {
  if (dtype instanceof DataType) return dtype;
  if (typeof dtype !== 'string') throw typeError(`a dtype is a string, not ${describe(dtype)}`);
  return core.dtype(dtype);
}

/** A tensor whose elements are whatever lies there; the caller's, or the innermost scope's. */
export function emptyTensor(
  core: Core,
  shape: readonly number[],
  dtype: DataType,
  device: Device,
): Tensor {
  const { arena, memory } = core;
  const tuple = core.shapes.get(shape);
  const allocate = core.global('runtime.TVMTensorAllocWithScope');
  core.enter();
  const { top, blocks } = arena;
  memory.check();
  try {
    const at = arena.reserve(16 * 5);
    for (let i = 0; i < 5; i++) {
      memory.setU32(at + 16 * i, TypeIndex.NONE);
      memory.setU32(at + 16 * i + 4, 0);
    }
    memory.setInteger(at + 64 + ANY_VALUE, 0);
    const handle = core.shapes.handle(tuple);
    memory.setU32(at + 16, TypeIndex.SHAPE);
    memory.setInteger(at + 16 + ANY_VALUE, handle);
    memory.setU32(at + 32, TypeIndex.DATA_TYPE);
    memory.setInteger(at + 32 + ANY_VALUE, dtype.packed);
    memory.setU32(at + 48, TypeIndex.DEVICE);
    memory.setU32(at + 48 + ANY_VALUE, device.type);
    memory.setU32(at + 48 + ANY_VALUE + 4, device.id);
    core.run(allocate, at + 16, 4, at);
    if (memory.u32(at) !== TypeIndex.TENSOR) {
      throw notATensor('runtime.TVMTensorAllocWithScope', memory.u32(at));
    }
    return new Tensor(core, memory.u32(at + ANY_VALUE), { shape: tuple.dims, dtype, device });
  } finally {
    core.leave();
    arena.release(top, blocks);
  }
}

export function notATensor(name: string, value: unknown): RuntimeError {
  return new RuntimeError('TypeError', `${name} gave ${describe(value)} and no tensor`);
}
