// What the device tells the GPU, in which order, and when: on a GPU that only records.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { WebGPUDevice } from '../../../src/runtime/webgpu/device.js';
import type { WebGPUDeviceOptions } from '../../../src/runtime/webgpu/device.js';
import { planLaunch, spreadBlocks } from '../../../src/runtime/webgpu/launch.js';
import { fakeGpu } from './fake_gpu.js';
import type { FakeGpu } from './fake_gpu.js';
import { AFFINE, failsWith, GrowingMemory } from './support.js';

interface Started extends FakeGpu {
  gpu: WebGPUDevice;
  a: number;
  b: number;
  /** One dispatch from a to b. */
  step: (k?: number) => void;
  /** What was recorded since the last time. */
  take: () => string[];
}

/** Buffers 1 and 2 are a and b, 3 is the arena once it is needed. */
function start(options: WebGPUDeviceOptions = {}): Started {
  const fake = fakeGpu();
  const gpu = new WebGPUDevice(fake.device, new GrowingMemory(), options);
  const kernel = gpu.createShader(AFFINE.info, AFFINE.wgsl);
  const [a, b] = [gpu.allocate(16), gpu.allocate(16)];
  const step = (k = 0): void => kernel(a, b, 4, 1, k, 1, 64);
  return { ...fake, gpu, a, b, step, take: () => fake.events.splice(0) };
}

const pause = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

