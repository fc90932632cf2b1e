// Tensors on the CPU: every element type, views with offsets, copies, and what does not fit.
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import type { Tensor } from 'sluice/runtime';
import { type Runtime } from 'sluice/runtime';
import { newRuntime, throws, useCount } from './support.js';

let runtime: Runtime;
before(async () => {
  runtime = await newRuntime();
});

describe('element types', () => {
  const cases: [string, ArrayBufferView<ArrayBuffer>][] = [
    ['int8', Int8Array.of(-128, 0, 127)],
    ['uint8', Uint8Array.of(0, 1, 255)],
    ['int16', Int16Array.of(-32768, 0, 32767)],
    ['uint16', Uint16Array.of(0, 1, 65535)],
    ['int32', Int32Array.of(-(2 ** 31), 0, 2 ** 31 - 1)],
    ['uint32', Uint32Array.of(0, 1, 2 ** 32 - 1)],
    ['int64', BigInt64Array.of(-(2n ** 63n), 0n, 2n ** 63n - 1n)],
    ['uint64', BigUint64Array.of(0n, 1n, 2n ** 64n - 1n)],
    ['float32', Float32Array.of(-1.5, NaN, Infinity)],
    ['float64', Float64Array.of(-1.5, Number.MIN_VALUE, 1e300)],
    ['bool', Uint8Array.of(0, 1, 1)],
    ['bfloat16', Uint16Array.of(0x3f80, 0, 0xffff)],
    ['float8_e4m3fn', Uint8Array.of(1, 2, 3)],
    ['float8_e5m2', Uint8Array.of(1, 2, 3)],
  ];
  for (const [dtype, data] of cases) {
    test(`${dtype} by its array`, () => {
      using tensor = runtime.tensor(data, [3], dtype);
      assert.equal(tensor.dtype, dtype);
      assert.equal(tensor.nbytes, data.byteLength);
      assert.deepEqual(tensor.toArray(), data);
      assert.deepEqual(tensor.bytes(), new Uint8Array(data.buffer));
    });
  }
  test('float16 by bits', () => {
    using tensor = runtime.tensor(Uint16Array.of(0x3c00, 0x4000), [2], 'float16');
    const array = tensor.toArray();
    const values = 'Float16Array' in globalThis ? [1, 2] : [0x3c00, 0x4000];
    assert.deepEqual([...(array as Uint16Array)], values);
  });
  test('types of less than a byte are packed', () => {
    for (const [dtype, elements, nbytes] of [
      ['int4', 5, 3],
      ['uint4', 4, 2],
      ['float4_e2m1fn', 1, 1],
      ['uint1', 9, 2],
      ['int4', 0, 0],
    ] as const) {
      using tensor = runtime.empty([elements], dtype);
      assert.equal(tensor.nbytes, nbytes, dtype);
      const bytes = new Uint8Array(nbytes).fill(0x5a);
      tensor.set(bytes);
      assert.deepEqual(tensor.toArray(), bytes);
    }
  });
  test('vectors', () => {
    using tensor = runtime.tensor(Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8), [2], 'float32x4');
    assert.equal(tensor.nbytes, 32);
    assert.deepEqual(tensor.toArray(), Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  });
});

describe('shapes', () => {
  test('of no dimensions, and with none in one', () => {
    using scalar = runtime.tensor([2.5], [], 'float64');
    assert.deepEqual(scalar.shape, []);
    assert.equal(scalar.size, 1);
    assert.deepEqual(scalar.toArray(), Float64Array.of(2.5));
    using none = runtime.tensor([], [4, 0, 3], 'int32');
    assert.deepEqual(none.shape, [4, 0, 3]);
    assert.equal(none.nbytes, 0);
    assert.deepEqual(none.toArray(), new Int32Array());
  });
  test('come back as they were given', () => {
    for (const shape of [[1], [2, 3], [1, 1, 1, 1, 1, 1, 1, 1], [3, 5, 7, 2]]) {
      using tensor = runtime.empty(shape, 'int8');
      using again = runtime.getFunction('testing.echo')(tensor) as Tensor;
      assert.deepEqual(again.shape, shape);
      assert.deepEqual(again.dtype, 'int8');
      assert.equal(String(again.device), 'cpu:0');
      assert.ok(again.contiguous);
    }
  });
  test('that are none', () => {
    throws(() => runtime.empty([2.5]), 'TypeError', 'dimension 0', '2.5');
    throws(() => runtime.empty(['2'] as never), 'TypeError', "dimension 0 of a shape is '2'");
    throws(() => runtime.empty(5 as never), 'TypeError', 'not 5');
    throws(() => runtime.empty([2 ** 53]), 'RangeError', 'dimension 0', '2^53');
    throws(() => runtime.empty([-1]), 'ValueError', '-1');
    throws(() => runtime.empty([2 ** 40, 2 ** 40]), 'ValueError');
  });
  test('larger than memory', () => {
    const error = throws(() => runtime.empty([2 ** 31, 4], 'float32'), 'MemoryError');
    assert.equal(error.code, 'out_of_device_memory');
    using after = runtime.empty([4]);
    assert.equal(after.size, 4);
  });
});

