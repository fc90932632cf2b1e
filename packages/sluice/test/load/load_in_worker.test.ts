// loadInWorker() against a worker that does what the test says; the real one is tested in Chromium.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, describe, test } from 'node:test';
import { DeviceAhead } from '../../src/load.js';
import { loadInWorker } from '../../src/load_in_worker.js';
import type { LoadOutcome } from '../../src/engine.js';
import type { Model } from '../../src/model.js';
import type { LoadOptions } from '../../src/options.js';
import { RemoteSink, remoteBytes, stagingSlotsFor } from '../../src/sinks/remote_sink.js';
import type { FromWorker, ToWorker } from '../../src/worker_protocol.js';
import { LoaderModel } from '../../src/wasm/loader_module.js';
import type { ModelManifest, ModelPlan } from '../../src/wasm/loader_module.js';
import { nodeDevice } from '../sinks/node_gpu.js';
import { SluiceError } from '../../src/errors.js';
import { trackBuffers } from './support.js';

const MANIFEST: ModelManifest = {
  format: 'safetensors',
  metadata: {},
  files: [{ path: 'model.safetensors', nbytes: 64 }],
  tensors: [
    {
      name: 'a',
      dtype: 'uint8',
      storedDtype: 'uint8',
      shape: [64],
      storedBytes: 64,
      file: 0,
      offset: 0,
    },
  ],
};
const PLAN: ModelPlan = {
  placements: [{ dtype: 'uint8', nbytes: 64, buffer: 0, offset: 0 }],
  buffers: [{ nbytes: 64, tensor: 0 }],
  shares: { connections: 1, chunkBytes: 16384, slots: 2, slotBytes: 4096, scratchBytes: 0 },
  sourceBytes: 64,
  outputBytes: 64,
  largestBuffer: 64,
};
const OUTCOME: LoadOutcome = {
  ...{ sourceBytesDone: 64, sourceBytes: 64, outputBytesDone: 64, outputBytes: 64 },
  ...{ tensorsDone: 1, tensors: 1, retries: 0, connections: 1 },
  ...{ budgetUsed: 0, budgetPeak: 0, budgetLimit: 2 ** 26 },
};
const PLACE = { url: 'http://127.0.0.1/model.safetensors', http: {} };
const MODULE = {} as WebAssembly.Module;

