// Models that TVM has compiled, linked with the runtime, under sluice/tvmjs: on the CPU and on WebGPU.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type * as Theirs from '@mlc-ai/web-runtime';
import { Instance, Tensor, TVMArray, type InitProgressReport } from 'sluice/tvmjs';
import { calls, link, toArgument, type Value } from '../../../../tests/vm/support.js';
import { nodeDevice } from '../sinks/node_gpu.js';

/** Holds what a model gave to what it must be. */
async function expect(tvm: Instance, actual: unknown, expected: Value): Promise<void> {
  if (Array.isArray(expected)) {
    assert.ok(actual instanceof TVMArray);
    assert.equal(actual.size(), expected.length);
    for (const [i, each] of expected.entries()) await expect(tvm, actual.get(i), each);
  } else if (!('dtype' in expected)) {
    assert.deepEqual([...(actual as number[])], expected.shape);
  } else {
    assert.ok(actual instanceof Tensor);
    assert.deepEqual([actual.dtype, actual.shape], [expected.dtype, expected.shape]);
    const copy = tvm.empty(actual.shape, actual.dtype, tvm.cpu()).copyFrom(actual);
    await actual.device.sync();
    const bytes = copy.toRawBytes().slice().buffer;
    const values: number[] =
      expected.dtype === 'bool'
        ? [...new Uint8Array(bytes)]
        : expected.dtype === 'int64'
          ? Array.from(new BigInt64Array(bytes), Number)
          : [...copy.toArray()];
    const wanted = expected.data.map(Number);
    assert.equal(values.length, wanted.length);
    const close = expected.dtype.startsWith('float') ? 1e-5 : 0;
    for (const [i, value] of wanted.entries()) {
      assert.ok(Math.abs((values[i] ?? NaN) - value) <= close * Math.max(1, Math.abs(value)));
    }
  }
}

describe('compiled models', { timeout: 120_000 }, () => {
  for (const [fixture, where] of [
    ['basic_cpu', 'cpu'],
    ['basic_webgpu', 'webgpu'],
  ] as const) {
    test(`run on ${where}`, async () => {
      const tvm = new Instance(await link(fixture));
      const reports: InitProgressReport[] = [];
      tvm.registerInitProgressCallback((report) => reports.push(report));
      if (where === 'webgpu') tvm.initWebGPU(await nodeDevice());
      tvm.beginScope();
      const device = tvm.device(where);
      const vm = tvm.createVirtualMachine(device);
      if (where === 'webgpu') {
        await tvm.asyncLoadWebGPUPipelines(vm.getInternalModule());
        const { progress, text } = reports.at(-1) ?? { progress: 0, text: '' };
        assert.equal(progress, 1);
        assert.match(text, /^Loading GPU shader modules\[(\d+)\/\1\]: 100% completed, \d+ secs/);
      }
      const list = calls('basic');
      assert.ok(list.length > 0);
      for (const each of list) {
        const args = each.arguments.map((value) => {
          // A condition is read while the model runs
          const onCpu = 'dtype' in value && value.dtype === 'bool';
          const at = onCpu ? tvm.cpu() : device;
          return toArgument(tvm as unknown as Theirs.Instance, value, at as never);
        });
        await expect(tvm, vm.getFunction(each.function)(...args), each.result);
      }
      tvm.endScope();
      tvm.dispose();
    });
  }

  test('are missed by an instance that holds none', async () => {
    const { newInstance } = await import('./support.js');
    const tvm = newInstance();
    tvm.beginScope();
    assert.throws(
      () => tvm.createVirtualMachine(tvm.cpu()),
      /Cannot find vm_load_executable: the wasm module holds no model/,
    );
    tvm.endScope();
  });
});
