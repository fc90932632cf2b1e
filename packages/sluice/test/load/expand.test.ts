// Tensors that the GPU expands hold the same bytes as those that the loader's codecs have decoded.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { loadModel, type LoadOptions, type Model } from 'sluice';
import { nodeDevice } from '../sinks/node_gpu.js';
import {
  gguf,
  randomTensor,
  served,
  tensorCacheFiles,
  type TestTensor,
} from '../support/models.js';
import { blocks, convertible } from '../support/convertible.js';
import { startServer, type TestServer } from '../support/server.js';
import { expectModel, rejects, trackBuffers, type Expected } from './support.js';

const TARGETS = ['float32', 'float16', 'bfloat16'] as const;

/** float32 that is stored as bfloat16. */
function packed(name: string, elements: number): TestTensor {
  const { bytes } = randomTensor(name, 'bfloat16', [elements], elements);
  return { name, dtype: 'float32', format: 'f32-to-bf16', shape: [elements], bytes };
}

async function expectSame(model: Model, reference: Model, converted: number): Promise<void> {
  const expected = [...reference.tensors.values()].map((tensor): Expected => {
    assert.ok(tensor.location === 'cpu');
    const { name, dtype, shape, data } = tensor;
    return { name, dtype, shape, bytes: data };
  });
  await expectModel(model, expected);
  assert.equal(model.report.expandedOnDevice, converted);
}

