// Loads that are stopped or that the device fails: what is reported, and that nothing stays behind.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { loadModel, requestDevice, SluiceError, type LoadOptions } from 'sluice';
import { nodeAdapter, nodeDevice } from '../sinks/node_gpu.js';
import { until } from '../sources/support.js';
import { randomTensor, served, tensorCacheFiles, type CacheRecord } from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';
import { asStored, expectModel, rejects, trackBuffers } from './support.js';

const tensors = Array.from({ length: 24 }, (_, i) =>
  randomTensor(`layer.${i}`, i % 3 === 0 ? 'bfloat16' : 'float32', [60 + i, 1024], i),
);
const files = served(tensorCacheFiles([tensors.slice(0, 9), tensors.slice(9)]));
const expected = tensors.map(asStored);
const MANIFEST = '/tensor-cache.json';

/** Where a load goes; each way has its own waits. */
const WAYS: [string, (device: GPUDevice) => LoadOptions][] = [
  ['the ring', (device) => ({ device, upload: 'ring', budgetBytes: 2 ** 20 })],
  ['writeBuffer', (device) => ({ device, upload: 'writeBuffer', budgetBytes: 2 ** 20 })],
  ['the CPU', () => ({ device: 'cpu' })],
  ['a slow consumer', () => ({ consume: () => sleep(1) })],
  ['the CPU, decoding', () => ({ device: 'cpu', dtype: 'float32' })],
];

/** Timers and sockets of this process. */
const resources = (): string[] =>
  process.getActiveResourcesInfo().filter((name) => /Timeout|TCPSocket/.test(name));

