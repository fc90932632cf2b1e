// sluice/runtime in Chromium, on a page and in a worker. Its own tests, in test/runtime, run in Node.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type * as Sluice from '../../src/index.js';
import type * as Models from '../support/models.js';
import type * as PageRuntime from './page_runtime.js';
import type { Outcome } from './page_runtime.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';

describe('sluice/runtime in Chromium', { timeout: 120_000 }, () => {
  let browser: Chromium;
  let page: ChromiumPage;
  before(async () => {
    browser = await startChromium();
    page = await browser.newPage();
  });
  after(() => browser.close());

  for (const where of ['page', 'worker'] as const) {
    test(`in a ${where}: values, errors, tensors, models`, async () => {
      const act = async (origin: string): Promise<Outcome> => {
        const path = `${origin}/test/browser/page_runtime.js`;
        const { driveRuntime } = (await import(path)) as typeof PageRuntime;
        return driveRuntime(origin);
      };
      const outcome = await (where === 'page'
        ? page.evaluate(act, browser.origin)
        : page.evaluateInWorker(act, browser.origin));
      assert.deepEqual(outcome.values, [
        1,
        -0.5,
        'Größe 🦥, longer than a small string',
        [3, 4],
        true,
        String(2n ** 60n),
        42,
        [2, 3],
        'text of a call in a memory that grows',
      ]);
      assert.ok(outcome.sameError);
      const [disposed, integer, unknown, shape] = outcome.misuse;
      assert.equal(disposed, 'RuntimeError: the tensor int8[2] was disposed');
      assert.match(integer ?? '', /^RuntimeError: argument 0 is 9007199254740992/);
      assert.equal(unknown, "RuntimeError: there is no global function 'no.such'");
      assert.match(shape ?? '', /^RuntimeError: .*-1/);
      assert.ok(outcome.flat);
      assert.deepEqual(
        [outcome.cpu, outcome.gpu],
        [
          [true, true],
          [true, true],
        ],
      );
      const [calls, all] = outcome.fetched;
      assert.deepEqual(calls, ['sluice_runtime.wasm']);
      assert.ok(all.includes('sluice_loader.wasm'));
      assert.deepEqual(page.errors, []);
    });
  }

  test('a page that only loads weights does not fetch it', async () => {
    const fresh = await browser.newPage();
    const fetched = await fresh.evaluate(async (origin: string): Promise<string[]> => {
      const support = `${origin}/test/support/models.js`;
      const models = (await import(support)) as typeof Models;
      const entry = `${origin}/dist/index.js`;
      const { loadModel } = (await import(entry)) as typeof Sluice;
      const bytes = new Uint8Array(models.safetensors([models.randomTensor('a', 'F32', [8], 1)]));
      const model = await loadModel(new Blob([bytes]), { device: 'cpu' });
      model.destroy();
      return performance.getEntriesByType('resource').map(({ name }) => name);
    }, browser.origin);
    assert.ok(fetched.some((name) => name.endsWith('/sluice_loader.wasm')));
    assert.ok(!fetched.some((name) => name.includes('runtime')), fetched.join(' '));
    await fresh.close();
  });
});
