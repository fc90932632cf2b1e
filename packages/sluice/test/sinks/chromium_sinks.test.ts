import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import type * as Errors from '../../src/errors.js';
import type * as Device from '../../src/sinks/device.js';
import type * as Measure from '../../src/sinks/measure_upload.js';
import type * as Remote from '../../src/sinks/remote_sink.js';
import type * as Ring from '../../src/sinks/ring_sink.js';
import type * as WriteBuffer from '../../src/sinks/write_buffer_sink.js';
import type * as Check from './upload_check.js';
import { browserMemory, sampleMemory, startChromium } from '../support/chromium.js';
import type { Chromium, ChromiumPage } from '../support/chromium.js';

interface Result {
  /** What went wrong, by name of the check; empty when all is well. */
  faults: string[];
  checked: number;
}

/** Runs in a page and in a worker: uploads through both GPU sinks, reads back, and loses a device. */
async function checkSinks(origin: string): Promise<Result> {
  const load = (path: string): Promise<unknown> => import(origin + path);
  const { RingSink } = (await load('/dist/sinks/ring_sink.js')) as typeof Ring;
  const { WriteBufferSink } = (await load(
    '/dist/sinks/write_buffer_sink.js',
  )) as typeof WriteBuffer;
  const { requestDevice } = (await load('/dist/sinks/device.js')) as typeof Device;
  const { SluiceError } = (await load('/dist/errors.js')) as typeof Errors;
  const { driveSink, firstDifference } = (await load(
    '/test/sinks/upload_check.js',
  )) as typeof Check;

  const faults: string[] = [];
  let checked = 0;
  const expectFailure = async (
    what: string,
    code: string,
    tensor: string,
    work: Promise<void>,
  ): Promise<void> => {
    checked++;
    try {
      await work;
      faults.push(`${what}: did not fail`);
    } catch (error) {
      if (
        !(error instanceof SluiceError) ||
        error.code !== code ||
        !error.message.includes(tensor)
      ) {
        faults.push(`${what}: ${String(error)}`);
      }
    }
  };

  const adapter = (await navigator.gpu.requestAdapter()) ?? undefined;
  const most = adapter?.limits.maxBufferSize ?? 0;
  const device = await requestDevice(adapter, { largestBufferBytes: most, largestBindingBytes: 4 });
  device.addEventListener('uncapturederror', (event) => {
    faults.push(`uncaptured: ${event.error.message}`);
  });
  for (const Sink of [RingSink, WriteBufferSink]) {
    for (const [slots, slotBytes] of [
      [3, 65536],
      [4, 2 ** 20],
    ] as const) {
      const sink = new Sink(device);
      const expected = await driveSink(sink, slots, slotBytes, 30, slotBytes + slots);
      for (const [index, bytes] of expected.entries()) {
        const staging = device.createBuffer({
          size: bytes.length,
          usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
        });
        const encoder = device.createCommandEncoder();
        encoder.copyBufferToBuffer(sink.buffer(index), 0, staging, 0, bytes.length);
        device.queue.submit([encoder.finish()]);
        await staging.mapAsync(GPUMapMode.READ);
        const difference = firstDifference(bytes, new Uint8Array(staging.getMappedRange()));
        if (difference) faults.push(`${sink.path} ${slotBytes} buffer ${index}: ${difference}`);
        staging.destroy();
        checked++;
      }
      sink.close(false);
    }
    const sink = new Sink(device);
    await expectFailure(
      'limit',
      'device_limit',
      'big',
      sink.allocate(0, { nbytes: most + 4, tensor: 'big' }),
    );
    sink.close(false);
  }
  for (const Sink of [RingSink, WriteBufferSink]) {
    const doomed = await requestDevice(undefined, { largestBufferBytes: 4 });
    const sink = new Sink(doomed);
    await sink.prepare(2, 65536);
    await sink.allocate(0, { nbytes: 65536, tensor: 't' });
    const upload = sink.upload(0, [{ slotOffset: 0, buffer: 0, bufferOffset: 0, nbytes: 65536 }]);
    const flush = sink.flush();
    doomed.destroy();
    await upload.catch(() => undefined);
    await expectFailure('flush after loss', 'device_lost', 'destroyed', flush);
    await expectFailure(
      'allocate after loss',
      'device_lost',
      'late',
      sink.allocate(1, { nbytes: 4, tensor: 'late' }),
    );
    sink.close(false);
  }
  device.destroy();
  return { faults, checked };
}

