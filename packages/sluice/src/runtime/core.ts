import {
  ANY_BYTES,
  ANY_LENGTH,
  ANY_VALUE,
  ERROR_CELL,
  OBJECT_BYTES,
  SPAN_SIZE,
  TypeIndex,
  type RuntimeExports,
  type RuntimeImports,
} from './abi.js';
import { writeView, type Where } from './arguments.js';
import { describe, RuntimeError, typeError, valueError } from './errors.js';
import { Arena, Memory } from './memory.js';
import { readOwned, readShared } from './results.js';
import type { Scope } from './scope.js';
import { ScopeStack } from './scope.js';
import { ShapeCache } from './shapes.js';
import { DataType, type Callback, type Value } from './values.js';

/** Calls within calls, at most: less than what either side's stack holds. */
const MAX_DEPTH = 200;

type HostFunction = (...args: Value[]) => unknown;

/** What a direct function takes: a pointer is its address. */
type PlainValue = undefined | boolean | number | bigint;

/** A function that takes and gives nothing but plain values. */
export type DirectCallback = (...args: PlainValue[]) => number | undefined;

/**
 * A function of JavaScript that reads its `count` arguments, which are views at `args`, and writes its result itself. No
 * scope is opened for it.
 */
export class RawFunction {
  readonly run: (args: number, count: number, result: number) => void;
  constructor(run: (args: number, count: number, result: number) => void) {
    this.run = run;
  }
}

/** What tensors need of a device that is not the CPU. */
export interface DeviceMemory {
  readonly device: GPUDevice;
  /** Takes a buffer over and gives its handle. */
  adoptBuffer(buffer: GPUBuffer): number;
  copyBytesToBuffer(bytes: Uint8Array, to: number, toOffset: number): void;
  readBytes(from: number, fromOffset: number, nbytes: number): Promise<Uint8Array<ArrayBuffer>>;
  sync(): Promise<void>;
  dispose(): void;
}

/** What a callback threw, while C++ holds the error that it became. */
class Thrown {
  readonly value: unknown;
  /** Of the function object that stands for it. */
  handle = 0;
  constructor(value: unknown) {
    this.value = value;
  }
}

/** The imports of an instance whose Core is put into `holder` before anything calls them. */
export function importsOf(holder: { core?: Core }): RuntimeImports {
  return {
    TVMFFIWasmSafeCall: (self, args, count, result) =>
      holder.core ? holder.core.callBack(self >>> 0, args >>> 0, count, result >>> 0) : -1,
    TVMFFIWasmFunctionDeleter: (self) => holder.core?.forget(self >>> 0),
  };
}

function readNumber(memory: Memory, type: number, at: number): PlainValue {
  switch (type) {
    case TypeIndex.NONE:
      return undefined;
    case TypeIndex.BOOL:
      return memory.integer(at + ANY_VALUE) !== 0;
    case TypeIndex.FLOAT:
      return memory.f64(at + ANY_VALUE);
    default:
      throw typeError(`a function of plain values was given one of type ${type | 0}`);
  }
}

/** The call whose arguments are written, as errors name them. */
class ArgumentOf implements Where {
  index = 0;
  text(): string {
    return `argument ${this.index}`;
  }
}

/**
 * One instance of the runtime's module, as the classes beside this one use it: calls in both directions, errors, and who
 * holds what. Not for users.
 */
export class Core {
  readonly exports: RuntimeExports;
  readonly memory: Memory;
  readonly arena: Arena;
  readonly scopes = new ScopeStack();
  readonly shapes = new ShapeCache(this);
  /** WebGPU, where there is a device. */
  gpu: DeviceMemory | undefined;
  /** Of the module's imports, by index. 0 is no function's. */
  readonly #functions: (HostFunction | RawFunction | Thrown | undefined)[] = [undefined];
  readonly #freeFunctions: number[] = [];
  readonly #thrown = new Map<number, Thrown>();
  readonly #globals = new Map<string, number>();
  readonly #dtypes = new Map<string, DataType>();
  readonly #dtypesByBits = new Map<number, DataType>();
  readonly #argument = new ArgumentOf();
  /** Objects that live until the arguments' call has ended. */
  readonly #temporaries: number[] = [];
  /** Calls under way, outermost first, each by its number. */
  readonly #active: number[] = [];
  #calls = 0;
  /** Released while a call may use them, and the depth at which none does any more. */
  readonly #pending: { readonly handle: number; readonly depth: number }[] = [];
  readonly #callbackScopes: Scope[] = [];
  #callbacks = 0;
  /** Why nothing works any more. */
  #end: RuntimeError | undefined;

