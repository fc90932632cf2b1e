// The device on a real WebGPU implementation: kernels, copies at any byte, reads, errors, loss.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { readBack } from '../../sinks/node_gpu.js';
import { AFFINE, bytesOf, failsWith, fixture, kernelSource, wordsOf } from './support.js';

const TIMEOUT = { timeout: 60_000 };

/** Bytes that tell their place. */
const pattern = (n: number, seed = 0): Uint8Array =>
  Uint8Array.from({ length: n }, (_, i) => (i * 7 + seed * 31 + 1) & 0xff);

describe('the WebGPU device', TIMEOUT, () => {
  test('buffers: handles from 1, exact sizes, stale handles', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const sizes = [0, 1, 3, 4, 5, 1000];
    const handles = sizes.map((nbytes) => gpu.allocate(nbytes));
    assert.deepEqual(handles, [1, 2, 3, 4, 5, 6]);
    assert.deepEqual(
      handles.map((handle) => gpu.bufferOf(handle).size),
      [4, 4, 4, 4, 8, 1000],
    );
    assert.equal(gpu.stats().allocatedBytes, 1024);
    gpu.free(2);
    gpu.free(6);
    const { buffers, allocatedBytes, peakBytes, totalBytes } = gpu.stats();
    assert.deepEqual(
      { buffers, allocatedBytes, peakBytes, totalBytes },
      {
        buffers: 4,
        allocatedBytes: 20,
        peakBytes: 1024,
        totalBytes: 1024,
      },
    );
    assert.throws(
      () => gpu.free(2),
      failsWith('invalid_argument', 'freeing', '2 is not the handle'),
    );
    assert.throws(() => gpu.bufferOf(0), failsWith('invalid_argument', 'null handle'));
    for (const handle of [99, -1, 1.5, NaN]) {
      assert.throws(
        () => gpu.copyWithinGPU(1, 0, handle, 0, 0),
        failsWith('invalid_argument', handle),
      );
    }
    assert.equal(gpu.allocate(8), 6); // the last that was freed
    for (const nbytes of [-1, 0.5, NaN, 2 ** 53]) {
      assert.throws(() => gpu.allocate(nbytes), failsWith('invalid_argument', nbytes));
    }
    const most = gpu.device.limits.maxBufferSize;
    assert.throws(() => gpu.allocate(most + 4), failsWith('device_limit', most + 4, most));
    await gpu.sync();
  });

  test('a chain of dependent dispatches in one pass gives what it gives on the CPU', async () => {
    await using it = await fixture({ dispatchesPerSubmit: 100 });
    const { gpu } = it;
    const n = 200;
    const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    const pair = [gpu.allocate(4 * n), gpu.allocate(4 * n)] as const;
    const first = Array.from({ length: n }, (_, i) => i);
    gpu.copyBytesToBuffer(bytesOf(first), pair[0]);
    let expected = first;
    for (let step = 0; step < 1000; step++) {
      const [from, to] = step % 2 === 0 ? pair : [pair[1], pair[0]];
      affine(from, to, n, 3, step, Math.ceil(n / 64), 64);
      expected = expected.map((value) => (Math.imul(value, 3) + step) >>> 0);
    }
    assert.deepEqual(wordsOf(await gpu.readBytes(pair[0], 0, 4 * n)), expected);
    const { dispatches, passes, submits, bindGroupsMade } = gpu.stats();
    assert.deepEqual({ dispatches, bindGroupsMade }, { dispatches: 1000, bindGroupsMade: 2 });
    assert.equal(passes, 10);
    assert.ok(submits <= 11, `${submits} submits`);
  });

  test('uploads keep their place between dispatches, whatever their size', async () => {
    await using it = await fixture();
    const { gpu } = it;
    for (const n of [1, 5000, 40_000]) {
      const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
      const input = gpu.allocate(4 * n);
      const outputs = Array.from({ length: 6 }, () => gpu.allocate(4 * n));
      for (const [i, output] of outputs.entries()) {
        gpu.copyBytesToBuffer(bytesOf(Array.from({ length: n }, (_, j) => j + 100 * i)), input);
        affine(input, output, n, 1, i, Math.ceil(n / 64), 64);
      }
      for (const [i, output] of outputs.entries()) {
        const words = wordsOf(await gpu.readBytes(output, 0, 4 * n));
        assert.ok(
          words.every((word, j) => word === j + 101 * i),
          `${n} words, output ${i}`,
        );
      }
    }
  });

  test('small uploads to a buffer in use go along with the batch', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    const input = gpu.allocate(4);
    const outputs = Array.from({ length: 20 }, () => gpu.allocate(4));
    for (const [i, output] of outputs.entries()) {
      gpu.copyBytesToBuffer(bytesOf([i]), input);
      affine(input, output, 1, 2, 1, 1, 64);
    }
    assert.equal(gpu.stats().submits, 0);
    const values = await Promise.all(outputs.map((output) => gpu.readBytes(output, 0, 4)));
    assert.deepEqual(
      values.map((bytes) => wordsOf(bytes)[0]),
      outputs.map((_, i) => 2 * i + 1),
    );
  });

  test('copies to, within and from the GPU at every byte offset and length', async () => {
    await using it = await fixture();
    const { gpu, memory } = it;
    const size = 40;
    const a = gpu.allocate(size);
    const b = gpu.allocate(size);
    for (const offset of [0, 1, 2, 3, 4, 7]) {
      for (const nbytes of [0, 1, 2, 3, 4, 5, 8, 9, 13]) {
        for (const toOffset of [0, 1, 2, 3, 6]) {
          const what = `${nbytes} bytes from ${offset} to ${toOffset}`;
          const before = pattern(size, 1);
          gpu.copyBytesToBuffer(before, a);
          gpu.copyBytesToBuffer(pattern(size, 2), b);
          const bytes = pattern(nbytes, 3);
          memory.bytes(101, nbytes).set(bytes);
          gpu.copyToGPU(101, a, offset, nbytes);
          before.set(bytes, offset);
          const between = pattern(size, 2);
          between.set(before.subarray(offset, offset + nbytes), toOffset);
          gpu.copyWithinGPU(a, offset, b, toOffset, nbytes);
          gpu.copyWithinGPU(a, offset, a, toOffset, nbytes); // memmove
          const moved = before.slice();
          moved.copyWithin(toOffset, offset, offset + nbytes);
          gpu.copyFromGPU(a, 0, 1000, size);
          gpu.copyFromGPU(b, 0, 2000, size);
          gpu.copyFromGPU(b, toOffset, 3001, nbytes);
          await gpu.sync();
          assert.deepEqual(memory.bytes(1000, size), moved, what);
          assert.deepEqual(memory.bytes(2000, size), between, what);
          assert.deepEqual(memory.bytes(3001, nbytes), bytes, what);
        }
      }
    }
  });

  test('a large upload at an odd offset leaves its neighbours', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const size = 300_000;
    const handle = gpu.allocate(size);
    const expected = pattern(size, 1);
    gpu.copyBytesToBuffer(expected, handle);
    const bytes = pattern(200_001, 5);
    gpu.copyBytesToBuffer(bytes, handle, 4099);
    expected.set(bytes, 4099);
    const odd = gpu.allocate(size + 2);
    gpu.copyWithinGPU(handle, 1, odd, 2, size - 1);
    assert.ok(Buffer.from(await gpu.readBytes(handle, 0, size)).equals(expected));
    const copied = await gpu.readBytes(odd, 2, size - 1);
    assert.ok(Buffer.from(copied).equals(expected.subarray(1)));
  });

  test('sizes that are no multiple of 4 need no second step', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const handle = gpu.allocate(7);
    const bytes = pattern(7);
    gpu.copyBytesToBuffer(bytes, handle);
    const other = gpu.allocate(7);
    gpu.copyWithinGPU(handle, 0, other, 0, 7);
    assert.deepEqual(await gpu.readBytes(other, 0, 7), bytes);
    assert.equal(gpu.stats().dispatches, 0);
  });

  test('out of range: each way, with the numbers', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const handle = gpu.allocate(10);
    const wrong = failsWith('range_out_of_bounds', '10 bytes', 'from 8 on');
    assert.throws(() => gpu.copyBytesToBuffer(new Uint8Array(3), handle, 8), wrong);
    assert.throws(() => gpu.copyToGPU(0, handle, 8, 3), wrong);
    assert.throws(() => gpu.copyFromGPU(handle, 8, 0, 3), wrong);
    assert.throws(() => gpu.copyWithinGPU(handle, 8, handle, 0, 3), wrong);
    assert.throws(() => gpu.copyWithinGPU(handle, 0, handle, 8, 3), wrong);
    await assert.rejects(gpu.readBytes(handle, 8, 3), wrong);
    for (const offset of [-1, 0.5, NaN]) {
      assert.throws(
        () => gpu.copyToGPU(0, handle, offset, 1),
        failsWith('invalid_argument', offset),
      );
    }
  });

  test('reads: several at once, in order, into memory that grows meanwhile', async () => {
    await using it = await fixture();
    const { gpu, memory } = it;
    const handle = gpu.allocate(400);
    for (let i = 0; i < 8; i++) {
      gpu.copyBytesToBuffer(pattern(400, i), handle);
      gpu.copyFromGPU(handle, 0, 1000 * i, 399);
    }
    const old = memory.bytes(0, 1);
    memory.memory.grow(1);
    assert.equal(old.length, 0);
    await gpu.sync();
    for (let i = 0; i < 8; i++) {
      assert.deepEqual(memory.bytes(1000 * i, 399), pattern(400, i).subarray(0, 399), `read ${i}`);
      assert.equal(memory.bytes(1000 * i + 399, 1)[0], 0);
    }
    assert.ok(gpu.stats().readPoolBytes >= 8 * 400);
    await gpu.sync();
  });

  test('a read that nobody waits for lands; the pool keeps no more than it may', async () => {
    await using it = await fixture({ readPoolBytes: 5000 });
    const { gpu, memory } = it;
    const handle = gpu.allocate(4000);
    gpu.copyBytesToBuffer(pattern(4000), handle);
    for (let i = 0; i < 4; i++) gpu.copyFromGPU(handle, 0, 4000 * i, 4000);
    const deadline = Date.now() + 10_000;
    while (memory.bytes(3 * 4000 + 3999, 1)[0] === 0 && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.deepEqual(memory.bytes(12_000, 4000), pattern(4000));
    await gpu.sync();
    assert.equal(gpu.stats().readPoolBytes, 4096);
  });

  test('a read into memory that is too small is told by sync', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const handle = gpu.allocate(400);
    gpu.copyFromGPU(handle, 0, 65_500, 400);
    await assert.rejects(gpu.sync(), failsWith('internal', 'reading 400 bytes'));
    await gpu.sync();
  });

  test('a buffer that is freed while commands wait for it', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    const output = gpu.allocate(4);
    for (let i = 0; i < 300; i++) {
      const input = gpu.allocate(4);
      gpu.copyBytesToBuffer(bytesOf([i]), input);
      affine(input, output, 1, 1, 0, 1, 64);
      gpu.free(input);
    }
    assert.deepEqual(wordsOf(await gpu.readBytes(output, 0, 4)), [299]);
    assert.deepEqual(gpu.stats().buffers, 1);
    assert.equal(gpu.stats().bindGroups, 0);
  });

  test('a buffer taken over is used and freed like any other', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const buffer = gpu.device.createBuffer({ size: 16, usage });
    const handle = gpu.adoptBuffer(buffer);
    assert.equal(gpu.bufferOf(handle), buffer);
    gpu.copyBytesToBuffer(pattern(15), handle);
    assert.deepEqual(await gpu.readBytes(handle, 0, 16), Uint8Array.of(...pattern(15), 0));
    gpu.free(handle);
    assert.throws(() => gpu.bufferOf(handle), failsWith('invalid_argument'));
    const lesser = gpu.device.createBuffer({ size: 16, usage: GPUBufferUsage.STORAGE });
    assert.throws(() => gpu.adoptBuffer(lesser), failsWith('invalid_argument', '128', '16 bytes'));
    const mapped = gpu.device.createBuffer({ size: 16, usage, mappedAtCreation: true });
    assert.throws(() => gpu.adoptBuffer(mapped), failsWith('invalid_argument', 'mapped'));
  });

  test('the functions that a runtime looks up', async () => {
    await using it = await fixture();
    const { gpu, memory } = it;
    const call = (name: string, ...args: number[]): number | undefined =>
      gpu.deviceAPI(name)(...args);
    const a = call('deviceAllocDataSpace', 8) ?? 0;
    const b = call('deviceAllocDataSpace', 8) ?? 0;
    memory.bytes(16, 8).set(pattern(8));
    call('deviceCopyToGPU', 16, a, 0, 8);
    call('deviceCopyWithinGPU', a, 4, b, 0, 4);
    call('deviceCopyFromGPU', b, 0, 32, 4);
    await gpu.sync();
    assert.deepEqual(memory.bytes(32, 4), pattern(8).subarray(4));
    call('deviceFreeDataSpace', a);
    assert.throws(() => call('deviceFreeDataSpace', a), failsWith('invalid_argument'));
    assert.throws(() => call('deviceFreeDataSpace'), failsWith('invalid_argument', 'NaN'));
    assert.equal(call('deviceCopiesAnyByte'), 1);
    assert.throws(() => gpu.deviceAPI('deviceReset'), failsWith('invalid_argument', 'deviceReset'));
  });
});

