// Tensors, samplers and the GPU of sluice/tvmjs.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import * as tvmjs from 'sluice/tvmjs';
import type { Instance, Tensor } from 'sluice/tvmjs';
import { nodeDevice, readBack } from '../sinks/node_gpu.js';
import { newInstance } from './support.js';

let tvm: Instance;
before(() => {
  tvm = newInstance();
});
beforeEach(() => tvm.beginScope());
afterEach(() => tvm.endScope());

const CONTENT = [1, 2, 3, 4, 5, 6];

describe('tensors', () => {
  test('copy arrays of the types that have some', () => {
    for (const [dtype, type] of [
      ['float32', Float32Array],
      ['float64', Float64Array],
      ['int', Int32Array],
      ['int32', Int32Array],
      ['int8', Int8Array],
      ['uint8', Uint8Array],
    ] as const) {
      const tensor = tvm.empty([2, 3], dtype).copyFrom(CONTENT);
      assert.deepEqual([tensor.shape, tensor.ndim], [[2, 3], 2]);
      assert.equal(String(tensor.device), 'cpu:0');
      assert.equal(tensor.isView, false);
      assert.deepEqual(tensor.toArray(), type.from(CONTENT));
      assert.deepEqual(tvm.empty([6], dtype).copyFrom(tensor).toArray(), type.from(CONTENT));
      // Whatever array the numbers come in, also a part of one
      const part = Float64Array.of(9, ...CONTENT).subarray(1);
      assert.deepEqual(tvm.empty(6, dtype).copyFrom(part).toArray(), type.from(CONTENT));
      const same = type.of(9, ...CONTENT).subarray(1);
      assert.deepEqual(tvm.empty(6, dtype).copyFrom(same).toArray(), type.from(CONTENT));
    }
    const words = tvm.empty([2], 'uint32').copyFrom([1, 2 ** 32 - 1]);
    assert.deepEqual(words.toRawBytes(), Uint8Array.of(1, 0, 0, 0, 255, 255, 255, 255));
    const half = tvm.empty([2], new tvmjs.DLDataType(2, 16, 1));
    assert.equal(half.dtype, 'float16');
    assert.throws(() => half.copyFrom([1, 2]), /Unsupported data type float16/);
    assert.throws(() => half.toArray(), /Unsupported data type float16/);
  });

  test('hold bytes of every other type, packed', () => {
    const kinds: [dtype: string, nbytes: number][] = [
      ...([
        ['float16', 10],
        ['bfloat16', 10],
        ['int64', 40],
        ['bool', 5],
      ] as [string, number][]),
      ...([
        ['float8_e4m3fn', 5],
        ['float4_e2m1fn', 3],
        ['int4', 3],
      ] as [string, number][]),
      ['float32x4', 80],
    ];
    for (const [dtype, nbytes] of kinds) {
      const tensor = tvm.empty([5], dtype);
      const bytes = Uint8Array.from({ length: nbytes }, (_, i) => i + 1);
      assert.deepEqual(tensor.copyFromRawBytes(bytes).toRawBytes(), bytes, dtype);
      assert.throws(
        () => tensor.copyFromRawBytes(bytes.subarray(1)),
        new RegExp(`Expect the data's length equals nbytes=${nbytes}`),
      );
    }
    assert.deepEqual(tvm.empty([], 'float32').copyFrom([4]).toArray(), Float32Array.of(4));
    assert.equal(tvm.empty([0, 7], 'int32').copyFrom([]).toArray().length, 0);
  });

  test('have views, of other types and with offsets, that share their memory', () => {
    const tensor = tvm.empty([2, 3], 'int32').copyFrom(CONTENT);
    const view = tensor.view([3, 2]);
    view.copyFrom([6, 5, 4, 3, 2, 1]);
    assert.deepEqual(tensor.toArray(), Int32Array.of(6, 5, 4, 3, 2, 1));
    assert.equal(view.getDataPtr(), tensor.getDataPtr());
    assert.deepEqual(
      tensor.view([24], 'uint8').toArray().subarray(0, 5),
      Uint8Array.of(6, 0, 0, 0, 5),
    );
    const create = tvm.getGlobalFunc('runtime.TVMTensorCreateView');
    const part = create(tensor, [2], 'int32', tvm.scalar(8, 'int')) as Tensor;
    assert.equal(part.getCPUDataAddress(), tensor.getCPUDataAddress() + 8);
    part.copyFrom([0, -1]);
    assert.deepEqual(tensor.toArray(), Int32Array.of(6, 5, 0, -1, 2, 1));
    tensor.dispose();
    assert.deepEqual(part.toArray(), Int32Array.of(0, -1));
    assert.deepEqual(part.view([1]).toArray(), Int32Array.of(0));
    assert.throws(
      () => part.view([3]),
      /^Error: ValueError: tensor int32\[2\]: a view of int32\[3\]/,
    );
  });

  test('as DLTensor are read, and passed on, while a callback runs', () => {
    const { lib } = tvm as unknown as { lib: { core: { exports: Record<string, unknown> } } };
    assert.ok(lib.core.exports);
    const tensor = tvm.empty([3], 'int8').copyFrom([1, 2, 3]);
    const pointer = tensor.getHandle() + 24;
    // TVMFFIAny of a DLTensor pointer
    const view = new tvmjs.Tensor(
      pointer,
      ...(Object.values({ lib, ctx: (tvm as unknown as { ctx: unknown }).ctx }) as [never, never]),
      true,
    );
    assert.ok(view.isView);
    assert.deepEqual(view.toArray(), Int8Array.of(1, 2, 3));
    assert.equal(view.getHandle(false), 0);
    const seen: unknown[] = [];
    tvm.getGlobalFunc('tvmjs.testing.call')((given: Tensor) => {
      seen.push(given.isView, [...given.toArray()]);
    }, view);
    assert.deepEqual(seen, [true, [1, 2, 3]]);
    view.dispose();
    assert.deepEqual(tensor.toArray(), Int8Array.of(1, 2, 3));
  });

  test('name what does not fit', () => {
    assert.throws(() => tvm.empty([2, -1]), /ValueError.*extent 1 of the shape is -1/);
    assert.throws(() => tvm.empty([1.5]), /TypeError.*1\.5/);
    assert.throws(
      () => tvm.empty([1], 'float33'),
      /no tensor can hold the dtype of code 2, 33 bits/,
    );
    assert.throws(
      () => tvm.empty([2]).copyFrom(tvm.empty([3])),
      /float32\[3\] on cpu:0, 12 bytes, does not fit float32\[2\] on cpu:0, 8 bytes/,
    );
    assert.throws(() => tvm.empty([2]).copyFrom([1]), /shape mismatch data\.length1 vs 2/);
    assert.throws(() => tvm.empty([2 ** 20, 2 ** 20]), /MemoryError.*4398046511104 bytes/);
    assert.throws(() => tvm.empty([1], 'float32', tvm.device('cuda')), /no device cuda:0/);
    assert.throws(() => tvm.empty([1], 'float32', tvm.webgpu()), /webgpu:0 is not there/);
    assert.throws(() => tvm.device('abacus'), /Cannot recogonize deviceType abacus/);
    const tensor = tvm.empty([2]);
    tensor.dispose();
    assert.deepEqual(tensor.shape, [2]);
    for (const act of [
      () => tensor.getDataPtr(),
      () => tensor.toArray(),
      () => tensor.copyFrom([1, 2]),
      () => tensor.view([1]),
    ]) {
      assert.throws(act, /disposed/);
    }
  });

  test('of 1,120 MiB', () => {
    const nbytes = 1120 * 2 ** 20;
    const instance = newInstance();
    instance.withNewScope(() => {
      const tensor = instance.empty([262144, 1120], 'uint32');
      const data = new Uint8Array(nbytes);
      data.set([1, 2, 3], nbytes - 3);
      tensor.copyFromRawBytes(data);
      const end = instance.memory.viewRawBytes(tensor.getCPUDataAddress() + nbytes - 4, 4);
      assert.deepEqual(end, Uint8Array.of(0, 1, 2, 3));
    });
    instance.dispose();
  });

  test('are drawn as the seed says', () => {
    tvm.setSeed(42);
    const state = tvm.getRNGState();
    const drawn = tvm.uniform([100], -2, 3, tvm.cpu()).toArray();
    assert.ok(drawn.every((value) => value >= -2 && value <= 3));
    assert.ok(new Set(drawn).size > 90);
    tvm.setRNGState(state);
    assert.deepEqual(tvm.uniform([100], -2, 3, tvm.cpu()).toArray(), drawn);
  });

  test('are sampled and penalised', () => {
    const logits = tvm.empty([1, 4]).copyFrom([1, 4, 2, 3]);
    assert.equal(tvm.sampleTopPFromLogits(logits, 0, 1), 1);
    assert.equal(tvm.sampleTopPFromLogits(logits, 1, 0.01), 1);
    tvm.applyRepetitionPenalty(logits, tvm.empty([1], 'int32').copyFrom([1]), 8);
    assert.deepEqual(logits.toArray(), Float32Array.of(1, 0.5, 2, 3));
    tvm.applyPresenceAndFrequencyPenalty(
      logits,
      tvm.empty([1], 'int32').copyFrom([3]),
      tvm.empty([1], 'int32').copyFrom([2]),
      0.5,
      0.25,
    );
    assert.deepEqual(logits.toArray(), Float32Array.of(1, 0.5, 2, 2));
    tvm.applySoftmaxWithTemperature(logits, 1);
    const sum = Array.from(logits.toArray()).reduce((a, b) => a + b);
    assert.ok(Math.abs(sum - 1) < 1e-6);
    assert.ok([2, 3].includes(tvm.sampleTopPFromProb(logits, 0.01)));
  });

  test('of embeddings are joined', () => {
    const a = tvm.empty([1, 2]).copyFrom([1, 2]);
    const b = tvm.empty([2, 2]).copyFrom([3, 4, 5, 6]);
    const joined = tvm.concatEmbeddings([a, b]);
    assert.deepEqual(joined.shape, [3, 2]);
    assert.deepEqual(joined.toArray(), Float32Array.from(CONTENT));
    assert.throws(() => tvm.concatEmbeddings([a, tvm.empty([1, 3])]), /shape \(m_i, hidden_size\)/);
  });

  test('benchmark() gives milliseconds', async () => {
    const times = await tvm.benchmark(() => tvm.empty([4]), tvm.cpu(), 5, 3);
    assert.equal(times.length, 3);
    assert.ok(times.every((ms) => ms > 0 && ms < 100));
  });
});