  /** Of an instance whose imports were importsOf(). */
  constructor(exports: RuntimeExports) {
    this.exports = exports;
    this.memory = new Memory(exports.memory);
    exports._initialize();
    this.arena = new Arena(exports, this.memory);
  }

  // ---- Calls ----

  /** How many calls have begun. */
  get calls(): number {
    return this.#calls;
  }

  /** Begins a call: what is released from now on until leave() and may be its argument is kept until then. */
  enter(): void {
    if (this.#end) throw this.#end;
    if (this.#active.length === MAX_DEPTH) {
      throw new RuntimeError('RecursionError', `calls stand in each other, ${MAX_DEPTH} deep`, {
        hint: 'a callback that calls what calls it never ends',
      });
    }
    this.#active.push(++this.#calls);
  }

  leave(): void {
    this.#active.pop();
    if (this.#pending.length > 0) this.#releasePending();
  }

  /** Calls a function object with values as readOwned() and writeView() have them. */
  call(handle: number, args: readonly unknown[]): Value {
    const { arena, memory } = this;
    const count = args.length;
    this.enter();
    const { top, blocks } = arena;
    const temporaries = this.#temporaries.length;
    memory.check();
    let entered = true;
    try {
      const result = arena.reserve(16 * (count + 1));
      const where = this.#argument;
      for (let i = 0, at = result + 16; i < count; i++, at += 16) {
        where.index = i;
        writeView(this, args[i], at, where);
      }
      memory.setU32(result, TypeIndex.NONE);
      memory.setU32(result + 4, 0);
      this.run(handle, result + 16, count, result);
      entered = false;
      this.leave();
      // The most frequent one
      return memory.u32(result) === TypeIndex.NONE ? undefined : readOwned(this, result);
    } finally {
      if (entered) this.leave();
      this.endFrame(top, blocks, temporaries);
    }
  }

  /** Calls a function object with views at `args`, for a result at `result`, which holds none. Between enter() and leave(). */
  run(handle: number, args: number, count: number, result: number): void {
    let status: number;
    try {
      status = this.exports.TVMFFIFunctionCall(handle, args, count, result);
    } catch (error) {
      throw this.#trapped(error);
    }
    this.memory.check();
    if (status !== 0) throw this.takeError();
  }

  /** Gives back what a call's arguments took. */
  endFrame(top: number, blocks: number, temporaries: number): void {
    this.arena.release(top, blocks);
    while (this.#temporaries.length > temporaries) {
      this.exports.TVMFFIObjectDecRef(this.#temporaries.pop() as number);
    }
  }

  /** Takes over an object that lives until the frame ends. */
  temporary(handle: number): number {
    this.#temporaries.push(handle);
    return handle;
  }

  get temporaries(): number {
    return this.#temporaries.length;
  }

  /** Gives a reference back: at once, or when the calls have ended that began while it could be their argument. */
  release(handle: number, born: number): void {
    if (this.#end) return;
    const active = this.#active;
    const { length } = active;
    if (length > 0 && (active[length - 1] as number) > born) {
      this.#pending.push({ handle, depth: active.findIndex((call) => call > born) });
    } else {
      this.exports.TVMFFIObjectDecRef(handle);
    }
  }

  #releasePending(): void {
    const depth = this.#active.length;
    const ready: number[] = [];
    let kept = 0;
    for (const each of this.#pending) {
      if (each.depth >= depth) ready.push(each.handle);
      else this.#pending[kept++] = each;
    }
    this.#pending.length = kept;
    for (const handle of ready) this.exports.TVMFFIObjectDecRef(handle);
  }

  readShared(at: number): Value {
    return readShared(this, at);
  }

  // ---- Functions of JavaScript ----

  /** A function object that calls `callback`; the caller's. */
  makeFunction(callback: Callback | RawFunction): number {
    return this.#makeHostFunction(callback as HostFunction | RawFunction);
  }

  /**
   * The same for one that is called as often as kernels are launched: it is given numbers, and addresses for pointers, and
   * neither makes objects nor calls C++.
   */
  makeDirectFunction(callback: DirectCallback): number {
    return this.#makeHostFunction(
      new RawFunction((args, count, result) => {
        this.#callDirectly(callback, args, count, result);
      }),
    );
  }

  temporaryFunction(callback: Callback | RawFunction): number {
    return this.temporary(this.makeFunction(callback));
  }

  #makeHostFunction(entry: HostFunction | RawFunction | Thrown): number {
    const index = this.#freeFunctions.pop() ?? this.#functions.length;
    this.#functions[index] = entry;
    const { top, blocks } = this.arena;
    const out = this.arena.reserve(8);
    const status = this.exports.TVMFFIWasmFunctionCreate(index, out);
    this.memory.check();
    const handle = this.memory.u32(out);
    this.arena.release(top, blocks);
    if (status !== 0) {
      this.forget(index);
      throw this.takeError();
    }
    return handle;
  }

  /** C++ holds function `index` no more. */
  forget(index: number): void {
    const entry = this.#functions[index];
    if (entry === undefined) return;
    this.#functions[index] = undefined;
    this.#freeFunctions.push(index);
    if (entry instanceof Thrown) this.#thrown.delete(entry.handle);
  }

  /** How many functions of JavaScript C++ holds. */
  get hostFunctions(): number {
    return this.#functions.length - 1 - this.#freeFunctions.length;
  }

  /** C++ calls function `index`. */
  callBack(index: number, args: number, count: number, result: number): number {
    const { arena, scopes, memory } = this;
    memory.check();
    const callback = this.#functions[index];
    if (callback instanceof RawFunction) return this.#callRaw(callback, args, count, result);
    const scope = (this.#callbackScopes[this.#callbacks] ??= scopes.detached());
    this.#callbacks++;
    const before = scopes.enter(scope);
    const { top, blocks } = arena;
    const temporaries = this.#temporaries.length;
    try {
      if (typeof callback !== 'function') {
        throw new RuntimeError('InternalError', `there is no function ${index} on this side`);
      }
      const values = new Array<Value>(count);
      for (let i = 0, at = args; i < count; i++, at += 16) values[i] = readShared(this, at);
      const value = callback(...values);
      if (value !== undefined && value !== null) this.writeResult(value, result);
      return 0;
    } catch (error) {
      this.#raise(error);
      return -1;
    } finally {
      this.#callbacks--;
      scopes.leave(before);
      if (scope.size > 0) scope.releaseAll();
      this.endFrame(top, blocks, temporaries);
    }
  }

  #callRaw(callback: RawFunction, args: number, count: number, result: number): number {
    const { top, blocks } = this.arena;
    const temporaries = this.#temporaries.length;
    try {
      callback.run(args, count, result);
      return 0;
    } catch (error) {
      this.#raise(error);
      return -1;
    } finally {
      this.endFrame(top, blocks, temporaries);
    }
  }

  #callDirectly(callback: DirectCallback, args: number, count: number, result: number): void {
    const { memory } = this;
    const values = new Array<PlainValue>(count);
    for (let i = 0, at = args; i < count; i++, at += ANY_BYTES) {
      const type = memory.u32(at);
      values[i] =
        type === TypeIndex.OPAQUE_POINTER
          ? memory.u32(at + ANY_VALUE)
          : type === TypeIndex.INT
            ? memory.integer(at + ANY_VALUE)
            : readNumber(memory, type, at);
    }
    const value = callback(...values);
    if (value !== undefined) this.writeResult(value, result);
  }

