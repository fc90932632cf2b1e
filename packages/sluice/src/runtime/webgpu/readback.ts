import { asSluiceError } from '../../errors.js';
import { BufferUsage } from '../../sinks/gpu_buffers.js';
import type { Batch } from './batch.js';
import type { GpuErrors } from './gpu_errors.js';
import { inWords } from './gpu_errors.js';

const MAP_READ = 0x1;
/** Sizes of staging buffers are powers of two up to here, and multiples of it above. */
const STEP = 2 ** 20;
const LEAST = 256;

/**
 * Reads buffers back through staging buffers that are kept for the next read, up to a number of bytes. Reads are copied with
 * the batch, in order with its other commands, and any number may be on their way.
 */
export class Readback {
  /** Bytes of staging buffers kept for reuse. */
  pooledBytes = 0;
  /** The last batch that has a read in it; 0 where the queue was given something else after that. */
  lastBatch = 0;
  readonly #device: GPUDevice;
  readonly #errors: GpuErrors;
  readonly #batch: Batch;
  readonly #mostPooledBytes: number;
  readonly #pool: GPUBuffer[] = [];
  readonly #busy = new Set<GPUBuffer>();
  readonly #landing = new Set<Promise<void>>();

  constructor(device: GPUDevice, errors: GpuErrors, batch: Batch, mostPooledBytes: number) {
    this.#device = device;
    this.#errors = errors;
    this.#batch = batch;
    this.#mostPooledBytes = mostPooledBytes;
  }

  /** How many reads are on their way, those of the batch that waits included. */
  get pending(): number {
    return this.#landing.size;
  }

  /**
   * Reads bytes [offset, offset + nbytes) as the commands collected so far leave them, at any alignment, and gives them to
   * `land`, which must not keep them. Resolves when that is done.
   */
  read(
    what: string,
    source: GPUBuffer,
    offset: number,
    nbytes: number,
    land: (bytes: Uint8Array) => void,
  ): Promise<void> {
    const begin = offset - (offset % 4);
    const copied = Math.ceil((offset + nbytes) / 4) * 4 - begin;
    const staging = this.#take(copied, what);
    this.#batch.copy(what, source, begin, staging, 0, copied);
    return this.#land(staging, copied, what, (bytes) => {
      land(bytes.subarray(offset - begin, offset - begin + nbytes));
    });
  }

  /** The same for a batch that is being closed: from the start of a buffer, a multiple of 4 bytes. */
  readFrom(
    encoder: GPUCommandEncoder,
    source: GPUBuffer,
    nbytes: number,
    what: string,
    land: (bytes: Uint8Array) => void,
  ): void {
    const staging = this.#take(nbytes, what);
    encoder.copyBufferToBuffer(source, 0, staging, 0, nbytes);
    // The device's timer asks for it, and waits for all reads
    this.#land(staging, nbytes, what, land).catch(() => undefined);
  }

  /** Resolves when all reads so far have landed or failed; a failure is the errors' to tell. */
  async landed(): Promise<void> {
    await Promise.allSettled(this.#landing);
  }

  dispose(): void {
    for (const buffer of [...this.#pool, ...this.#busy]) buffer.destroy();
    this.#pool.length = 0;
    this.#busy.clear();
    this.pooledBytes = 0;
  }

  #land(
    staging: GPUBuffer,
    nbytes: number,
    what: string,
    land: (bytes: Uint8Array) => void,
  ): Promise<void> {
    this.lastBatch = this.#batch.id;
    const mapped = new Promise<void>((resolve, reject) => {
      this.#batch.afterSubmit(() => {
        staging.mapAsync(MAP_READ, 0, nbytes).then(resolve, reject);
      });
    });
    const landing = this.#errors.lifeline
      .race(mapped)
      .then(() => {
        land(new Uint8Array(staging.getMappedRange(0, nbytes)));
        staging.unmap();
        this.#giveBack(staging);
      })
      .catch((cause: unknown) => {
        this.#busy.delete(staging);
        staging.destroy();
        const error = inWords(what, asSluiceError(cause));
        if (this.#errors.lifeline.error === undefined) this.#errors.add(error);
        throw error;
      })
      .finally(() => this.#landing.delete(landing));
    landing.catch(() => undefined);
    this.#landing.add(landing);
    return landing;
  }

  /** The smallest that is large enough, or a new one. */
  #take(nbytes: number, what: string): GPUBuffer {
    let best = -1;
    for (const [i, { size }] of this.#pool.entries()) {
      if (size >= nbytes && (best < 0 || size < (this.#pool[best]?.size ?? 0))) best = i;
    }
    let staging = best < 0 ? undefined : this.#pool.splice(best, 1)[0];
    if (staging === undefined) {
      const size = stagingSize(nbytes, this.#device.limits.maxBufferSize);
      staging = this.#errors.capture(`${what}: staging of ${size} bytes`, () =>
        this.#device.createBuffer({
          label: 'sluice read',
          size,
          usage: BufferUsage.MAP_READ | BufferUsage.COPY_DST,
        }),
      );
    } else {
      this.pooledBytes -= staging.size;
    }
    this.#busy.add(staging);
    return staging;
  }

  /** Keeps it, unless the pool would hold too much even without the oldest. */
  #giveBack(staging: GPUBuffer): void {
    this.#busy.delete(staging);
    if (staging.size > this.#mostPooledBytes) {
      staging.destroy();
      return;
    }
    this.#pool.push(staging);
    this.pooledBytes += staging.size;
    while (this.pooledBytes > this.#mostPooledBytes) {
      const oldest = this.#pool.shift();
      this.pooledBytes -= oldest?.size ?? 0;
      oldest?.destroy();
    }
  }
}

function stagingSize(nbytes: number, most: number): number {
  const size =
    nbytes < STEP
      ? Math.max(LEAST, 2 ** Math.ceil(Math.log2(nbytes)))
      : Math.ceil(nbytes / STEP) * STEP;
  return Math.min(size, Math.max(most, nbytes));
}
