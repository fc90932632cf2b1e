import { ANY_BYTES } from '../runtime/abi.js';
import { RawFunction } from '../runtime/core.js';
import { RuntimeObject } from '../runtime/object.js';
import { cellOf } from '../runtime/function.js';
import { Tensor as RuntimeTensor } from '../runtime/tensor.js';
import { DataType, Device, Float, Pointer, type Value } from '../runtime/values.js';
import type { Conversion, FFILibrary, RuntimeContext } from './library.js';
import {
  DLDataType,
  DLDevice,
  PackedFuncCell,
  Scalar,
  Tensor,
  TVMObject,
  type FObjectConstructor,
  type PackedFunc,
} from './objects.js';
import { assert } from './support.js';
import type { AnyFunction } from './types.js';

/** tvmjs's rules of which value is which, both ways. */
export class TheirConversion implements Conversion {
  readonly #lib: FFILibrary;
  readonly #ctx: RuntimeContext;
  /** By type index: what makes an object of a handle. */
  readonly constructors = new Map<number, FObjectConstructor>();
  /** Shapes of no dimension that callbacks were given: what else is empty is an array. */
  readonly #emptyShapes = new WeakSet();

  constructor(lib: FFILibrary, ctx: RuntimeContext) {
    this.#lib = lib;
    this.#ctx = ctx;
  }

  argument(value: unknown): unknown {
    switch (typeof value) {
      case 'number':
        return new Float(value);
      case 'string':
      case 'boolean':
      case 'undefined':
      case 'bigint':
        return value;
      case 'function': {
        const cell = cellOfPacked(value);
        return cell ? cell.asArgument() : this.callback(value as AnyFunction);
      }
      case 'object':
        return value === null ? undefined : this.#objectArgument(value);
      case 'symbol':
        throw unsupported(value);
    }
  }

  #objectArgument(value: object): unknown {
    if (value instanceof TVMObject) return value.asArgument();
    if (value instanceof Scalar) return scalarArgument(value);
    if (value instanceof DLDevice) return new Device(value.deviceType, value.deviceId);
    if (value instanceof Uint8Array) return value;
    if (value instanceof DLDataType) return this.#lib.core.dtype(value.toString());
    if (Array.isArray(value)) {
      if (value.length === 0 && !this.#emptyShapes.has(value)) return this.#emptyArray();
      if (value.every((each) => typeof each === 'string')) return value;
      // A shape, as callbacks get them
      if (value.every((each) => Number.isSafeInteger(each))) return value;
    }
    throw unsupported(value);
  }

  #empty: RuntimeObject | undefined;
  #emptyArray(): RuntimeObject {
    const { core } = this.#lib;
    this.#empty ??= this.#lib.own(core.call(core.global('ffi.Array'), []) as RuntimeObject);
    return this.#empty;
  }

  result(value: Value): unknown {
    switch (typeof value) {
      case 'function': {
        const cell = cellOf(value);
        return cell && this.#attach(this.packed(cell));
      }
      case 'object':
        return this.#objectResult(value);
      default:
        return value;
    }
  }

  #objectResult(value: Exclude<Value, undefined | boolean | number | bigint | string>): unknown {
    const lib = this.#lib;
    if (value instanceof RuntimeTensor) {
      // One that is borrowed ends with the callback
      const tensor = value.borrowed ? value : lib.own(value);
      const made = new Tensor(tensor, lib, this.#ctx, value.borrowed);
      return value.borrowed ? made : this.#attach(made);
    }
    if (value instanceof RuntimeObject) {
      const { handle, typeIndex } = lib.own(value);
      const make = this.constructors.get(typeIndex);
      return this.#attach(
        make ? make(handle, lib, this.#ctx) : new TVMObject(value, lib, this.#ctx),
      );
    }
    if (value instanceof Pointer) return value.address;
    if (value instanceof Device) return new DLDevice(value.type, value.id, lib);
    if (value instanceof DataType) return value.name;
    if (Array.isArray(value) && value.length === 0) this.#emptyShapes.add(value);
    return value;
  }

  #attach<T extends TVMObject | PackedFunc>(object: T): T {
    return this.#ctx.attachToCurrentScope(object);
  }

  /** A function object, taken over, as JavaScript calls it. */
  packed(object: RuntimeObject): PackedFunc {
    const lib = this.#lib;
    const cell = new PackedFuncCell(lib.own(object), lib, this.#ctx);
    const call = (...args: unknown[]): unknown => lib.call(cell.getHandle(), args);
    return Object.assign(call, {
      dispose: () => {
        cell.dispose();
      },
      _tvmPackedCell: cell,
    });
  }

  /** Objects that the function is given, or makes, are released when it returns, unless it detaches them. */
  callback(func: AnyFunction): RawFunction {
    const { core } = this.#lib;
    const ctx = this.#ctx;
    return new RawFunction((args, count, result) => {
      const { depth } = ctx;
      ctx.beginScope();
      const before = core.scopes.enter(undefined);
      let borrowed: RuntimeTensor[] | undefined;
      try {
        let given: unknown;
        if (count === 0) {
          given = func();
        } else {
          const values = new Array<unknown>(count);
          for (let i = 0, at = args; i < count; i++, at += ANY_BYTES) {
            const value = core.readShared(at);
            if (value instanceof RuntimeTensor && value.borrowed) (borrowed ??= []).push(value);
            values[i] = this.result(value);
          }
          given = func(...values);
        }
        // Before the scope ends, which may hold it
        if (given !== undefined && given !== null) {
          if (typeof given === 'number') core.writeFloat(given, result);
          else core.writeResult(this.argument(given), result);
        }
      } finally {
        if (borrowed) for (const tensor of borrowed) tensor.dispose();
        core.scopes.leave(before);
        ctx.endScopesTo(depth);
      }
    });
  }
}

/** The cell of a PackedFunc; undefined for any other function. */
export function cellOfPacked(func: object): PackedFuncCell | undefined {
  return Object.hasOwn(func, '_tvmPackedCell') ? (func as PackedFunc)._tvmPackedCell : undefined;
}

function scalarArgument({ value, dtype }: Scalar): unknown {
  if (dtype.startsWith('int') || dtype.startsWith('uint')) {
    if (typeof value === 'bigint') return value;
    const integer = Math.trunc(value) + 0;
    // A bigint, so that the runtime says what is beyond its range
    if (Number.isSafeInteger(integer)) return integer;
    throw new Error(`RangeError: the scalar ${value} is no integer of at most 2^53 - 1`);
  }
  if (dtype.startsWith('float')) return new Float(value);
  assert(dtype === 'handle', 'Expect handle');
  return new Pointer(value);
}

function unsupported(value: unknown): Error {
  let text: string;
  try {
    text = String(value);
  } catch {
    text = Object.prototype.toString.call(value);
  }
  return new Error(`Unsupported argument type ${typeof value} value=\`${text}\``);
}