describe('kernels', TIMEOUT, () => {
  test('plain arguments arrive with their types', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const source = kernelSource(
      'pods',
      ['read_write'],
      { a: 'int32', b: 'uint32', c: 'float32', d: 'int64', e: 'bool' },
      `if (i == 0) {
         b0[0] = bitcast<u32>(podArgs.a); b0[1] = podArgs.b; b0[2] = bitcast<u32>(podArgs.c);
         b0[3] = bitcast<u32>(podArgs.d); b0[4] = u32(podArgs.e); b0[5] = podArgs.packGridDimX;
       }`,
    );
    const pods = gpu.createShader(JSON.stringify(source.info), source.wgsl);
    const output = gpu.allocate(24);
    const half = new Uint32Array(Float32Array.of(0.5).buffer)[0];
    pods(output, -5, 2 ** 32 - 1, 0.5, -7n, true, 3, 64);
    assert.deepEqual(wordsOf(await gpu.readBytes(output, 0, 24)), [
      2 ** 32 - 5,
      2 ** 32 - 1,
      half,
      2 ** 32 - 7,
      1,
      3,
    ]);
    pods(output, 5n, 7n, 1n, 9, 0, 1n, 64);
    const one = new Uint32Array(Float32Array.of(1).buffer)[0];
    assert.deepEqual(wordsOf(await gpu.readBytes(output, 0, 24)), [5, 7, one, 9, 0, 1]);

    const good = [output, 1, 1, 1, 1, true, 1, 64];
    const bad: [number, number | bigint | boolean | string, ...string[]][] = [
      [0, 0, 'argument 0', 'null handle'],
      [0, 77, 'argument 0', '77 is not the handle'],
      [0, 1n, 'argument 0'],
      [1, 2 ** 31, 'argument 1', 'int32', '2147483648'],
      [1, 0.5, 'argument 1', 'int32', '0.5'],
      [1, NaN, 'argument 1', 'NaN'],
      [1, 'seven', 'argument 1', 'seven'],
      [2, -1, 'argument 2', 'uint32'],
      [2, 2n ** 32n, 'argument 2', '4294967296'],
      [3, 'x', 'argument 3', 'float32'],
      [4, 2n ** 40n, 'argument 4', 'int64', '32 bits'],
      [5, 2, 'argument 5', 'bool'],
      [6, -1, 'argument 6', 'launch extent'],
      [6, 1.5, 'argument 6'],
    ];
    for (const [at, value, ...texts] of bad) {
      const args = good.with(at, value as number) as number[];
      assert.throws(() => pods(...args), failsWith('invalid_argument', 'kernel "pods"', ...texts));
    }
    for (const count of [0, 7]) {
      const args = good.slice(0, count) as number[];
      assert.throws(
        () => pods(...args),
        failsWith('invalid_argument', 'kernel "pods"', `${count} arguments`, 'takes 8'),
      );
    }
    await gpu.sync();
  });

  test('more blocks than a dimension has are spread, each once', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const source = kernelSource(
      'count',
      ['read_write'],
      {},
      'if (threadIdx.x == 0) { b0[blockIdx.z * gridDim.x + blockIdx.x] += 1 + podArgs.packGridDimX; }',
    );
    const count = gpu.createShader(source.info, source.wgsl);
    for (const blocks of [1, 65_535, 65_536, 70_001, 131_070, 200_000]) {
      const output = gpu.allocate(4 * blocks + 4);
      count(output, blocks, 64);
      const words = wordsOf(await gpu.readBytes(output, 0, 4 * blocks));
      assert.ok(
        words.every((word) => word === 1 + blocks),
        `${blocks} blocks`,
      );
      gpu.free(output);
    }
    const output = gpu.allocate(4);
    count(output, 0, 64);
    assert.deepEqual(wordsOf(await gpu.readBytes(output, 0, 4)), [0]);
    assert.throws(
      () => count(output, 2 ** 32 - 1, 64),
      failsWith('invalid_argument', 'blockIdx.x'),
    );
    const z = kernelSource('deep', ['read_write'], {}, '', [
      'blockIdx.x',
      'blockIdx.z',
      'blockIdx.y',
    ]);
    const deep = gpu.createShader(z.info, z.wgsl);
    deep(output, 1, 1, 1);
    assert.throws(
      () => deep(output, 1, 2, 1),
      failsWith('invalid_argument', 'deep', 'blockIdx.z is 2'),
    );
    assert.throws(
      () => deep(output, 1, 1, 70_000),
      failsWith('invalid_argument', 'blockIdx.y', 70_000),
    );
    await gpu.sync();
  });

  test('a buffer bound twice that is written to is refused at the call', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    const handle = gpu.allocate(4);
    assert.throws(
      () => affine(handle, handle, 1, 1, 1, 1, 64),
      failsWith('invalid_argument', 'kernel "affine"', 'buffers 1 and 0', `handle ${handle}`),
    );
    await gpu.sync();
  });

  test('bind groups are kept up to a number', async () => {
    await using it = await fixture({ mostBindGroups: 3 });
    const { gpu } = it;
    const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    const output = gpu.allocate(4);
    const inputs = Array.from({ length: 6 }, () => gpu.allocate(4));
    for (const input of [...inputs, ...inputs.slice(-3)]) affine(input, output, 1, 1, 1, 1, 64);
    assert.deepEqual([gpu.stats().bindGroups, gpu.stats().bindGroupsMade], [3, 6]);
    gpu.free(inputs[5] ?? 0);
    assert.equal(gpu.stats().bindGroups, 2);
    gpu.free(output);
    assert.equal(gpu.stats().bindGroups, 0);
    await gpu.sync();
  });

  test('a shader that does not compile: the name, the line, what the compiler says', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const wrong = kernelSource('typo', ['read_write'], {}, 'b0[i] = f33(1);');
    const line = wrong.wgsl.split('\n').findIndex((each) => each.includes('f33')) + 1;
    const expected = failsWith(
      'invalid_argument',
      'kernel "typo"',
      `line ${line}:`,
      'f33',
      'b0[i] =',
    );
    await assert.rejects(gpu.createShaderAsync(wrong.info, wrong.wgsl), expected);
    await assert.rejects(gpu.pipelines([AFFINE, wrong, AFFINE]), expected);
    const typo = gpu.createShader(wrong.info, wrong.wgsl);
    typo(gpu.allocate(4), 1, 64);
    await assert.rejects(gpu.sync(), expected);
    await gpu.sync();
  });

  test('a shader that does not fit its description', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const { info, wgsl } = AFFINE;
    const named = { ...(info as object), name: 'other' } as typeof info;
    await assert.rejects(
      gpu.createShaderAsync(named, wgsl),
      failsWith('invalid_argument', 'kernel "other"', 'other'),
    );
    gpu.createShader(named, wgsl);
    await assert.rejects(gpu.sync(), failsWith('invalid_argument', 'kernel "other"'));
    const many = kernelSource('many', Array<'read'>(100).fill('read'), {}, '');
    assert.throws(
      () => gpu.createShader(many.info, many.wgsl),
      failsWith('device_limit', 'kernel "many"', '100 buffers'),
    );
  });

  test('all kernels of a module at once', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const sources = Array.from({ length: 12 }, (_, k) =>
      kernelSource(`add_${k}`, ['read_write'], {}, `if (i == 0) { b0[0] += ${k}; }`),
    );
    const reports: string[] = [];
    const kernels = await gpu.pipelines(sources, (done, total) => reports.push(`${done}/${total}`));
    assert.equal(reports.at(-1), '12/12');
    const output = gpu.allocate(4);
    for (const kernel of kernels) kernel(output, 1, 64);
    assert.deepEqual(wordsOf(await gpu.readBytes(output, 0, 4)), [66]);
  });

  test('times, where the device tells them', async () => {
    await using it = await fixture();
    const { gpu } = it;
    assert.equal(gpu.canProfile, gpu.device.features.has('timestamp-query'));
    const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    const [a, b] = [gpu.allocate(4096), gpu.allocate(4096)];
    const work = (): void => {
      for (let i = 0; i < 300; i++) affine(a, b, 1024, 1, i, 16, 64);
    };
    if (!gpu.canProfile) {
      await assert.rejects(gpu.profile(work), failsWith('device_limit', 'timestamp-query'));
      return;
    }
    const times = await gpu.profile(work);
    assert.deepEqual([...times.keys()], ['affine']);
    assert.equal(times.get('affine')?.count, 300);
    assert.ok((times.get('affine')?.nanoseconds ?? 0) > 0);
    assert.deepEqual(wordsOf(await gpu.readBytes(b, 0, 4)), [299]);
    const failing = gpu.profile(() => {
      throw new Error('mine');
    });
    await assert.rejects(failing, /mine/);
    work();
    await gpu.sync();
  });
});