describe('writing', () => {
  test('numbers, each held to the type', () => {
    using tensor = runtime.tensor([-1, 0, 127], [3], 'int8');
    assert.deepEqual([...tensor.toArray()], [-1, 0, 127]);
    throws(() => tensor.set([0, 1, 128]), 'ValueError', 'element 2 is 128', 'int8');
    throws(() => tensor.set([0.5, 1, 1]), 'ValueError', 'element 0 is 0.5');
    throws(() => tensor.set(['1', 1, 1] as never), 'ValueError', "element 0 is '1'");
    assert.deepEqual([...tensor.toArray()], [-1, 0, 127]);
    using large = runtime.tensor([2n ** 63n, 5n], [2], 'uint64');
    assert.deepEqual([...large.toArray()], [2n ** 63n, 5n]);
    using mixed = runtime.tensor([7, 8], [2], 'int64');
    assert.deepEqual([...mixed.toArray()], [7n, 8n]);
    throws(() => large.set([-1n, 0n]), 'ValueError', 'element 0 is -1n');
    throws(() => large.set([2 ** 53, 0]), 'ValueError', 'element 0 is 9007199254740992');
    using bool = runtime.empty([2], 'bool');
    throws(() => bool.set([0, 2]), 'ValueError', 'element 1 is 2', 'bool');
    using packed = runtime.empty([2], 'int4');
    throws(() => packed.set([1, 2]), 'TypeError', 'int4');
    using brain = runtime.empty([2], 'bfloat16');
    throws(() => brain.set([1, 2]), 'TypeError', 'bfloat16');
  });
  test('what does not fit', () => {
    using tensor = runtime.empty([2, 3], 'float32');
    tensor.name = 'w';
    const error = throws(
      () => tensor.set(new Float32Array(5)),
      'ValueError',
      "tensor 'w' float32[2,3]",
      '20 bytes',
      '24',
    );
    assert.deepEqual([error.tensor, error.expected, error.actual], ['w', 24, 20]);
    throws(() => tensor.set(new Int32Array(6)), 'TypeError', 'no Int32Array');
    throws(() => tensor.set('abc' as never), 'TypeError', "'abc'");
    throws(() => tensor.set([1, 2]), 'ValueError', '8 bytes', '24');
    throws(() => runtime.tensor([1, 2], [3]), 'ValueError', '8 bytes', '12');
  });
  test('bytes of any type, and an ArrayBuffer', () => {
    using tensor = runtime.empty([2], 'float32');
    tensor.set(new Uint8Array(Float32Array.of(1.5, 2.5).buffer));
    assert.deepEqual(tensor.toArray(), Float32Array.of(1.5, 2.5));
    tensor.set(Float32Array.of(3, 4).buffer);
    assert.deepEqual(tensor.toArray(), Float32Array.of(3, 4));
  });
  test('another tensor', () => {
    using from = runtime.tensor([1, 2, 3, 4], [2, 2], 'int32');
    using to = runtime.empty([2, 2], 'int32').set(from);
    assert.deepEqual([...to.toArray()], [1, 2, 3, 4]);
    using other = runtime.empty([2, 2], 'float32');
    throws(() => other.set(from), 'ValueError', 'int32[2,2]', 'float32[2,2]');
    using shape = runtime.empty([4], 'int32');
    throws(() => shape.set(from), 'ValueError', 'int32[2,2]', 'int32[4]');
  });
});

