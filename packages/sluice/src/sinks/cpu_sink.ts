import { SluiceError } from '../errors.js';
import { checkPlan, checkRange } from './pieces.js';
import type { BufferPlan, DirectSink } from './sink.js';

/** Puts each buffer into an ArrayBuffer of its own, of exactly its size. */
export class CpuSink implements DirectSink {
  readonly kind = 'direct';
  readonly #entries = new Map<number, { plan: BufferPlan; bytes: Uint8Array<ArrayBuffer> }>();
  #closed = false;

  /** Rejects with `out_of_device_memory` (the device being the CPU) where the memory cannot be had. */
  async allocate(index: number, plan: BufferPlan): Promise<void> {
    const { tensor, nbytes } = plan;
    this.#checkOpen();
    checkPlan(index, plan);
    if (this.#entries.has(index)) {
      throw new SluiceError('internal', `tensor "${tensor}": buffer ${index} is allocated twice`, {
        tensor,
      });
    }
    let bytes: Uint8Array<ArrayBuffer>;
    try {
      bytes = new Uint8Array(nbytes);
    } catch (cause) {
      let held = 0;
      for (const entry of this.#entries.values()) held += entry.plan.nbytes;
      throw new SluiceError(
        'out_of_device_memory',
        `tensor "${tensor}": ${nbytes} bytes could not be allocated in CPU memory beside the ${held} bytes ` +
          'already allocated',
        {
          tensor,
          actual: nbytes,
          hint: 'place this tensor on disk, or choose a smaller model',
          cause,
        },
      );
    }
    this.#entries.set(index, { plan, bytes });
  }

  /** Buffer `index`, once allocate() has resolved. The caller's after close(true). */
  buffer(index: number): ArrayBuffer {
    return this.#entry(index).bytes.buffer;
  }

  write(index: number, offset: number, bytes: Uint8Array): void {
    this.view(index, offset, bytes.byteLength).set(bytes);
  }

  view(index: number, offset: number, nbytes: number): Uint8Array {
    this.#checkOpen();
    const entry = this.#entry(index);
    checkRange(index, entry.plan, offset, nbytes);
    return entry.bytes.subarray(offset, offset + nbytes);
  }

  async flush(): Promise<void> {
    this.#checkOpen();
  }

  close(keepBuffers: boolean): void {
    this.#closed = true;
    if (!keepBuffers) this.#entries.clear();
  }

  #checkOpen(): void {
    if (this.#closed) throw new SluiceError('aborted', 'the CPU sink was closed');
  }

  #entry(index: number): { plan: BufferPlan; bytes: Uint8Array<ArrayBuffer> } {
    const entry = this.#entries.get(index);
    if (entry === undefined) throw new SluiceError('internal', `buffer ${index} is not allocated`);
    return entry;
  }
}
