import { createMappedSlots, destroyAll, MAP_MODE_WRITE, mappedView } from './gpu_buffers.js';

/** Larger writes are left to the queue. */
const MAX_BYTES = 16 * 2 ** 20;
/** Buffers that are kept mapped; more exist while more writes are under way. */
const KEPT = 2;

interface Mapped {
  readonly buffer: GPUBuffer;
  /** All of it; empty once a device that was destroyed has taken it back. */
  readonly view: Uint8Array;
}

/**
 * Writes small things to buffers of a device through memory that stays mapped in between: queue.writeBuffer() makes a
 * staging buffer each time, which took an H100's driver 0.75 ms a MiB.
 */
export class MappedWriter {
  #device: GPUDevice | undefined;
  readonly #kept: Mapped[] = [];
  #closed = false;

  /** Queues a write of `bytes`, a multiple of 4, to `target` from byte `offset` on. They are the caller's again then. */
  async write(
    device: GPUDevice,
    target: GPUBuffer,
    offset: number,
    bytes: Uint8Array<ArrayBuffer>,
  ): Promise<void> {
    const mapped = await this.#mapped(device, bytes.byteLength);
    if (!mapped || mapped.view.byteLength === 0) {
      device.queue.writeBuffer(target, offset, bytes);
      return;
    }
    const { buffer, view } = mapped;
    view.set(bytes);
    buffer.unmap();
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(buffer, 0, target, offset, bytes.byteLength);
    device.queue.submit([encoder.finish()]);
    buffer.mapAsync(MAP_MODE_WRITE).then(
      () => {
        this.#keep(device, { buffer, view: mappedView(buffer) });
      },
      () => {
        buffer.destroy(); // the device is lost
      },
    );
  }

  /** Gives the memory back; what was written is written all the same. */
  close(): void {
    this.#closed = true;
    this.#release();
  }

  /** A mapped buffer of at least `nbytes` bytes; undefined where the queue is to write them. Never rejects. */
  async #mapped(device: GPUDevice, nbytes: number): Promise<Mapped | undefined> {
    if (this.#closed || nbytes === 0 || nbytes > MAX_BYTES) return undefined;
    if (device !== this.#device) {
      this.#release();
      this.#device = device;
    }
    const at = this.#kept.findIndex(({ view }) => view.byteLength >= nbytes);
    const [kept] = at < 0 ? [] : this.#kept.splice(at, 1);
    if (kept) return kept;
    try {
      const { buffers, made } = createMappedSlots(device, 1, 2 ** Math.ceil(Math.log2(nbytes)));
      await made;
      const [buffer] = buffers;
      return buffer && { buffer, view: mappedView(buffer) };
    } catch {
      return undefined; // the device has no memory for it, or is lost
    }
  }

  #keep(device: GPUDevice, mapped: Mapped): void {
    if (this.#closed || device !== this.#device) {
      mapped.buffer.destroy();
      return;
    }
    this.#kept.push(mapped);
    // Those of late are as large as the next
    this.#release(KEPT);
  }

  /** Gives back all but the last `count`. */
  #release(count = 0): void {
    const old = this.#kept.splice(0, Math.max(this.#kept.length - count, 0));
    destroyAll(old.map(({ buffer }) => buffer));
  }
}
