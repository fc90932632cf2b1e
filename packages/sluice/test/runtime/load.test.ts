// Models loaded into the runtime's tensors: on the CPU straight into wasm memory, on WebGPU a buffer each.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import {
  createRuntime,
  SluiceError,
  Tensor,
  type LoadedTensors,
  type Runtime,
} from 'sluice/runtime';
import { nodeDevice } from '../sinks/node_gpu.js';
import {
  gguf,
  randomBytes,
  randomTensor,
  safetensors,
  tensorCacheFiles,
  type TestTensor,
} from '../support/models.js';

const tensors: TestTensor[] = [
  randomTensor('layer.0', 'float16', [40, 1025], 1),
  randomTensor('layer.1', 'float32', [300, 257], 2),
  ...[1, 2, 3, 5, 257].map((n) => randomTensor(`odd.${n}`, 'int8', [n], n)),
  randomTensor('none', 'float32', [0, 3], 1),
  randomTensor('scalar', 'int64', [], 3),
];
const files = (folder: Record<string, Uint8Array | string>): Map<string, File> =>
  new Map(
    Object.entries(folder).map(([path, body]) => [
      path,
      new File([typeof body === 'string' ? body : new Uint8Array(body)], path),
    ]),
  );
const model = files(tensorCacheFiles([tensors.slice(0, 4), tensors.slice(4)]));

let runtime: Runtime;
before(async () => {
  runtime = await createRuntime();
});

async function check(loaded: LoadedTensors, device: string): Promise<void> {
  assert.deepEqual([...loaded.tensors.keys()].sort(), tensors.map(({ name }) => name).sort());
  for (const { name, shape, dtype, bytes } of tensors) {
    const tensor = loaded.get(name);
    assert.ok(tensor);
    assert.deepEqual([tensor.shape, tensor.dtype, tensor.name], [shape, dtype, name]);
    assert.equal(String(tensor.device), device);
    assert.deepEqual(await tensor.read(), new Uint8Array(bytes), name);
  }
}

async function rejects(promise: Promise<unknown>, code: string, ...parts: string[]): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.equal(error.code, code, error.message);
    for (const part of parts) assert.ok(error.message.includes(part), error.message);
    return true;
  });
}

describe('on the CPU', () => {
  test('every tensor, whatever scope is open meanwhile', async () => {
    const scope = runtime.scope();
    const loading = runtime.loadTensors(model);
    const others = runtime.empty([3]);
    const loaded = await loading;
    scope.dispose();
    assert.ok(others.disposed);
    assert.equal(loaded.format, 'tensor-cache');
    assert.equal(loaded.report.tensorsDone, tensors.length);
    await check(loaded, 'cpu:0');
    loaded.dispose();
    assert.ok(loaded.get('odd.5')?.disposed);
  });
  test('and into the tensor cache', async () => {
    using loaded = await runtime.loadTensors(model, { cache: true });
    loaded.dispose();
    using scope = runtime.scope();
    const get = runtime.getFunction('vm.builtin.tensor_cache.get');
    for (const { name, bytes } of tensors) {
      const tensor = get(name);
      assert.ok(tensor instanceof Tensor, name);
      assert.deepEqual(tensor.bytes(), new Uint8Array(bytes));
    }
    assert.equal(get('no such'), undefined);
    runtime.getFunction('vm.builtin.tensor_cache.clear')();
    assert.equal(get('odd.5'), undefined);
    assert.ok(scope.size > 0);
  });
  test('some of them', async () => {
    using byName = await runtime.loadTensors(model, { tensors: ['odd.5', 'none'] });
    assert.deepEqual([...byName.tensors.keys()], ['odd.5', 'none']);
    using byTest = await runtime.loadTensors(model, { tensors: ({ name }) => /^odd/.test(name) });
    assert.equal(byTest.tensors.size, 5);
    await rejects(
      runtime.loadTensors(model, { tensors: ['odd.5', 'odd.6'] }),
      'invalid_argument',
      "'odd.6'",
    );
    await rejects(runtime.loadTensors(model, { tensors: ['x'] }), 'invalid_argument', "'x'");
  });
  test('converted', async () => {
    using loaded = await runtime.loadTensors(model, { dtype: 'float32' });
    assert.equal(loaded.get('layer.0')?.dtype, 'float32');
    assert.equal(loaded.get('layer.0')?.nbytes, 40 * 1025 * 4);
    assert.equal(loaded.get('none')?.dtype, 'float32');
    assert.equal(loaded.get('odd.3')?.dtype, 'int8');
  });
  test('of a format with blocks, which tensors do not have', async () => {
    const blocks = new Blob([
      new Uint8Array(
        gguf([
          { name: 'q', dtype: 'q4_1', shape: [8, 64], bytes: randomBytes(16 * 20, 3) },
          { name: 'norm', dtype: 'f32', shape: [64], bytes: randomBytes(256, 4) },
        ]),
      ),
    ]);
    await rejects(runtime.loadTensors(blocks), 'unsupported_dtype', "'q'", 'q4_1');
    using loaded = await runtime.loadTensors(blocks, { dtype: 'float16' });
    assert.equal(loaded.get('q')?.dtype, 'float16');
    assert.deepEqual(loaded.get('q')?.shape, [8, 64]);
  });
  test('what fails leaves nothing', async () => {
    const cut = new Map(model);
    const [name] = [...cut.keys()].filter((path) => path.endsWith('.bin'));
    cut.set(name ?? '', new File([new Uint8Array(10)], name ?? ''));
    await assert.rejects(runtime.loadTensors(cut), SluiceError);
    await rejects(runtime.loadTensors(model, { signal: AbortSignal.abort() }), 'aborted');
    await rejects(
      runtime.loadTensors(model, { device: runtime.webgpu() }),
      'invalid_argument',
      'webgpu:0',
    );
  });
  test('takes as much wasm memory as the weights', async () => {
    const fresh = await createRuntime();
    const before = fresh.memoryBytes;
    const nbytes = 48 * 2 ** 20;
    const large = new Blob([
      new Uint8Array(safetensors([randomTensor('large', 'U8', [nbytes], 1)])),
    ]);
    using loaded = await fresh.loadTensors(large);
    const used = fresh.memoryBytes - before;
    assert.ok(used < 1.01 * nbytes, `${used} bytes for ${nbytes}`);
    assert.deepEqual(loaded.get('large')?.bytes(), new Uint8Array(randomBytes(nbytes, 1)));
    fresh.dispose();
  });
});

