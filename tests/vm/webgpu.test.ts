// A compiled model on WebGPU (in Node: Dawn), linked with the runtime and driven by tvmjs's published
// JS, with pipelines made beforehand and at the first call.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { nodeDevice } from '../../packages/sluice/test/sinks/node_gpu.js';
import { calls, expectValue, instantiate, link, toArgument } from './support.js';

const module = await link('basic_webgpu');

for (const prebuilt of [true, false])
  test(`basic_webgpu, pipelines ${prebuilt ? 'beforehand' : 'at the first call'}`, async () => {
    const device = await nodeDevice();
    const tvm = instantiate(module);
    tvm.initWebGPU(device);
    tvm.beginScope();
    const vm = tvm.createVirtualMachine(tvm.webgpu());
    if (prebuilt) await tvm.asyncLoadWebGPUPipelines(vm.getInternalModule());
    for (const [i, each] of calls('basic').entries()) {
      // Scalars are read while the VM runs
      const args = each.arguments.map((value) =>
        toArgument(
          tvm,
          value,
          'dtype' in value && value.dtype === 'bool' ? tvm.cpu() : tvm.webgpu(),
        ),
      );
      const result: unknown = vm.getFunction(each.function)(...args);
      await expectValue(tvm, result, each.result, `call ${i}, ${each.function}`);
    }
    tvm.endScope();
    device.destroy();
  });

test('a condition on the GPU is an error that says so', async () => {
  const device = await nodeDevice();
  const tvm = instantiate(module);
  tvm.initWebGPU(device);
  tvm.beginScope();
  const vm = tvm.createVirtualMachine(tvm.webgpu());
  const condition = tvm.empty([], 'bool', tvm.webgpu());
  const x = tvm.empty([2], 'float32', tvm.webgpu());
  assert.throws(
    () => vm.getFunction('choose')(condition, x),
    /vm\.builtin\.read_if_cond: bool\[\] on webgpu:0 is read while the VM runs, and must be on the CPU/,
  );
  device.destroy();
});
