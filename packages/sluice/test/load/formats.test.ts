// loadModel() in Node: every format, from a server and from a folder, to the CPU, to a consumer and to a GPU.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { loadModel, type LoadOptions } from 'sluice';
import { nodeDevice } from '../sinks/node_gpu.js';
import {
  concat,
  gguf,
  randomBytes,
  randomTensor,
  safetensors,
  safetensorsIndexFiles,
  served,
  tensorCacheFiles,
  type Files,
  type TestTensor,
} from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';
import { asStored, expectModel, rejects, trackBuffers, type Expected } from './support.js';

/** float32 whose lower halves are zero, and its packed form. */
function packed(
  name: string,
  shape: number[],
  seed: number,
): { record: TestTensor; out: Expected } {
  const record = { ...randomTensor(name, 'bfloat16', shape, seed), dtype: 'float32' };
  const bytes = new Uint8Array(2 * record.bytes.length);
  for (let i = 0; i < record.bytes.length; i += 2) {
    bytes.set(record.bytes.subarray(i, i + 2), 2 * i + 2);
  }
  const format = 'f32-to-bf16';
  return { record: { ...record, format }, out: { name, dtype: 'float32', shape, bytes } };
}

interface TestModel {
  /** Below the root: '/folder/name', or '/folder/' for a folder. */
  location: string;
  files: Files;
  format: string;
  expected: Expected[];
}

function makeModels(): TestModel[] {
  const big = randomTensor('big', 'float32', [700, 1031], 1); // 2.9 MB, rows of 4,124 bytes
  const native = { ...randomTensor('native', 'float32', [3, 77], 3), format: 'f32-to-bf16' };
  const widths = { ...randomTensor('labelled', 'uint32', [5, 7], 4), format: 'f32-to-bf16' };
  const bf16 = packed('packed', [129, 1025], 2);
  const odd = [1, 2, 3, 5, 255, 256, 257, 1021].map((n) =>
    randomTensor(`odd.${n}`, 'int8', [n], n),
  );
  const none = randomTensor('none', 'float16', [0, 4], 5);
  const scalar = randomTensor('scalar', 'float32', [], 6);
  const half = randomTensor('half', 'float16', [65_537], 7); // 131,074 bytes: not a multiple of 4
  const shards = [
    [big, native, widths],
    [bf16.record, ...odd, none],
    [scalar, half],
  ];
  const stored = shards.flat().map(asStored);
  const cache = stored.map((tensor) => (tensor.name === 'packed' ? bf16.out : tensor));

  const plain = [
    randomTensor('a.weight', 'F32', [513, 257], 11),
    randomTensor('b.bias', 'BF16', [33], 12),
    randomTensor('c.mask', 'U8', [3, 3], 13),
    randomTensor('d.empty', 'I64', [2, 0], 14),
    randomTensor('e.scalar', 'I64', [], 15),
    randomTensor('f.flags', 'BOOL', [70_001], 16),
    randomTensor('g.half', 'F16', [1_000_003], 17),
  ];
  const blocks = (name: string, dtype: string, rows: number, columns: number, bytes: number) => ({
    name,
    dtype,
    shape: [rows, columns],
    bytes: randomBytes(bytes * rows * (columns / (dtype.endsWith('k') ? 256 : 32)), rows),
  });
  const quantised = [
    randomTensor('token_embd.weight', 'F32', [64, 96], 21),
    blocks('blk.0.q4_0', 'q4_0', 101, 96, 18),
    blocks('blk.0.q4_1', 'q4_1', 257, 1024, 20),
    blocks('blk.0.q8_0', 'q8_0', 33, 64, 34),
    blocks('blk.0.q6_k', 'q6_k', 5, 512, 210),
    randomTensor('output_norm.weight', 'F16', [97], 22),
  ].map((tensor) => ({ ...tensor, dtype: tensor.dtype.toLowerCase() }));
  // A GGUF file's tensor holds at least one row, a 0-d one does not exist there
  const describeGguf = { 'general.architecture': 'test', 'test.block_count': 1 };

  return [
    {
      location: '/cache/',
      files: served(tensorCacheFiles(shards), '/cache/'),
      format: 'tensor-cache',
      expected: cache,
    },
    {
      location: '/older/ndarray-cache.json',
      files: served(tensorCacheFiles(shards, 'ndarray-cache.json'), '/older/'),
      format: 'tensor-cache',
      expected: cache,
    },
    {
      location: '/one/weights.safetensors',
      files: { '/one/weights.safetensors': safetensors(plain, { format: 'pt' }) },
      format: 'safetensors',
      expected: plain.map(asStored),
    },
    {
      location: '/index/model.safetensors.index.json',
      files: served(safetensorsIndexFiles([plain.slice(0, 3), plain.slice(3)]), '/index/'),
      format: 'safetensors',
      expected: plain.map(asStored),
    },
    {
      location: '/index2/',
      files: served(safetensorsIndexFiles([plain.slice(0, 6), plain.slice(6)]), '/index2/'),
      format: 'safetensors',
      expected: plain.map(asStored),
    },
    {
      location: '/gguf/model.gguf',
      files: { '/gguf/model.gguf': gguf(quantised, describeGguf) },
      format: 'gguf',
      expected: quantised.map(asStored),
    },
    {
      location: '/gguf2/model.gguf',
      files: { '/gguf2/model.gguf': gguf(quantised, describeGguf, 2) },
      format: 'gguf',
      expected: quantised.map(asStored),
    },
  ];
}

