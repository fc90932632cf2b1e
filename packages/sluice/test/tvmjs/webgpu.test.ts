// The GPU in tvmjs's words, on a device that records what it is told: what order JavaScript's own copies keep.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Memory } from '../../src/tvmjs/memory.js';
import { WebGPUContext } from '../../src/tvmjs/webgpu.js';
import { fakeGpu, type FakeGpu } from '../runtime/webgpu/fake_gpu.js';

interface Fixture extends FakeGpu {
  context: WebGPUContext;
  memory: Memory;
  api: (name: string) => (...args: number[]) => number;
  source: number;
  target: number;
}

function fixture(): Fixture {
  const gpu = fakeGpu();
  const memory = new Memory(new WebAssembly.Memory({ initial: 1 }));
  const context = new WebGPUContext(memory, gpu.device);
  const api = (name: string): ((...args: number[]) => number) =>
    context.getDeviceAPI(name) as unknown as (...args: number[]) => number;
  const allocate = api('deviceAllocDataSpace');
  return { ...gpu, context, memory, api, source: allocate(64), target: allocate(64) };
}

test('what JavaScript writes comes after what was called before', () => {
  const { context, api, events, source, target } = fixture();
  api('deviceCopyWithinGPU')(source, 0, target, 0, 16);
  context.copyRawBytesToBuffer(Uint8Array.of(1, 2, 3, 4, 5), target, 4, 4);
  assert.deepEqual(events, ['copy 1 2 16', 'submit', 'writeBuffer 2 +4 4']);
});

test('uploads are of whole words, and reads give the bytes that were asked for', async () => {
  const { context, api, events, map, memory, source, target } = fixture();
  memory.storeRawBytes(128, Uint8Array.of(1, 2, 3));
  api('deviceCopyToGPU')(128, target, 4, 3);
  memory.storeRawBytes(256, Uint8Array.of(9, 9, 9, 9));
  api('deviceCopyFromGPU')(source, 0, 256, 3);
  assert.deepEqual(events, ['writeBuffer 2 +4 4', 'copy 1 3 4', 'submit', 'map 3']);
  map();
  await context.sync();
  assert.deepEqual([...memory.loadRawBytes(256, 4)], [0, 0, 0, 9]);
  assert.ok(!events.includes('wait'), 'the read itself shows that all is done');
});

test('offsets that are no multiple of four are refused before anything is read', () => {
  const { api, source, target, events } = fixture();
  for (const offset of [-4, 0.5, 2, NaN]) {
    const upload = (): unknown => api('deviceCopyToGPU')(2 ** 40, target, offset, 4);
    assert.throws(upload, /WebGPU destination offset must be a nonnegative multiple of four/);
    const read = (): unknown => api('deviceCopyFromGPU')(source, offset, 128, 4);
    assert.throws(read, /WebGPU source offset must be a nonnegative multiple of four/);
  }
  assert.throws(() => api('deviceCopyNowhere'), /Unknown DeviceAPI function deviceCopyNowhere/);
  assert.deepEqual(events, []);
});

test('buffers are of whole words, and destroyed after the commands that use them', () => {
  const { context, api, events, source, target } = fixture();
  api('deviceAllocDataSpace')(3);
  assert.equal(context.currAllocatedBytes, 64 + 64 + 4);
  api('deviceCopyWithinGPU')(source, 0, target, 0, 16);
  api('deviceFreeDataSpace')(source);
  assert.deepEqual(events, ['copy 1 2 16', 'submit', 'destroy 1']);
  assert.equal(context.currAllocatedBytes, 64 + 4);
});

test('images are drawn after what was called before, and sync() waits for that', async () => {
  const { context, api, events, map, source, target } = fixture();
  assert.throws(() => context.drawImageFromBuffer(target, 2, 2), /call bindCanvas first/);
  context.canvasRenderManager = {
    draw: (_, height, width) => void events.push(`draw ${height} x ${width}`),
    clear: () => void events.push('clear'),
    dispose: () => undefined,
  };
  api('deviceCopyFromGPU')(source, 0, 128, 4);
  events.length = 0;
  context.drawImageFromBuffer(target, 2, 3);
  context.clearCanvas();
  map();
  await context.sync();
  assert.deepEqual(
    events.filter((event) => /draw|clear|wait/.test(event)),
    ['draw 2 x 3', 'clear', 'wait'],
  );
});

test('sync() rejects with the very error of a read that failed', async () => {
  const { context, api, device, source } = fixture();
  const failure = new Error('it could not be mapped');
  const createBuffer = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) =>
    Object.assign(createBuffer(descriptor), {
      mapAsync: () => Promise.reject(failure),
    });
  api('deviceCopyFromGPU')(source, 0, 128, 16);
  await assert.rejects(context.sync(), (error) => error === failure);
});

test('a device that is not complete gets what WebGPU guarantees', () => {
  const { device } = fakeGpu();
  const lacks = { limits: undefined, lost: undefined, features: undefined };
  const bare: object = Object.assign(device, lacks);
  const memory = new Memory(new WebAssembly.Memory({ initial: 1 }));
  const context = new WebGPUContext(memory, bare as GPUDevice);
  assert.equal(context.device, bare);
  const info = { name: 'k', arg_types: [], launch_param_tags: ['blockIdx.x'] };
  const shader = context.createShader(info, '');
  shader(65_535);
  assert.match(context.runtimeStatsText(), /shader-submissions=1$/);
});