describe('expansion on the device', { timeout: 120_000 }, () => {
  let folder: string;
  let device: GPUDevice;
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sluice-expand-'));
    device = await nodeDevice();
  });
  after(() => {
    rmSync(folder, { recursive: true });
    device.destroy();
  });

  const write = (name: string, bytes: Uint8Array): string => {
    writeFileSync(join(folder, name), bytes);
    return join(folder, name);
  };
  const onDevice = (options: LoadOptions): LoadOptions => ({
    device,
    expand: 'device',
    ...options,
  });

  for (const dtype of TARGETS) {
    test(`every stored type to ${dtype}: each bit is what the codecs give, NaNs included`, async () => {
      const tensors = convertible();
      const path = write('every.gguf', gguf(tensors));
      const reference = await loadModel(path, { device: 'cpu', dtype });
      for (const upload of ['ring', 'writeBuffer'] as const) {
        const model = await loadModel(path, onDevice({ dtype, upload }));
        // All but the one that is of this type already, and the integers
        await expectSame(model, reference, tensors.length - 2);
        model.destroy();
      }
    });
  }

  test('tensors of any small size share buffers, and leave their neighbours alone', async () => {
    const sizes = [...Array.from({ length: 40 }, (_, i) => i), 255, 256, 257, 1023, 16_383, 32_767];
    const files = tensorCacheFiles([
      sizes.flatMap((n) => [packed(`p${n}`, n), randomTensor(`i${n}`, 'int8', [n], n)]),
    ]);
    const server = await startServer({ files: served(files, '/m/') });
    try {
      const url = `${server.origin}/m/`;
      for (const dtype of ['stored', ...TARGETS] as const) {
        const reference = await loadModel(url, { device: 'cpu', dtype });
        for (const budgetBytes of [2 ** 18, 2 ** 22]) {
          const model = await loadModel(url, onDevice({ dtype, budgetBytes }));
          // As bfloat16 they are what is stored
          await expectSame(model, reference, dtype === 'bfloat16' ? 0 : sizes.length);
          assert.ok(model.report.budgetPeak <= budgetBytes);
          model.destroy();
        }
      }
    } finally {
      await server.close();
    }
  });

  test('large tensors through small slots', async () => {
    const tensors = [
      blocks('q6_k', 20_001, 1),
      blocks('q4_0', 50_001, 2),
      randomTensor('half', 'F16', [700_001], 3),
    ].map((tensor) => (tensor.name === 'half' ? { ...tensor, dtype: 'f16' } : tensor));
    const path = write('large.gguf', gguf(tensors));
    const reference = await loadModel(path, { device: 'cpu', dtype: 'float32' });
    for (const budgetBytes of [2 ** 17, 2 ** 20, 2 ** 26]) {
      const model = await loadModel(path, onDevice({ dtype: 'float32', budgetBytes }));
      await expectSame(model, reference, 3);
      model.destroy();
    }
  });

  describe('over a connection', () => {
    let server: TestServer;
    before(async () => {
      const small = [
        blocks('q4_0', 3, 1),
        blocks('q6_k', 3, 2),
        { ...randomTensor('odd', 'int8', [3], 3), dtype: 'i8' },
      ];
      server = await startServer({
        files: {
          '/small.gguf': gguf(small),
          ...served(tensorCacheFiles([[packed('a', 500_001), packed('b', 3)]]), '/cache/'),
        },
      });
    });
    after(() => server.close());

    test('chunks of one byte, so that each unit is cut everywhere', async () => {
      const url = `${server.origin}/small.gguf`;
      const bytewise: typeof fetch = async (...request) => {
        const response = await fetch(...request);
        const bytes = new Uint8Array(await response.arrayBuffer());
        let at = 0;
        const body = new ReadableStream<Uint8Array>({
          pull(controller) {
            if (at === bytes.length) controller.close();
            else controller.enqueue(bytes.slice(at, ++at));
          },
        });
        return new Response(body, response);
      };
      const reference = await loadModel(url, { device: 'cpu', dtype: 'float16' });
      const model = await loadModel(url, onDevice({ dtype: 'float16', fetch: bytewise }));
      await expectSame(model, reference, 2);
      model.destroy();
    });

    test('a connection that breaks inside a unit', async () => {
      const url = `${server.origin}/cache/`;
      const reference = await loadModel(url, { device: 'cpu' });
      for (const cutAfter of [1, 65_537, 999_999]) {
        server.addFault({ path: '/cache/params_shard_0.bin', cutAfter, times: 1 });
        const model = await loadModel(url, onDevice({}));
        await expectSame(model, reference, 2);
        assert.equal(model.report.retries, 1);
        model.destroy();
      }
    });

    test('a load that is aborted or fails leaves no buffer', async () => {
      const live = trackBuffers(device);
      const url = `${server.origin}/cache/`;
      server.addFault({ path: '/cache/params_shard_0.bin', status: 403, times: 1 });
      await rejects(loadModel(url, onDevice({})), 'http_status', 403);
      const controller = new AbortController();
      const aborted = loadModel(
        url,
        onDevice({
          signal: controller.signal,
          onTensor: () => {
            controller.abort();
          },
        }),
      );
      await rejects(aborted, 'aborted');
      assert.ok(live.created > 0);
      assert.equal(live.count, 0);
      const model = await loadModel(url, onDevice({}));
      assert.equal(live.count, new Set([...model.tensors.values()].map(bufferOf)).size);
      model.destroy();
      assert.equal(live.count, 0);
    });
  });

  test('a device that is lost ends the load', async () => {
    const doomed = await nodeDevice();
    const path = write('lost.gguf', gguf([blocks('q4_0', 50_001, 2), blocks('q8_0', 7, 3)]));
    const loading = loadModel(path, {
      device: doomed,
      expand: 'device',
      dtype: 'float32',
      budgetBytes: 2 ** 20,
      onTensor: () => {
        doomed.destroy();
      },
    });
    await rejects(loading, 'device_lost');
  });

  test('the option is checked, and needs buffers that a shader can write', async () => {
    const path = write('option.gguf', gguf([blocks('q4_0', 5, 2)]));
    const usage = GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST;
    const unknown = 'gpu' as unknown as 'device';
    await rejects(
      loadModel(path, { device, expand: unknown }),
      'invalid_argument',
      'expand',
      'gpu',
    );
    const refused = loadModel(path, onDevice({ dtype: 'float32', usage }));
    await rejects(refused, 'invalid_argument', 'STORAGE', usage);
    for (const options of [
      { usage },
      { expand: 'cpu' as const },
      { usage, expand: 'auto' as const },
    ]) {
      const model = await loadModel(path, { device, dtype: 'float32', ...options });
      assert.equal(model.report.expandedOnDevice, 0);
      model.destroy();
    }
    const asStored = await loadModel(path, onDevice({}));
    assert.equal(asStored.report.expandedOnDevice, 0);
    asStored.destroy();
  });
});

const bufferOf = (tensor: { location: string; buffer?: GPUBuffer }): GPUBuffer | undefined =>
  tensor.buffer;
