import type { DirectCallback } from './core.js';
import { RuntimeError } from './errors.js';
import { makeFunction, type RuntimeFunction } from './function.js';
import type { Runtime } from './runtime.js';
import { WebGPUDevice, type KernelFunction } from './webgpu/index.js';

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
  const override = { override: true };
  runtime.registerFunction(
    'wasm.WebGPUDeviceAPI',
    (name: string) => gpuFunction(runtime, gpu.deviceAPI(name)),
    override,
  );
  runtime.registerFunction(
    'wasm.WebGPUCreateShader',
    (info: string, wgsl: string) => gpuFunction(runtime, gpu.createShader(info, wgsl)),
    override,
  );
  return gpu;
}

/** A function of the device, such as a kernel, for C++, which passes a buffer's handle as the pointer that it is to it. */
export function gpuFunction(
  { core }: Runtime,
  call: KernelFunction | ((...args: number[]) => number | undefined),
): RuntimeFunction {
  return makeFunction(core, core.makeDirectFunction(call as DirectCallback));
}
