// The package from one origin, the page from another, the model from a third.
import assert from 'node:assert/strict';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type * as PageLoad from './page_load.js';
import type { LoadOutcome, LoadRequest } from './page_load.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import { randomTensor, safetensors } from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';

const FILE = safetensors([
  randomTensor('a', 'F32', [513, 257], 1),
  randomTensor('b', 'U8', [7], 2),
]);
const MODEL = '/model.safetensors';
const PAGE = '<!doctype html><link rel="icon" href="data:,"><title>Another origin</title>';

describe('the package from another origin', { timeout: 120_000 }, () => {
  /** Serves the package. */
  let browser: Chromium;
  let models: TestServer;
  let page: ChromiumPage;
  let warnings: string[];
  let pages: TestServer | undefined;
  /** Paths that the package's server serves to its own origin alone. */
  const withoutCors = new Set<string>();

  before(async () => {
    const handler = ({ url = '' }: IncomingMessage, response: ServerResponse): boolean => {
      if (!withoutCors.has(url)) response.setHeader('Access-Control-Allow-Origin', '*');
      return false;
    };
    browser = await startChromium({ handler });
    models = await startServer({ files: { [MODEL]: FILE } });
  });
  after(async () => {
    await browser.close();
    await models.close();
  });
  beforeEach(async () => {
    page = await browser.newPage();
    warnings = [];
    page.page.on('console', (message) => {
      if (message.type() === 'warning' && message.text().startsWith('sluice: '))
        warnings.push(message.text());
    });
  });
  afterEach(async () => {
    withoutCors.clear();
    await page.close();
    await pages?.close();
  });

  async function openPage(headers: Record<string, string> = {}): Promise<void> {
    pages = await startServer({ files: { '/index.html': PAGE }, headers });
    await page.page.goto(`${pages.origin}/index.html`);
  }
  function load(options: LoadRequest['options'] = {}): Promise<LoadOutcome> {
    return page.evaluate(
      async (given: LoadRequest & { origin: string }): Promise<LoadOutcome> => {
        if (location.origin === given.origin) throw new Error('the page is of the same origin');
        const script = `${given.origin}/test/browser/page_load.js`;
        const { load } = (await import(script)) as typeof PageLoad;
        return load(given);
      },
      {
        ...{ url: models.origin + MODEL, origin: browser.origin, device: 'own' as const },
        ...{ dist: `${browser.origin}/dist/`, options },
      },
    );
  }
  function check({ error, tensors, report }: LoadOutcome, thread: 'worker' | 'caller'): void {
    assert.equal(error, undefined);
    assert.deepEqual(Object.keys(tensors), ['a', 'b']);
    assert.equal(report?.thread, thread);
  }

  test('loads in a worker all the same', async () => {
    await openPage();
    check(await load(), 'worker');
    check(await load({ worker: true }), 'worker');
    assert.deepEqual(warnings, []);
    assert.deepEqual(page.errors, []);
  });

  for (const [what, headers, path] of [
    ['a Content-Security-Policy forbids', { 'Content-Security-Policy': "worker-src 'self'" }, ''],
    ['its script has no CORS headers', {}, '/dist/worker.js'],
  ] as const) {
    test(`where ${what}: loads in the page and says so once`, async () => {
      withoutCors.add(path);
      await openPage(headers);
      check(await load(), 'caller');
      check(await load(), 'caller');
      assert.equal(warnings.length, 1, warnings.join('\n'));
      assert.match(warnings[0] ?? '', /worker could not be started.*calling thread.*worker-src/);
    });

    test(`where ${what}: an error if the worker is required`, async () => {
      withoutCors.add(path);
      await openPage(headers);
      const { error, live } = await load({ worker: true });
      assert.equal(error?.code, 'internal', error?.message);
      assert.match(error.message, /worker could not be started/);
      assert.match(error.hint ?? '', /worker-src.*worker: false/);
      assert.deepEqual(live, [0, 0]);
      check(await load({ worker: false }), 'caller');
      assert.deepEqual(warnings, []);
    });
  }

  test('a loader.wasm without CORS headers is an error that names it', async () => {
    withoutCors.add('/dist/sluice_loader.wasm');
    await openPage();
    const { error } = await load();
    assert.equal(error?.code, 'internal');
    assert.ok(error.message.includes(`${browser.origin}/dist/sluice_loader.wasm`), error.message);
    assert.match(error.hint ?? '', /CORS/);
  });
});
