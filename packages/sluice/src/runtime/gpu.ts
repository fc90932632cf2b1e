import { RuntimeError } from './errors.js';
import type { Runtime } from './runtime.js';
import { Pointer } from './values.js';
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
  const override = { override: true };
  runtime.registerFunction(
    'wasm.WebGPUDeviceAPI',
    (name: string) => withHandles(gpu.deviceAPI(name)),
    override,
  );
  runtime.registerFunction(
    'wasm.WebGPUCreateShader',
    (info: string, wgsl: string) => withHandles(gpu.createShader(info, wgsl)),
    override,
  );
  return gpu;
}

/** C++ passes a buffer's handle as the pointer that it is to it. */
function withHandles<Result>(
  call: (...args: number[]) => Result,
): (...args: (number | Pointer)[]) => Result {
  return (...args) => call(...args.map((arg) => (arg instanceof Pointer ? arg.address : arg)));
}
