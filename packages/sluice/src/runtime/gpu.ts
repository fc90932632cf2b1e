import type { DirectCallback } from './core.js';
import { RuntimeError } from './errors.js';
import { makeFunction, type RuntimeFunction } from './function.js';
import type { Runtime } from './runtime.js';
import { WebGPUDevice, type KernelFunction } from './webgpu/index.js';

/** Gives a runtime a GPU of its own. */
export function attachWebGPU(runtime: Runtime, device: GPUDevice): WebGPUDevice {
  const { core } = runtime;
  const range = (pointer: number, nbytes: number): Uint8Array => {
    const { bytes } = core.memory;
    if (pointer + nbytes > bytes.length) {
      throw new RuntimeError(
        'IndexError',
        `bytes ${pointer} to ${pointer + nbytes} of a wasm memory of ${bytes.length}`,
      );
    }
    return bytes.subarray(pointer, pointer + nbytes);
  };
  const gpu = new WebGPUDevice(device, {
    bytes: range,
    store: (pointer, bytes) => {
      range(pointer, bytes.length).set(bytes);
    },
  });
  connectWebGPU(runtime, gpu);
  return gpu;
}

/** Registers the functions by which C++ reaches a GPU, and gives tensors what they need of it. */
export function connectWebGPU(runtime: Runtime, gpu: WebGPUDevice): void {
  const { core } = runtime;
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
}

/** A function of the device, such as a kernel, for C++, which passes a buffer's handle as the pointer that it is to it. */
export function gpuFunction(
  { core }: Runtime,
  call: KernelFunction | ((...args: number[]) => number | undefined),
): RuntimeFunction {
  return makeFunction(core, core.makeDirectFunction(call as DirectCallback));
}
