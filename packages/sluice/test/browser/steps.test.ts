// Connections that are cut and loads that are aborted at every step, in Chromium, with the GPU on the page's
// thread and everything else in the loading worker. Every byte and every step of the worker's own: in test/load.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type * as PageSteps from './page_steps.js';
import { until } from '../sources/support.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import {
  gguf,
  randomBytes,
  randomTensor,
  safetensors,
  tensorCacheFiles,
  type Files,
  type TestTensor,
} from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';

const cached = [randomTensor('a', 'float32', [3, 5], 1), randomTensor('b', 'uint8', [7], 2)];
const plain = [randomTensor('a', 'F32', [3, 5], 1), randomTensor('b', 'U8', [7], 2)];
const blocks: TestTensor[] = [
  { name: 'a', dtype: 'q4_0', shape: [2, 32], bytes: randomBytes(36, 3) },
  { name: 'b', dtype: 'f32', shape: [5], bytes: randomBytes(20, 4) },
];
const MODELS: { name: string; files: Files; tensors: TestTensor[] }[] = [
  { name: 'tensor-cache.json', files: tensorCacheFiles([cached]), tensors: cached },
  { name: 'm.safetensors', files: { 'm.safetensors': safetensors(plain) }, tensors: plain },
  { name: 'm.gguf', files: { 'm.gguf': gguf(blocks) }, tensors: blocks },
];

const hexOf = (tensors: readonly TestTensor[]): Record<string, string> =>
  Object.fromEntries(tensors.map(({ name, bytes }) => [name, Buffer.from(bytes).toString('hex')]));

/** Every `stride`-th byte of a file, and the last. */
function positions(nbytes: number, stride: number): number[] {
  const all: number[] = [];
  for (let at = 0; at < nbytes - 1; at += stride) all.push(at);
  return [...all, nbytes - 1];
}

describe('cuts and aborts in Chromium, with the loading worker', { timeout: 300_000 }, () => {
  let browser: Chromium;
  let server: TestServer;
  let page: ChromiumPage;
  before(async () => {
    browser = await startChromium();
  });
  after(() => browser.close());
  beforeEach(async () => {
    server = await startServer();
    page = await browser.newPage();
  });
  afterEach(async () => {
    await until(() => server.openResponses === 0, 'no response is open');
    await until(() => page.page.workers().length <= 1, 'one worker is kept at most');
    await page.close();
    await server.close();
  });

  interface Cut {
    url: string;
    fileUrl: string;
    tensors: TestTensor[];
    always: boolean;
  }

  /** Models below folders of their own, each with a cut in one file: once at many places, always at three. */
  function serveCuts(): Cut[] {
    const cuts: Cut[] = [];
    for (const { name, files, tensors } of MODELS) {
      for (const [file, body] of Object.entries(files)) {
        for (const always of [false, true]) {
          for (const at of positions(body.length, always ? Math.ceil(body.length / 2) : 17)) {
            const folder = `/${cuts.length}/`;
            for (const [path, text] of Object.entries(files)) server.files[folder + path] = text;
            server.addFault({ path: folder + file, cutAt: at, ...(always ? {} : { times: 1 }) });
            const base = server.origin + folder;
            cuts.push({ url: base + name, fileUrl: base + file, tensors, always });
          }
        }
      }
    }
    return cuts;
  }

  test('a connection that is cut: once, and the bytes are right; always, and an error says where', async () => {
    const cuts = serveCuts();
    const given = {
      ...{ origin: browser.origin, dist: `${browser.origin}/dist/` },
      urls: cuts.map(({ url }) => url),
    };
    const { outcomes, buffers, workers } = await page.evaluate(async (request: typeof given) => {
      const path = `${request.origin}/test/browser/page_steps.js`;
      return ((await import(path)) as typeof PageSteps).loadEach(request);
    }, given);
    for (const [i, { url, fileUrl, tensors, always }] of cuts.entries()) {
      const { error, thread, tensors: loaded } = outcomes[i] ?? assert.fail();
      if (always) {
        assert.equal(error?.code, 'network', error?.message);
        assert.ok(error.message.includes(fileUrl), error.message);
        assert.match(error.message, /after \d+ (of \d+ )?bytes from offset \d+/);
        assert.equal(error.file, fileUrl);
      } else {
        assert.equal(error, undefined, url);
        assert.equal(thread, 'worker');
        assert.deepEqual(loaded, hexOf(tensors), url);
      }
    }
    assert.ok(cuts.length > 40);
    assert.equal(buffers, 0);
    assert.ok(workers <= 1, `${workers} workers`); // one is kept for the next load
  });

  for (const [upload, stride] of [
    ['ring', 1],
    ['writeBuffer', 3],
  ] as const) {
    test(`an abort at every step that the page sees, by ${upload}`, async () => {
      const large = [randomTensor('a', 'float32', [3, 9000], 1), ...cached.slice(1)];
      for (const [path, body] of Object.entries(tensorCacheFiles([large]))) {
        server.files[`/${path}`] = body;
      }
      const given = {
        ...{ origin: browser.origin, dist: `${browser.origin}/dist/` },
        ...{ url: `${server.origin}/tensor-cache.json`, upload, stride },
      };
      const outcomes = await page.evaluate(async (request: typeof given) => {
        const module = `${request.origin}/test/browser/page_steps.js`;
        return ((await import(module)) as typeof PageSteps).abortEach(request);
      }, given);
      const last = outcomes.pop();
      assert.equal(last?.step, undefined);
      assert.equal(last?.thread, 'worker');
      assert.deepEqual(last.tensors, hexOf(large));
      for (const { step, error, cause, buffers, workers, late } of outcomes) {
        assert.equal(error?.code, 'aborted', `${step}: ${error?.message}`);
        assert.ok(cause, step);
        assert.deepEqual({ buffers, workers, late }, { buffers: 0, workers: 0, late: 0 }, step);
      }
      assert.ok(outcomes.length * stride > 30, `only ${outcomes.length} steps`);
      assert.deepEqual(page.errors, []);
    });
  }
});