describe('loads that end early', { timeout: 120_000 }, () => {
  let server: TestServer;
  let device: GPUDevice;
  let baseline: number;
  before(async () => {
    device = await nodeDevice();
  });
  after(() => device.destroy());
  beforeEach(async () => {
    server = await startServer({ files });
    baseline = resources().length;
  });
  afterEach(() => server.close());

  /** Nothing is open, nothing waits. */
  async function quiet(): Promise<void> {
    await until(() => server.openResponses === 0, 'no response is open');
    await until(() => resources().length <= baseline, `only ${baseline} of ${resources().join()}`);
  }

  for (const [way, optionsFor] of WAYS) {
    test(`abort before the load, to ${way}`, async () => {
      const buffers = trackBuffers(device);
      const signal = AbortSignal.abort(new Error('why'));
      const error = await rejects(
        loadModel(server.origin + MANIFEST, { ...optionsFor(device), signal }),
        'aborted',
      );
      assert.equal((error.cause as Error).message, 'why');
      assert.equal(server.requests.length, 0);
      assert.equal(buffers.created, 0);
      await quiet();
    });

    test(`abort while opening, to ${way}: at once, though the server does not answer`, async () => {
      server.addFault({ path: MANIFEST, stallHeaders: true });
      const abort = new AbortController();
      const load = loadModel(server.origin + MANIFEST, {
        ...optionsFor(device),
        signal: abort.signal,
      });
      load.catch(() => undefined);
      await until(() => server.requests.length === 1, 'the manifest is asked for');
      const begin = performance.now();
      abort.abort(new Error('why'));
      const error = await rejects(load, 'aborted');
      assert.ok(performance.now() - begin < 1000);
      assert.equal((error.cause as Error).message, 'why');
      await quiet();
    });

    test(`abort at any moment, to ${way}`, async () => {
      const begin = performance.now();
      const whole = await loadModel(server.origin + MANIFEST, optionsFor(device));
      const milliseconds = performance.now() - begin;
      whole.destroy();
      const buffers = trackBuffers(device);
      let aborted = 0;
      for (let i = 0; i < 12; i++) {
        const abort = new AbortController();
        const timer = setTimeout(
          () => {
            abort.abort(new Error(`at ${i}`));
          },
          (milliseconds * i) / 12,
        );
        const outcome = await loadModel(server.origin + MANIFEST, {
          ...optionsFor(device),
          signal: abort.signal,
        }).catch((error: unknown) => error);
        clearTimeout(timer);
        if (outcome instanceof Error) {
          assert.ok(outcome instanceof SluiceError, String(outcome));
          assert.equal(outcome.code, 'aborted', outcome.message);
          assert.equal((outcome.cause as Error).message, `at ${i}`);
          aborted++;
        } else {
          (outcome as typeof whole).destroy();
        }
        assert.equal(buffers.count, 0, `${buffers.bytes} bytes stay`);
      }
      assert.ok(aborted > 0);
      await quiet();
    });

    test(`abort out of a callback, to ${way}: it is called no more`, async () => {
      for (const callback of ['onProgress', 'onTensor'] as const) {
        const abort = new AbortController();
        let late = 0;
        const load = loadModel(server.origin + MANIFEST, {
          ...optionsFor(device),
          signal: abort.signal,
          [callback]: () => {
            late++;
            abort.abort();
          },
        });
        await rejects(load, 'aborted');
        assert.equal(late, callback === 'onTensor' ? 1 : late);
      }
      await quiet();
    });

    test(`a callback that throws ends the load, to ${way}`, async () => {
      const buffers = trackBuffers(device);
      for (const callback of ['onProgress', 'onTensor'] as const) {
        const fault = new Error(`from ${callback}`);
        const error = await rejects(
          loadModel(server.origin + MANIFEST, {
            ...optionsFor(device),
            [callback]: () => {
              throw fault;
            },
          }),
          'internal',
          fault.message,
        );
        assert.equal(error.cause, fault);
      }
      assert.equal(buffers.count, 0);
      await quiet();
    });
  }

  for (const upload of ['ring', 'writeBuffer'] as const) {
    test(`a callback that throws while transfers wait for a slot, by ${upload}`, async () => {
      // Uploads are commanded in one breath with the tensors that earlier ones complete
      const small = Array.from({ length: 60 }, (_, i) => randomTensor(`t${i}`, 'int8', [3001], i));
      Object.assign(server.files, served(tensorCacheFiles([small]), '/small/'));
      const buffers = trackBuffers(device);
      for (let count = 1; count <= small.length; count += 2) {
        let left = count;
        const load = loadModel(`${server.origin}/small/`, {
          device,
          upload,
          budgetBytes: 40_000,
          onTensor: () => {
            if (--left === 0) throw new Error('enough');
          },
        });
        const late = sleep(5000, 'it hangs', { ref: false });
        const outcome = await Promise.race([load.catch((error: unknown) => error), late]);
        assert.match(String(outcome), /enough/, `at tensor ${count}`);
        assert.equal(buffers.count, 0);
      }
      await quiet();
    });
  }

  test('a consumer that throws or rejects ends the load with what it threw', async () => {
    for (const consume of [
      () => {
        throw new Error('full');
      },
      () => Promise.reject(new Error('full')),
    ]) {
      const error = await rejects(
        loadModel(server.origin + MANIFEST, { consume }),
        'internal',
        'full',
      );
      assert.equal((error.cause as Error).message, 'full');
    }
    await quiet();
  });

  test('after an abort a consumer gets nothing more', async () => {
    const abort = new AbortController();
    let after = 0;
    const load = loadModel(server.origin + MANIFEST, {
      signal: abort.signal,
      consume: async () => {
        if (abort.signal.aborted) after++;
        await sleep(1);
        abort.abort();
      },
    });
    await rejects(load, 'aborted');
    await sleep(20);
    assert.equal(after, 0);
    await quiet();
  });

  for (const upload of ['ring', 'writeBuffer'] as const) {
    test(`the device is lost at any moment, by ${upload}`, async () => {
      for (const tensor of [0, 1, 2, 7, 15, 22, 23]) {
        const doomed = await nodeDevice();
        const buffers = trackBuffers(doomed);
        let seen = 0;
        const load = loadModel(server.origin + MANIFEST, {
          device: doomed,
          upload,
          budgetBytes: 600 * 1024,
          onTensor: () => {
            if (seen++ === tensor) doomed.destroy();
          },
        });
        const error = await rejects(load, 'device_lost', 'lost');
        assert.match(error.hint ?? '', /destroy/);
        assert.equal(buffers.count, 0, `${buffers.bytes} bytes stay`);
      }
      await quiet();
    });
  }

  for (const upload of ['ring', 'writeBuffer', 'auto'] as const) {
    test(`the device is lost before the load, by ${upload}`, async () => {
      const doomed = await nodeDevice();
      const buffers = trackBuffers(doomed);
      doomed.destroy();
      await doomed.lost;
      await rejects(
        loadModel(server.origin + MANIFEST, { device: doomed, upload }),
        'device_lost',
        'lost',
      );
      await until(() => buffers.count === 0, 'the buffers are destroyed');
      await quiet();
    });

    test(`the device is lost while bytes are awaited, by ${upload}`, async () => {
      server.addFault({ path: '/params_shard_1.bin', stallAfter: 100_000 });
      const doomed = await nodeDevice();
      const buffers = trackBuffers(doomed);
      const load = loadModel(server.origin + MANIFEST, { device: doomed, upload });
      load.catch(() => undefined);
      await until(() => buffers.count > 8, 'buffers are there');
      await sleep(50);
      doomed.destroy();
      const begin = performance.now();
      await rejects(load, 'device_lost');
      assert.ok(performance.now() - begin < 2000);
      assert.equal(buffers.count, 0);
      await quiet();
    });
  }

  /** A tensor cache of records that exist in its manifest alone: allocation fails before they are asked for. */
  function promised(sizes: Record<string, number>): void {
    let at = 0;
    const records = Object.entries(sizes).map(([name, nbytes]): CacheRecord => {
      const record = {
        name,
        shape: [nbytes],
        dtype: 'uint8',
        format: 'raw',
        nbytes,
        byteOffset: at,
      };
      at += nbytes;
      return record;
    });
    server.files[MANIFEST] = JSON.stringify({
      metadata: {},
      records: [{ dataPath: 'shard.bin', format: 'raw-shard', nbytes: at, records }],
    });
    server.files['/shard.bin'] = { nbytes: at, seed: 1 };
  }

  test('a tensor beyond the limit of the device', async () => {
    const adapter = await nodeAdapter();
    const small = await requestDevice(adapter, { largestBufferBytes: 4 });
    const limit = small.limits.maxBufferSize;
    promised({ small: 100_000, large: limit + 4, late: 100_000 });
    const buffers = trackBuffers(small);
    const error = await rejects(
      loadModel(server.origin + MANIFEST, { device: small }),
      'device_limit',
      'large',
      limit + 4,
      limit,
    );
    assert.equal(error.tensor, 'large');
    assert.equal(error.expected, limit);
    assert.equal(error.actual, limit + 4);
    assert.equal(buffers.count, 0);
    small.destroy();
    await quiet();
  });

  test('a tensor beyond what the adapter has', async () => {
    const adapter = await nodeAdapter();
    const most = adapter.limits.maxBufferSize;
    await rejects(
      requestDevice(adapter, { largestBufferBytes: most + 4, tensor: 'large' }),
      'device_limit',
      'large',
      most + 4,
      most,
    );
  });

  test('a device without room for a tensor', async () => {
    // The software adapter's maxBufferSize is just more than it can allocate
    const nbytes = 2 ** 30;
    assert.ok(device.limits.maxBufferSize >= nbytes);
    promised({ small: 100_000, large: nbytes, late: 100_000 });
    const buffers = trackBuffers(device);
    const error = await rejects(
      loadModel(server.origin + MANIFEST, { device, upload: 'writeBuffer' }),
      'out_of_device_memory',
      'large',
      nbytes,
    );
    assert.equal(error.tensor, 'large');
    assert.equal(error.actual, nbytes);
    assert.ok(error.hint);
    assert.ok(buffers.created >= 2);
    assert.equal(buffers.count, 0);
    await quiet();
  });

  test('a failed load leaves the device as it was: the next one succeeds', async () => {
    server.addFault({ path: '/params_shard_1.bin', times: 1, status: 404 });
    await rejects(loadModel(server.origin + MANIFEST, { device }), 'not_found');
    const buffers = trackBuffers(device);
    const model = await loadModel(server.origin + MANIFEST, { device });
    await expectModel(model, expected);
    model.destroy();
    assert.equal(buffers.count, 0);
  });

  test('two loads at a time on one device', async () => {
    const buffers = trackBuffers(device);
    const models = await Promise.all(
      (['ring', 'writeBuffer', 'auto'] as const).map((upload) =>
        loadModel(server.origin + MANIFEST, { device, upload, budgetBytes: 2 ** 21 }),
      ),
    );
    for (const model of models) await expectModel(model, expected);
    for (const model of models) model.destroy();
    assert.equal(buffers.count, 0);
    await quiet();
  });

  for (const ending of ['success', 'abort', 'stall', 'status', 'truncated'] as const) {
    test(`a process ends by itself after: ${ending}`, async () => {
      if (ending === 'stall') server.addFault({ path: '/params_shard_1.bin', stallHeaders: true });
      if (ending === 'status') server.addFault({ path: '/params_shard_1.bin', status: 404 });
      if (ending === 'truncated') {
        server.files['/params_shard_1.bin'] = new Uint8Array(1000);
      }
      const child = spawn(
        process.execPath,
        [
          ...['--import', 'tsx', fileURLToPath(new URL('./load_child.ts', import.meta.url))],
          server.origin + MANIFEST,
          ending,
        ],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );
      let output = '';
      child.stdout.on('data', (text: Buffer) => (output += text.toString()));
      const status = await new Promise((resolve) => {
        const timer = setTimeout(() => {
          child.kill('SIGKILL');
        }, 20_000);
        child.on('close', (code) => {
          clearTimeout(timer);
          resolve(code);
        });
      });
      const outcome = {
        success: 'loaded',
        abort: 'aborted',
        stall: 'network',
        status: 'not_found',
        truncated: 'truncated',
      }[ending];
      assert.equal(output, `${outcome}\n`);
      assert.equal(status, 0, 'the process did not end by itself');
    });
  }
});