describe('views', () => {
  test('share memory, from their offset on', () => {
    using tensor = runtime.tensor([0, 1, 2, 3, 4, 5, 6, 7], [8], 'int32');
    const view = tensor.view([2, 2], { byteOffset: 8 });
    assert.deepEqual(view.shape, [2, 2]);
    assert.deepEqual([...view.toArray()], [2, 3, 4, 5]);
    view.set([20, 30, 40, 50]);
    assert.deepEqual([...tensor.toArray()], [0, 1, 20, 30, 40, 50, 6, 7]);
    const inner = view.view([1], { byteOffset: 12, dtype: 'float32' });
    assert.equal(inner.dtype, 'float32');
    assert.deepEqual(new Int32Array(inner.bytes().buffer), Int32Array.of(50));
    // And so does C++
    using copy = runtime.empty([2, 2], 'int32').set(view);
    assert.deepEqual([...copy.toArray()], [20, 30, 40, 50]);
    view.set(copy);
    const end = tensor.view([0], { byteOffset: 32 });
    assert.equal(end.nbytes, 0);
    for (const each of [view, inner, end]) each.dispose();
    assert.equal(useCount(runtime, tensor), 1);
  });
  test('keep the memory', () => {
    const tensor = runtime.tensor([1, 2, 3], [3], 'int32');
    const view = tensor.view([1], { byteOffset: 4 });
    tensor.dispose();
    for (let i = 0; i < 100; i++) runtime.tensor([7, 7, 7], [3], 'int32').dispose();
    assert.deepEqual([...view.toArray()], [2]);
    view.dispose();
  });
  test('that reach beyond', () => {
    using tensor = runtime.empty([8], 'int32');
    throws(() => tensor.view([8], { byteOffset: 4 }), 'ValueError', 'byte 36 of 32', 'int32[8]');
    throws(() => tensor.view([9]), 'ValueError', '36');
    throws(() => tensor.view([9], { dtype: 'float64' }), 'ValueError', '72');
    throws(() => tensor.view([1], { byteOffset: -4 }), 'ValueError', '-4');
    throws(() => tensor.view([1], { byteOffset: 0.5 }), 'ValueError', '0.5');
    throws(() => tensor.view([-1]), 'ValueError', '[-1]');
    throws(() => tensor.view([2 ** 50, 2 ** 50]), 'ValueError');
  });
});

describe('use after dispose', () => {
  test('is an error that names the tensor', () => {
    const tensor = runtime.empty([2, 3], 'float32');
    tensor.name = 'lm_head';
    assert.equal(String(tensor), "Tensor(tensor 'lm_head' float32[2,3])");
    tensor.dispose();
    tensor.dispose();
    const uses: (() => unknown)[] = [
      () => tensor.shape,
      () => tensor.dtype,
      () => tensor.device,
      () => tensor.nbytes,
      () => tensor.data,
      () => tensor.bytes(),
      () => tensor.toArray(),
      () => tensor.inPlace(),
      () => tensor.set([1]),
      () => tensor.view([1]),
      () => tensor.handle,
      () => tensor.typeKey,
    ];
    for (const use of uses) throws(use, 'ValueError', "tensor 'lm_head' float32[2,3] was disposed");
    assert.ok(tensor.disposed);
    assert.equal(String(tensor), 'Tensor(disposed)');
  });
  test('also of a tensor that a function gave', async () => {
    const tensor = runtime.getFunction('testing.echo')(runtime.empty([1])) as Tensor;
    tensor.dispose();
    throws(() => tensor.shape, 'ValueError', 'the tensor was disposed');
    await assert.rejects(tensor.read(), /the tensor was disposed/);
  });
});

describe('devices', () => {
  test('without a GPU there is none', () => {
    assert.throws(() => runtime.empty([1], 'float32', runtime.webgpu()));
    throws(() => runtime.empty([1], 'float32', 'cpu' as never), 'TypeError', "'cpu'");
  });
  test('read() of a tensor on the CPU', async () => {
    using tensor = runtime.tensor([1, 2], [2], 'uint8');
    assert.deepEqual(await tensor.read(), Uint8Array.of(1, 2));
  });
});