describe('on WebGPU', () => {
  let device: GPUDevice;
  let gpu: Runtime;
  before(async () => {
    device = await nodeDevice();
    gpu = await createRuntime({ device });
  });
  after(() => {
    gpu.dispose();
    device.destroy();
  });

  test('every tensor in a buffer of its own', async () => {
    const loaded = await gpu.loadTensors(model, { cache: true });
    await check(loaded, 'webgpu:0');
    const handles = [...loaded.tensors.values()].map((tensor) => tensor.data);
    assert.equal(new Set(handles).size, handles.length);
    assert.ok(handles.every((handle) => handle > 0));
    gpu.getFunction('vm.builtin.tensor_cache.clear')();
    await check(loaded, 'webgpu:0');
    loaded.dispose();
  });
  test('tensors are written, copied, viewed and read', async () => {
    const scope = gpu.scope({ detached: true });
    const [a, view, copy, cpu] = scope.run(() => {
      const a = gpu.tensor([0, 1, 2, 3, 4, 5, 6, 7], [8], 'int32', gpu.webgpu());
      const view = a.view([4], { byteOffset: 8 });
      view.set([20, 30, 40, 50]);
      const copy = gpu.empty([4], 'int32', gpu.webgpu()).set(view);
      const cpu = gpu.tensor([9, 9], [2], 'int32');
      a.view([2]).set(cpu);
      return [a, view, copy, cpu] as const;
    });
    assert.deepEqual(
      new Int32Array((await a.read()).buffer),
      Int32Array.of(9, 9, 20, 30, 40, 50, 6, 7),
    );
    assert.deepEqual(new Int32Array((await view.read()).buffer), Int32Array.of(20, 30, 40, 50));
    assert.deepEqual(new Int32Array((await copy.read()).buffer), Int32Array.of(20, 30, 40, 50));
    assert.deepEqual([...cpu.toArray()], [9, 9]);
    assert.throws(() => a.bytes(), /not on the CPU/);
    assert.throws(() => a.toArray(), /int32\[8\]: its memory is not on the CPU/);
    scope.dispose();
  });
  test('what fails leaves no buffer', async () => {
    await rejects(gpu.loadTensors(model, { tensors: ['x'] }), 'invalid_argument', "'x'");
  });
});
