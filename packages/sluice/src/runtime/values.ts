import { DEVICE_CPU, DEVICE_WEBGPU } from './abi.js';
import { describe, typeError, valueError } from './errors.js';
import type { RuntimeFunction } from './function.js';
import type { RuntimeArray, RuntimeModule, RuntimeObject } from './object.js';
import type { ShapeTuple } from './shapes.js';
import type { Tensor } from './tensor.js';

/**
 * What a function can be given.
 *
 * - `null`, `undefined`: none. `boolean`: bool. `string`: str. `Uint8Array`: bytes, copied.
 * - `number`: int where it is a safe integer, float elsewhere; functions that take a float take an int. An integer
 *   beyond 2^53 - 1 is an error, since it may be another than was meant: pass a bigint, or float(n). -0 is a float.
 * - `bigint`: int, of 64 bits with sign.
 * - an array of nothing but integers: a shape. Any other: an array of such values, as runtime.array() makes of each.
 * - a function of JavaScript: a function, which C++ may keep.
 * - tensors, functions, modules and other objects of this runtime; they stay the caller's.
 */
export type Argument =
  | undefined
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | readonly Argument[]
  | ShapeTuple
  | Float
  | Device
  | DataType
  | Pointer
  | RuntimeObject
  | RuntimeFunction
  | Callback;

/**
 * What a function gives back, and what callbacks are given. An int is a number where it is a safe integer, and a bigint
 * elsewhere; none is undefined; a shape is an array of numbers; bytes are a copy. Objects are the caller's, or the
 * innermost scope's where there is one.
 */
export type Value =
  | undefined
  | boolean
  | number
  | bigint
  | string
  | Uint8Array<ArrayBuffer>
  | number[]
  | Device
  | DataType
  | Pointer
  | Tensor
  | RuntimeFunction
  | RuntimeModule
  | RuntimeArray
  | RuntimeObject;

/**
 * A function of JavaScript that C++ calls. Objects that it is given, or makes, are released when it returns, unless they
 * are kept with runtime.detach() or given to a scope. It cannot be awaited: a promise is no value.
 */
// What it takes and gives is known when it is called: a wrong value is an error then
export type Callback = (...args: never[]) => unknown;

/** A number that is passed as float, whatever it is. */
export class Float {
  readonly value: number;
  constructor(value: number) {
    if (typeof value !== 'number')
      throw typeError(`float() takes a number, not ${describe(value)}`);
    this.value = value;
  }
}

/** `value` as a float, for functions that tell an int from one: `float(1)`. */
export const float = (value: number): Float => new Float(value);

/** An address in the wasm memory that means something to C++ alone. */
export class Pointer {
  readonly address: number;
  constructor(address: number) {
    if (!(Number.isInteger(address) && address >= 0 && address < 2 ** 32)) {
      throw valueError(`a pointer is an unsigned integer of 32 bits, not ${describe(address)}`);
    }
    this.address = address;
  }
}

const DEVICE_TYPES = { cpu: DEVICE_CPU, webgpu: DEVICE_WEBGPU } as const;
export type DeviceName = keyof typeof DEVICE_TYPES;

/** A device: `type` is DLPack's number, of which 1 is the CPU (the wasm memory) and 15 WebGPU. */
export class Device {
  readonly type: number;
  readonly id: number;

  constructor(type: DeviceName | number, id = 0) {
    const number = typeof type === 'string' ? (DEVICE_TYPES[type] as number | undefined) : type;
    if (number === undefined || !isInt32(number) || number < 1) {
      throw valueError(`there is no device of type ${describe(type)}`, {
        hint: "'cpu', 'webgpu' or DLPack's number",
      });
    }
    if (!isInt32(id) || id < 0) {
      throw valueError(`${describe(id)} is no number of a device`);
    }
    this.type = number;
    this.id = id;
  }

  get name(): string {
    const found = Object.entries(DEVICE_TYPES).find(([, type]) => type === this.type);
    return found ? found[0] : `device${this.type}`;
  }

  toString(): string {
    return `${this.name}:${this.id}`;
  }
}

const isInt32 = (value: number): boolean => (value | 0) === value;

/** An element type: `code` and `bits` of one lane as DLPack has them. */
export class DataType {
  readonly name: string;
  readonly code: number;
  readonly bits: number;
  readonly lanes: number;

  /** Of the runtime alone, which makes one of each: runtime.dtype(name). */
  constructor(name: string, code: number, bits: number, lanes: number) {
    this.name = name;
    this.code = code;
    this.bits = bits;
    this.lanes = lanes;
  }

  /** The four bytes of a DLDataType. */
  get packed(): number {
    return (this.code | (this.bits << 8) | (this.lanes << 16)) >>> 0;
  }

  /** Bytes that so many elements take when packed, the last byte filled up. */
  storageBytes(elements: number): number {
    return Math.ceil((elements * this.bits * (this.lanes & 0xffff)) / 8);
  }

  toString(): string {
    return this.name;
  }
}
