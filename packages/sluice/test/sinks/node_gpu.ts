// WebGPU in Node, for the tests: Dawn on the software adapter that Chromium ships, unless
// VK_ICD_FILENAMES names another driver.
import { existsSync } from 'node:fs';
import { create, globals } from 'webgpu';

const SOFTWARE_ADAPTER = '/usr/lib/chromium/vk_swiftshader_icd.json';
if (process.env['VK_ICD_FILENAMES'] === undefined && existsSync(SOFTWARE_ADAPTER)) {
  process.env['VK_ICD_FILENAMES'] = SOFTWARE_ADAPTER;
}
Object.assign(globalThis, globals);
const gpu = create([]);

export async function nodeAdapter(): Promise<GPUAdapter> {
  const adapter = await gpu.requestAdapter();
  if (adapter === null) throw new Error('Dawn found no adapter: set VK_ICD_FILENAMES');
  return adapter;
}

/** A device with the adapter's maxBufferSize that fails the test on any uncaptured error. */
export async function nodeDevice(): Promise<GPUDevice> {
  const adapter = await nodeAdapter();
  const { maxBufferSize } = adapter.limits;
  const device = await adapter.requestDevice({ requiredLimits: { maxBufferSize } });
  device.addEventListener('uncapturederror', (event) => {
    throw new Error(`uncaptured: ${event.error.message}`);
  });
  return device;
}

/** The bytes of a buffer with COPY_SRC. */
export async function readBack(device: GPUDevice, buffer: GPUBuffer): Promise<Uint8Array> {
  const staging = device.createBuffer({
    size: buffer.size,
    usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
  });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = new Uint8Array(staging.getMappedRange()).slice();
  staging.destroy();
  return bytes;
}
