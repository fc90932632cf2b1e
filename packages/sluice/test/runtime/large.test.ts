// What is large: the record on which tvmjs aborts, and addresses beyond 2 GiB.
import assert from 'node:assert/strict';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { createRuntime, type RuntimeArray, type Tensor } from 'sluice/runtime';
import { throws } from './support.js';

const MIB = 2 ** 20;

describe('what is large', { timeout: 120_000 }, () => {
  test('a record of 1,120 MiB loads to the CPU, in as much wasm memory', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sluice-large-'));
    try {
      const nbytes = 1120 * MIB;
      const name = 'model.embed_tokens_per_layer.q_weight';
      const shape = [262_144, 1120];
      const entry = { dtype: 'U32', shape, data_offsets: [0, nbytes] };
      const header = Buffer.from(JSON.stringify({ [name]: entry }));
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(header.length));
      const path = join(folder, 'model.safetensors');
      const file = await open(path, 'w');
      const begin = length.length + header.length;
      await file.write(Buffer.concat([length, header]));
      // The rest reads as zeros
      const marks = [0, 4, nbytes / 2, nbytes - 4];
      for (const at of marks) await file.write(Buffer.from([1, 2, 3, at % 251]), 0, 4, begin + at);
      await file.close();

      const runtime = await createRuntime();
      const before = runtime.memoryBytes;
      using loaded = await runtime.loadTensors(path, { cache: true });
      const used = runtime.memoryBytes - before;
      assert.ok(used < 1.01 * nbytes, `${used} bytes for ${nbytes}`);
      const get = runtime.getFunction<[string], Tensor>('vm.builtin.tensor_cache.get');
      const tensor = get(name);
      const cached = loaded.get(name);
      assert.ok(cached);
      assert.deepEqual([tensor.shape, tensor.dtype, tensor.nbytes], [shape, 'uint32', nbytes]);
      assert.equal(tensor.data, cached.data);
      for (const at of marks) {
        const view = tensor.view([4], { dtype: 'uint8', byteOffset: at });
        assert.deepEqual([...view.bytes()], [1, 2, 3, at % 251], `byte ${at}`);
      }
      assert.deepEqual([...tensor.view([2], { byteOffset: 8 }).toArray()], [0, 0]);
      runtime.dispose();
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  test('addresses beyond 2 GiB', async () => {
    const runtime = await createRuntime();
    const low = runtime.empty([1200 * MIB], 'uint8');
    const large = runtime.empty([1200 * MIB], 'uint8');
    large.inPlace()[1100 * MIB] = 9;
    assert.deepEqual([...large.view([1], { byteOffset: 1100 * MIB }).bytes()], [9]);

    // Larger than what is left of the memory below
    const tensor = runtime.empty([MIB], 'int32');
    assert.ok(tensor.data > 2 ** 31, `${tensor.data}`);
    tensor.inPlace().fill(0);
    tensor.view([2], { byteOffset: 4 * (MIB - 2) }).set([7, 8]);
    assert.deepEqual([...tensor.toArray().subarray(-3)], [0, 7, 8]);

    const echo = runtime.getFunction('testing.echo');
    const text = 'größe, 大 '.repeat(400_000);
    assert.equal(echo(text), text);
    const bytes = new Uint8Array(4 * MIB).map((_, i) => i * 13);
    assert.deepEqual(echo(bytes), bytes);
    const shape = Array.from({ length: 500_000 }, (_, i) => i);
    assert.deepEqual(echo(shape), shape);
    const array = echo([text, ...shape]) as RuntimeArray;
    assert.ok(array.handle > 2 ** 31, `${array.handle}`);
    assert.equal(array.get(499_999), 499_998);
    assert.equal(array.get(0), text);

    const call = runtime.getFunction('tvmjs.testing.call');
    const result = call(
      (given: string, all: RuntimeArray) => given.length + all.length,
      text,
      array,
    );
    assert.equal(result, text.length + shape.length + 1);
    const long = new Error('x'.repeat(3 * MIB));
    assert.throws(
      () =>
        call(() => {
          throw long;
        }),
      (error) => error === long,
    );
    throws(() => call(() => Symbol(), text), 'TypeError', 'a symbol');
    throws(() => runtime.empty([3000 * MIB], 'uint8'), 'MemoryError', 3000 * MIB);
    low.dispose();
    runtime.dispose();
  });
});
