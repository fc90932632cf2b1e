import { ANY_LENGTH, ANY_VALUE, OBJECT_TYPE, SPAN_SIZE, TypeIndex } from './abi.js';
import { RawFunction, type Core } from './core.js';
import { describe, RuntimeError, typeError } from './errors.js';
import { cellOf } from './function.js';
import { foreign, RuntimeObject } from './object.js';
import { ShapeTuple } from './shapes.js';
import { DataType, Device, Float, Pointer, type Callback } from './values.js';

/** Arrays within arrays, at most. */
const MAX_NESTING = 64;

/**
 * Writes a value as a view (TVMFFIAny) at `at`, which lies in memory that check() has seen. What the view points to
 * lives until the call's frame ends. `where` names the value in errors.
 */
export function writeView(core: Core, value: unknown, at: number, where: Where): void {
  const { memory } = core;
  switch (typeof value) {
    case 'number':
      if ((value | 0) === value && (value !== 0 || !Object.is(value, -0))) {
        head(core, at, TypeIndex.INT);
        memory.setU32(at + ANY_VALUE, value);
        memory.setU32(at + ANY_VALUE + 4, value >> 31);
      } else {
        writeNumber(core, value, at, where);
      }
      return;
    case 'string':
      writeString(core, value, at);
      return;
    case 'boolean':
      head(core, at, TypeIndex.BOOL);
      memory.setInteger(at + ANY_VALUE, value ? 1 : 0);
      return;
    case 'undefined':
      head(core, at, TypeIndex.NONE);
      memory.setInteger(at + ANY_VALUE, 0);
      return;
    case 'bigint':
      if (value !== BigInt.asIntN(64, value)) {
        throw new RuntimeError(
          'RangeError',
          `${where.text()} is ${value}n, beyond 64 bits with sign`,
        );
      }
      head(core, at, TypeIndex.INT);
      memory.setBigInt(at + ANY_VALUE, value);
      return;
    case 'function': {
      const cell = cellOf(value);
      if (cell) {
        if (cell.core !== core) throw foreign('function');
        pointer(core, at, TypeIndex.FUNCTION, cell.handle);
      } else {
        pointer(core, at, TypeIndex.FUNCTION, core.temporaryFunction(value as Callback));
      }
      return;
    }
    case 'object':
      writeObject(core, value, at, where);
      return;
    case 'symbol':
      throw notAnArgument(value, where);
  }
}

/** Which value an error is about. */
export interface Where {
  text(): string;
}

function writeObject(core: Core, value: object | null, at: number, where: Where): void {
  const { memory } = core;
  if (value === null) {
    head(core, at, TypeIndex.NONE);
    memory.setInteger(at + ANY_VALUE, 0);
  } else if (value instanceof RuntimeObject) {
    const { handle } = value;
    if (value.core !== core) throw foreign(`value of ${where.text()}`);
    pointer(
      core,
      at,
      value.borrowed ? TypeIndex.DL_TENSOR : memory.u32(handle + OBJECT_TYPE),
      handle,
    );
  } else if (value instanceof Float) {
    head(core, at, TypeIndex.FLOAT);
    memory.setF64(at + ANY_VALUE, value.value);
  } else if (Array.isArray(value)) {
    const shape = core.shapes.find(value);
    if (shape) {
      pointer(core, at, TypeIndex.SHAPE, core.shapes.handle(shape));
    } else {
      pointer(core, at, TypeIndex.ARRAY, writeArray(core, value, where));
    }
  } else if (value instanceof ShapeTuple) {
    pointer(core, at, TypeIndex.SHAPE, core.shapes.handle(value));
  } else if (value instanceof Uint8Array) {
    writeBytes(core, value, at);
  } else if (value instanceof Device) {
    head(core, at, TypeIndex.DEVICE);
    memory.setU32(at + ANY_VALUE, value.type);
    memory.setU32(at + ANY_VALUE + 4, value.id);
  } else if (value instanceof DataType) {
    pointer(core, at, TypeIndex.DATA_TYPE, value.packed);
  } else if (value instanceof Pointer) {
    pointer(core, at, TypeIndex.OPAQUE_POINTER, value.address);
  } else if (value instanceof RawFunction) {
    pointer(core, at, TypeIndex.FUNCTION, core.temporaryFunction(value));
  } else {
    throw notAnArgument(value, where);
  }
}

