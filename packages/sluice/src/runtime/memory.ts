import type { RuntimeExports } from './abi.js';
import { RuntimeError } from './errors.js';

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** Below so many characters a loop is faster than what encodes and decodes any text. */
const SHORT = 48;

/**
 * The module's memory, by views that are made again when it has grown. Addresses are unsigned 32-bit numbers. check()
 * comes first wherever wasm code may have run since the last time.
 */
export class Memory {
  readonly #memory: WebAssembly.Memory;
  #u8!: Uint8Array<ArrayBuffer>;
  #u32!: Uint32Array<ArrayBuffer>;
  #i32!: Int32Array<ArrayBuffer>;
  #f64!: Float64Array<ArrayBuffer>;

  constructor(memory: WebAssembly.Memory) {
    this.#memory = memory;
    this.#refresh();
  }

  /** Growing detaches the buffer, whose views are then empty. */
  check(): void {
    if (this.#u8.length === 0) this.#refresh();
  }

  #refresh(): void {
    const buffer = this.#memory.buffer;
    this.#u8 = new Uint8Array(buffer);
    this.#u32 = new Uint32Array(buffer);
    this.#i32 = new Int32Array(buffer);
    this.#f64 = new Float64Array(buffer);
  }

  get nbytes(): number {
    return this.#memory.buffer.byteLength;
  }

  /** The whole memory, until it grows. */
  get bytes(): Uint8Array<ArrayBuffer> {
    this.check();
    return this.#u8;
  }

  u8(address: number): number {
    return this.#u8[address] as number;
  }
  u32(address: number): number {
    return this.#u32[address >>> 2] as number;
  }
  i32(address: number): number {
    return this.#i32[address >>> 2] as number;
  }
  f64(address: number): number {
    return this.#f64[address >>> 3] as number;
  }
  setU8(address: number, value: number): void {
    this.#u8[address] = value;
  }
  setU32(address: number, value: number): void {
    this.#u32[address >>> 2] = value;
  }
  setF64(address: number, value: number): void {
    this.#f64[address >>> 3] = value;
  }

  /** A safe integer as 64 bits. */
  setInteger(address: number, value: number): void {
    const at = address >>> 2;
    this.#u32[at] = value;
    this.#u32[at + 1] = (value | 0) === value ? value >> 31 : Math.floor(value / 2 ** 32);
  }

  setBigInt(address: number, value: bigint): void {
    this.#u32[address >>> 2] = Number(BigInt.asUintN(32, value));
    this.#u32[(address >>> 2) + 1] = Number(BigInt.asUintN(32, value >> 32n));
  }

  /** 64 bits as a number where it is a safe integer, and as a bigint elsewhere. */
  integer(address: number): number | bigint {
    const small = this.#i32[address >>> 2] as number;
    const high = this.#i32[(address >>> 2) + 1] as number;
    if (high === small >> 31) return small;
    const low = small >>> 0;
    const value = high * 2 ** 32 + low;
    return Number.isSafeInteger(value) ? value : (BigInt(high) << 32n) | BigInt(low);
  }

  /** 64 bits that must be a safe integer: a dimension, an offset. */
  safeInteger(address: number, what: string): number {
    const value = this.integer(address);
    if (typeof value === 'number') return value;
    throw new RuntimeError('RangeError', `${what} is ${value}, beyond 2^53 - 1`);
  }

  /** `count` such integers. */
  safeIntegers(address: number, count: number, what: string): number[] {
    const values = new Array<number>(count);
    for (let i = 0; i < count; i++) values[i] = this.safeInteger(address + 8 * i, what);
    return values;
  }

  /** Copies of the text and the bytes at an address. */
  text(address: number, nbytes: number): string {
    const u8 = this.#u8;
    if (nbytes <= SHORT) {
      let text = '';
      let i = 0;
      for (; i < nbytes; i++) {
        const byte = u8[address + i] as number;
        if (byte >= 0x80) break;
        text += String.fromCharCode(byte);
      }
      if (i === nbytes) return text;
    }
    return decoder.decode(u8.subarray(address, address + nbytes));
  }

  /** A copy of the text before the first 0. */
  cString(address: number): string {
    return this.text(address, this.#u8.indexOf(0, address) - address);
  }

  copy(address: number, nbytes: number): Uint8Array<ArrayBuffer> {
    return this.#u8.slice(address, address + nbytes);
  }

  setBytes(address: number, bytes: Uint8Array): void {
    this.#u8.set(bytes, address);
  }

  /**
   * Writes a text and a 0 behind it, for which there must be room for 3 bytes a character and one more. Gives the bytes of
   * the text.
   */
  setText(address: number, text: string): number {
    const u8 = this.#u8;
    const { length } = text;
    if (length <= SHORT) {
      let i = 0;
      for (; i < length; i++) {
        const code = text.charCodeAt(i);
        if (code >= 0x80) break;
        u8[address + i] = code;
      }
      if (i === length) {
        u8[address + length] = 0;
        return length;
      }
    }
    // Not all that follows: Node writes nothing into an array of 2 GiB and more
    const { written } = encoder.encodeInto(text, u8.subarray(address, address + 3 * length));
    u8[address + written] = 0;
    return written;
  }
}

const ARENA_BYTES = 128 * 1024;
/** What is larger than this gets memory of its own. */
const LARGE_BYTES = 16 * 1024;

/**
 * Memory for what a call passes, taken as from a stack: a call notes `top` and `blocks`, reserves what it needs, and
 * gives it back with release(). Calls within calls do the same above it.
 */
export class Arena {
  readonly #exports: RuntimeExports;
  readonly #memory: Memory;
  readonly #end: number;
  #top: number;
  /** Addresses of what is too large, or came when all was in use. */
  readonly #blocks: number[] = [];

  constructor(exports: RuntimeExports, memory: Memory) {
    this.#exports = exports;
    this.#memory = memory;
    this.#top = exports.TVMWasmAllocSpace(ARENA_BYTES) >>> 0;
    if (this.#top === 0) throw exhausted(ARENA_BYTES);
    this.#end = this.#top + ARENA_BYTES;
    memory.check();
  }

  get top(): number {
    return this.#top;
  }

  get blocks(): number {
    return this.#blocks.length;
  }

  /** `nbytes` bytes at a multiple of 8. */
  reserve(nbytes: number): number {
    const top = this.#top + ((nbytes + 7) & ~7);
    if (nbytes > LARGE_BYTES || top > this.#end) return this.#reserveBlock(nbytes);
    const address = this.#top;
    this.#top = top;
    return address;
  }

  release(top: number, blocks: number): void {
    this.#top = top;
    while (this.#blocks.length > blocks) {
      this.#exports.TVMWasmFreeSpace(this.#blocks.pop() as number);
    }
  }

  #reserveBlock(nbytes: number): number {
    const address = nbytes > 0xffff_ff00 ? 0 : this.#exports.TVMWasmAllocSpace(nbytes) >>> 0;
    if (address === 0) throw exhausted(nbytes);
    this.#memory.check();
    this.#blocks.push(address);
    return address;
  }
}

function exhausted(nbytes: number): RuntimeError {
  return new RuntimeError(
    'MemoryError',
    `${nbytes} bytes could not be allocated in the wasm memory`,
    { actual: nbytes, hint: 'dispose tensors that are not needed any more' },
  );
}