describe('loadModel() of every format', { timeout: 120_000 }, () => {
  const models = makeModels();
  const files: Files = Object.assign({}, ...models.map((model) => model.files)) as Files;
  let server: TestServer;
  let folder: string;
  let device: GPUDevice;

  before(async () => {
    server = await startServer({ files });
    folder = mkdtempSync(join(tmpdir(), 'sluice-load-'));
    for (const [path, body] of Object.entries(files)) {
      mkdirSync(join(folder, dirname(path)), { recursive: true });
      writeFileSync(join(folder, path), body);
    }
    device = await nodeDevice();
  });
  after(async () => {
    device.destroy();
    rmSync(folder, { recursive: true });
    await server.close();
  });

  for (const { location, format, expected } of models) {
    test(`${location} from a server, to the CPU`, async () => {
      const model = await loadModel(server.origin + location);
      assert.equal(model.format, format);
      assert.equal(model.device, undefined);
      assert.equal(model.report.upload, undefined);
      await expectModel(model, expected);
      model.destroy();
    });

    test(`${location} from a folder, to the CPU`, async () => {
      await expectModel(await loadModel(join(folder, location)), expected);
      await expectModel(await loadModel(pathToFileURL(join(folder, location))), expected);
    });

    for (const upload of ['ring', 'writeBuffer'] as const) {
      test(`${location} from a server, to a GPU by ${upload}`, async () => {
        const buffers = trackBuffers(device);
        const model = await loadModel(server.origin + location, { device, upload });
        assert.equal(model.report.upload, upload);
        assert.equal(model.report.thread, 'caller');
        await expectModel(model, expected);
        assert.ok(buffers.count > 0);
        model.destroy();
        assert.equal(buffers.count, 0, 'destroy() left buffers');
      });
    }

    test(`${location} to a consumer: each tensor's bytes in order`, async () => {
      const parts = new Map<string, Uint8Array[]>();
      const at = new Map<string, number>();
      const model = await loadModel(server.origin + location, {
        async consume(tensor, offset, bytes) {
          assert.equal(offset, at.get(tensor.name) ?? 0, `${tensor.name} is out of order`);
          at.set(tensor.name, offset + bytes.length);
          // Only valid until this is done
          await new Promise((next) => setImmediate(next));
          parts.set(tensor.name, [...(parts.get(tensor.name) ?? []), bytes.slice()]);
        },
      });
      assert.equal(model.tensors.size, 0);
      assert.equal(model.report.budgetUsed, 0);
      for (const { name, bytes } of expected) {
        assert.equal(Buffer.compare(concat(parts.get(name) ?? []), bytes), 0, `${name} differs`);
      }
    });
  }

  for (const budgetBytes of [900_000, 2 ** 22, 64 * 2 ** 20]) {
    for (const options of [
      { shareBelowBytes: 0, upload: 'ring' },
      { shareBelowBytes: 2 ** 24, upload: 'writeBuffer' },
      { connections: 1, upload: 'ring' },
      { connections: 16, upload: 'writeBuffer' },
    ] satisfies LoadOptions[]) {
      test(`a budget of ${budgetBytes} bytes with ${JSON.stringify(options)}`, async () => {
        const { location, expected } = models[0] ?? assert.fail();
        const buffers = trackBuffers(device);
        const model = await loadModel(server.origin + location, {
          device,
          budgetBytes,
          ...options,
        });
        await expectModel(model, expected);
        assert.equal(model.report.budgetLimit, budgetBytes);
        assert.ok(model.report.budgetPeak > 0);
        model.destroy();
        assert.equal(buffers.count, 0);
      });
    }
  }

  test('small tensors share a buffer, large ones have their own', async () => {
    const { location } = models[0] ?? assert.fail();
    const model = await loadModel(server.origin + location, { device, shareBelowBytes: 4096 });
    const owners = new Map<GPUBuffer, string[]>();
    for (const tensor of model.tensors.values()) {
      assert.equal(tensor.location, 'gpu');
      owners.set(tensor.buffer, [...(owners.get(tensor.buffer) ?? []), tensor.name]);
    }
    const shared = [...owners.values()].filter((names) => names.length > 1);
    assert.equal(shared.length, 1);
    assert.ok(shared[0]?.includes('odd.1021') && shared[0].includes('scalar'));
    assert.equal(owners.size, 1 + 3);
    model.destroy();
  });

  test('tensors by name and by function; the others are neither fetched nor held', async () => {
    const { location, expected } = models[0] ?? assert.fail();
    const named = await loadModel(server.origin + location, { tensors: ['half', 'odd.5'] });
    await expectModel(
      named,
      expected.filter(({ name }) => ['half', 'odd.5'].includes(name)),
    );
    const begin = server.requests.length;
    const chosen = await loadModel(server.origin + location, {
      device,
      tensors: ({ dtype }) => dtype === 'int8',
    });
    await expectModel(
      chosen,
      expected.filter(({ dtype }) => dtype === 'int8'),
    );
    chosen.destroy();
    const asked = new Set(server.requests.slice(begin).map(({ path }) => path));
    assert.deepEqual([...asked].sort(), ['/cache/params_shard_1.bin', '/cache/tensor-cache.json']);
    const empty = await loadModel(server.origin + location, { tensors: [] });
    await expectModel(empty, []);
  });

  test('a name that is not there is an error that says so', async () => {
    const { location } = models[0] ?? assert.fail();
    const error = await rejects(
      loadModel(server.origin + location, { tensors: ['half', 'hlaf'] }),
      'invalid_argument',
      "'hlaf'",
      15,
    );
    assert.equal(error.tensor, 'hlaf');
  });

  test('progress rises to the end, and each tensor is reported once', async () => {
    const { location, expected } = models[0] ?? assert.fail();
    const seen: string[] = [];
    const steps: number[] = [];
    const model = await loadModel(server.origin + location, {
      device,
      onTensor: (name) => seen.push(name),
      onProgress: (progress) => steps.push(progress.outputBytesDone),
    });
    assert.deepEqual(seen.sort(), expected.map(({ name }) => name).sort());
    assert.deepEqual(
      steps,
      [...steps].sort((a, b) => a - b),
    );
    assert.equal(steps.at(-1), model.report.outputBytes);
    model.destroy();
  });

  test('metadata of each format is passed on', async () => {
    const [cache, , one, , , quantised] = models;
    assert.ok(cache && one && quantised);
    const load = (location: string) => loadModel(server.origin + location, { tensors: [] });
    assert.deepEqual((await load(cache.location)).metadata, { ParamSize: 0, ParamBytes: 0 });
    assert.deepEqual((await load(one.location)).metadata, { format: 'pt' });
    const { metadata } = await load(quantised.location);
    assert.equal(metadata['general.architecture'], 'test');
    assert.equal(metadata['test.block_count'], 1);
  });
});