/** A canvas whose pixels can be read: its texture is one of the device's own. */
function plainCanvas(device: GPUDevice, width: number, height: number) {
  let format: GPUTextureFormat | undefined;
  const texture = device.createTexture({
    size: [width, height],
    format: 'bgra8unorm',
    usage: GPUTextureUsage.RENDER_ATTACHMENT | GPUTextureUsage.COPY_SRC,
  });
  const context = {
    configure: (given: GPUCanvasConfiguration) => (format = given.format),
    unconfigure: () => (format = undefined),
    getCurrentTexture: () => texture,
  };
  const canvas = {
    width,
    height,
    getContext: (kind: string) => (kind === 'webgpu' ? context : null),
  };
  return {
    canvas: canvas as unknown as OffscreenCanvas,
    format: () => format,
    /** Of one pixel, in the order of an image. */
    async rgba(x: number, y: number): Promise<number[]> {
      const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
      const buffer = device.createBuffer({ size: 256 * height, usage });
      const encoder = device.createCommandEncoder();
      const layout = { buffer, bytesPerRow: 256 };
      encoder.copyTextureToBuffer({ texture }, layout, [width, height]);
      device.queue.submit([encoder.finish()]);
      const bytes = await readBack(device, buffer);
      const [b = 0, g = 0, r = 0, a = 0] = bytes.subarray(256 * y + 4 * x);
      return [r, g, b, a];
    },
  };
}

