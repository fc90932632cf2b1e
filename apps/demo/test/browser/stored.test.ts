// Stored models, as a person meets them on the page.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';

import type { Page } from 'playwright-core';
import type * as Sluice from 'sluice';

import { startChromium } from '../../../../packages/sluice/test/support/chromium.js';
import type { Chromium, ChromiumPage } from '../../../../packages/sluice/test/support/chromium.js';
import {
  randomTensor,
  safetensors,
  served,
  tensorCacheFiles,
} from '../../../../packages/sluice/test/support/models.js';
import { startServer } from '../../../../packages/sluice/test/support/server.js';
import type { TestServer } from '../../../../packages/sluice/test/support/server.js';
import { startDemo } from '../../server.js';
import type { Demo } from '../../server.js';
import { checkAppearance } from './support.js';

const SINGLE = safetensors([
  randomTensor('a.weight', 'F32', [300, 100], 1),
  randomTensor('b.weight', 'F16', [99, 7], 2),
]);
const CACHE = tensorCacheFiles([
  [randomTensor('x', 'float32', [64, 10], 3)],
  [randomTensor('y', 'float16', [33, 21], 4)],
]);

/** Sends showDirectoryPicker() to a folder of this name in OPFS, which is no different to the page. */
function fakePicker(name: string): void {
  Object.assign(window, {
    showDirectoryPicker: async () =>
      (await navigator.storage.getDirectory()).getDirectoryHandle(name, { create: true }),
  });
}

