// Compiled models, linked with the runtime and driven by sluice/runtime, in Chromium.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import {
  startChromium,
  type Chromium,
  type ChromiumPage,
} from '../../../packages/sluice/test/support/chromium.js';
import { startServer, type TestServer } from '../../../packages/sluice/test/support/server.js';
import { drive } from '../drive.js';
import { calls, expectSame, linkedBytes } from '../support.js';

describe('compiled models in Chromium', { timeout: 120_000 }, () => {
  let browser: Chromium;
  let page: ChromiumPage;
  let server: TestServer;
  before(async () => {
    server = await startServer({
      files: {
        '/basic_cpu.wasm': await linkedBytes('basic_cpu'),
        '/basic_webgpu.wasm': await linkedBytes('basic_webgpu'),
      },
    });
    browser = await startChromium();
    page = await browser.newPage();
  });
  after(async () => {
    await browser.close();
    await server.close();
  });

  for (const name of ['basic_cpu', 'basic_webgpu'])
    for (const where of ['page', 'worker'] as const)
      test(`${name} in a ${where}`, async () => {
        const given = {
          entry: `${browser.origin}/dist/runtime/index.js`,
          wasm: `${server.origin}/${name}.wasm`,
          calls: calls('basic'),
          gpu: name.endsWith('webgpu'),
        };
        const results = await (where === 'page'
          ? page.evaluate(drive, given)
          : page.evaluateInWorker(drive, given));
        for (const [i, { result }] of given.calls.entries())
          expectSame(results[i], result, `call ${i}, ${given.calls[i]?.function}`);
        assert.deepEqual(page.errors, []);
      });
});
