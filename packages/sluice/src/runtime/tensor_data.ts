import { describe, RuntimeError, typeError } from './errors.js';
import type { DataType } from './values.js';

/** Typed arrays that hold elements. A `Float16Array` is one as well, where there is one. */
export type TensorArray =
  | Int8Array<ArrayBuffer>
  | Uint8Array<ArrayBuffer>
  | Int16Array<ArrayBuffer>
  | Uint16Array<ArrayBuffer>
  | Int32Array<ArrayBuffer>
  | Uint32Array<ArrayBuffer>
  | BigInt64Array<ArrayBuffer>
  | BigUint64Array<ArrayBuffer>
  | Float32Array<ArrayBuffer>
  | Float64Array<ArrayBuffer>;

/** What a tensor is filled from: bytes, a typed array of the element type, or numbers. */
export type TensorData = ArrayBuffer | ArrayBufferView | readonly number[] | readonly bigint[];

interface ArrayType {
  readonly name: string;
  readonly BYTES_PER_ELEMENT: number;
  new (bufferOrLength: ArrayBuffer | number): TensorArray;
}

/** DLPack's codes of types that have arrays of their own. */
const INT = 0;
const UINT = 1;
const FLOAT = 2;

const Float16 = (globalThis as { Float16Array?: ArrayType }).Float16Array;

/** The array of one lane's type. */
function arrayType({ code, bits }: DataType): ArrayType {
  if (code === INT) {
    if (bits === 8) return Int8Array;
    if (bits === 16) return Int16Array;
    if (bits === 32) return Int32Array;
    if (bits === 64) return BigInt64Array;
  } else if (code === UINT) {
    if (bits === 32) return Uint32Array;
    if (bits === 64) return BigUint64Array;
  } else if (code === FLOAT) {
    if (bits === 16) return Float16 ?? Uint16Array;
    if (bits === 32) return Float32Array;
    if (bits === 64) return Float64Array;
  }
  return bits === 16 ? Uint16Array : Uint8Array;
}

export function arrayFor(dtype: DataType, buffer: ArrayBuffer): TensorArray {
  return new (arrayType(dtype))(buffer);
}

/** The bytes of `data` as elements of a type. Throws where it has others, or none. */
export function bytesOf(data: TensorData, dtype: DataType, what: () => string): Uint8Array {
  if (data instanceof ArrayBuffer) return new Uint8Array(data);
  if (ArrayBuffer.isView(data)) {
    const { byteOffset, byteLength } = data;
    const bytes = new Uint8Array(data.buffer as ArrayBuffer, byteOffset, byteLength);
    const type = arrayType(dtype);
    // Bytes, and bits of float16, go into any type of their size
    const fits =
      data instanceof Uint8Array ||
      data.constructor.name === type.name ||
      (data instanceof Uint16Array && dtype.bits === 16 && dtype.code !== INT);
    if (fits) return bytes;
    throw typeError(
      `${what()}: its elements are no ${data.constructor.name}`,
      `pass a ${type.name}, or the bytes as a Uint8Array`,
    );
  }
  if (Array.isArray(data)) return new Uint8Array(fromNumbers(data, dtype, what).buffer);
  throw typeError(`${what()}: it cannot be filled from ${describe(data)}`);
}

const BOOL = 6;

/** Numbers as elements, each held to the type's range. */
function fromNumbers(data: readonly unknown[], dtype: DataType, what: () => string): TensorArray {
  const { code, bits } = dtype;
  const type = arrayType(dtype);
  const whole = code === INT || code === UINT || code === BOOL;
  if (!whole && !(code === FLOAT && (bits > 16 || Float16))) {
    throw typeError(`${what()}: numbers are not converted to ${dtype.name}`, 'pass its bytes');
  }
  if (bits < 8)
    throw typeError(`${what()}: numbers are not packed to ${dtype.name}`, 'pass its bytes');
  const out = new type(data.length);
  const signed = code === INT;
  const low = signed ? -(2n ** BigInt(bits - 1)) : 0n;
  const high = code === BOOL ? 1n : 2n ** BigInt(signed ? bits - 1 : bits) - 1n;
  const lowest = Number(low);
  const highest = Number(high);
  data.forEach((value: unknown, i) => {
    if (!whole) {
      if (typeof value !== 'number') throw notAnElement(value, i, dtype, what);
      out[i] = value;
    } else if (bits === 64) {
      const integer =
        typeof value === 'bigint'
          ? value
          : Number.isSafeInteger(value)
            ? BigInt(value as number)
            : undefined;
      if (integer === undefined || integer < low || integer > high) {
        throw notAnElement(value, i, dtype, what);
      }
      out[i] = integer;
    } else {
      if (!Number.isInteger(value) || (value as number) < lowest || (value as number) > highest) {
        throw notAnElement(value, i, dtype, what);
      }
      out[i] = value as number;
    }
  });
  return out;
}

function notAnElement(
  value: unknown,
  index: number,
  dtype: DataType,
  what: () => string,
): RuntimeError {
  return new RuntimeError(
    'ValueError',
    `${what()}: element ${index} is ${describe(value)}, which ${dtype.name} does not hold`,
  );
}
