// A hub that redirects to another origin, in Chromium: fetch follows, and the caller's headers stay at the hub.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import type * as Sluice from 'sluice';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import { randomTensor, safetensorsIndexFiles } from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';

const FILES = '/owner/model/resolve/main/';
const AUTHORIZATION = 'Bearer short-lived';
const plain = [0, 1].map((i) => randomTensor(`t${i}`, 'F32', [300, 301 + i], i));

interface Outcome {
  error?: { code: string; message: string; hint: string | undefined };
  thread?: string;
  /** SHA-256 of each tensor, in hexadecimal. */
  digests: Record<string, string>;
}

/** Runs in the page: loads to the GPU through a worker, or to the CPU, and digests every tensor. */
async function load(argument: {
  origin: string;
  url: string;
  headers: Record<string, string>;
  how: 'worker' | 'caller' | 'function';
}): Promise<Outcome> {
  const { origin, url, headers, how } = argument;
  const { loadModel, SluiceError } = (await import(`${origin}/dist/index.js`)) as typeof Sluice;
  const digests: Record<string, string> = {};
  try {
    const model = await loadModel(url, {
      device: how === 'worker' ? 'gpu' : 'cpu',
      store: false,
      headers: how === 'function' ? () => Promise.resolve(headers) : headers,
    });
    for (const [name, tensor] of model.tensors) {
      let bytes: Uint8Array<ArrayBuffer>;
      if (tensor.location === 'cpu') {
        bytes = new Uint8Array(tensor.data);
      } else {
        if (!model.device || tensor.location !== 'gpu') throw new Error('not on a device');
        const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;
        const staging = model.device.createBuffer({ size: tensor.nbytes, usage });
        const encoder = model.device.createCommandEncoder();
        encoder.copyBufferToBuffer(tensor.buffer, tensor.offset, staging, 0, tensor.nbytes);
        model.device.queue.submit([encoder.finish()]);
        await staging.mapAsync(GPUMapMode.READ);
        bytes = new Uint8Array(staging.getMappedRange()).slice();
      }
      const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
      digests[name] = [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    }
    model.device?.destroy();
    return { thread: model.report.thread, digests };
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error;
    const { code, message, hint } = error;
    return { error: { code, message, hint }, digests };
  }
}

describe('redirects to another origin in Chromium', { timeout: 120_000 }, () => {
  let hub: TestServer;
  let store: TestServer;
  let browser: Chromium;
  let page: ChromiumPage;
  const expected: Record<string, string> = {};

  before(async () => {
    hub = await startServer();
    store = await startServer();
    for (const [path, body] of Object.entries(
      safetensorsIndexFiles(plain.map((tensor) => [tensor])),
    )) {
      if (path.endsWith('.json')) {
        hub.files[FILES + path] = body;
      } else {
        store.files[`/blobs/${path}`] = body;
        hub.addFault({
          path: FILES + path,
          redirect: `${store.origin}/blobs/${path}?signature=a`,
          headers: { ETag: '"of the hub"' },
        });
      }
    }
    for (const { name, bytes } of plain) {
      const digest = await crypto.subtle.digest('SHA-256', new Uint8Array(bytes));
      expected[name] = Buffer.from(digest).toString('hex');
    }
    browser = await startChromium();
    page = await browser.newPage();
  });
  after(async () => {
    await browser.close();
    await hub.close();
    await store.close();
  });
  beforeEach(() => {
    hub.requests.length = 0;
    store.requests.length = 0;
  });

  for (const how of ['worker', 'caller', 'function'] as const) {
    test(`Authorization goes to the hub alone (${how})`, async () => {
      const outcome = await page.evaluate(load, {
        ...{ origin: browser.origin, url: hub.origin + FILES, how },
        headers: { Authorization: AUTHORIZATION },
      });
      assert.equal(outcome.error, undefined);
      assert.equal(outcome.thread, how === 'worker' ? 'worker' : 'caller');
      assert.deepEqual(outcome.digests, expected);
      const gets = (server: TestServer) => server.requests.filter(({ method }) => method === 'GET');
      assert.ok(gets(hub).length >= 7);
      assert.ok(gets(hub).every(({ headers }) => headers.authorization === AUTHORIZATION));
      assert.ok(gets(store).length >= 4);
      for (const { headers } of store.requests) {
        assert.equal(headers.authorization, undefined);
        assert.equal(headers.cookie, undefined);
      }
      assert.ok(gets(store).some(({ range }) => range === 'bytes=0-262143'));
    });
  }

  test('with any other header the redirect is refused before it is followed', async () => {
    const outcome = await page.evaluate(load, {
      ...{ origin: browser.origin, url: hub.origin + FILES, how: 'worker' as const },
      headers: { 'X-Mine': 'secret' },
    });
    assert.equal(outcome.error?.code, 'http_status');
    assert.match(outcome.error.message, /redirects/);
    assert.match(outcome.error.hint ?? '', /Authorization/);
    assert.deepEqual(store.requests, []);
  });
});
