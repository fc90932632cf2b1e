// An abort while the GPU is awaited: heard at once, and what comes late is given back.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { loadModel, measureUpload, type Model } from 'sluice';
import { DeviceAhead } from '../../src/load.js';
import { loadInWorker } from '../../src/load_in_worker.js';
import type { FromWorker, ToWorker } from '../../src/worker_protocol.js';
import { nodeAdapter, nodeDevice } from '../sinks/node_gpu.js';
import { until } from '../sources/support.js';
import { randomTensor, served, tensorCacheFiles } from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';
import { trackBuffers } from './support.js';

const files = served(tensorCacheFiles([[randomTensor('a', 'float32', [4096], 1)]]));

/** A gate that work waits at until it is opened. */
class Gate {
  reached = false;
  open: () => void = () => undefined;
  readonly #opened = new Promise<void>((resolve) => {
    this.open = resolve;
  });
  async pass(): Promise<void> {
    this.reached = true;
    await this.#opened;
  }
}

describe('abort while the GPU is awaited', { timeout: 60_000 }, () => {
  let server: TestServer;
  let gate: Gate;
  let made: GPUDevice[];
  const navigatorBefore = Object.getOwnPropertyDescriptor(globalThis, 'navigator');

  before(async () => {
    server = await startServer({ files });
  });
  after(() => server.close());
  beforeEach(() => {
    gate = new Gate();
    made = [];
  });
  afterEach(() => {
    if (navigatorBefore) Object.defineProperty(globalThis, 'navigator', navigatorBefore);
  });

  /** `navigator.gpu` whose devices come once the gate is open. */
  async function slowGpu(): Promise<void> {
    const adapter = await nodeAdapter();
    const { features, limits } = adapter;
    const requestDevice = async (descriptor: GPUDeviceDescriptor): Promise<GPUDevice> => {
      await gate.pass();
      const device = await adapter.requestDevice(descriptor);
      made.push(device);
      return device;
    };
    const gpu = {
      requestAdapter: () => Promise.resolve({ features, limits, requestDevice }),
    };
    Object.defineProperty(globalThis, 'navigator', { value: { gpu }, configurable: true });
  }

  /** A device whose mapped buffers come back once the gate is open. */
  async function slowToMap(): Promise<GPUDevice> {
    const device = await nodeDevice();
    const create = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      const buffer = create(descriptor);
      const map = buffer.mapAsync.bind(buffer);
      buffer.mapAsync = async (...given) => {
        const mapped = map(...given);
        mapped.catch(() => undefined); // as where it is destroyed meanwhile
        await gate.pass();
        return mapped;
      };
      return buffer;
    };
    return device;
  }

  async function abortAtGate(start: (signal: AbortSignal) => Promise<unknown>): Promise<void> {
    const abort = new AbortController();
    const load = start(abort.signal);
    load.catch(() => undefined);
    await until(() => gate.reached, 'the gate is reached');
    const begin = performance.now();
    abort.abort(new Error('why'));
    const late = new Promise((_, reject) => {
      setTimeout(reject, 2000, new Error('the abort was not heard')).unref();
    });
    const outcome: unknown = await Promise.race([load, late]).catch((error: unknown) => error);
    assert.ok(outcome instanceof Error);
    assert.equal('code' in outcome && outcome.code, 'aborted', outcome.message);
    assert.ok(performance.now() - begin < 1000);
    assert.equal((outcome.cause as Error).message, 'why');
  }

  test('a device that is requested is destroyed when it comes', async () => {
    await slowGpu();
    await abortAtGate((signal) => loadModel(`${server.origin}/`, { device: 'gpu', signal }));
    assert.equal(made.length, 0);
    gate.open();
    await until(() => made.length === 1, 'the device comes');
    assert.equal((await made[0]?.lost)?.reason, 'destroyed');
  });

  test('so it is where a worker loads', async () => {
    await slowGpu();
    const worker = new EventTarget() as Worker;
    const say = (data: FromWorker): void => {
      worker.dispatchEvent(new MessageEvent('message', { data }));
    };
    let ended = false;
    worker.terminate = () => (ended = true);
    worker.postMessage = (message: ToWorker) => {
      queueMicrotask(() => {
        if (message.type === 'open') {
          say({
            type: 'opened',
            reservedBytes: 0,
            manifest: { format: 'gguf', metadata: {}, files: [], tensors: [] },
          });
        } else if (message.type === 'plan') {
          const shares = { connections: 1, chunkBytes: 1, slots: 2, slotBytes: 4, scratchBytes: 0 };
          say({
            type: 'planned',
            plan: {
              ...{ placements: [], buffers: [], shares },
              ...{ sourceBytes: 0, outputBytes: 0, largestBuffer: 0 },
            },
          });
        }
      });
    };
    const place = { url: `${server.origin}/`, http: {} };
    await abortAtGate((signal) => {
      const ahead = new DeviceAhead('gpu', { signal });
      return loadInWorker(Promise.resolve({}), worker, place, { device: 'gpu', signal }, ahead);
    });
    assert.ok(ended);
    gate.open();
    await until(() => made.length === 1, 'the device comes');
    assert.equal((await made[0]?.lost)?.reason, 'destroyed');
  });

  test('the measurement of the upload path is stopped and its buffers destroyed', async () => {
    const device = await slowToMap();
    const buffers = trackBuffers(device);
    await abortAtGate((signal) => loadModel(`${server.origin}/`, { device, signal }));
    assert.ok(buffers.created > 0);
    assert.equal(buffers.count, 0);
    gate.open();
    const model = await loadModel(`${server.origin}/`, { device });
    assert.equal(model.tensors.size, 1);
    model.destroy();
    assert.equal(buffers.count, 0);
    device.destroy();
  });

  test('a measurement that another load waits for goes on', async () => {
    const device = await slowToMap();
    const buffers = trackBuffers(device);
    let other: Promise<Model> | undefined;
    await abortAtGate((signal) => {
      other = loadModel(`${server.origin}/`, { device });
      return loadModel(`${server.origin}/`, { device, signal });
    });
    assert.ok(buffers.count > 0);
    gate.open();
    const model = await other;
    assert.equal(model?.tensors.size, 1);
    assert.equal(await measureUpload(device), await measureUpload(device));
    model.destroy();
    assert.equal(buffers.count, 0);
    device.destroy();
  });
});
