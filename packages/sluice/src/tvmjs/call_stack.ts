import type { Memory } from './memory.js';
import type { Disposable, Pointer } from './types.js';

/** Where something lies in a call stack. */
export type PtrOffset = number;

const FIRST_BYTES = 128;
const encoder = new TextEncoder();

/**
 * What a call passes, written on this side and copied to the wasm memory at once: allocate and store, then
 * commitToWasmMemory(), then call with ptrFromOffset(), then reset() for the next call. The Instance writes arguments where
 * they are read instead; this is for code that packs its own.
 */
export class CachedCallStack implements Disposable {
  /** Ended by reset(). */
  tempArgs: Disposable[] = [];
  readonly #memory: Pick<Memory, 'sizeofPtr' | 'storeRawBytes'>;
  readonly #allocate: (size: number) => Pointer;
  readonly #free: (pointer: Pointer) => void;
  #bytes!: Uint8Array<ArrayBuffer>;
  #view!: DataView<ArrayBuffer>;
  #top = 0;
  #base: Pointer;
  /** Pointers and what they point to, as offsets: the base may change until they are committed. */
  readonly #pointers: [at: PtrOffset, to: PtrOffset][] = [];

  constructor(
    memory: Pick<Memory, 'sizeofPtr' | 'storeRawBytes'>,
    allocSpace: (size: number) => Pointer,
    freeSpace: (pointer: Pointer) => void,
  ) {
    this.#memory = memory;
    this.#allocate = allocSpace;
    this.#free = freeSpace;
    this.#resize(FIRST_BYTES);
    this.#base = this.#reserve(FIRST_BYTES);
  }

  /** What commitToWasmMemory() copies from. */
  get buffer(): ArrayBuffer {
    return this.#bytes.buffer;
  }

  /** Gives its wasm memory back. */
  dispose(): void {
    if (this.#base !== 0) this.#free(this.#base);
    this.#base = 0;
  }

  /** Makes it empty. Throws where pointers were stored and not committed. */
  reset(): void {
    this.#top = 0;
    if (this.#pointers.length > 0) {
      throw new Error(
        `a call stack is reset with ${this.#pointers.length} pointers that were not committed`,
      );
    }
    for (let each = this.tempArgs.pop(); each; each = this.tempArgs.pop()) each.dispose();
  }

  /** Copies the first `nbytes` bytes to the wasm memory, pointers included. */
  commitToWasmMemory(nbytes = this.#top): void {
    for (let each = this.#pointers.pop(); each; each = this.#pointers.pop()) {
      this.storePtr(each[0], this.ptrFromOffset(each[1]));
    }
    this.#memory.storeRawBytes(this.#base, this.#bytes.subarray(0, nbytes));
  }

  /** Room for so many bytes, rounded up to a multiple of 8. */
  allocRawBytes(nbytes: number): PtrOffset {
    const offset = this.#top;
    const top = offset + Math.ceil(nbytes / 8) * 8;
    if (top > this.#bytes.length) {
      const size = Math.max(2 * this.#bytes.length, top);
      this.#resize(size);
      this.dispose();
      this.#base = this.#reserve(size);
    }
    this.#top = top;
    return offset;
  }

  allocPtrArray(count: number): PtrOffset {
    return this.allocRawBytes(this.#memory.sizeofPtr() * count);
  }

  /** Its address, until something more is allocated. */
  ptrFromOffset(offset: PtrOffset): Pointer {
    return this.#base + offset;
  }

  storePtr(offset: PtrOffset, value: Pointer): void {
    this.storeU32(offset, value);
  }
  storeUSize(offset: PtrOffset, value: Pointer): void {
    this.storeU32(offset, value);
  }
  storeI32(offset: PtrOffset, value: number): void {
    this.#view.setInt32(offset, value, true);
  }
  storeU32(offset: PtrOffset, value: number): void {
    this.#view.setUint32(offset, value, true);
  }
  /** An integer of at most 2^53. */
  storeI64(offset: PtrOffset, value: number): void {
    this.#view.setBigInt64(offset, BigInt(value), true);
  }
  storeF64(offset: PtrOffset, value: number): void {
    this.#view.setFloat64(offset, value, true);
  }
  storeRawBytes(offset: PtrOffset, bytes: Uint8Array): void {
    this.#bytes.set(bytes, offset);
  }

  /** A TVMFFIByteArray of a text in UTF-8. */
  allocByteArrayForString(data: string): PtrOffset {
    return this.#allocByteArray(encoder.encode(data));
  }

  /** Sets the pointer at `offset` to a text in UTF-8 with a 0 behind it. */
  allocThenSetArgString(offset: PtrOffset, data: string): void {
    this.#pointers.push([offset, this.#allocBytes(encoder.encode(`${data}\0`))]);
  }

  /** Sets the pointer at `offset` to a TVMFFIByteArray of bytes. */
  allocThenSetArgBytes(offset: PtrOffset, data: Uint8Array): void {
    this.#pointers.push([offset, this.#allocByteArray(data)]);
  }

  #allocByteArray(bytes: Uint8Array): PtrOffset {
    const header = this.allocRawBytes(2 * this.#memory.sizeofPtr());
    this.#pointers.push([header, this.#allocBytes(bytes)]);
    this.storeUSize(header + this.#memory.sizeofPtr(), bytes.length);
    return header;
  }

  #allocBytes(bytes: Uint8Array): PtrOffset {
    const offset = this.allocRawBytes(bytes.length);
    this.storeRawBytes(offset, bytes);
    return offset;
  }

  #resize(size: number): void {
    const bytes = new Uint8Array(size);
    // Not there yet in the constructor
    if (this.#top > 0) bytes.set(this.#bytes.subarray(0, this.#top));
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer);
  }

  #reserve(size: number): Pointer {
    const pointer = this.#allocate(size) >>> 0;
    if (pointer === 0)
      throw new Error(`${size} bytes of wasm memory for a call's arguments: none left`);
    return pointer;
  }
}
