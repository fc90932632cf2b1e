// The local store in Chromium: a second load needs no network, whoever has the device, and costs only what is missing.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type * as Sluice from 'sluice';
import type * as PageLoad from './page_load.js';
import type { LoadOutcome, LoadRequest } from './page_load.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import {
  gguf,
  randomBytes,
  randomTensor,
  safetensors,
  served,
  tensorCacheFiles,
  type TestTensor,
} from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const cache = Array.from({ length: 12 }, (_, i) =>
  randomTensor(`layer.${i}`, i % 2 ? 'float32' : 'float16', [400 + i, 1025], i),
);
const large = [
  randomTensor('a.weight', 'F32', [2049, 1025], 11),
  randomTensor('b', 'U8', [70_001], 12),
];
const blocks: TestTensor[] = [
  { name: 'q', dtype: 'q4_1', shape: [257, 1024], bytes: randomBytes(257 * 32 * 20, 3) },
];
const FILES = {
  ...served(tensorCacheFiles([cache.slice(0, 5), cache.slice(5)]), '/cache/'),
  '/large.safetensors': safetensors(large),
  '/blocks.gguf': gguf(blocks),
};
const MODELS = [
  ['/cache/', cache],
  ['/large.safetensors', large],
  ['/blocks.gguf', blocks],
] as const;

const PLACES = [
  { place: 'on a page, with the loading worker', own: false, options: {} },
  { place: 'on a page alone', own: false, options: { worker: false } },
  { place: "in a worker of the page's own", own: true, options: {} },
] as const;

function checkTensors(outcome: LoadOutcome, tensors: readonly TestTensor[]): void {
  assert.equal(outcome.error, undefined, outcome.error?.message);
  assert.deepEqual(
    Object.fromEntries(
      Object.entries(outcome.tensors).map(([name, { digests }]) => [name, digests]),
    ),
    Object.fromEntries(tensors.map(({ name, bytes }) => [name, [sha256(bytes)]])),
  );
}

describe('the local store in Chromium', { timeout: 180_000 }, () => {
  let browser: Chromium;
  let server: TestServer;
  let page: ChromiumPage;

  before(async () => {
    browser = await startChromium();
  });
  after(() => browser.close());
  beforeEach(async () => {
    server = await startServer({ files: { ...FILES } });
    page = await browser.newPage();
  });
  afterEach(async () => {
    await page.close();
    await server.close();
  });

  function run(
    own: boolean,
    request: Omit<LoadRequest, 'dist' | 'device'>,
    where = page,
  ): Promise<LoadOutcome> {
    const argument: LoadRequest & { origin: string } = {
      device: 'gpu',
      ...request,
      options: { store: true, ...request.options },
      dist: `${browser.origin}/dist/`,
      origin: browser.origin,
    };
    const act = async (given: LoadRequest & { origin: string }): Promise<LoadOutcome> => {
      const path = `${given.origin}/test/browser/page_load.js`;
      const { load } = (await import(path)) as typeof PageLoad;
      return load(given);
    };
    return own ? where.evaluateInWorker(act, argument) : where.evaluate(act, argument);
  }

  for (const { place, own, options } of PLACES) {
    for (const [path, tensors] of MODELS) {
      test(`${place}: ${path} is fetched once`, async () => {
        const url = server.origin + path;
        const cold = await run(own, { url, options });
        checkTensors(cold, tensors);
        assert.equal(cold.report?.store?.problem, undefined);
        assert.ok((cold.report?.store?.storedBytes ?? 0) >= (cold.report?.sourceBytes ?? NaN));
        const asked = server.requests.length;
        const warm = await run(own, { url, options });
        checkTensors(warm, tensors);
        assert.equal(server.requests.length, asked, 'the second load asked the server');
        assert.ok((warm.report?.store?.readBytes ?? 0) >= (warm.report?.sourceBytes ?? NaN));
        assert.equal(warm.report?.store?.storedBytes, 0);
        assert.deepEqual(page.errors, []);
      });
    }
  }

  test('what one thread has stored, another loads', async () => {
    const url = `${server.origin}/large.safetensors`;
    checkTensors(await run(false, { url }), large);
    const asked = server.requests.length;
    checkTensors(await run(true, { url }), large);
    checkTensors(await run(false, { url, options: { worker: false } }), large);
    assert.equal(server.requests.length, asked);
  });

  test('where there is no store, loads go on without, and the page says so once', async () => {
    const warnings: string[] = [];
    page.page.on('console', (message) => {
      if (message.type() === 'warning') warnings.push(message.text());
    });
    const url = `${server.origin}/large.safetensors`;
    for (let visit = 0; visit < 2; visit++) {
      // A store of a name that no folder can have
      const outcome = await page.evaluate(
        async ({ dist, from }) => {
          const { loadModel, openStore } = (await import(`${dist}index.js`)) as typeof Sluice;
          const store = await openStore();
          Object.assign(store.platform.place, { root: '..' });
          const model = await loadModel(from, { device: 'gpu', store });
          const { report, tensors } = model;
          model.destroy();
          return { store: report.store, thread: report.thread, count: tensors.size };
        },
        { dist: `${browser.origin}/dist/`, from: url },
      );
      const { store, ...rest } = outcome;
      assert.deepEqual(rest, { thread: 'worker', count: large.length });
      assert.match(store?.problem ?? '', /cannot be opened/);
      assert.equal((store?.readBytes ?? -1) + (store?.storedBytes ?? -1), 0);
    }
    const said = warnings.filter((text) => text.includes('not kept on this device'));
    assert.equal(said.length, 1, warnings.join('\n'));
  });

  test('a store lists what it has, and deletes it', async () => {
    const url = `${server.origin}/large.safetensors`;
    checkTensors(await run(false, { url }), large);
    const seen = await page.evaluate(
      async ({ dist, key }) => {
        const { openStore } = (await import(`${dist}index.js`)) as typeof Sluice;
        const store = await openStore();
        const before = await store.models();
        const deleted = await store.delete(key);
        return { before, deleted, after: await store.models() };
      },
      { dist: `${browser.origin}/dist/`, key: url },
    );
    const entry = seen.before.find(({ key }) => key === url);
    assert.equal(entry?.complete, true);
    assert.equal(entry.storedBytes, FILES['/large.safetensors'].byteLength);
    assert.equal(seen.deleted, true);
    assert.ok(!seen.after.some(({ key }) => key === url));
  });
});
