import { SluiceError } from '../errors.js';
import { BufferUsage, DEFAULT_USAGE } from './gpu_buffers.js';

/** The adapters that run shaders on the CPU, by the names that they have in GPUAdapterInfo. */
const SOFTWARE = /swiftshader|llvmpipe|lavapipe|basic render/i;

/**
 * Whether a device should expand tensors itself. GPUs write memory some hundred times faster than bytes are uploaded,
 * so the fewer bytes are uploaded the better; a software adapter runs the shader on the CPU, where the loader's own codecs
 * are faster. An adapter that says nothing of itself is taken for a GPU.
 */
export function isExpansionFaster(info: Partial<GPUAdapterInfo> | undefined): boolean {
  const { isFallbackAdapter = false, vendor, architecture, device, description } = info ?? {};
  return !isFallbackAdapter && !SOFTWARE.test([vendor, architecture, device, description].join());
}

/**
 * What the option `expand` means with buffers of this usage; `info` is asked for where it depends on the device.
 * Errors: `invalid_argument`.
 */
export async function expandsOnDevice(
  expand: 'auto' | 'device' | 'cpu',
  usage: GPUBufferUsageFlags = DEFAULT_USAGE,
  info: () => Promise<Partial<GPUAdapterInfo> | undefined>,
): Promise<boolean> {
  const isStorage = (usage & BufferUsage.STORAGE) !== 0;
  if (expand === 'device' && !isStorage) {
    throw new SluiceError(
      'invalid_argument',
      `option expand is 'device', but option usage (${usage}) lacks STORAGE (${BufferUsage.STORAGE}), as which ` +
        'a shader writes',
      { hint: "add GPUBufferUsage.STORAGE, or load with expand: 'cpu'" },
    );
  }
  if (expand !== 'auto') return expand === 'device';
  return isStorage && isExpansionFaster(await info());
}
