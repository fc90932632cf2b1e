import { SluiceError } from '../../errors.js';
import { defaultAdapter } from '../../sinks/device.js';

export interface DetectedDevice {
  adapter: GPUAdapter;
  adapterInfo: GPUAdapterInfo;
  device: GPUDevice;
}

/** Limits that kernels and weights run into. */
const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupSizeY',
  'maxComputeWorkgroupSizeZ',
  'maxComputeWorkgroupsPerDimension',
  'minUniformBufferOffsetAlignment',
] as const;

const FEATURES: readonly GPUFeatureName[] = ['shader-f16', 'subgroups', 'timestamp-query'];

/**
 * A device with all that the adapter has: its limits of buffers, bindings and workgroups, and of the features shader-f16,
 * subgroups and timestamp-query those that it offers. `adapter` undefined asks the browser for one of high performance.
 * Rejects with `invalid_argument` where there is no WebGPU, no adapter, or it gives no device.
 */
export async function detectDevice(adapter?: GPUAdapter): Promise<DetectedDevice> {
  const chosen = adapter ?? (await defaultAdapter());
  const requiredLimits: Record<string, number> = {};
  for (const name of LIMITS) {
    const limit = chosen.limits[name] as number | undefined;
    if (limit !== undefined) requiredLimits[name] = limit;
  }
  const requiredFeatures = FEATURES.filter((feature) => chosen.features.has(feature));
  try {
    const device = await chosen.requestDevice({ requiredFeatures, requiredLimits });
    return { adapter: chosen, adapterInfo: chosen.info, device };
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new SluiceError('invalid_argument', `the GPU adapter gave no device: ${message}`, {
      hint: 'request a new adapter: each gives one device',
      cause,
    });
  }
}