  /** Writes a number that a function gives to C++, as a float. */
  writeFloat(value: number, result: number): void {
    const { memory } = this;
    memory.check();
    memory.setU32(result, TypeIndex.FLOAT);
    memory.setU32(result + ANY_LENGTH, 0);
    memory.setF64(result + ANY_VALUE, value);
  }

  /** Writes what a function gives to C++, which owns it. The place holds none yet. */
  writeResult(value: unknown, result: number): void {
    const { memory } = this;
    memory.check();
    // What is no object needs nobody to own it
    if (typeof value === 'number' || typeof value === 'boolean') {
      writeView(this, value, result, RESULT);
      return;
    }
    this.enter();
    try {
      const view = this.arena.reserve(16);
      writeView(this, value, view, RESULT);
      this.checkStatus(this.exports.TVMFFIAnyViewToOwnedAny(view, result));
    } finally {
      this.leave();
    }
  }

  // ---- Errors ----

  checkStatus(status: number): void {
    if (status === 0) return;
    this.memory.check();
    throw this.takeError();
  }

  /** What C++ raised, to be thrown: the very error that a callback threw where there is one. */
  takeError(): Error {
    const { arena, memory } = this;
    const { top, blocks } = arena;
    const out = arena.reserve(8);
    memory.setU32(out, 0);
    this.exports.TVMFFIErrorMoveFromRaised(out);
    memory.check();
    const handle = memory.u32(out);
    arena.release(top, blocks);
    if (handle === 0) {
      return new RuntimeError('InternalError', 'a call failed and raised no error');
    }
    const error = this.#readError(handle);
    this.exports.TVMFFIObjectDecRef(handle);
    return error;
  }

