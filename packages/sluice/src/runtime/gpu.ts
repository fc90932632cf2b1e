import { RuntimeError } from './errors.js';
import type { Runtime } from './runtime.js';
import { WebGPUDevice } from './webgpu/index.js';

/** Gives a runtime its GPU: the functions by which C++ reaches it, and what tensors need. */
export function attachWebGPU(runtime: Runtime, device: GPUDevice): WebGPUDevice {
  const { core } = runtime;
  const gpu = new WebGPUDevice(device, {
    bytes(pointer, nbytes) {
      const { bytes } = core.memory;
      if (pointer + nbytes > bytes.length) {
        throw new RuntimeError(
          'IndexError',
          `bytes ${pointer} to ${pointer + nbytes} of a wasm memory of ${bytes.length}`,
        );
      }
      return bytes.subarray(pointer, pointer + nbytes);
    },
  });
  core.gpu = gpu;
  runtime.registerFunction('wasm.WebGPUDeviceAPI', (name: string) => gpu.deviceAPI(name), {
    override: true,
  });
  runtime.registerFunction(
    'wasm.WebGPUCreateShader',
    (info: string, wgsl: string) => gpu.createShader(info, wgsl),
    { override: true },
  );
  return gpu;
}