describe('a canvas', TIMEOUT, () => {
  test('shows the image that the commands before have made, stretched', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const view = plainCanvas(gpu.device, 8, 12);
    assert.throws(() => gpu.clearCanvas(), failsWith('invalid_argument', 'no canvas is bound'));
    gpu.bindCanvas(view.canvas);
    assert.equal(view.format(), 'bgra8unorm');
    // Three rows of two pixels: four by four each
    const colors = [
      [255, 0, 0, 255],
      [0, 255, 0, 255],
      [0, 0, 255, 255],
      [0, 0, 0, 255],
      [9, 99, 199, 255],
      [50, 60, 70, 255],
    ];
    const image = gpu.allocate(24);
    const other = gpu.allocate(24);
    gpu.copyBytesToBuffer(Uint8Array.from(colors.flat()), other);
    gpu.copyWithinGPU(other, 0, image, 0, 24);
    gpu.showImage(image, 3, 2);
    assert.deepEqual(await view.rgba(0, 0), colors[0]);
    assert.deepEqual(await view.rgba(7, 0), colors[1]);
    assert.deepEqual(await view.rgba(0, 11), colors[4]);
    assert.deepEqual(await view.rgba(7, 11), colors[5]);
    const [r = 0, g = 0] = await view.rgba(4, 0); // between red and green
    assert.ok(r > 0 && r < g, `${r}, ${g}`);
    gpu.clearCanvas();
    assert.deepEqual(await view.rgba(3, 5), [255, 255, 255, 255]);
    assert.throws(() => gpu.showImage(image, 3, 3), failsWith('range_out_of_bounds', '24 bytes'));
    assert.throws(() => gpu.showImage(image, 0, 3), failsWith('invalid_argument', '0 x 3'));
    gpu.bindCanvas(undefined);
    assert.equal(view.format(), undefined);
    const none = { getContext: () => null } as unknown as OffscreenCanvas;
    assert.throws(() => gpu.bindCanvas(none), failsWith('invalid_argument', 'no WebGPU context'));
    await gpu.sync();
  });
});

