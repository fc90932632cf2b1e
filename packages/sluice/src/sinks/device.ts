import { SluiceError } from '../errors.js';

export interface DeviceNeeds {
  /** The largest buffer that will be allocated, in bytes. */
  largestBufferBytes: number;
  /**
   * The most bytes of one buffer that a shader binds as storage, default all of the largest buffer. Less
   * where the model binds its large buffers in parts.
   */
  largestBindingBytes?: number;
  /** Names it in errors: the tensor that needs the largest buffer. */
  tensor?: string;
  requiredFeatures?: Iterable<GPUFeatureName>;
}

/** Every WebGPU device has these at least: https://www.w3.org/TR/webgpu/#limit-default */
const DEFAULT_MAX_BUFFER = 256 * 2 ** 20;
const DEFAULT_MAX_BINDING = 128 * 2 ** 20;
/** Limits are asked for in these steps, so that devices of similar models are alike. */
const STEP = 64 * 2 ** 20;

/**
 * A device with limits as the model needs them and no larger, up to what the adapter has. `adapter`
 * undefined asks the browser for one. Rejects with `device_limit`, with the numbers, where the adapter has
 * too little, and with `invalid_argument` where there is no WebGPU, no adapter or a missing feature.
 */
export async function requestDevice(
  adapter: GPUAdapter | undefined,
  needs: DeviceNeeds,
): Promise<GPUDevice> {
  const chosen = adapter ?? (await defaultAdapter());
  const { largestBufferBytes, largestBindingBytes = largestBufferBytes, tensor } = needs;
  const requiredFeatures = [...(needs.requiredFeatures ?? [])];
  const missing = requiredFeatures.filter((feature) => !chosen.features.has(feature));
  if (missing.length > 0) {
    throw new SluiceError(
      'invalid_argument',
      `the GPU adapter lacks the required feature ${missing.join(', ')}`,
      { hint: 'choose a build of the model that does not need it' },
    );
  }
  const limit = (
    name: 'maxBufferSize' | 'maxStorageBufferBindingSize',
    bytes: number,
    least: number,
  ): number => {
    const most = chosen.limits[name];
    if (!Number.isSafeInteger(bytes) || bytes < 0) {
      throw new SluiceError('invalid_argument', `${name}: ${bytes} is not a number of bytes`);
    }
    if (bytes > most) {
      throw new SluiceError(
        'device_limit',
        `${tensor === undefined ? 'the model' : `tensor "${tensor}"`} needs ${name} of ${bytes} bytes, and ` +
          `the GPU adapter has ${most}`,
        {
          expected: most,
          actual: bytes,
          hint: 'place this tensor on cpu or disk, or choose a model with smaller tensors',
          ...(tensor === undefined ? {} : { tensor }),
        },
      );
    }
    return Math.min(most, Math.max(least, Math.ceil(bytes / STEP) * STEP));
  };
  const requiredLimits = {
    maxBufferSize: limit('maxBufferSize', largestBufferBytes, DEFAULT_MAX_BUFFER),
    maxStorageBufferBindingSize: limit(
      'maxStorageBufferBindingSize',
      largestBindingBytes,
      DEFAULT_MAX_BINDING,
    ),
  };
  try {
    return await chosen.requestDevice({ requiredFeatures, requiredLimits });
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new SluiceError(
      'invalid_argument',
      `the GPU adapter refused a device with maxBufferSize ${requiredLimits.maxBufferSize} and ` +
        `maxStorageBufferBindingSize ${requiredLimits.maxStorageBufferBindingSize}: ${message}`,
      { hint: 'request a new adapter: each gives one device', cause },
    );
  }
}

/** The browser's adapter of high performance. Rejects with `invalid_argument` where there is none. */
export async function defaultAdapter(): Promise<GPUAdapter> {
  const gpu = typeof navigator === 'undefined' ? undefined : (navigator as Partial<Navigator>).gpu;
  const adapter = (await gpu?.requestAdapter({ powerPreference: 'high-performance' })) ?? undefined;
  if (adapter === undefined) {
    throw new SluiceError(
      'invalid_argument',
      gpu === undefined ? 'this environment has no WebGPU' : 'WebGPU found no GPU adapter',
      {
        hint:
          gpu === undefined
            ? 'use a browser with WebGPU on a secure origin (https or localhost), or load to the CPU'
            : 'update the GPU driver, or load to the CPU',
      },
    );
  }
  return adapter;
}
