// Wrong answers to Range requests as Chromium shows them, where CORS may hide Content-Range.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import type * as PageLoad from './page_load.js';
import type { LoadOutcome, LoadRequest } from './page_load.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import { randomTensor, safetensors } from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';

const tensors = [0, 1].map((i) => randomTensor(`t${i}`, 'F32', [400, 256 + i], i));
const FILE = safetensors(tensors);
const PATH = '/model.safetensors';
const HIDDEN = { 'Access-Control-Expose-Headers': null };

describe('wrong answers to Range requests in Chromium', { timeout: 120_000 }, () => {
  let browser: Chromium;
  let page: ChromiumPage;
  before(async () => {
    browser = await startChromium();
    page = await browser.newPage();
  });
  after(() => browser.close());

  async function load(fault: (server: TestServer) => void, worker: boolean): Promise<LoadOutcome> {
    const server = await startServer({ files: { [PATH]: FILE } });
    try {
      fault(server);
      const url = server.origin + PATH;
      return await page.evaluate(
        async (given: LoadRequest & { origin: string }): Promise<LoadOutcome> => {
          const script = `${given.origin}/test/browser/page_load.js`;
          const { load } = (await import(script)) as typeof PageLoad;
          return load(given);
        },
        {
          ...{ url, origin: browser.origin, dist: `${browser.origin}/dist/` },
          ...{ device: 'own' as const, options: { worker } },
        },
      );
    } finally {
      await server.close();
    }
  }

  for (const worker of [true, false]) {
    const where = worker ? 'in the loading worker' : 'on a page alone';

    test(`a Content-Range of another place, ${where}`, async () => {
      const header = `bytes 100-262243/${FILE.length}`;
      const { error } = await load((server) => {
        server.addFault({ path: PATH, headers: { 'Content-Range': header } });
      }, worker);
      assert.equal(error?.code, 'http_status', error?.message);
      assert.ok(error.message.includes(`asked for bytes 0-262143,`), error.message);
      assert.ok(error.message.includes(`'${header}'`), error.message);
      assert.ok(error.message.includes(PATH), error.message);
    });

    test(`a hidden Content-Range and more bytes than asked, ${where}`, async () => {
      const { error } = await load((server) => {
        server.addFault({ path: PATH, headers: HIDDEN, longerBy: 1000 });
      }, worker);
      assert.equal(error?.code, 'http_status', error?.message);
      assert.ok(error.message.includes('asked for bytes 0-262143,'), error.message);
      assert.ok(error.message.includes('263144 bytes, 1000 more'), error.message);
    });

    test(`a hidden Content-Range and fewer bytes than the file has, ${where}`, async () => {
      const { error } = await load((server) => {
        server.addFault({ path: PATH, headers: HIDDEN, endAfter: 100 });
      }, worker);
      assert.equal(error?.code, 'truncated', error?.message);
      assert.ok(error.message.includes('model.safetensors'), error.message);
    });

    test(`a hidden Content-Range of what was asked is as good as any, ${where}`, async () => {
      const { error, tensors: loaded } = await load((server) => {
        server.addFault({ path: PATH, headers: HIDDEN });
      }, worker);
      assert.equal(error, undefined);
      assert.deepEqual(Object.keys(loaded), ['t0', 't1']);
    });
  }
});