describe('stored models on the demo page', () => {
  let demo: Demo;
  let server: TestServer;
  let chromium: Chromium;
  let opened: ChromiumPage;
  let page: Page;

  before(async () => {
    demo = await startDemo();
    chromium = await startChromium();
    await chromium.context.grantPermissions(['persistent-storage']).catch(() => undefined);
  });
  after(async () => {
    await chromium.close();
    await demo.close();
  });
  beforeEach(async () => {
    server = await startServer({
      files: { '/model.safetensors': SINGLE, ...served(CACHE, '/cache/') },
    });
    await openPage();
  });
  afterEach(async () => {
    await page.evaluate(async () => {
      const entry = '/sluice/index.js'; // in a variable, so that the compiler does not look for it
      const { openStore } = (await import(entry)) as typeof Sluice;
      await (await openStore()).clear();
    });
    await opened.close();
    await server.close();
  });

  async function openPage(before?: () => void): Promise<void> {
    opened = await chromium.newPage('/');
    ({ page } = opened);
    page.setDefaultTimeout(30_000);
    if (before) await page.addInitScript(before);
    await page.setViewportSize({ width: 1440, height: 900 });
    await page.goto(`${demo.origin}/`);
    await page.locator('#stored-body').waitFor();
    // It says so until the store's workers have started, which takes a while on a busy machine
    await page.locator('#stored-usage:not(:text("Looking into"))').waitFor();
  }

  const text = async (selector: string): Promise<string> =>
    (await page.locator(selector).innerText()).replaceAll('\u00a0', ' ').trim();
  const item = (name: string): string => `#stored-list > li:has(h3:text-is("${name}"))`;
  const listed = (): Promise<string[]> => page.locator('#stored-list h3').allInnerTexts();
  const focusedId = (): Promise<string | undefined> =>
    page.evaluate(() => document.activeElement?.id);

  async function load(path: string): Promise<void> {
    await page.fill('#url', server.origin + path);
    await page.press('#url', 'Enter');
    await page.locator('#tensors').waitFor();
    await page.locator('#cancel').waitFor({ state: 'hidden' });
  }

  /** Waits until these models are listed. */
  async function lists(names: readonly string[]): Promise<void> {
    for (const end = Date.now() + 5000; Date.now() < end; await page.waitForTimeout(50)) {
      if (isDeepStrictEqual(await listed(), names)) return;
    }
    assert.deepEqual(await listed(), names);
  }

  async function remove(name: string): Promise<void> {
    await page.click(`${item(name)} >> [data-action=delete]`);
    await page.click('#confirm button[value=delete]');
    await page.locator('#stored-status >> text=Deleted').waitFor();
  }

  /** The content of every file in a folder of OPFS, by path. */
  const filesOf = (name: string): Promise<Record<string, number[]>> =>
    page.evaluate(async (folder) => {
      const found: Record<string, number[]> = {};
      const walk = async (at: FileSystemDirectoryHandle, path: string): Promise<void> => {
        for await (const [entry, handle] of at.entries()) {
          if (handle.kind === 'directory') {
            await walk(handle as FileSystemDirectoryHandle, `${path}${entry}/`);
          } else {
            const file = await (handle as FileSystemFileHandle).getFile();
            found[path + entry] = [...new Uint8Array(await file.arrayBuffer())];
          }
        }
      };
      const root = await navigator.storage.getDirectory();
      await walk(await root.getDirectoryHandle(folder), '');
      return found;
    }, name);

  it('lists a loaded model when the page is opened again, and loads it without a request', async () => {
    assert.match(await text('#stored-usage'), /^Nothing is kept on this device yet/);
    await load('/model.safetensors');
    assert.match(
      await text('#store-line'),
      /were fetched; the next load takes all of it from this device/,
    );
    assert.equal(await text('#tile-device'), '0 bytes');
    await page.locator(item('model.safetensors')).waitFor();
    await opened.close();

    await openPage();
    await page.locator(item('model.safetensors')).waitFor();
    const entry = await text(item('model.safetensors'));
    assert.ok(entry.includes(`${server.origin}/model.safetensors`), entry);
    assert.match(entry, /Complete 118\.\d KiB in 1 file · used just now/);
    assert.match(await text('#stored-usage'), /^1 model, 118\.\d KiB on this device; room for/);
    const asked = server.requests.length;
    await page.click(`${item('model.safetensors')} >> [data-action=load]`);
    await page.locator('#tensors').waitFor();
    assert.equal(server.requests.length, asked);
    assert.equal(
      await text('#store-line'),
      'All of it came from this device; nothing was fetched.',
    );
    assert.equal(await text('#tile-device-of'), 'nothing fetched');
    assert.deepEqual(await page.locator('#rows th').allInnerTexts(), ['a.weight', 'b.weight']);
    assert.deepEqual(opened.errors, []);
  });

  it('keeps nothing where that is not wanted, and takes nothing from the store', async () => {
    await page.click('#form .options summary');
    await page.uncheck('#keep');
    assert.match(await text('#options-summary'), /not kept/);
    await load('/model.safetensors');
    assert.match(await text('#store-line'), /All of it was fetched, and none of it is kept/);
    assert.deepEqual(await listed(), []);
    const asked = server.requests.length;
    await load('/model.safetensors');
    assert.ok(server.requests.length > asked);
  });

  it('shows how much of a load that was stopped is kept, and fetches the rest', async () => {
    const large = safetensors([randomTensor('w', 'F32', [3, 2 ** 20], 5)]);
    server.files['/large.safetensors'] = large;
    server.addFault({ path: '/large.safetensors', bytesPerSecond: 4e6 });
    await page.fill('#url', `${server.origin}/large.safetensors`);
    await page.press('#url', 'Enter');
    await page.locator('#stage >> text=/Loading, [2-9]\\d/').waitFor();
    await page.click('#cancel');
    // What was on its way is put in order after the load has ended
    for (;;) {
      await page.evaluate(() => document.dispatchEvent(new Event('visibilitychange')));
      const [first] = await listed();
      if (first !== undefined && !/ 0 bytes of/.test(await text(item(first)))) break;
      await page.waitForTimeout(200);
    }
    assert.match(await text(item('large.safetensors')), /\d+ % stored .* of 12\.0 MiB or more/);
    assert.equal(
      await page.locator(`${item('large.safetensors')} >> [data-action=export]`).count(),
      0,
    );
    await page.click(`${item('large.safetensors')} >> text=Finish loading`);
    await page.locator('#tensors').waitFor();
    assert.match(await text('#store-line'), /MiB came from this device, .* were fetched/);
    await page.locator(`${item('large.safetensors')} >> text=Complete`).waitFor();
  });

  it('deletes a model when that is confirmed, and all of them', async () => {
    await load('/model.safetensors');
    await load('/cache/');
    await page.locator(item('cache')).waitFor();
    assert.deepEqual(await listed(), ['cache', 'model.safetensors']);
    await page.click(`${item('cache')} >> [data-action=delete]`);
    assert.equal(await text('#confirm-title'), 'Delete cache?');
    await page.keyboard.press('Escape');
    assert.deepEqual(await listed(), ['cache', 'model.safetensors']);
    await remove('cache');
    await lists(['model.safetensors']);
    // The focus is where the next one can be deleted
    assert.equal(
      await page.evaluate(() => document.activeElement?.textContent),
      'Delete model.safetensors',
    );
    await page.click('#stored-clear');
    await page.click('#confirm button[value=delete]');
    await page.locator('#stored-status >> text=Deleted all stored models').waitFor();
    await lists([]);
    assert.equal(await focusedId(), 'stored');
    const asked = server.requests.length;
    await load('/cache/');
    assert.ok(server.requests.length > asked);
  });

  it('does not delete what another tab is loading, and says so', async () => {
    await load('/cache/');
    const other = await chromium.newPage('/');
    await other.page.goto(`${demo.origin}/`);
    const key = `${server.origin}/cache/`;
    await other.page.evaluate(async (name) => {
      const entry = '/sluice/index.js';
      const { openStore } = (await import(entry)) as typeof Sluice;
      const session = await (await openStore()).session(name, { poolBytes: 2 ** 20 });
      Object.assign(window, { session });
    }, key);
    await page.click(`${item('cache')} >> [data-action=delete]`);
    await page.click('#confirm button[value=delete]');
    await page.locator('#stored-failure >> text=cache was not deleted').waitFor();
    assert.match(await text('#stored-failure'), /^It is in use[\s\S]*close the other tabs/);
    assert.deepEqual(await listed(), ['cache']);
    await other.close();
  });

  it('exports to a folder, and imports from it under the address that it is loaded from', async () => {
    await page.evaluate(fakePicker, 'exported');
    await load('/cache/');
    await page.click(`${item('cache')} >> [data-action=export]`);
    await page.locator('#stored-status >> text=Exported cache to exported/cache').waitFor();
    const files = await filesOf('exported');
    assert.deepEqual(
      Object.keys(files).sort(),
      Object.keys(CACHE)
        .map((name) => `cache/${name}`)
        .sort(),
    );
    for (const [name, body] of Object.entries(CACHE)) {
      assert.deepEqual(files[`cache/${name}`], [...Buffer.from(body)], name);
    }
    await remove('cache');

    await page.click('#stored .options summary');
    await page.click('#import-folder');
    assert.match(await text('#import-url-error'), /Give the address/);
    assert.equal(await focusedId(), 'import-url');
    await page.fill('#import-url', `${server.origin}/cache/`);
    await page.click('#import-folder');
    await page.locator('#stored-status >> text=Imported cache').waitFor();
    assert.match(await text(item('cache')), /Complete/);
    const asked = server.requests.length;
    await page.click(`${item('cache')} >> [data-action=load]`);
    await page.locator('#tensors').waitFor();
    assert.equal(server.requests.length, asked);
    assert.deepEqual(await page.locator('#rows th').allInnerTexts(), ['x', 'y']);
    assert.deepEqual(opened.errors, []);
  });

  it('says why files cannot be imported under an address', async () => {
    await page.click('#stored .options summary');
    await page.fill('#import-url', `${server.origin}/cache/`);
    await page.setInputFiles('#import-files-input', {
      name: 'other.gguf',
      mimeType: 'application/octet-stream',
      buffer: Buffer.from('GGUF'),
    });
    await page.locator('#stored-failure >> text=other.gguf').first().waitFor();
    assert.match(await text('#stored-failure'), /^That cannot be done with these files/);
    assert.match(await text('#stored-failure'), /asks for one of tensor-cache\.json/);
    assert.match(await text('#stored-failure'), /give the address that ends in 'other\.gguf'/i);
    assert.deepEqual(await listed(), []);
  });

  it('says what is missing where pages cannot write to folders', async () => {
    await opened.close();
    await openPage(() => {
      Object.assign(window, { showDirectoryPicker: undefined });
    });
    await load('/model.safetensors');
    await page.locator(item('model.safetensors')).waitFor();
    assert.equal(await page.locator('[data-action=export]').count(), 0);
    assert.match(
      await text('#stored-export-hint'),
      /Export needs a browser that lets a page write/,
    );
  });

  it('says where there is no store, and loads all the same', async () => {
    const usable = { opened, page };
    opened = await chromium.newPage('/');
    ({ page } = opened);
    await page.addInitScript(() => {
      Object.defineProperty(StorageManager.prototype, 'getDirectory', { value: undefined });
    });
    await page.goto(`${demo.origin}/`);
    await page.locator('#stored-why').waitFor();
    assert.match(await text('#stored-why'), /Models are not kept here: .*private file system/);
    assert.ok(await page.locator('#keep').isDisabled());
    await load('/model.safetensors');
    assert.match(await text('#store-line'), /none of it is kept/);
    await opened.close();
    ({ opened, page } = usable);
  });

  it('asks the browser not to evict, once by itself and again when it is told to', async () => {
    await opened.close();
    await openPage(() => {
      const counted = window as typeof window & { asked: number };
      counted.asked = 0;
      StorageManager.prototype.persisted = () => Promise.resolve(counted.asked > 1);
      StorageManager.prototype.persist = () => Promise.resolve(++counted.asked > 1);
    });
    const asked = (): Promise<number> =>
      page.evaluate(() => (window as typeof window & { asked: number }).asked);
    await page.locator('#stored-eviction >> text=may remove').waitFor();
    await load('/model.safetensors');
    await load('/cache/');
    assert.equal(await asked(), 1);
    await page.click('#stored-persist');
    await page.locator('#stored-eviction >> text=until you delete them').waitFor();
    assert.equal(await asked(), 2);
    assert.ok(!(await page.locator('#stored-persist').isVisible()));
  });

  for (const scheme of ['light', 'dark'] as const) {
    it(`is readable and well-formed in every state: ${scheme}`, async () => {
      await page.emulateMedia({ colorScheme: scheme });
      const check = (state: string): Promise<void> => checkAppearance(opened, state);
      await page.click('#stored .options summary');
      await check('nothing stored');
      await load('/cache/');
      await page.locator(item('cache')).waitFor();
      await page.click('#import-folder');
      await check('a stored model, and a wrong address');
      await page.fill('#import-url', `${server.origin}/model.safetensors`);
      await page.setInputFiles('#import-files-input', {
        name: 'other.gguf',
        mimeType: 'application/octet-stream',
        buffer: Buffer.from('GGUF'),
      });
      await page.locator('#stored-failure h3').waitFor();
      await check('a failure');
      await page.click(`${item('cache')} >> [data-action=delete]`);
      await check('the question whether to delete');
    });
  }
});
