// Tensors that the GPU expands in Chromium, in every topology, hold the bytes that the loader's codecs give in Node.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { loadModel } from 'sluice';
import type * as PageLoad from './page_load.js';
import type { LoadOutcome, LoadRequest } from './page_load.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import { convertible } from '../support/convertible.js';
import { gguf, randomTensor, served, tensorCacheFiles } from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';

const SOFTWARE = process.env['SLUICE_CHROMIUM_FLAGS'] === undefined;
const TENSORS = convertible();
/** float32 stored as bfloat16, in sizes that share buffers and one that does not. */
const PACKED = [1, 2, 3, 255, 1001, 300_001].map((n) => ({
  ...randomTensor(`packed.${n}`, 'bfloat16', [n], n),
  dtype: 'float32',
  format: 'f32-to-bf16',
}));

const PLACES = [
  { place: 'on a page, with the loading worker', own: false, worker: true },
  { place: 'on a page alone', own: false, worker: false },
  { place: "in a worker of the page's own", own: true, worker: false },
] as const;

describe('expansion on the device in Chromium', { timeout: 180_000 }, () => {
  let browser: Chromium;
  let server: TestServer;
  let page: ChromiumPage;
  before(async () => {
    browser = await startChromium();
    server = await startServer({
      files: { '/every.gguf': gguf(TENSORS), ...served(tensorCacheFiles([PACKED]), '/cache/') },
    });
    page = await browser.newPage();
  });
  after(async () => {
    await server.close();
    await browser.close();
  });

  function run(own: boolean, request: Omit<LoadRequest, 'dist'>): Promise<LoadOutcome> {
    const argument = { ...request, dist: `${browser.origin}/dist/`, origin: browser.origin };
    const act = async (given: LoadRequest & { origin: string }): Promise<LoadOutcome> => {
      const path = `${given.origin}/test/browser/page_load.js`;
      const { load } = (await import(path)) as typeof PageLoad;
      return load(given);
    };
    return own ? page.evaluateInWorker(act, argument) : page.evaluate(act, argument);
  }

  async function expected(
    url: string,
    dtype: 'stored' | 'float32' | 'float16' | 'bfloat16',
  ): Promise<Record<string, { dtype: string; digest: string }>> {
    const { tensors } = await loadModel(url, { device: 'cpu', dtype });
    return Object.fromEntries(
      [...tensors.values()].map((tensor) => {
        assert.ok(tensor.location === 'cpu');
        const digest = createHash('sha256').update(tensor.data).digest('hex');
        return [tensor.name, { dtype: tensor.dtype, digest }];
      }),
    );
  }

  function check(
    outcome: LoadOutcome,
    wanted: Awaited<ReturnType<typeof expected>>,
    converted: number,
  ): void {
    assert.equal(outcome.error, undefined);
    const loaded = Object.entries(outcome.tensors).map(([name, { dtype, digests }]) => [
      name,
      { dtype, digest: digests.join() },
    ]);
    assert.deepEqual(Object.fromEntries(loaded), wanted);
    assert.equal(outcome.report?.expandedOnDevice, converted);
    assert.deepEqual(outcome.liveAfterDestroy, [0, 0]);
  }

  for (const { place, own, worker } of PLACES) {
    test(`${place}: every stored type to every type`, async () => {
      const url = `${server.origin}/every.gguf`;
      for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
        const wanted = await expected(url, dtype);
        for (const upload of ['ring', 'writeBuffer'] as const) {
          const options = { worker, upload, dtype, expand: 'device' as const };
          check(await run(own, { url, device: 'own', options }), wanted, TENSORS.length - 2);
        }
      }
      assert.deepEqual(page.errors, []);
    });

    test(`${place}: a tensor cache's packed records, a small budget`, async () => {
      const url = `${server.origin}/cache/`;
      const wanted = await expected(url, 'stored');
      for (const budgetBytes of [2 ** 18, 2 ** 26]) {
        const options = { worker, budgetBytes, expand: 'device' as const };
        check(await run(own, { url, device: 'gpu', options }), wanted, PACKED.length);
      }
      for (const device of ['own', 'gpu'] as const) {
        const outcome = await run(own, { url, device, options: { worker } });
        check(outcome, wanted, SOFTWARE ? 0 : PACKED.length);
      }
    });

    test(`${place}: the device is lost, the load is aborted`, async () => {
      const url = `${server.origin}/every.gguf`;
      const options = { worker, dtype: 'float32', expand: 'device', budgetBytes: 2 ** 20 } as const;
      for (const loseAt of [1, 5]) {
        const outcome = await run(own, { url, device: 'own', options, loseAt });
        assert.equal(outcome.error?.code, 'device_lost', outcome.error?.message);
        assert.deepEqual(outcome.live, [0, 0]);
      }
      for (const abortAt of [1, 5]) {
        const outcome = await run(own, { url, device: 'own', options, abortAt });
        assert.equal(outcome.error?.code, 'aborted', outcome.error?.message);
        assert.deepEqual(outcome.live, [0, 0]);
      }
    });
  }
});
