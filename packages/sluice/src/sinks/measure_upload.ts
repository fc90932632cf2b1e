import { asSluiceError } from '../errors.js';
import { orAborted } from '../util/abort.js';
import type { SluiceError } from '../errors.js';
import type { GpuSinkOptions, GpuSlotSink } from './gpu_buffers.js';
import { RingSink } from './ring_sink.js';
import type { Piece } from './sink.js';
import { WriteBufferSink } from './write_buffer_sink.js';

export type UploadPath = 'ring' | 'writeBuffer';

export interface UploadMeasurement {
  /** The faster path on this device; the ring where the difference is small. */
  readonly path: UploadPath;
  /** Bytes a second, filling the slot included; 0 where the path could not be measured. */
  readonly ringBytesPerSecond: number;
  readonly writeBufferBytesPerSecond: number;
  /** Why nothing was measured and `path` is a guess; absent otherwise. */
  readonly fallback?: SluiceError;
}

const BLOCK_BYTES = 2 * 2 ** 20;
const SLOTS = 3;
/** What a round should take, and the blocks it may have. */
const ROUND_MILLISECONDS = 6;
const MIN_BLOCKS = 2;
const MAX_BLOCKS = 12;
const ROUNDS = 3;
/** Rounds that the ring has to catch up in where writeBuffer seems faster. */
const ROUNDS_AGAINST_RING = 6;
/**
 * So little a difference may be an accident of the machine's other work, and a wrong choice of writeBuffer costs more:
 * loads on an H100 that made it, under Node and in Chromium, took four times as long (2026-11-23). There the GPU's
 * process was still busy with what came before, in the ring's rounds alone.
 */
const RING_ADVANTAGE = 1.25;
/** Time, from the first warm-up, after which no further round starts where the ring is ahead. */
const MILLISECONDS = 40;

/** A device's measurement, under way or done. */
interface Measuring {
  result: Promise<UploadMeasurement>;
  /** Callers that wait for it. */
  waiting: number;
  /** Releases what it holds, where it is under way. */
  stop: () => void;
}

const cache = new WeakMap<GPUDevice, Measuring>();

/**
 * Measures both upload paths on this device, in some 40 ms where the ring is faster, and releases what it used: about
 * 20 MiB on the CPU and 12 MiB on the device. One measurement a device: later calls get the first one's result. Out of
 * memory gives `writeBuffer` and says so in `fallback`. Rejects with `device_lost`, or with `aborted` as soon as
 * the signal says so; once nobody waits for a measurement, it is stopped and its memory released.
 */
export async function measureUpload(
  device: GPUDevice,
  signal?: AbortSignal,
): Promise<UploadMeasurement> {
  let measuring = cache.get(device);
  if (measuring === undefined) {
    measuring = measure(device);
    cache.set(device, measuring);
  }
  measuring.waiting++;
  try {
    return await orAborted(measuring.result, signal, () => undefined);
  } finally {
    if (--measuring.waiting === 0) measuring.stop();
  }
}

function measure(device: GPUDevice): Measuring {
  const ring = new Contestant(new RingSink(device));
  const writeBuffer = new Contestant(new WriteBufferSink(device));
  let done = false;
  const close = (): void => {
    ring.sink.close(false);
    writeBuffer.sink.close(false);
  };
  return {
    result: compete(ring, writeBuffer).finally(() => {
      done = true;
      close();
    }),
    waiting: 0,
    stop: () => {
      if (done) return;
      cache.delete(device);
      close();
    },
  };
}

async function compete(ring: Contestant, writeBuffer: Contestant): Promise<UploadMeasurement> {
  try {
    const begin = performance.now();
    await ring.warmUp();
    await writeBuffer.warmUp();
    // In turns, and the best round counts: whatever else the machine does then hits both alike.
    let ringWins = false;
    for (let round = 1; round <= (ringWins ? ROUNDS : ROUNDS_AGAINST_RING); round++) {
      if (ringWins && performance.now() - begin > MILLISECONDS) break;
      await ring.round();
      await writeBuffer.round();
      ringWins = ring.bytesPerSecond * RING_ADVANTAGE > writeBuffer.bytesPerSecond;
    }
    return {
      path: ringWins ? 'ring' : 'writeBuffer',
      ringBytesPerSecond: ring.bytesPerSecond,
      writeBufferBytesPerSecond: writeBuffer.bytesPerSecond,
    };
  } catch (cause) {
    const fallback = asSluiceError(cause);
    if (fallback.code === 'device_lost') throw fallback;
    return { path: 'writeBuffer', ringBytesPerSecond: 0, writeBufferBytesPerSecond: 0, fallback };
  }
}

/** A path under measurement, with a sink of its own. */
class Contestant {
  bytesPerSecond = 0;
  #blocks = MIN_BLOCKS;

  constructor(readonly sink: GpuSlotSink) {}

  /** Slots touch fresh memory on first use, and the first upload creates what the device keeps. */
  async warmUp(): Promise<void> {
    await this.sink.prepare(SLOTS, BLOCK_BYTES);
    await this.sink.allocate(0, { nbytes: SLOTS * BLOCK_BYTES, tensor: 'upload measurement' });
    await this.#run(SLOTS);
    const milliseconds = await this.#run(MIN_BLOCKS);
    const fitting = Math.floor((MIN_BLOCKS * ROUND_MILLISECONDS) / milliseconds);
    this.#blocks = Math.min(MAX_BLOCKS, Math.max(MIN_BLOCKS, fitting));
  }

  async round(): Promise<void> {
    const milliseconds = await this.#run(this.#blocks);
    const rate = (1000 * this.#blocks * BLOCK_BYTES) / milliseconds;
    this.bytesPerSecond = Math.max(this.bytesPerSecond, rate);
  }

  /** Fills and uploads `blocks` blocks through all slots; the milliseconds until they have arrived. */
  async #run(blocks: number): Promise<number> {
    const { sink } = this;
    const begin = performance.now();
    let started = 0;
    await Promise.all(
      Array.from({ length: SLOTS }, async (_, slot) => {
        while (started < blocks) {
          const piece: Piece = {
            slotOffset: 0,
            buffer: 0,
            bufferOffset: slot * BLOCK_BYTES,
            nbytes: BLOCK_BYTES,
          };
          sink.slot(slot).fill(++started);
          await sink.upload(slot, [piece]);
        }
      }),
    );
    await sink.flush();
    // Browsers may round the clock to 0.1 ms.
    return Math.max(performance.now() - begin, 0.1);
  }
}

export interface UploadSinkOptions extends GpuSinkOptions {
  /** `auto`, the default, measures the device once. */
  path?: UploadPath | 'auto';
  /** Stops the measurement. */
  signal?: AbortSignal | undefined;
}

/** A sink for the device at hand, not yet prepared. Rejects as measureUpload() does. */
export async function createUploadSink(
  device: GPUDevice,
  options: UploadSinkOptions = {},
): Promise<GpuSlotSink> {
  const { path = 'auto', signal, ...sinkOptions } = options;
  const chosen = path === 'auto' ? (await measureUpload(device, signal)).path : path;
  return chosen === 'ring'
    ? new RingSink(device, sinkOptions)
    : new WriteBufferSink(device, sinkOptions);
}
