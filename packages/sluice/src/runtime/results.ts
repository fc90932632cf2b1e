import { ANY_LENGTH, ANY_VALUE, OBJECT_BYTES, SPAN_SIZE, TypeIndex } from './abi.js';
import type { Core } from './core.js';
import { RuntimeError } from './errors.js';
import { makeFunction } from './function.js';
import { readShape, RuntimeArray, RuntimeModule, RuntimeObject } from './object.js';
import { Tensor } from './tensor.js';
import { Device, Pointer, type Value } from './values.js';

/** A value that the caller owns: objects are taken over, or released where JavaScript has a value of its own for them. */
export function readOwned(core: Core, at: number): Value {
  const { memory } = core;
  const type = memory.u32(at);
  if (type < TypeIndex.OBJECT) return readPlain(core, type, at);
  const handle = memory.u32(at + ANY_VALUE);
  if (handle === 0) throw nullObject(type);
  switch (type) {
    case TypeIndex.STRING:
    case TypeIndex.BYTES:
    case TypeIndex.SHAPE:
      try {
        return readCopied(core, type, handle);
      } finally {
        core.exports.TVMFFIObjectDecRef(handle);
      }
    default:
      return wrap(core, type, handle);
  }
}

/** A value that stays its owner's: an argument of a callback, an element. Objects are shared. */
export function readShared(core: Core, at: number): Value {
  const { memory } = core;
  const type = memory.u32(at);
  if (type < TypeIndex.OBJECT) return readPlain(core, type, at);
  const handle = memory.u32(at + ANY_VALUE);
  if (handle === 0) throw nullObject(type);
  return shareObject(core, type, handle);
}

function shareObject(core: Core, type: number, handle: number): Value {
  switch (type) {
    case TypeIndex.STRING:
    case TypeIndex.BYTES:
    case TypeIndex.SHAPE:
      return readCopied(core, type, handle);
    default:
      core.exports.TVMFFIObjectIncRef(handle);
      return wrap(core, type, handle);
  }
}

/** Strings, bytes and shapes, of which JavaScript gets a copy. */
function readCopied(
  core: Core,
  type: number,
  handle: number,
): string | Uint8Array<ArrayBuffer> | number[] {
  const { memory } = core;
  if (type === TypeIndex.SHAPE) return readShape(core, handle);
  const data = memory.u32(handle + OBJECT_BYTES);
  const size = memory.u32(handle + OBJECT_BYTES + SPAN_SIZE);
  return type === TypeIndex.STRING ? memory.text(data, size) : memory.copy(data, size);
}

function wrap(core: Core, type: number, handle: number): Value {
  switch (type) {
    case TypeIndex.TENSOR:
      return new Tensor(core, handle);
    case TypeIndex.FUNCTION:
      return makeFunction(core, handle);
    case TypeIndex.MODULE:
      return new RuntimeModule(core, handle);
    case TypeIndex.ARRAY:
      return new RuntimeArray(core, handle);
    default:
      return new RuntimeObject(core, handle);
  }
}

/** What is no object. */
function readPlain(core: Core, type: number, at: number): Value {
  const { memory } = core;
  const value = at + ANY_VALUE;
  switch (type) {
    case TypeIndex.NONE:
      return undefined;
    case TypeIndex.INT:
      return memory.integer(value);
    case TypeIndex.BOOL:
      return memory.integer(value) !== 0;
    case TypeIndex.FLOAT:
      return memory.f64(value);
    case TypeIndex.OPAQUE_POINTER:
      return new Pointer(memory.u32(value));
    case TypeIndex.DATA_TYPE:
      return core.dtypeOf(memory.u32(value));
    case TypeIndex.DEVICE:
      return new Device(memory.i32(value), memory.i32(value + 4));
    case TypeIndex.DL_TENSOR:
      return new Tensor(core, memory.u32(value), { borrowed: true });
    case TypeIndex.RAW_STRING:
      return memory.cString(memory.u32(value));
    case TypeIndex.BYTE_ARRAY: {
      const span = memory.u32(value);
      return memory.copy(memory.u32(span), memory.u32(span + SPAN_SIZE));
    }
    case TypeIndex.RVALUE_REF: {
      const handle = memory.u32(memory.u32(value));
      return handle === 0 ? undefined : shareObject(core, memory.u32(handle + 8), handle);
    }
    case TypeIndex.SMALL_STRING:
      return memory.text(value, memory.u32(at + ANY_LENGTH));
    case TypeIndex.SMALL_BYTES:
      return memory.copy(value, memory.u32(at + ANY_LENGTH));
    default:
      throw new RuntimeError(
        'TypeError',
        `a value has type ${type | 0}, which is none of the C ABI`,
      );
  }
}

function nullObject(type: number): RuntimeError {
  return new RuntimeError('TypeError', `a value of type ${type} has no object`);
}
