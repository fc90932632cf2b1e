// The same as ../tensor_cache.test.ts in Chromium.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type * as Page from '../../../packages/sluice/test/browser/page_tvmjs.js';
import { startChromium, type Chromium } from '../../../packages/sluice/test/support/chromium.js';
import { servePackedModel, type PackedModel } from '../packed.js';

describe('SmolLM2 by fetchTensorCache() in Chromium', { timeout: 180_000 }, () => {
  let model: PackedModel;
  let browser: Chromium;
  before(async () => {
    model = await servePackedModel();
    browser = await startChromium();
  });
  after(async () => {
    await browser.close();
    await model.close();
  });

  for (const device of ['cpu', 'webgpu'] as const) {
    test(`to ${device}`, async () => {
      const page = await browser.newPage();
      const digests = await page.evaluate(
        async ({ origin, url, device }) => {
          const path = `${origin}/test/browser/page_tvmjs.js`;
          const { driveDigests } = (await import(path)) as typeof Page;
          return driveDigests(origin, url, device);
        },
        { origin: browser.origin, url: model.url, device },
      );
      assert.equal(Object.keys(digests).length, 272);
      assert.deepEqual(digests, model.expected);
      assert.deepEqual(page.errors, []);
      await page.close();
    });
  }
});
