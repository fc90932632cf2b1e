import { asSluiceError } from '../errors.js';
import type { SluiceError } from '../errors.js';
import type { GpuSinkOptions, GpuSlotSink } from './gpu_buffers.js';
import { RingSink } from './ring_sink.js';
import type { Piece } from './sink.js';
import { WriteBufferSink } from './write_buffer_sink.js';

export type UploadPath = 'ring' | 'writeBuffer';

export interface UploadMeasurement {
  /** The faster path on this device. */
  readonly path: UploadPath;
  /** Bytes a second, filling the slot included; 0 where the path could not be measured. */
  readonly ringBytesPerSecond: number;
  readonly writeBufferBytesPerSecond: number;
  /** Why nothing was measured and `path` is a guess; absent otherwise. */
  readonly fallback?: SluiceError;
}

const BLOCK_BYTES = 4 * 2 ** 20;
const SLOTS = 3;
/** Time after which a path starts no further block, warm-up apart. */
const MILLISECONDS = 20;
const MIN_BLOCKS = 2;
const MAX_BLOCKS = 16;

const cache = new WeakMap<GPUDevice, Promise<UploadMeasurement>>();

/**
 * Measures both upload paths on this device for some 20 ms each and releases what it used (about 40 MiB
 * at a time). One measurement a device: later calls get the first one's result. Out of memory gives
 * `writeBuffer` and says so in `fallback`. Rejects only with `device_lost`.
 */
export function measureUpload(device: GPUDevice): Promise<UploadMeasurement> {
  let measurement = cache.get(device);
  if (measurement === undefined) {
    measurement = measure(device);
    cache.set(device, measurement);
  }
  return measurement;
}

async function measure(device: GPUDevice): Promise<UploadMeasurement> {
  try {
    const source = new Uint8Array(BLOCK_BYTES).fill(0x5a);
    const ringBytesPerSecond = await rate(new RingSink(device), source);
    const writeBufferBytesPerSecond = await rate(new WriteBufferSink(device), source);
    const path = ringBytesPerSecond > writeBufferBytesPerSecond ? 'ring' : 'writeBuffer';
    return { path, ringBytesPerSecond, writeBufferBytesPerSecond };
  } catch (cause) {
    const fallback = asSluiceError(cause);
    if (fallback.code === 'device_lost') throw fallback;
    return { path: 'writeBuffer', ringBytesPerSecond: 0, writeBufferBytesPerSecond: 0, fallback };
  }
}

/** Bytes a second of a sink of its own, which it closes. */
async function rate(sink: GpuSlotSink, source: Uint8Array): Promise<number> {
  try {
    await sink.prepare(SLOTS, BLOCK_BYTES);
    await sink.allocate(0, { nbytes: SLOTS * BLOCK_BYTES, tensor: 'upload measurement' });
    const send = (slot: number): Promise<void> => {
      const piece: Piece = {
        slotOffset: 0,
        buffer: 0,
        bufferOffset: slot * BLOCK_BYTES,
        nbytes: BLOCK_BYTES,
      };
      sink.slot(slot).set(source);
      return sink.upload(slot, [piece]);
    };
    const slots = Array.from({ length: SLOTS }, (_, slot) => slot);
    // Each slot's first use touches fresh memory, and the first upload creates what the device keeps.
    await Promise.all(slots.map(send));
    await sink.flush();

    const begin = performance.now();
    let blocks = 0;
    const goOn = (): boolean =>
      blocks < MIN_BLOCKS || (blocks < MAX_BLOCKS && performance.now() - begin < MILLISECONDS);
    await Promise.all(
      slots.map(async (slot) => {
        while (goOn()) {
          blocks++;
          await send(slot);
        }
      }),
    );
    await sink.flush();
    const seconds = Math.max(performance.now() - begin, 0.1) / 1000;
    return (blocks * BLOCK_BYTES) / seconds;
  } finally {
    sink.close(false);
  }
}

export interface UploadSinkOptions extends GpuSinkOptions {
  /** `auto`, the default, measures the device once. */
  path?: UploadPath | 'auto';
}

/** A sink for the device at hand, not yet prepared. Rejects only with `device_lost`. */
export async function createUploadSink(
  device: GPUDevice,
  options: UploadSinkOptions = {},
): Promise<GpuSlotSink> {
  const { path = 'auto', ...sinkOptions } = options;
  const chosen = path === 'auto' ? (await measureUpload(device)).path : path;
  return chosen === 'ring'
    ? new RingSink(device, sinkOptions)
    : new WriteBufferSink(device, sinkOptions);
}
