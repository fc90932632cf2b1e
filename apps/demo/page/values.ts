// The elements of a tensor's bytes, as numbers and as text. All formats are little-endian.
import type { DType } from 'sluice';

interface Format {
  /** Bytes of an element. */
  readonly size: number;
  read(view: DataView, at: number): number | bigint;
  /** Significant decimal digits that tell all values apart; integers have none. */
  readonly digits?: number;
}

const FORMATS: Partial<Record<DType, Format>> = {
  bool: { size: 1, read: (view, at) => view.getUint8(at) },
  uint8: { size: 1, read: (view, at) => view.getUint8(at) },
  int8: { size: 1, read: (view, at) => view.getInt8(at) },
  uint16: { size: 2, read: (view, at) => view.getUint16(at, true) },
  int16: { size: 2, read: (view, at) => view.getInt16(at, true) },
  uint32: { size: 4, read: (view, at) => view.getUint32(at, true) },
  int32: { size: 4, read: (view, at) => view.getInt32(at, true) },
  uint64: { size: 8, read: (view, at) => view.getBigUint64(at, true) },
  int64: { size: 8, read: (view, at) => view.getBigInt64(at, true) },
  float16: { size: 2, digits: 5, read: (view, at) => float16(view.getUint16(at, true)) },
  bfloat16: { size: 2, digits: 4, read: (view, at) => bfloat16(view.getUint16(at, true)) },
  float32: { size: 4, digits: 9, read: (view, at) => view.getFloat32(at, true) },
  float64: { size: 8, digits: 17, read: (view, at) => view.getFloat64(at, true) },
};

/** IEEE 754 binary16: 1 sign bit, 5 of exponent with bias 15, 10 of fraction. */
export function float16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 0x1f) return fraction === 0 ? sign * Infinity : NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const scratch = new DataView(new ArrayBuffer(4));

/** The upper half of a float32. */
export function bfloat16(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

/** Bytes of an element; undefined where elements are packed below a byte, in blocks, or not read here. */
export const elementSize = (dtype: DType): number | undefined => FORMATS[dtype]?.size;

/** Every whole element of `bytes`; 64-bit integers to the nearest double. The dtype has an elementSize(). */
export function decode(dtype: DType, bytes: Uint8Array): Float64Array {
  const format = formatOf(dtype);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const out = new Float64Array(Math.floor(bytes.length / format.size));
  for (let i = 0; i < out.length; i++) out[i] = Number(format.read(view, i * format.size));
  return out;
}

/** The first `count` elements as exact text: the shortest decimal that gives the same value back. */
export function texts(dtype: DType, bytes: Uint8Array, count: number): string[] {
  const format = formatOf(dtype);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = Math.min(count, Math.floor(bytes.length / format.size));
  return Array.from({ length }, (_, i) => {
    const value = format.read(view, i * format.size);
    if (dtype === 'bool') return value === 0 ? 'false' : 'true';
    if (typeof value === 'bigint' || format.digits === undefined) return String(value);
    return Object.is(value, -0) ? '-0' : shortest(dtype, value, format.digits);
  });
}

function shortest(dtype: DType, value: number, digits: number): string {
  if (dtype === 'float64' || !Number.isFinite(value)) return String(value);
  if (dtype !== 'float32') return String(Number(value.toPrecision(digits)));
  for (let tried = 1; tried < digits; tried++) {
    const rounded = Number(value.toPrecision(tried));
    if (Math.fround(rounded) === value) return String(rounded);
  }
  return String(Number(value.toPrecision(digits)));
}

/** Lines of `perLine` bytes in hexadecimal. */
export function hexLines(bytes: Uint8Array, perLine: number): string[] {
  const lines: string[] = [];
  for (let at = 0; at < bytes.length; at += perLine) {
    const part = [...bytes.subarray(at, at + perLine)];
    lines.push(part.map((byte) => byte.toString(16).padStart(2, '0')).join(' '));
  }
  return lines;
}

function formatOf(dtype: DType): Format {
  const format = FORMATS[dtype];
  if (!format) throw new Error(`${dtype} has no elements that are read here`);
  return format;
}