describe('the order of GPU commands', () => {
  test('dispatches share a pass and one write of uniforms', () => {
    const { gpu, step, take } = start();
    step(1);
    step(2);
    step(2); // the same arguments lie there already
    step(3);
    assert.deepEqual(take(), [
      'pass',
      'pipeline affine',
      'uniform 0',
      'dispatch 1,1,1',
      'uniform 256',
      'dispatch 1,1,1',
      'uniform 256',
      'dispatch 1,1,1',
      'uniform 512',
      'dispatch 1,1,1',
    ]);
    gpu.flush();
    assert.deepEqual(take(), ['end', 'writeBuffer 3 +0 528', 'submit']);
    gpu.flush();
    assert.deepEqual(take(), []);
    step(3); // nothing of the batch before is taken for this one's
    gpu.flush();
    assert.deepEqual(take().slice(2), [
      'uniform 0',
      'dispatch 1,1,1',
      'end',
      'writeBuffer 3 +0 16',
      'submit',
    ]);
  });

  test('a copy ends the pass and keeps its place', () => {
    const { gpu, a, b, step, take } = start();
    step();
    gpu.copyWithinGPU(b, 0, a, 0, 16);
    step();
    gpu.flush();
    assert.deepEqual(
      take().filter((event) => !/^(pipeline|uniform)/.test(event)),
      [
        'pass',
        'dispatch 1,1,1',
        'end',
        'copy 2 1 16',
        'pass',
        'dispatch 1,1,1',
        'end',
        'writeBuffer 3 +0 16',
        'submit',
      ],
    );
  });

  test('an upload to a buffer that no command waits for goes at once, and submits nothing', () => {
    const { gpu, a, step, take } = start();
    step();
    take();
    const other = gpu.allocate(400_000);
    gpu.copyBytesToBuffer(new Uint8Array(400_000), other);
    assert.deepEqual(take(), ['writeBuffer 4 +0 400000']);
    gpu.flush();
    take();
    gpu.copyBytesToBuffer(new Uint8Array(16), a);
    assert.deepEqual(take(), ['writeBuffer 1 +0 16']);
  });

  test('an upload to a buffer in use: a small one goes along, a large one comes after', () => {
    const { gpu, b, step, take } = start();
    step();
    take();
    gpu.copyBytesToBuffer(new Uint8Array(12), b);
    assert.deepEqual(take(), ['end', 'copy 3 2 12']);
    const large = gpu.allocate(100_000);
    gpu.copyWithinGPU(b, 0, large, 0, 16);
    take();
    gpu.copyBytesToBuffer(new Uint8Array(100_000), large);
    assert.deepEqual(take(), ['writeBuffer 3 +0 28', 'submit', 'writeBuffer 4 +0 100000']);
  });

  test('uploads that fill the arena submit the batch and go on', () => {
    const { gpu, b, step, take } = start();
    const large = gpu.allocate(2 ** 16);
    step();
    gpu.copyWithinGPU(b, 0, large, 0, 16);
    for (let i = 0; i < 20; i++) gpu.copyBytesToBuffer(new Uint8Array(2 ** 16), large);
    gpu.flush();
    const events = take();
    assert.deepEqual(
      events.filter((event) => /^(writeBuffer|submit)/.test(event)),
      [7, 8, 5].flatMap((count, i) => [
        `writeBuffer 4 +0 ${count * 2 ** 16 + (i === 0 ? 16 : 0)}`,
        'submit',
      ]),
    );
    assert.equal(events.filter((event) => event === 'copy 4 3 65536').length, 20);
  });

  test('a buffer in use is destroyed after the submit, any other at once', () => {
    const { gpu, a, b, step, take } = start();
    const idle = gpu.allocate(4);
    step();
    take();
    gpu.free(a);
    assert.deepEqual(take(), []);
    gpu.free(idle);
    assert.deepEqual(take(), ['destroy 3']);
    gpu.flush();
    assert.deepEqual(take(), ['end', 'writeBuffer 4 +0 16', 'submit', 'destroy 1']);
    gpu.free(b);
    assert.deepEqual(take(), ['destroy 2']);
  });

  test('a batch of so many dispatches is submitted by itself', () => {
    const { step, take } = start({ dispatchesPerSubmit: 3 });
    for (let i = 0; i < 7; i++) step(i);
    const submits = take().filter((event) => event === 'submit');
    assert.equal(submits.length, 2);
  });

  test('copies do not collect without end', () => {
    const { gpu, a, b, take } = start();
    for (let i = 0; i < 5000; i++) gpu.copyWithinGPU(a, 0, b, 0, 16);
    const events = take();
    assert.equal(events.indexOf('submit'), 2048);
    assert.equal(events.filter((event) => event === 'submit').length, 2);
  });

  test('reads share a submit, are mapped after it, and stand for the wait', async () => {
    const { gpu, a, b, step, take, map } = start();
    step();
    gpu.copyFromGPU(a, 0, 0, 16);
    gpu.copyFromGPU(b, 3, 64, 5);
    take();
    let done = false;
    const sync = gpu.sync().then(() => (done = true));
    assert.deepEqual(take(), ['writeBuffer 3 +0 16', 'submit', 'map 4', 'map 5']);
    await pause();
    assert.equal(done, false);
    map();
    await sync;
    assert.deepEqual(take(), ['unmap 4', 'unmap 5']);
    // Work after a read is waited for by itself; the staging buffers are used again
    gpu.copyFromGPU(a, 0, 0, 16);
    await pause();
    step();
    take();
    const again = gpu.sync();
    assert.deepEqual(take(), ['end', 'writeBuffer 3 +0 16', 'submit', 'wait']);
    map();
    await again;
    assert.deepEqual(take(), ['unmap 4']);
  });

  test('a wrong call leaves no trace', () => {
    const { gpu, take } = start();
    const kernel = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    assert.throws(() => kernel(1, 2, 4, 1, 0, 1), failsWith('invalid_argument', '6 arguments'));
    assert.throws(() => kernel(1, 2, 0.5, 1, 0, 1, 64), failsWith('invalid_argument'));
    assert.throws(() => kernel(1, 2, 4, 1, 0, -1, 64), failsWith('invalid_argument'));
    assert.throws(() => kernel(1, 9, 4, 1, 0, 1, 64), failsWith('invalid_argument'));
    gpu.flush();
    assert.deepEqual(take(), []);
  });
});

