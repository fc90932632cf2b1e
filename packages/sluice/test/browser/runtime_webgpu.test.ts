// The runtime's WebGPU device in Chromium, on a page and in a worker.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type * as PageDevice from '../runtime/webgpu/page_device.js';
import type { Outcome } from '../runtime/webgpu/page_device.js';
import { startChromium } from '../support/chromium.js';
import type { Chromium, ChromiumPage } from '../support/chromium.js';

function expectedChain(): number[] {
  let values = [0, 1, 2, 3];
  for (let k = 0; k < 500; k++) values = values.map((value) => (Math.imul(value, 3) + k) >>> 0);
  return values;
}

describe("the runtime's WebGPU device in Chromium", { timeout: 120_000 }, () => {
  let browser: Chromium;
  let page: ChromiumPage;
  before(async () => {
    browser = await startChromium();
    page = await browser.newPage();
  });
  after(() => browser.close());

  for (const where of ['page', 'worker'] as const) {
    test(`in a ${where}: kernels, copies, errors`, async () => {
      const act = async (origin: string): Promise<Outcome> => {
        const path = `${origin}/test/runtime/webgpu/page_device.js`;
        const { driveDevice } = (await import(path)) as typeof PageDevice;
        return driveDevice(`${origin}/dist/`);
      };
      const outcome = await (where === 'page'
        ? page.evaluate(act, browser.origin)
        : page.evaluateInWorker(act, browser.origin));
      assert.deepEqual(outcome.chain, expectedChain());
      assert.equal(outcome.passes, 5);
      assert.deepEqual(outcome.copied, [1, 5, 77, 78, 79, 9, 10, 79, 9, 10, 11]);
      assert.match(outcome.compileError, /^invalid_argument: kernel "step": line 13:/);
      assert.match(outcome.lost, /^device_lost: allocating .* destroyed/);
      assert.deepEqual(outcome.uncaptured, []);
      assert.deepEqual(page.errors, []);
    });
  }
});
