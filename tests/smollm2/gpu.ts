// A device in Node with what compiled models need beyond WebGPU's defaults.
import { nodeAdapter } from '../../packages/sluice/test/sinks/node_gpu.js';

const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
] as const;

/** Rejects, or ends what waits for it, with whatever error the device reports. */
export async function modelDevice(features: GPUFeatureName[] = []): Promise<GPUDevice> {
  const adapter = await nodeAdapter();
  const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
  const device = await adapter.requestDevice({ requiredFeatures: features, requiredLimits });
  device.addEventListener('uncapturederror', (event) => {
    throw new Error(`uncaptured: ${event.error.message}`);
  });
  return device;
}