async function rejects(load: Promise<unknown>, code: string, text = ''): Promise<SluiceError> {
  const error: unknown = await load.then(
    () => assert.fail('the load succeeded'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof SluiceError, String(error));
  assert.equal(error.code, code, error.message);
  assert.ok(error.message.includes(text), error.message);
  return error;
}

class FakeWorker extends EventTarget {
  terminated = false;
  constructor(readonly act: (message: ToWorker, worker: FakeWorker) => void) {
    super();
  }
  postMessage(message: ToWorker): void {
    queueMicrotask(() => {
      this.act(message, this);
    });
  }
  say(data: FromWorker): void {
    if (!this.terminated) this.dispatchEvent(new MessageEvent('message', { data }));
  }
  terminate(): void {
    this.terminated = true;
  }
}

describe('loadInWorker()', { timeout: 60_000 }, () => {
  let device: GPUDevice;

  async function start(
    worker: FakeWorker,
    options: LoadOptions,
    keep?: (worker: Worker) => void,
  ): Promise<Model> {
    const ahead = new DeviceAhead(device, options);
    const given = worker as unknown as Worker;
    const module = Promise.resolve(MODULE);
    try {
      return await loadInWorker(module, given, PLACE, options, ahead, undefined, keep);
    } finally {
      ahead.stop();
    }
  }

  before(async () => {
    device = await nodeDevice();
  });
  after(() => {
    device.destroy();
  });

  test('an abort is heard though the worker never answers', async () => {
    const worker = new FakeWorker(() => undefined);
    const abort = new AbortController();
    const load = start(worker, { device, signal: abort.signal });
    setTimeout(() => {
      abort.abort('no longer wanted');
    }, 5);
    const error = await rejects(load, 'aborted');
    assert.equal(error.cause, 'no longer wanted');
    assert.equal(worker.terminated, true);
  });

  test('the budget holds every block, staging slot and copy, and counts nothing else', async () => {
    const shape = [200 * 2 ** 20];
    const tensor = { name: 'a', shape, dtype: 'uint8', format: 'raw', nbytes: shape[0] };
    const json = JSON.stringify({
      records: [
        {
          ...{ dataPath: 'a.bin', format: 'raw-shard', nbytes: shape[0] },
          records: [{ ...tensor, byteOffset: 0 }],
        },
      ],
    });
    const wasm = new URL('../../dist/sluice_loader.wasm', import.meta.url);
    const module = await WebAssembly.compile(await readFile(wasm));
    for (const budgetBytes of [100_000, 2 ** 22, 2 ** 26, 2 ** 28]) {
      const model = await LoaderModel.create(module, 'tensor-cache.json');
      model.provide(new TextEncoder().encode(json), undefined);
      let held = 0;
      const worker = new FakeWorker((message) => {
        if (message.type === 'open')
          worker.say({ type: 'opened', reservedBytes: 0, manifest: model.manifest() });
        if (message.type !== 'plan') return;
        const { connections, chunkBytes, slots, slotBytes, scratchBytes } = model.plan(
          message.options,
        ).shares;
        // remoteBytes() has the blocks and the staging slots; the GPU's process has the latter again
        const copies = stagingSlotsFor(slots) * slotBytes;
        held = remoteBytes(slots, slotBytes) + copies + connections * chunkBytes + scratchBytes;
        model.start();
        worker.say({ type: 'failed', error: { code: 'io', message: 'enough' } });
      });
      await rejects(start(worker, { device, budgetBytes }), 'io');
      assert.equal(model.progress().budgetUsed, held);
      assert.ok(held <= budgetBytes, `${held} of ${budgetBytes}`);
    }
  });

  /** Loads the 64 bytes, and answers `stop` as told. */
  function loadingWorker(stopped: (worker: FakeWorker) => void): FakeWorker {
    return new FakeWorker((message, worker) => {
      if (message.type === 'open')
        worker.say({ type: 'opened', reservedBytes: 0, manifest: MANIFEST });
      else if (message.type === 'plan') worker.say({ type: 'planned', plan: PLAN });
      else if (message.type === 'run') void upload(message.port, worker);
      else stopped(worker);
    });
    async function upload(port: MessagePort, worker: FakeWorker): Promise<void> {
      const sink = new RemoteSink(port);
      await sink.prepare(2, 4096);
      await sink.allocate(0, { nbytes: 64, tensor: 'a' });
      await sink.upload(0, [{ slotOffset: 0, buffer: 0, bufferOffset: 0, nbytes: 64 }]);
      await sink.flush();
      sink.close(true);
      worker.say({ type: 'done', progress: OUTCOME, store: undefined });
    }
  }

  test('a worker that has put everything in order is kept, and serves the next load', async () => {
    const kept: unknown[] = [];
    const keep = (worker: Worker): void => {
      kept.push(worker);
    };
    const worker = loadingWorker(() => {
      worker.say({ type: 'stopped' });
    });
    for (const loads of [1, 2]) {
      const model = await start(worker, { device }, keep);
      model.destroy();
      await new Promise((resume) => setTimeout(resume));
      assert.equal(worker.terminated, false);
      assert.deepEqual(
        kept,
        Array.from({ length: loads }, () => worker),
      );
    }
  });

  test('one that fails to, or whose load has failed, is ended', async () => {
    const keep = (): void => {
      assert.fail('it was kept');
    };
    const failing = loadingWorker(() => {
      failing.say({ type: 'failed', error: { code: 'io', message: 'the disk is gone' } });
    });
    (await start(failing, { device }, keep)).destroy();
    await new Promise((resume) => setTimeout(resume));
    assert.equal(failing.terminated, true);
    const refusing = new FakeWorker(() => {
      refusing.say({ type: 'failed', error: { code: 'io', message: 'no' } });
    });
    await rejects(start(refusing, { device }, keep), 'io');
    assert.equal(refusing.terminated, true);
  });

  test("a callback that throws after the worker's last upload leaves no buffer", async () => {
    const buffers = trackBuffers(device);
    const worker = new FakeWorker((message) => {
      if (message.type === 'open')
        worker.say({ type: 'opened', reservedBytes: 0, manifest: MANIFEST });
      else if (message.type === 'plan') worker.say({ type: 'planned', plan: PLAN });
      else if (message.type === 'run') void upload(message.port);
    });
    async function upload(port: MessagePort): Promise<void> {
      const sink = new RemoteSink(port);
      const closed = new Promise((resolve) => {
        port.addEventListener('close', resolve);
      });
      await sink.prepare(2, 4096);
      await sink.allocate(0, { nbytes: 64, tensor: 'a' });
      await sink.upload(0, [{ slotOffset: 0, buffer: 0, bufferOffset: 0, nbytes: 64 }]);
      await sink.flush();
      assert.equal(buffers.count > 0, true);
      sink.close(true);
      await closed;
      worker.say({ type: 'tensor', index: 0 });
    }
    const load = start(worker, {
      device,
      upload: 'ring',
      onTensor: () => {
        throw new Error('mine');
      },
    });
    await rejects(load, 'internal', 'mine');
    assert.equal(buffers.count, 0);
    assert.equal(worker.terminated, true);
  });
});
