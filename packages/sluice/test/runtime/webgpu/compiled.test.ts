// A model that TVM has compiled for WebGPU, with this device under it: what the kernels and their host code ask for.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  calls,
  expectValue,
  instantiate,
  link,
  toArgument,
} from '../../../../../tests/vm/support.js';
import type { FunctionInfo } from '../../../src/runtime/webgpu/launch.js';
import { WebGPUDevice } from '../../../src/runtime/webgpu/device.js';
import { nodeDevice } from '../../sinks/node_gpu.js';

test('a compiled model runs on the device', { timeout: 120_000 }, async () => {
  const tvm = instantiate(await link('basic_webgpu'));
  const { exports } = tvm as unknown as { exports: { memory: WebAssembly.Memory } };
  const device = await nodeDevice();
  const gpu = new WebGPUDevice(device, {
    bytes: (at, nbytes) => new Uint8Array(exports.memory.buffer, at, nbytes),
    store: (at, bytes) => {
      new Uint8Array(exports.memory.buffer, at).set(bytes);
    },
  });
  tvm.registerFunc('wasm.WebGPUDeviceAPI', (name: string) => gpu.deviceAPI(name));
  tvm.registerFunc('wasm.WebGPUCreateShader', (info: string, wgsl: string) =>
    gpu.createShader(info, wgsl),
  );
  // What tvmjs's JS asks of its own context
  (tvm as unknown as { lib: { webGPUContext: object } }).lib.webGPUContext = {
    sync: () => gpu.sync(),
    copyRawBytesToBuffer: (bytes: Uint8Array, handle: number, offset: number) =>
      gpu.copyBytesToBuffer(bytes, handle, offset),
    createShaderAsync: (info: FunctionInfo, wgsl: string) => gpu.createShaderAsync(info, wgsl),
    dispose: () => gpu.dispose(),
  };
  tvm.beginScope();
  const vm = tvm.createVirtualMachine(tvm.webgpu());
  await tvm.asyncLoadWebGPUPipelines(vm.getInternalModule());
  for (const [i, each] of calls('basic').entries()) {
    const args = each.arguments.map((value) => {
      const onCpu = 'dtype' in value && value.dtype === 'bool'; // read while the VM runs
      return toArgument(tvm, value, onCpu ? tvm.cpu() : tvm.webgpu());
    });
    const result: unknown = vm.getFunction(each.function)(...args);
    await expectValue(tvm, result, each.result, `call ${i}, ${each.function}`);
  }
  assert.ok(gpu.stats().dispatches > 0);
  tvm.endScope();
  tvm.dispose();
  device.destroy();
});
