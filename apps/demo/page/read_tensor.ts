// Bytes of a loaded tensor, read back from wherever it is.
import type { LoadedTensor, Model } from 'sluice';

/** Bytes [begin, end) of a tensor. */
export interface Stretch {
  begin: number;
  end: number;
}

/** At most this much of a tensor is looked at. */
export const SAMPLE_BYTES = 4 * 2 ** 20;
const STRETCHES = 16;
/** Keeps stretches whole in elements of any size, and copies aligned as WebGPU wants them. */
const ALIGNMENT = 256;

/** All of a small tensor; of a large one, stretches of equal size from its first byte to its last. */
export function sampleStretches(nbytes: number, limit = SAMPLE_BYTES): Stretch[] {
  if (nbytes <= limit) return [{ begin: 0, end: nbytes }];
  const size = Math.floor(limit / STRETCHES / ALIGNMENT) * ALIGNMENT;
  return Array.from({ length: STRETCHES }, (_, i) => {
    const even = (i * (nbytes - size)) / (STRETCHES - 1);
    const begin = Math.floor(even / ALIGNMENT) * ALIGNMENT;
    return { begin, end: begin + size };
  });
}

/** The stretches' bytes, one behind the other. Each but the last is a multiple of four bytes long. */
export async function readBytes(
  model: Model,
  tensor: LoadedTensor,
  stretches: readonly Stretch[],
): Promise<Uint8Array> {
  const nbytes = stretches.reduce((sum, { begin, end }) => sum + end - begin, 0);
  const out = new Uint8Array(nbytes);
  if (nbytes === 0) return out;
  if (tensor.location === 'cpu') {
    let at = 0;
    for (const { begin, end } of stretches) {
      out.set(tensor.data.subarray(begin, end), at);
      at += end - begin;
    }
    return out;
  }
  if (tensor.location === 'disk') throw new Error(`${tensor.name} is on disk, to be read by rows`);
  const { device } = model;
  if (!device) throw new Error('the model has tensors on a GPU and no device');
  const padded = (bytes: number): number => Math.ceil(bytes / 4) * 4;
  const readback = device.createBuffer({
    size: padded(nbytes),
    usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
  });
  try {
    const commands = device.createCommandEncoder();
    let at = 0;
    for (const { begin, end } of stretches) {
      const size = padded(end - begin);
      commands.copyBufferToBuffer(tensor.buffer, tensor.offset + begin, readback, at, size);
      at += size;
    }
    device.queue.submit([commands.finish()]);
    await readback.mapAsync(GPUMapMode.READ);
    out.set(new Uint8Array(readback.getMappedRange(), 0, nbytes));
    return out;
  } finally {
    readback.destroy();
  }
}
