import { BufferUsage } from '../../sinks/gpu_buffers.js';
import type { Readback } from './readback.js';

/** https://www.w3.org/TR/webgpu/#buffer-usage */
const QUERY_RESOLVE = 0x200;
/** Dispatches of one batch at most; https://www.w3.org/TR/webgpu/#dom-gpudevice-createqueryset allows 4096 queries. */
const MOST_PASSES = 256;

/** Time of one kernel on the GPU. */
export interface KernelTime {
  count: number;
  /** Sum, as the device's clock tells it: browsers round it, mostly to 0.1 ms. */
  nanoseconds: number;
}

/** Writes the device's clock before and after each dispatch of a batch. */
export class PassTimer {
  readonly times = new Map<string, KernelTime>();
  readonly #readback: Readback;
  readonly #queries: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  #names: string[] = [];

  constructor(device: GPUDevice, readback: Readback) {
    this.#readback = readback;
    this.#queries = device.createQuerySet({ type: 'timestamp', count: 2 * MOST_PASSES });
    this.#resolved = device.createBuffer({
      label: 'sluice timestamps',
      size: 16 * MOST_PASSES,
      usage: QUERY_RESOLVE | BufferUsage.COPY_SRC,
    });
  }

  /** The batch must be submitted before its next dispatch. */
  get full(): boolean {
    return this.#names.length === MOST_PASSES;
  }

  /** For the pass of one dispatch. */
  next(name: string): GPUComputePassTimestampWrites {
    const at = 2 * this.#names.push(name);
    return {
      querySet: this.#queries,
      beginningOfPassWriteIndex: at - 2,
      endOfPassWriteIndex: at - 1,
    };
  }

  /** Adds to the batch what brings its times back. */
  resolve(encoder: GPUCommandEncoder): void {
    const names = this.#names;
    if (names.length === 0) return;
    this.#names = [];
    const nbytes = 16 * names.length;
    encoder.resolveQuerySet(this.#queries, 0, 2 * names.length, this.#resolved, 0);
    this.#readback.readFrom(encoder, this.#resolved, nbytes, 'reading timestamps', (bytes) => {
      const ticks = new BigUint64Array(bytes.slice().buffer);
      for (const [i, name] of names.entries()) {
        const [begin = 0n, end = 0n] = ticks.subarray(2 * i, 2 * i + 2);
        const time = this.times.get(name) ?? { count: 0, nanoseconds: 0 };
        time.count++;
        // A clock that was set back in between tells nothing
        time.nanoseconds += Math.max(0, Number(end - begin));
        this.times.set(name, time);
      }
    });
  }

  destroy(): void {
    this.#queries.destroy();
    this.#resolved.destroy();
  }
}