describe('what WebGPU tells later', TIMEOUT, () => {
  test('memory that there is not: told by sync, with the bytes, once', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const large = Math.min(gpu.device.limits.maxBufferSize, 2 ** 40);
    const handles: number[] = [];
    let failure: unknown;
    for (let i = 0; i < 64 && failure === undefined; i++) {
      handles.push(gpu.allocate(large));
      await gpu.sync().catch((error: unknown) => (failure = error));
    }
    failsWith('out_of_device_memory', `allocating a GPU buffer of ${large} bytes`)(failure);
    // A buffer that there is not is refused wherever it is used
    const last = handles.at(-1) ?? 0;
    gpu.copyBytesToBuffer(new Uint8Array(4), last);
    await assert.rejects(gpu.sync(), failsWith('invalid_argument', 'copying 4 bytes'));
    for (const handle of handles) gpu.free(handle);
    const small = gpu.allocate(4);
    gpu.copyBytesToBuffer(bytesOf([7]), small);
    assert.deepEqual(wordsOf(await gpu.readBytes(small, 0, 4)), [7]);
  });

  test('a batch that is refused names its kernels', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    const [a, b] = [gpu.allocate(4), gpu.allocate(4)];
    affine(a, b, 1, 1, 1, 1, 64);
    affine(a, b, 1, 1, 1, 1, 64);
    gpu.bufferOf(b).destroy(); // behind its back
    await assert.rejects(
      gpu.sync(),
      failsWith('invalid_argument', 'submitting 2 commands', 'affine x 2'),
    );
    await gpu.sync();
  });

  test('a scope that somebody else has open sees nothing of ours', async () => {
    await using it = await fixture();
    const { gpu } = it;
    gpu.device.pushErrorScope('validation');
    const affine = gpu.createShader(AFFINE.info, 'not WGSL');
    const [a, b] = [gpu.allocate(4), gpu.allocate(4)];
    affine(a, b, 1, 1, 1, 1, 64);
    assert.equal(await gpu.device.popErrorScope(), null);
    await assert.rejects(gpu.sync(), failsWith('invalid_argument', 'kernel "affine"'));
  });

  test('after the device is lost every call says so, and nothing hangs', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const affine = gpu.createShader(AFFINE.info, AFFINE.wgsl);
    const [a, b] = [gpu.allocate(4), gpu.allocate(4)];
    affine(a, b, 1, 1, 1, 1, 64);
    gpu.copyFromGPU(b, 0, 0, 4);
    const reading = gpu.readBytes(b, 0, 4);
    const waiting = gpu.sync();
    gpu.device.destroy();
    const lost = failsWith('device_lost', 'the GPU device was lost', 'destroyed');
    const outcomes = await Promise.allSettled([reading, waiting]);
    for (const outcome of outcomes) if (outcome.status === 'rejected') lost(outcome.reason);
    await gpu.device.lost;
    assert.throws(() => gpu.allocate(4), lost);
    assert.throws(() => affine(a, b, 1, 1, 1, 1, 64), failsWith('device_lost', 'kernel "affine"'));
    assert.throws(() => gpu.copyToGPU(0, a, 0, 4), lost);
    assert.throws(() => gpu.copyFromGPU(a, 0, 0, 4), lost);
    assert.throws(() => gpu.copyWithinGPU(a, 0, b, 0, 4), lost);
    assert.throws(() => gpu.createShader(AFFINE.info, AFFINE.wgsl), lost);
    assert.throws(() => gpu.flush(), lost);
    await assert.rejects(gpu.createShaderAsync(AFFINE.info, AFFINE.wgsl), lost);
    await assert.rejects(gpu.readBytes(a, 0, 4), lost);
    await assert.rejects(gpu.sync(), lost);
    gpu.free(a); // whoever holds a buffer can still let go of it
  });

  test('disposed of: what waits rejects, and every call says so', async () => {
    await using it = await fixture();
    const { gpu } = it;
    const a = gpu.allocate(4);
    gpu.copyFromGPU(a, 0, 0, 4);
    const waiting = gpu.sync();
    waiting.catch(() => undefined);
    gpu.dispose();
    gpu.dispose();
    await assert.rejects(waiting, failsWith('aborted', 'disposed'));
    assert.throws(() => gpu.allocate(4), failsWith('aborted', 'disposed'));
    await assert.rejects(gpu.sync(), failsWith('aborted'));
    gpu.free(a);
  });
});
