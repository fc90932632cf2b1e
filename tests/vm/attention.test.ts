// Attention over the paged KV cache, compiled by TVM with its own kernels, linked with the runtime and
// driven by tvmjs's published JS: forks, pops and sliding windows give what TVM's own runtime gives.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  Scalar,
  type DLDevice,
  type Instance,
  type Tensor,
  type TVMArray,
} from '@mlc-ai/web-runtime';
import { nodeAdapter } from '../../packages/sluice/test/sinks/node_gpu.js';
import { instantiate, link } from './support.js';

interface BuiltinStep {
  builtin: string;
  arguments: number[];
}
interface ForwardStep {
  function: 'prefill' | 'decode';
  sequences: number[];
  lengths: number[];
  input: number[];
  output: number[];
}
type Kind = 'plain' | 'sliding';
interface Fixture {
  capacity: number[];
  hidden: number;
  weights: { shape: number[]; data: number[] }[];
  steps: Record<
    'cpu' | 'webgpu',
    Record<Kind, { steps: (BuiltinStep | ForwardStep)[]; freePages: number }>
  >;
}

const fixture = JSON.parse(
  readFileSync(join(fileURLToPath(new URL('fixtures', import.meta.url)), 'attention.json'), 'utf8'),
) as Fixture;

/** A device for kernels that read as many buffers as TVM's attention does: 9, where 8 are the default. */
async function attentionDevice(): Promise<GPUDevice> {
  const adapter = await nodeAdapter();
  const { maxBufferSize, maxStorageBuffersPerShaderStage } = adapter.limits;
  const device = await adapter.requestDevice({
    requiredLimits: { maxBufferSize, maxStorageBuffersPerShaderStage },
  });
  device.addEventListener('uncapturederror', (event) => {
    throw new Error(`uncaptured: ${event.error.message}`);
  });
  return device;
}

/** What the model gives on `device`, step by step, beside what TVM's runtime gave. */
async function run(tvm: Instance, device: DLDevice, target: 'cpu' | 'webgpu', kind: Kind) {
  const { steps, freePages } = fixture.steps[target][kind];
  tvm.beginScope();
  const vm = tvm.createVirtualMachine(device);
  const floats = (shape: number[], data: number[]): Tensor =>
    tvm.empty(shape, 'float32', device).copyFrom(data);
  const builtin = (name: string) => tvm.getGlobalFunc(`vm.builtin.${name}`);
  const sizes = [...fixture.capacity, kind === 'sliding' ? 1 : 0];
  const cache: unknown = vm.getFunction('create_kv_cache')(
    ...sizes.map((size) => tvm.makeShapeTuple([size])),
  );
  const weights = tvm.makeTVMArray(fixture.weights.map(({ shape, data }) => floats(shape, data)));
  for (const [i, step] of steps.entries()) {
    tvm.beginScope();
    if ('builtin' in step) {
      builtin(step.builtin)(cache, ...step.arguments.map((number) => new Scalar(number, 'int')));
      tvm.endScope();
      continue;
    }
    const rows = step.lengths.reduce((a, b) => a + b);
    const shape = step.function === 'decode' ? [rows, 1] : [1, rows];
    builtin('kv_state_begin_forward')(
      cache,
      tvm.makeShapeTuple(step.sequences),
      tvm.makeShapeTuple(step.lengths),
    );
    const x = floats([...shape, fixture.hidden], step.input);
    const results = vm.getFunction(step.function)(x, cache, weights) as TVMArray;
    builtin('kv_state_end_forward')(cache);
    const y = results.get(0) as Tensor;
    const onCpu = tvm.empty(y.shape, 'float32', tvm.cpu()).copyFrom(y);
    await device.sync();
    const got = Array.from(onCpu.toArray() as Float32Array);
    assert.equal(got.length, step.output.length);
    for (const [n, number] of step.output.entries())
      assert.ok(
        Math.abs((got[n] ?? NaN) - number) <= 1e-5 * Math.max(1, Math.abs(number)),
        `step ${i}, ${step.function} of ${step.lengths.join(' + ')} tokens: element ${n} is ${got[n]}, and must be ${number}`,
      );
    tvm.endScope();
  }
  assert.equal(builtin('attention_kv_cache_get_num_available_pages')(cache), freePages);
  assert.throws(
    () => builtin('kv_state_add_sequence')(cache, new Scalar(7, 'int')),
    /vm\.builtin\.kv_state_add_sequence: there is a sequence 7 already/,
  );
  tvm.endScope();
}

for (const kind of ['plain', 'sliding'] as const) {
  test(`a ${kind} cache on the CPU`, async () => {
    const tvm = instantiate(await link('attention_cpu'));
    await run(tvm, tvm.cpu(), 'cpu', kind);
  });

  test(`a ${kind} cache on WebGPU`, async () => {
    const device = await attentionDevice();
    const tvm = instantiate(await link('attention_webgpu'));
    tvm.initWebGPU(device);
    await run(tvm, tvm.webgpu(), 'webgpu', kind);
    device.destroy();
  });
}
