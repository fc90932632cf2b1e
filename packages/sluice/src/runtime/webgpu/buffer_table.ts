import { SluiceError } from '../../errors.js';
import type { CachedGroup } from './bind_groups.js';

/** One buffer, as long as its handle is valid. */
export interface BufferEntry {
  readonly handle: number;
  readonly buffer: GPUBuffer;
  /** Bytes that were asked for; the buffer has these, rounded up to a multiple of 4, and at least 4. */
  readonly nbytes: number;
  /** The last batch of commands that uses it. */
  batch: number;
  /** The bind groups that hold it. */
  readonly groups: Set<CachedGroup>;
}

/** The device's handles: from 1, each an index of the table; 0 is null. Those of freed buffers are given out again. */
export class BufferTable {
  readonly #entries: (BufferEntry | undefined)[] = [undefined];
  readonly #free: number[] = [];
  #allocatedBytes = 0;
  #peakBytes = 0;
  #totalBytes = 0;

  /** Takes over a buffer, of which `nbytes` bytes are somebody's. */
  add(buffer: GPUBuffer, nbytes: number): BufferEntry {
    const handle = this.#free.pop() ?? this.#entries.length;
    const entry = { handle, buffer, nbytes, batch: 0, groups: new Set<CachedGroup>() };
    this.#entries[handle] = entry;
    this.#allocatedBytes += buffer.size;
    this.#totalBytes += buffer.size;
    this.#peakBytes = Math.max(this.#peakBytes, this.#allocatedBytes);
    return entry;
  }

  /** Throws `invalid_argument` unless `handle` is that of a live buffer. */
  get(handle: number, what: string): BufferEntry {
    const entry = this.#entries[handle];
    if (entry === undefined) throw noBuffer(handle, what);
    return entry;
  }

  /** The entry, or undefined. */
  find(handle: number): BufferEntry | undefined {
    return this.#entries[handle];
  }

  /** Forgets a buffer; the handle is free from now on. */
  remove(entry: BufferEntry): void {
    this.#entries[entry.handle] = undefined;
    this.#free.push(entry.handle);
    this.#allocatedBytes -= entry.buffer.size;
  }

  /** All live buffers. */
  live(): BufferEntry[] {
    return this.#entries.filter((entry) => entry !== undefined);
  }

  stats(): { buffers: number; allocatedBytes: number; peakBytes: number; totalBytes: number } {
    return {
      buffers: this.#entries.length - 1 - this.#free.length,
      allocatedBytes: this.#allocatedBytes,
      peakBytes: this.#peakBytes,
      totalBytes: this.#totalBytes,
    };
  }
}

/** What is wrong with a handle that names no buffer. */
export function noBuffer(handle: unknown, what: string): SluiceError {
  const why =
    handle === 0
      ? 'the null handle was given for a GPU buffer'
      : `${String(handle)} is not the handle of a GPU buffer`;
  return new SluiceError('invalid_argument', `${what}: ${why}`, {
    hint: 'it may have been freed, or be the address of a tensor on the CPU',
  });
}