/** Runs in a page: the sink of a worker's RemoteSink, read back here. */
async function checkRemote(origin: string): Promise<Result> {
  const load = (path: string): Promise<unknown> => import(origin + path);
  const { serveSink } = (await load('/dist/sinks/remote_sink.js')) as typeof Remote;
  const { createUploadSink } = (await load('/dist/sinks/measure_upload.js')) as typeof Measure;
  const { requestDevice } = (await load('/dist/sinks/device.js')) as typeof Device;
  const { firstDifference } = (await load('/test/sinks/upload_check.js')) as typeof Check;

  const device = await requestDevice(undefined, { largestBufferBytes: 2 ** 21 });
  const sink = await createUploadSink(device);
  const { port1, port2 } = new MessageChannel();
  const served = serveSink(port1, sink);
  const source = `onmessage = async ({ data }) => {
    const { RemoteSink } = await import('${origin}/dist/sinks/remote_sink.js');
    const { driveSink } = await import('${origin}/test/sinks/upload_check.js');
    const sink = new RemoteSink(data);
    postMessage(await driveSink(sink, 3, 65536, 60, 3));
    sink.close(true);
  };`;
  const worker = new Worker(URL.createObjectURL(new Blob([source], { type: 'text/javascript' })), {
    type: 'module',
  });
  const expected = await new Promise<Uint8Array[]>((resolve, reject) => {
    worker.onmessage = ({ data }) => {
      resolve(data as Uint8Array[]);
    };
    worker.onerror = ({ message }) => {
      reject(new Error(message));
    };
    worker.postMessage(port2, [port2]);
  });
  await served.finished;
  worker.terminate();
  const faults: string[] = [];
  for (const [index, bytes] of expected.entries()) {
    const staging = device.createBuffer({
      size: bytes.length,
      usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ,
    });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(sink.buffer(index), 0, staging, 0, bytes.length);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    const difference = firstDifference(bytes, new Uint8Array(staging.getMappedRange()));
    if (difference) faults.push(`buffer ${index}: ${difference}`);
    staging.destroy();
  }
  device.destroy();
  return { faults, checked: expected.length };
}

describe('sinks in Chromium', { timeout: 120_000 }, () => {
  let browser: Chromium;
  let page: ChromiumPage;
  before(async () => {
    browser = await startChromium();
    page = await browser.newPage();
  });
  after(() => browser.close());

  test('on the main thread: bytes arrive, limits and losses are errors', async () => {
    const { faults, checked } = await page.evaluate(checkSinks, browser.origin);
    assert.deepEqual(faults, []);
    assert.equal(checked, 2 * 2 * 8 + 2 + 4);
    assert.deepEqual(page.errors, []);
  });

  test('in a dedicated worker: the same', async () => {
    const { faults, checked } = await page.evaluateInWorker(checkSinks, browser.origin);
    assert.deepEqual(faults, []);
    assert.equal(checked, 2 * 2 * 8 + 2 + 4);
    assert.deepEqual(page.errors, []);
  });

  test('from a worker to the main thread: the same bytes arrive', async () => {
    const { faults, checked } = await page.evaluate(checkRemote, browser.origin);
    assert.deepEqual(faults, []);
    assert.equal(checked, 8);
    assert.deepEqual(page.errors, []);
  });

  test('the measurement takes well under a second and gives two rates', async () => {
    const result = await page.evaluate(async (origin: string) => {
      const load = (path: string): Promise<unknown> => import(origin + path);
      const { measureUpload } = (await load('/dist/sinks/measure_upload.js')) as typeof Measure;
      const adapter = await navigator.gpu.requestAdapter();
      const device = await adapter?.requestDevice();
      if (device === undefined) throw new Error('no device');
      const begin = performance.now();
      const measured = await measureUpload(device);
      const milliseconds = performance.now() - begin;
      device.destroy();
      return { ...measured, milliseconds };
    }, browser.origin);
    assert.ok(result.ringBytesPerSecond > 1e6);
    assert.ok(result.writeBufferBytesPerSecond > 1e6);
    assert.equal(result.fallback, undefined);
    assert.ok(result.milliseconds < 1000, `${result.milliseconds} ms`);
  });

  test('memory of the browser is seen from outside, and its peak is kept', async () => {
    const fresh = await startChromium(); // holds nothing that could be freed meanwhile
    try {
      const freshPage = await fresh.newPage();
      const before = await browserMemory(fresh.pid);
      const sampler = sampleMemory(fresh.pid);
      const held = 256 * 2 ** 20;
      await freshPage.evaluateInWorker(async (nbytes) => {
        const bytes = new Uint8Array(nbytes).fill(1);
        await new Promise((resolve) => setTimeout(resolve, 500));
        return bytes.length;
      }, held);
      const peak = await sampler.stop();
      assert.equal(sampler.peak, peak);
      assert.ok(before > 50 * 2 ** 20, `${before} bytes`);
      assert.ok(peak > before + 0.9 * held, `from ${before} to ${peak} bytes`);
      assert.ok(peak < before + 2 * held, `from ${before} to ${peak} bytes`);
    } finally {
      await fresh.close();
    }
  });
});