describe('errors that come later', () => {
  test('each kind in the words of its call, the first first, each once', async () => {
    const { gpu, step, failNext, scopes } = start();
    await gpu.sync();
    failNext('out-of-memory', 'no memory\n - While calling createBuffer');
    gpu.allocate(1000);
    failNext('internal', 'driver');
    step();
    await assert.rejects(
      gpu.sync(),
      failsWith(
        'out_of_device_memory',
        'allocating a GPU buffer of 1000 bytes: out of device memory: no memory; While calling',
        '1 more error after it',
      ),
    );
    await gpu.sync();
    failNext('validation', 'no such thing');
    step();
    gpu.flush();
    await assert.rejects(
      gpu.sync(),
      failsWith(
        'invalid_argument',
        'submitting 1 command (affine): refused by WebGPU: no such thing',
      ),
    );
    assert.deepEqual(scopes, []);
  });

  test('a lost device ends every wait', async () => {
    const { gpu, a, step, lose, take } = start();
    step();
    gpu.copyFromGPU(a, 0, 0, 16);
    const waiting = gpu.sync();
    const reading = gpu.readBytes(a, 0, 16);
    lose('unplugged');
    const lost = failsWith('device_lost', 'unplugged', 'unknown');
    await assert.rejects(waiting, lost);
    await assert.rejects(reading, lost);
    take();
    assert.throws(() => step(), lost);
    assert.throws(() => gpu.allocate(4), lost);
    await assert.rejects(gpu.sync(), lost);
    gpu.dispose();
    assert.ok(take().includes('destroy 1'));
  });
});

describe('launches', () => {
  test('blocks are spread without a remainder where there is a way', () => {
    assert.deepEqual(spreadBlocks(0, 65_535), [0, 1]);
    assert.deepEqual(spreadBlocks(65_535, 65_535), [65_535, 1]);
    assert.deepEqual(spreadBlocks(65_536, 65_535), [32_768, 2]);
    assert.deepEqual(spreadBlocks(3 * 65_535, 65_535), [65_535, 3]);
    assert.deepEqual(spreadBlocks(65_537, 65_535), [32_769, 2]); // a prime
    for (const blocks of [65_537, 70_001, 99_999, 123_456, 2 ** 31 - 1, 4_294_836_225]) {
      const [x, z] = spreadBlocks(blocks, 65_535) ?? [0, 0];
      assert.ok(x <= 65_535 && z <= 65_535 && Number.isInteger(x), `${blocks}: ${x} x ${z}`);
      assert.ok(x * z >= blocks && x * z - blocks < z, `${blocks}: ${x} x ${z}`);
    }
    assert.equal(spreadBlocks(4_294_836_226, 65_535), undefined);
  });

  test('descriptions that make no sense', () => {
    const info = {
      name: 'k',
      arg_types: ['handle', 'int32'],
      launch_param_tags: ['paramWriteAccess:[1]'],
    };
    assert.equal(planLaunch(JSON.stringify(info)).argumentCount, 2);
    const wrong: [object | string, ...string[]][] = [
      ['{', 'no JSON'],
      ['7', 'no name'],
      ['null', 'no name'],
      [{ ...info, name: 3 }, 'no name'],
      [{ ...info, arg_types: 'handle' }, 'no name'],
      [{ ...info, arg_types: ['handle', 'complex64'] }, 'kernel "k"', 'argument 1', 'complex64'],
      [{ ...info, arg_types: ['handle', 'float64'] }, 'argument 1', 'float64'],
      [{ ...info, arg_types: ['handle', 'handle'] }, '2 buffers', '1'],
      [{ ...info, launch_param_tags: ['blockIdx.w'] }, 'blockIdx.w'],
      [{ ...info, launch_param_tags: ['vthread'] }, 'vthread'],
      [{ ...info, launch_param_tags: ['paramWriteAccess:[2]'] }, 'paramWriteAccess:[2]'],
      [{ ...info, launch_param_tags: ['paramWriteAccess:x'] }, 'paramWriteAccess:x'],
      [{ ...info, launch_param_tags: [] }, '1 buffers', 'has 0'],
    ];
    for (const [given, ...texts] of wrong) {
      const json = typeof given === 'string' ? given : JSON.stringify(given);
      assert.throws(() => planLaunch(json), failsWith('invalid_argument', ...texts));
    }
  });
});