/** The first half of a value: its type, and no small string. */
function head(core: Core, at: number, typeIndex: number): void {
  core.memory.setU32(at, typeIndex);
  core.memory.setU32(at + ANY_LENGTH, 0);
}

function pointer(core: Core, at: number, typeIndex: number, address: number): void {
  const { memory } = core;
  memory.setU32(at, typeIndex);
  memory.setU32(at + ANY_LENGTH, 0);
  memory.setU32(at + ANY_VALUE, address);
  memory.setU32(at + ANY_VALUE + 4, 0);
}

/** What is no integer of 32 bits. */
function writeNumber(core: Core, value: number, at: number, where: Where): void {
  const { memory } = core;
  if (Number.isSafeInteger(value) && !Object.is(value, -0)) {
    head(core, at, TypeIndex.INT);
    memory.setInteger(at + ANY_VALUE, value);
    return;
  }
  if (Number.isInteger(value) && value !== 0) {
    throw new RuntimeError(
      'RangeError',
      `${where.text()} is ${value}, an integer beyond 2^53 - 1`,
      {
        hint: 'pass a bigint for an integer of 64 bits, or float(value) for a floating-point number',
      },
    );
  }
  head(core, at, TypeIndex.FLOAT);
  memory.setF64(at + ANY_VALUE, value);
}

function writeString(core: Core, value: string, at: number): void {
  const { memory, arena } = core;
  const address = arena.reserve(3 * value.length + 1);
  const nbytes = memory.setText(address, value);
  if (!value.includes('\0')) {
    pointer(core, at, TypeIndex.RAW_STRING, address);
    return;
  }
  // A raw string would end there
  const span = arena.reserve(8);
  memory.setU32(span, address);
  memory.setU32(span + SPAN_SIZE, nbytes);
  core.checkStatus(core.exports.TVMFFIStringFromByteArray(span, at));
  memory.check();
  if (memory.u32(at) === TypeIndex.STRING) core.temporary(memory.u32(at + ANY_VALUE));
}

function writeBytes(core: Core, value: Uint8Array, at: number): void {
  const { memory, arena } = core;
  const { byteLength } = value;
  const address = arena.reserve(byteLength);
  const span = arena.reserve(8);
  // Also where `value` lies in this memory, which may have grown just now
  if (value.byteLength !== byteLength) throw typeError('the bytes lay in memory that has grown');
  memory.setBytes(address, value);
  memory.setU32(span, address);
  memory.setU32(span + SPAN_SIZE, byteLength);
  pointer(core, at, TypeIndex.BYTE_ARRAY, span);
}

let nesting = 0;

/** An array of the C ABI, released when the call's frame ends. */
export function writeArray(core: Core, values: readonly unknown[], where: Where): number {
  const { arena, memory } = core;
  if (nesting === MAX_NESTING) {
    throw typeError(`${where.text()} holds arrays in arrays, more than ${MAX_NESTING} deep`);
  }
  const { length } = values;
  const items = arena.reserve(16 * (length + 1));
  nesting++;
  try {
    for (let i = 0; i < length; i++) {
      writeView(core, values[i], items + 16 * (i + 1), { text: () => `[${i}] of ${where.text()}` });
    }
  } finally {
    nesting--;
  }
  head(core, items, TypeIndex.NONE);
  memory.setInteger(items + ANY_VALUE, 0);
  core.run(core.global('ffi.Array'), items + 16, length, items);
  return core.temporary(memory.u32(items + ANY_VALUE));
}

function notAnArgument(value: unknown, where: Where): RuntimeError {
  const thenable = typeof (value as { then?: unknown } | null)?.then === 'function';
  return typeError(
    `${where.text()} is ${describe(value)}, which is no value of the runtime`,
    thenable
      ? 'C++ cannot wait: await it before the call; a callback cannot be asynchronous'
      : ArrayBuffer.isView(value)
        ? 'make a tensor of it with runtime.tensor(), or pass its bytes as a Uint8Array'
        : undefined,
  );
}
