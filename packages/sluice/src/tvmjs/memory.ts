export { CachedCallStack } from './call_stack.js';
export type { PtrOffset } from './call_stack.js';
import { ANY_LENGTH, ANY_VALUE, OBJECT_TYPE, SPAN_SIZE } from '../runtime/abi.js';
import type { Pointer } from './types.js';

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** The wasm memory by address. Views are made again when it has grown. */
export class Memory {
  memory: WebAssembly.Memory;
  wasm32 = true;
  #view!: DataView;
  #bytes!: Uint8Array;

  constructor(memory: WebAssembly.Memory) {
    this.memory = memory;
    this.#refresh();
  }

  #refresh(): void {
    this.#view = new DataView(this.memory.buffer);
    this.#bytes = new Uint8Array(this.memory.buffer);
  }

  get #now(): DataView {
    if (this.#view.buffer !== this.memory.buffer) this.#refresh();
    return this.#view;
  }

  get #nowBytes(): Uint8Array {
    if (this.#view.buffer !== this.memory.buffer) this.#refresh();
    return this.#bytes;
  }

  loadU8(pointer: Pointer): number {
    return this.#now.getUint8(pointer);
  }
  loadU16(pointer: Pointer): number {
    return this.#now.getUint16(pointer, true);
  }
  loadU32(pointer: Pointer): number {
    return this.#now.getUint32(pointer, true);
  }
  loadI32(pointer: Pointer): number {
    return this.#now.getInt32(pointer, true);
  }
  /** Rounded beyond 2^53. */
  loadI64(pointer: Pointer): number {
    return Number(this.#now.getBigInt64(pointer, true));
  }
  /** Rounded beyond 2^53. */
  loadU64(pointer: Pointer): number {
    return Number(this.#now.getBigUint64(pointer, true));
  }
  loadF32(pointer: Pointer): number {
    return this.#now.getFloat32(pointer, true);
  }
  loadF64(pointer: Pointer): number {
    return this.#now.getFloat64(pointer, true);
  }
  loadPointer(pointer: Pointer): Pointer {
    return this.loadU32(pointer);
  }
  loadUSize(pointer: Pointer): Pointer {
    return this.loadU32(pointer);
  }
  sizeofPtr(): number {
    return 4;
  }

  /** A copy; what lies beyond the memory's end is 0. */
  loadRawBytes(pointer: Pointer, numBytes: number): Uint8Array {
    const copy = new Uint8Array(numBytes);
    copy.set(this.#nowBytes.subarray(pointer, pointer + numBytes));
    return copy;
  }

  /** The bytes where they lie, until the memory grows. Throws where they do not lie in it. */
  viewRawBytes(pointer: Pointer, numBytes: number): Uint8Array {
    const bytes = this.#nowBytes;
    if (!Number.isSafeInteger(pointer) || pointer < 0) {
      throw new Error(`Invalid Wasm memory pointer: ${pointer}`);
    }
    if (!Number.isSafeInteger(numBytes) || numBytes < 0) {
      throw new Error(`Invalid Wasm memory byte length: ${numBytes}`);
    }
    const end = pointer + numBytes;
    if (!Number.isSafeInteger(end) || end > bytes.byteLength) {
      throw new Error(
        `Wasm memory range [${pointer}, ${end}) exceeds memory size ${bytes.byteLength}`,
      );
    }
    return bytes.subarray(pointer, end);
  }

  /** The text at an address, up to its 0. */
  loadCString(pointer: Pointer): string {
    const bytes = this.#nowBytes;
    const end = bytes.indexOf(0, pointer);
    return this.#text(pointer, (end < 0 ? bytes.byteLength : end) - pointer);
  }

  storeRawBytes(pointer: Pointer, bytes: Uint8Array): void {
    this.#nowBytes.set(bytes, pointer);
  }

  loadObjectTypeIndex(objectHandle: Pointer): number {
    return this.loadI32(objectHandle + OBJECT_TYPE);
  }

  /** From a TVMFFITypeInfo. */
  loadTypeInfoTypeKey(typeInfo: Pointer): string {
    return this.loadByteArrayAsString(typeInfo + 8);
  }

  /** From a TVMFFIAny of a small string. */
  loadSmallStr(any: Pointer): string {
    return this.#text(any + ANY_VALUE, this.loadU32(any + ANY_LENGTH));
  }

  loadSmallBytes(any: Pointer): Uint8Array {
    return this.loadRawBytes(any + ANY_VALUE, this.loadU32(any + ANY_LENGTH));
  }

  /** From a TVMFFIByteArray. */
  loadByteArrayAsString(byteArray: Pointer): string {
    return this.#text(this.loadPointer(byteArray), this.loadUSize(byteArray + SPAN_SIZE));
  }

  loadByteArrayAsBytes(byteArray: Pointer): Uint8Array {
    return this.loadRawBytes(this.loadPointer(byteArray), this.loadUSize(byteArray + SPAN_SIZE));
  }

  #text(pointer: Pointer, numBytes: number): string {
    // A copy, since a shared memory cannot be decoded
    return decoder.decode(this.loadRawBytes(pointer, numBytes));
  }
}
