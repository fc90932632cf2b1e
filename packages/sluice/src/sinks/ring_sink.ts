import { asSluiceError, SluiceError } from '../errors.js';
import {
  createMappedSlots,
  destroyAll,
  GpuBuffers,
  gpuFailure,
  inErrorScopes,
  lostError,
  MAP_MODE_WRITE,
  mappedView,
  QUEUED,
  queueDone,
  scopedFailure,
  watchDevice,
} from './gpu_buffers.js';
import type { GpuSinkOptions, GpuSlotSink } from './gpu_buffers.js';
import type { Conversion } from './conversion.js';
import { Expander } from './expander.js';
import { Lifeline } from './lifeline.js';
import { checkPieces, checkSlots } from './pieces.js';
import type { BufferPlan, Piece } from './sink.js';

interface Slot {
  readonly buffer: GPUBuffer;
  /** The mapped range; undefined while an upload holds the slot. */
  view: Uint8Array | undefined;
}

/**
 * Uploads through a ring of staging buffers that stay mapped while they are filled: bytes are written
 * where the device reads them. The fastest path on real GPUs. One thread: the device's.
 */
export class RingSink implements GpuSlotSink {
  readonly kind = 'slots';
  readonly path = 'ring';
  readonly #device: GPUDevice;
  readonly #lifeline = new Lifeline();
  readonly #buffers: GpuBuffers;
  readonly #expander: Expander;
  readonly #unwatch: () => void;
  readonly #uploads = new Set<Promise<void>>();
  #staging: GPUBuffer[] = [];
  #slots: Slot[] = [];
  #slotBytes = 0;

  constructor(device: GPUDevice, options: GpuSinkOptions = {}) {
    this.#device = device;
    this.#unwatch = watchDevice(device, this.#lifeline);
    this.#buffers = new GpuBuffers(device, this.#lifeline, options.usage);
    this.#expander = new Expander(device, this.#lifeline, this.#buffers);
  }

  async prepare(
    slots: number,
    slotBytes: number,
    conversions: readonly Conversion[] = [],
  ): Promise<void> {
    this.#lifeline.check();
    checkSlots(slots, slotBytes);
    if (this.#slotBytes !== 0) throw new SluiceError('internal', 'prepare() was called twice');
    this.#slotBytes = slotBytes;
    const made = this.#staging;
    const kept = made.filter((buffer, i) => buffer.size === slotBytes && i < slots);
    this.#staging = kept;
    destroyAll(made.filter((buffer) => !kept.includes(buffer)));
    this.#stage(slots - kept.length, slotBytes);
    // Pipelines are compiled while the device makes the slots
    if (conversions.length > 0) await this.#expander.prepare(slotBytes, conversions);
    this.#lifeline.check();
    this.#slots = this.#staging.map((buffer) => ({ buffer, view: mappedView(buffer) }));
  }

  makeSlots(slots: number, slotBytes: number): void {
    if (this.#lifeline.error !== undefined || this.#slotBytes !== 0) return;
    try {
      this.#stage(slots - this.#staging.length, slotBytes);
    } catch (error) {
      this.#lifeline.end(asSluiceError(error));
    }
  }

  #stage(slots: number, slotBytes: number): void {
    if (slots <= 0) return;
    const { buffers, made } = createMappedSlots(this.#device, slots, slotBytes);
    this.#staging.push(...buffers);
    made.catch(async (cause: unknown) => {
      this.#lifeline.end(await gpuFailure(this.#lifeline, 'making staging slots', cause));
    });
  }

  allocate(index: number, plan: BufferPlan): Promise<void> {
    return this.#buffers.allocate(index, plan);
  }

  buffer(index: number): GPUBuffer {
    return this.#buffers.buffer(index);
  }

  slot(index: number): Uint8Array {
    this.#lifeline.check();
    const view = this.#slots[index]?.view;
    if (view === undefined) throw slotFault(index, this.#slots.length);
    if (view.byteLength === 0) {
      // Only a destroyed device takes mapped memory away, and it says so a moment later
      this.#lifeline.end(lostError({ reason: 'destroyed', message: '' }));
      this.#lifeline.check();
    }
    return view;
  }

  async upload(index: number, pieces: readonly Piece[]): Promise<void> {
    this.#lifeline.check();
    const slot = this.#slots[index];
    if (slot?.view === undefined) throw slotFault(index, this.#slots.length);
    checkPieces(pieces, this.#slotBytes, (buffer) => this.#buffers.plan(buffer));
    this.#expander.check(pieces);
    if (pieces.length === 0) return;
    slot.view = undefined;
    const upload = this.#send(slot, pieces);
    this.#uploads.add(upload);
    try {
      await upload;
    } finally {
      this.#uploads.delete(upload);
    }
  }

  async flush(): Promise<void> {
    // A failed upload ends the lifeline, so its rejection is not lost here.
    await Promise.allSettled([...this.#uploads]);
    this.#lifeline.check();
    await queueDone(this.#device, this.#lifeline);
  }

  close(keepBuffers: boolean): void {
    this.#unwatch();
    this.#lifeline.end(new SluiceError('aborted', 'the upload sink was closed'));
    destroyAll(this.#staging);
    this.#slots = [];
    this.#expander.close();
    this.#buffers.close(keepBuffers);
  }

  onEnd(listener: (error: SluiceError) => void): void {
    this.#lifeline.onEnd(listener);
  }

  async #send(slot: Slot, pieces: readonly Piece[]): Promise<void> {
    try {
      const packed = this.#expander.span(pieces);
      const queue = (): void => {
        slot.buffer.unmap();
        const encoder = this.#device.createCommandEncoder();
        for (const { slotOffset, buffer, bufferOffset, nbytes, expand } of pieces) {
          if (expand !== undefined) continue;
          const target = this.#buffers.buffer(buffer);
          encoder.copyBufferToBuffer(slot.buffer, slotOffset, target, bufferOffset, nbytes);
        }
        if (packed) {
          const { offset, nbytes } = packed;
          encoder.copyBufferToBuffer(slot.buffer, offset, this.#expander.scratch, offset, nbytes);
          this.#expander.expand(pieces, encoder);
        } else {
          this.#device.queue.submit([encoder.finish()]);
        }
      };
      const scoped = inErrorScopes(this.#device, queue, QUEUED);
      const mapped = slot.buffer.mapAsync(MAP_MODE_WRITE);
      const [{ error }] = await this.#lifeline.race(Promise.all([scoped, mapped]));
      if (error) throw scopedFailure('uploading a slot', error);
      slot.view = mappedView(slot.buffer);
    } catch (cause) {
      const error = await gpuFailure(this.#lifeline, 'uploading a slot', cause);
      this.#lifeline.end(error);
      throw error;
    }
  }
}

const slotFault = (index: number, slots: number): SluiceError =>
  new SluiceError(
    'internal',
    `staging slot ${index} of ${slots} is held by an upload or does not exist`,
  );
