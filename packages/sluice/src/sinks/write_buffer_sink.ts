import { SluiceError } from '../errors.js';
import {
  GpuBuffers,
  gpuFailure,
  inErrorScopes,
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
  readonly bytes: Uint8Array<ArrayBuffer>;
  held: boolean;
}

export interface WriteBufferSinkOptions extends GpuSinkOptions {
  /**
   * Most bytes that may be on their way to the device beside the slots, default as many as the slots hold:
   * a plan counts each slot twice. A single upload is always let through.
   */
  inFlightBytes?: number;
}

/**
 * Uploads with `queue.writeBuffer` from ordinary memory. The implementation copies each write into
 * staging of its own, so a slot is free again at once and the bytes on their way come on top of the slots:
 * at most `inFlightBytes`, which upload() waits for. One thread: the device's.
 */
export class WriteBufferSink implements GpuSlotSink {
  readonly kind = 'slots';
  readonly path = 'writeBuffer';
  readonly queuesLater = true;
  readonly #device: GPUDevice;
  readonly #lifeline = new Lifeline();
  readonly #buffers: GpuBuffers;
  readonly #expander: Expander;
  readonly #unwatch: () => void;
  readonly #uploads = new Set<Promise<void>>();
  /** Uploads that wait for room, oldest first. */
  readonly #waiting: { nbytes: number; go: () => void }[] = [];
  readonly #limitAsked: number | undefined;
  #slots: Slot[] = [];
  #slotBytes = 0;
  #inFlight = 0;
  #peakInFlight = 0;

  constructor(device: GPUDevice, options: WriteBufferSinkOptions = {}) {
    this.#device = device;
    this.#unwatch = watchDevice(device, this.#lifeline);
    this.#buffers = new GpuBuffers(device, this.#lifeline, options.usage);
    this.#expander = new Expander(device, this.#lifeline, this.#buffers);
    this.#limitAsked = options.inFlightBytes;
  }

  /** Most bytes on their way to the device, beside the slots. Known after prepare(). */
  get inFlightBytes(): number {
    return this.#limitAsked ?? this.#slots.length * this.#slotBytes;
  }

  /** The most bytes that were on their way at once. */
  get peakInFlightBytes(): number {
    return this.#peakInFlight;
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
    try {
      for (let i = 0; i < slots; i++) {
        this.#slots.push({ bytes: new Uint8Array(slotBytes), held: false });
      }
    } catch (cause) {
      this.#slots = [];
      throw new SluiceError(
        'out_of_device_memory',
        `${slots} staging slots of ${slotBytes} bytes could not be allocated in CPU memory`,
        { actual: slots * slotBytes, hint: 'choose a smaller budget', cause },
      );
    }
    if (conversions.length > 0) await this.#expander.prepare(slotBytes, conversions);
    this.#lifeline.check();
  }

  allocate(index: number, plan: BufferPlan): Promise<void> {
    return this.#buffers.allocate(index, plan);
  }

  buffer(index: number): GPUBuffer {
    return this.#buffers.buffer(index);
  }

  slot(index: number): Uint8Array {
    this.#lifeline.check();
    return this.#freeSlot(index).bytes;
  }

  async upload(index: number, pieces: readonly Piece[]): Promise<void> {
    this.#lifeline.check();
    const slot = this.#freeSlot(index);
    const nbytes = checkPieces(pieces, this.#slotBytes, (buffer) => this.#buffers.plan(buffer));
    this.#expander.check(pieces);
    if (pieces.length === 0) return;
    slot.held = true;
    const go = (): void => {
      this.#send(slot, pieces, nbytes);
      slot.held = false;
    };
    if (this.#waiting.length === 0 && this.#hasRoom(nbytes)) {
      go();
      return;
    }
    await this.#lifeline.race(
      new Promise<void>((resolve) => {
        this.#waiting.push({
          nbytes,
          go: () => {
            go();
            resolve();
          },
        });
      }),
    );
  }

  async flush(): Promise<void> {
    while (this.#uploads.size > 0) {
      await this.#lifeline.race(Promise.all([...this.#uploads]));
    }
    this.#lifeline.check();
    await queueDone(this.#device, this.#lifeline);
  }

  close(keepBuffers: boolean): void {
    this.#unwatch();
    this.#lifeline.end(new SluiceError('aborted', 'the upload sink was closed'));
    this.#waiting.length = 0;
    this.#slots = [];
    this.#expander.close();
    this.#buffers.close(keepBuffers);
  }

  onEnd(listener: (error: SluiceError) => void): void {
    this.#lifeline.onEnd(listener);
  }

  #freeSlot(index: number): Slot {
    const slot = this.#slots[index];
    if (slot === undefined || slot.held) {
      throw new SluiceError(
        'internal',
        `staging slot ${index} of ${this.#slots.length} is held by an upload or does not exist`,
      );
    }
    return slot;
  }

  #hasRoom(nbytes: number): boolean {
    return this.#inFlight === 0 || this.#inFlight + nbytes <= this.inFlightBytes;
  }

  #send(slot: Slot, pieces: readonly Piece[], nbytes: number): void {
    this.#inFlight += nbytes;
    this.#peakInFlight = Math.max(this.#peakInFlight, this.#inFlight);
    const scoped = inErrorScopes(this.#device, () => {
      const { queue } = this.#device;
      for (const { slotOffset, buffer, bufferOffset, nbytes: length, expand } of pieces) {
        if (expand !== undefined) continue;
        queue.writeBuffer(
          this.#buffers.buffer(buffer),
          bufferOffset,
          slot.bytes,
          slotOffset,
          length,
        );
      }
      const packed = this.#expander.span(pieces);
      if (packed) {
        const { offset, nbytes: length } = packed;
        queue.writeBuffer(this.#expander.scratch, offset, slot.bytes, offset, length);
        this.#expander.expand(pieces, this.#device.createCommandEncoder());
      }
      // Writes wait for the next submission otherwise, and their staging with them.
      queue.submit([]);
    });
    const upload = this.#arrival(scoped, nbytes);
    this.#uploads.add(upload);
    void upload.then(() => this.#uploads.delete(upload));
  }

  /** Waits for an upload and lets the next ones in. Never rejects: a failure ends the lifeline. */
  async #arrival(scoped: ReturnType<typeof inErrorScopes<void>>, nbytes: number): Promise<void> {
    try {
      const done = this.#device.queue.onSubmittedWorkDone();
      const [{ error }] = await this.#lifeline.race(Promise.all([scoped, done]));
      if (error) throw scopedFailure('uploading a slot', error);
      this.#inFlight -= nbytes;
      for (;;) {
        const next = this.#waiting[0];
        if (next === undefined || !this.#hasRoom(next.nbytes)) break;
        this.#waiting.shift();
        next.go();
      }
    } catch (cause) {
      this.#lifeline.end(await gpuFailure(this.#lifeline, 'uploading a slot', cause));
    }
  }
}