describe('on WebGPU', () => {
  let gpu: Instance;
  before(async () => {
    gpu = newInstance();
    gpu.initWebGPU(await nodeDevice());
  });
  after(() => gpu.dispose());
  beforeEach(() => gpu.beginScope());
  afterEach(() => gpu.endScope());

  async function read(tensor: Tensor): Promise<number[]> {
    const copy = gpu.empty(tensor.shape, tensor.dtype, gpu.cpu()).copyFrom(tensor);
    await gpu.webgpu().sync();
    return [...copy.toArray()];
  }

  test('tensors are copied both ways, within, and through views', async () => {
    const device = gpu.webgpu();
    const whole = gpu.empty([2, 3], 'float32', device).copyFrom(CONTENT);
    assert.equal(String(whole.device), 'webgpu:0');
    assert.deepEqual(await read(gpu.empty([6], 'float32', device).copyFrom(whole)), CONTENT);
    const create = gpu.getGlobalFunc('runtime.TVMTensorCreateView');
    const part = (offset: number): Tensor =>
      create(whole, [2], 'float32', gpu.scalar(offset, 'int')) as Tensor;
    assert.deepEqual(await read(part(8)), [3, 4]);
    part(4).copyFrom(part(0));
    assert.deepEqual(await read(whole), [1, 1, 2, 4, 5, 6]);
    part(16).copyFrom([8, 9]);
    assert.deepEqual(await read(whole), [1, 1, 2, 4, 8, 9]);
    assert.throws(() => whole.copyFromRawBytes(new Uint8Array(20)), /length equals nbytes=24/);
    assert.throws(() => whole.toArray(), /Can only sync copy CPU array/);
    assert.throws(() => whole.getCPUDataAddress(), /only obtain a linear-memory address/);
    assert.match(
      gpu.runtimeStatsText(),
      /^peak-memory=\d+ MB, all-memory=\d+ MB, shader-submissions=\d+$/,
    );
    assert.throws(() => gpu.showImage(whole), /Require a height x width uint32 Tensor.*float32/);
    assert.throws(() => gpu.showImage(gpu.empty([2, 2], 'uint32')), /get cpu instead/);
    const image = gpu.empty([2, 2], 'uint32', device);
    assert.throws(
      () => gpu.showImage(image),
      /Do not have a canvas context, call bindCanvas first/,
    );
    gpu.clearCanvas(); // of no canvas
  });

  test('images are shown on a canvas', async () => {
    const device = await nodeDevice();
    const instance = newInstance();
    instance.initWebGPU(device);
    // A canvas whose pixels can be read: its texture is one of the device's own
    const texture = device.createTexture({
      size: [2, 1],
      format: 'bgra8unorm',
      usage: GPUTextureUsage.RENDER_ATTACHMENT | GPUTextureUsage.COPY_SRC,
    });
    const context = {
      configure: () => undefined,
      unconfigure: () => undefined,
      getCurrentTexture: () => texture,
    };
    const canvas = { width: 2, height: 1, getContext: () => context };
    const pixels = async (): Promise<number[]> => {
      const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC;
      const buffer = device.createBuffer({ size: 256, usage });
      const encoder = device.createCommandEncoder();
      encoder.copyTextureToBuffer({ texture }, { buffer, bytesPerRow: 256 }, [2, 1]);
      device.queue.submit([encoder.finish()]);
      return [...(await readBack(device, buffer)).subarray(0, 8)];
    };
    instance.bindCanvas(canvas as unknown as HTMLCanvasElement);
    instance.beginScope();
    const image = instance.empty([1, 2], 'uint32', instance.webgpu());
    // Red and blue, as r, g, b, a
    instance.showImage(image.copyFrom([0xff0000ff, 0xffff0000]));
    assert.deepEqual(await pixels(), [0, 0, 255, 255, 255, 0, 0, 255]);
    instance.clearCanvas();
    assert.deepEqual(await pixels(), [255, 255, 255, 255, 255, 255, 255, 255]);
    instance.endScope();
    instance.dispose();
  });

  test('the loss of the device ends the instance', async () => {
    const instance = newInstance();
    const device = await nodeDevice();
    instance.initWebGPU(device);
    const said: unknown[] = [];
    const { error } = console;
    console.error = (...args: unknown[]) => said.push(args[0]);
    try {
      device.destroy();
      await device.lost;
      await new Promise((resolve) => setTimeout(resolve, 0));
    } finally {
      console.error = error;
    }
    assert.match(String(said[0]), /Device lost, calling Instance\.dispose/);
    instance.beginScope();
    assert.throws(() => instance.empty([1]), /disposed/);
  });

  test('there is none without initWebGPU()', async () => {
    await assert.rejects(tvm.webgpu().sync(), /WebGPU was not initialized/);
    await assert.rejects(tvm.asyncLoadWebGPUPipelines(tvm.systemLib()), /WebGPU not initialied/);
    assert.equal(await tvmjs.detectGPUDevice(), undefined);
  });
});
