import { createMappedSlots, destroyAll } from './gpu_buffers.js';

const MAP_MODE_WRITE = 0x2;
/** Larger writes are left to the queue. */
const MAX_BYTES = 16 * 2 ** 20;
/** Buffers that are kept mapped; more exist while more writes are under way. */
const KEPT = 2;

/** Memory for the bytes of one write: between begin() and send() or drop(). */
export interface MappedWrite {
  /** Zeros, or the bytes of a write before; at least as many as were asked for. */
  readonly bytes: Uint8Array;
  readonly buffer: GPUBuffer;
}

/**
 * Writes small things to buffers of a device through memory that stays mapped in between: queue.writeBuffer() makes a
 * staging buffer each time, which took an H100's driver 0.75 ms a MiB.
 */
export class MappedWriter {
  #device: GPUDevice | undefined;
  #kept: MappedWrite[] = [];
  #closed = false;

  /** Memory for `nbytes` bytes; undefined where the queue is to write them. Never rejects. */
  async begin(device: GPUDevice, nbytes: number): Promise<MappedWrite | undefined> {
    if (this.#closed || nbytes === 0 || nbytes > MAX_BYTES) return undefined;
    if (device !== this.#device) {
      this.#release();
      this.#device = device;
    }
    const at = this.#kept.findIndex(({ bytes }) => bytes.byteLength >= nbytes);
    const [kept] = at < 0 ? [] : this.#kept.splice(at, 1);
    // That of a lost device has no memory any more
    if (kept && kept.bytes.byteLength > 0) return kept;
    try {
      const { buffers, made } = createMappedSlots(device, 1, 2 ** Math.ceil(Math.log2(nbytes)));
      await made;
      const [buffer] = buffers;
      return buffer && { buffer, bytes: new Uint8Array(buffer.getMappedRange()) };
    } catch {
      return undefined; // the device has no memory for it, or is lost
    }
  }

  /** Queues a copy of the first `nbytes` bytes, a multiple of 4, to `target` from byte `offset` on. */
  send(
    device: GPUDevice,
    { buffer }: MappedWrite,
    nbytes: number,
    target: GPUBuffer,
    offset: number,
  ): void {
    buffer.unmap();
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, target, offset, nbytes);
    device.queue.submit([encoder.finish()]);
    buffer.mapAsync(MAP_MODE_WRITE).then(
      () => {
        this.#keep(device, { buffer, bytes: new Uint8Array(buffer.getMappedRange()) });
      },
      () => {
        buffer.destroy(); // the device is lost
      },
    );
  }

  /** Nothing is to be written after all. */
  drop(device: GPUDevice, write: MappedWrite): void {
    this.#keep(device, write);
  }

  /** Gives the memory back; what was sent is written all the same. */
  close(): void {
    this.#closed = true;
    this.#release();
  }

  #keep(device: GPUDevice, write: MappedWrite): void {
    if (this.#closed || device !== this.#device) {
      write.buffer.destroy();
      return;
    }
    this.#kept.push(write);
    // Those of late are as large as the next
    destroyAll(this.#kept.splice(0, this.#kept.length - KEPT).map(({ buffer }) => buffer));
  }

  #release(): void {
    destroyAll(this.#kept.map(({ buffer }) => buffer));
    this.#kept = [];
  }
}