  #readError(handle: number): Error {
    const { memory } = this;
    const cell = handle + OBJECT_BYTES;
    const thrown = this.#thrown.get(memory.u32(cell + ERROR_CELL.context))?.value;
    if (thrown instanceof Error) return thrown;
    const text = (at: number): string => memory.text(memory.u32(at), memory.u32(at + SPAN_SIZE));
    const cause = memory.u32(cell + ERROR_CELL.cause);
    return new RuntimeError(text(cell + ERROR_CELL.kind), text(cell + ERROR_CELL.message), {
      wasmBacktrace: text(cell + ERROR_CELL.backtrace),
      ...(thrown === undefined ? {} : { cause: thrown }),
      ...(cause === 0 ? {} : { cause: this.#readError(cause) }),
    });
  }

  /** Makes what a callback threw the raised error. */
  #raise(value: unknown): void {
    if (this.#end) return;
    const { arena, exports, memory } = this;
    memory.check();
    const isError = value instanceof Error;
    const kind = value instanceof RuntimeError ? value.kind : isError ? value.name : 'Error';
    const message = isError ? value.message : `a callback threw ${describe(value)}`;
    const stack = isError ? (value.stack ?? '') : '';
    const thrown = new Thrown(value);
    thrown.handle = this.#makeHostFunction(thrown);
    this.#thrown.set(thrown.handle, thrown);
    const texts = [kind, message, stack].map((text) => {
      const address = arena.reserve(3 * text.length + 1);
      const nbytes = memory.setText(address, text);
      const span = arena.reserve(8);
      memory.setU32(span, address);
      memory.setU32(span + SPAN_SIZE, nbytes);
      return span;
    });
    const out = arena.reserve(8);
    const [kindAt = 0, messageAt = 0, stackAt = 0] = texts;
    const status = exports.TVMFFIErrorCreateWithCauseAndExtraContext(
      kindAt,
      messageAt,
      stackAt,
      0,
      thrown.handle,
      out,
    );
    memory.check();
    if (status === 0) {
      const error = memory.u32(out);
      exports.TVMFFIErrorSetRaised(error);
      exports.TVMFFIObjectDecRef(error);
    }
    exports.TVMFFIObjectDecRef(thrown.handle);
  }

  #trapped(cause: unknown): RuntimeError {
    if (this.#end) return this.#end;
    const address = this.exports.sluice_panic_message?.() ?? 0;
    this.memory.check();
    const said =
      address === 0
        ? cause instanceof Error
          ? cause.message
          : describe(cause)
        : this.memory.cString(address >>> 0);
    return (this.#end = new RuntimeError('InternalError', `the runtime stopped: ${said}`, {
      cause,
      hint: 'nothing of this runtime can be used any more; make another with createRuntime()',
    }));
  }

  /** Ends all use. */
  dispose(): void {
    this.gpu?.dispose();
    this.gpu = undefined;
    this.#end ??= valueError('the runtime was disposed');
    this.#functions.length = 1;
    this.#freeFunctions.length = 0;
    this.#thrown.clear();
  }

  // ---- Names ----

  /** A global function, kept from its first use on. Throws where there is none. */
  global(name: string): number {
    let handle = this.#globals.get(name);
    if (handle === undefined) {
      handle = this.findGlobal(name);
      if (handle === 0) {
        throw new RuntimeError('AttributeError', `this wasm module has no function '${name}'`, {
          hint: 'it was built without it, or is not a runtime',
        });
      }
      this.#globals.set(name, handle);
    }
    return handle;
  }

  /** A global function, which is the caller's; 0 where there is none. */
  findGlobal(name: string): number {
    return this.withName(name, (span) => {
      const out = this.arena.reserve(8);
      this.checkStatus(this.exports.TVMFFIFunctionGetGlobal(span, out));
      this.memory.check();
      return this.memory.u32(out);
    });
  }

  /** Calls `act` with the address of a TVMFFIByteArray of a text. */
  withName<T>(name: string, act: (span: number) => T): T {
    const { arena, memory } = this;
    if (typeof name !== 'string')
      throw new RuntimeError('TypeError', `a name is a string, not ${describe(name)}`);
    if (this.#end) throw this.#end;
    const { top, blocks } = arena;
    memory.check();
    try {
      const address = arena.reserve(3 * name.length + 1);
      const nbytes = memory.setText(address, name);
      const span = arena.reserve(8);
      memory.setU32(span, address);
      memory.setU32(span + SPAN_SIZE, nbytes);
      return act(span);
    } finally {
      arena.release(top, blocks);
    }
  }

  typeKey(typeIndex: number): string {
    const info = this.exports.TVMFFIGetTypeInfo(typeIndex) >>> 0;
    this.memory.check();
    if (info === 0) throw this.takeError();
    return this.memory.text(this.memory.u32(info + 8), this.memory.u32(info + 8 + SPAN_SIZE));
  }

  /** The element type of a name, as C++ reads it. Throws where there is none. */
  dtype(name: string): DataType {
    const known = this.#dtypes.get(name);
    if (known) return known;
    const dtype = this.withName(name, (span) => {
      const out = this.arena.reserve(8);
      this.checkStatus(this.exports.TVMFFIDataTypeFromString(span, out));
      this.memory.check();
      return this.dtypeOf(this.memory.u32(out));
    });
    this.#dtypes.set(name, dtype);
    return dtype;
  }

  /** The element type of a DLDataType's four bytes. */
  dtypeOf(packed: number): DataType {
    const known = this.#dtypesByBits.get(packed);
    if (known) return known;
    const { arena, memory } = this;
    const { top, blocks } = arena;
    try {
      const from = arena.reserve(8);
      const out = arena.reserve(16);
      memory.setU32(from, packed);
      this.checkStatus(this.exports.TVMFFIDataTypeToString(from, out));
      memory.check();
      const name = readOwned(this, out) as string;
      const dtype = new DataType(name, packed & 0xff, (packed >>> 8) & 0xff, packed >>> 16);
      this.#dtypesByBits.set(packed, dtype);
      return dtype;
    } finally {
      arena.release(top, blocks);
    }
  }

  /** A shape object with these numbers; the caller's. Between enter() and leave(). */
  makeShape(dims: readonly number[]): number {
    const { arena, memory } = this;
    const count = dims.length;
    const result = arena.reserve(16 * (count + 1));
    for (let i = 0; i <= count; i++) {
      const at = result + 16 * i;
      memory.setU32(at, i === 0 ? TypeIndex.NONE : TypeIndex.INT);
      memory.setU32(at + 4, 0);
      memory.setInteger(at + ANY_VALUE, i === 0 ? 0 : (dims[i - 1] as number));
    }
    this.run(this.global('ffi.Shape'), result + 16, count, result);
    return memory.u32(result + ANY_VALUE);
  }
}

const RESULT: Where = { text: () => 'what a callback gave' };
