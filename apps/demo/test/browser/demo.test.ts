// The page as a person uses it, in headless Chromium.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';

import type { Page } from 'playwright-core';

import { startChromium } from '../../../../packages/sluice/test/support/chromium.js';
import type { Chromium, ChromiumPage } from '../../../../packages/sluice/test/support/chromium.js';
import {
  gguf,
  randomTensor,
  safetensors,
  tensorCacheFiles,
} from '../../../../packages/sluice/test/support/models.js';
import type { TestTensor } from '../../../../packages/sluice/test/support/models.js';
import { startServer } from '../../../../packages/sluice/test/support/server.js';
import type { TestServer } from '../../../../packages/sluice/test/support/server.js';
import { startDemo } from '../../server.js';
import type { Demo } from '../../server.js';
import { checkAppearance, structureFaults } from './support.js';

const VALUES = Float32Array.of(0.5, -1.25, 3, 0, 7.75, -2, 0.1, 1e-7);

const KNOWN: TestTensor[] = [
  {
    name: 'model.layers.0.mlp.weight',
    dtype: 'F32',
    shape: [2, 4],
    bytes: new Uint8Array(VALUES.buffer),
  },
  randomTensor('model.layers.1.mlp.weight', 'BF16', [64, 32], 1),
  {
    name: 'position_ids',
    dtype: 'I32',
    shape: [3],
    bytes: new Uint8Array(Int32Array.of(-1, 0, 2147483647).buffer),
  },
  randomTensor('lm_head.weight', 'F16', [100, 32], 2),
];

describe('the demo page', () => {
  let demo: Demo;
  let server: TestServer;
  let chromium: Chromium;
  let opened: ChromiumPage;
  let page: Page;

  before(async () => {
    demo = await startDemo();
    chromium = await startChromium();
  });
  after(async () => {
    await chromium.close();
    await demo.close();
  });
  beforeEach(async () => {
    server = await startServer({ files: { '/model.safetensors': safetensors(KNOWN) } });
    opened = await chromium.newPage('/');
    ({ page } = opened);
    page.setDefaultTimeout(30_000);
    await page.setViewportSize({ width: 1440, height: 900 });
    await page.goto(`${demo.origin}/`);
  });
  afterEach(async () => {
    await opened.close();
    await server.close();
  });

  const visible = (selector: string): Promise<boolean> => page.locator(selector).isVisible();
  const text = async (selector: string): Promise<string> =>
    (await page.locator(selector).innerText()).replaceAll('\u00a0', ' ');
  const focusedText = (): Promise<string> =>
    page.evaluate(() => document.activeElement?.textContent.trim() ?? '');
  const rowNames = (): Promise<string[]> => page.locator('#rows tr:not(.aside) th').allInnerTexts();

  /** Types an address and presses Enter. */
  async function enter(url: string): Promise<void> {
    await page.fill('#url', url);
    await page.press('#url', 'Enter');
  }

  async function load(url: string): Promise<void> {
    await enter(url);
    await page.locator('#tensors').waitFor();
  }

  it('loads what is typed, and shows, filters and sorts its tensors', async () => {
    await load(`${server.origin}/model.safetensors`);
    assert.deepEqual(
      await rowNames(),
      KNOWN.map(({ name }) => name),
    );
    assert.match(await text('#model-line'), /model\.safetensors: safetensors, 10\.3 KiB/);
    assert.equal(await text('#tile-tensors'), '4');
    assert.match(await text('#stage'), /Loaded to the GPU by .*, fetched in a worker/);

    await page.fill('#filter', 'WEIGHT layers');
    assert.deepEqual(await rowNames(), ['model.layers.0.mlp.weight', 'model.layers.1.mlp.weight']);
    assert.equal(await text('#filter-count'), '2 of 4 tensors, 4.0 KiB');
    await page.selectOption('#filter-dtype', 'int32');
    assert.ok(await visible('#no-match'));
    await page.click('#clear-filter');
    assert.equal((await rowNames()).length, 4);

    const byName = [...KNOWN.map(({ name }) => name)].sort();
    await page.click('[data-sort=name]');
    assert.deepEqual(await rowNames(), byName);
    assert.equal(await page.getAttribute('th.name', 'aria-sort'), 'ascending');
    await page.click('[data-sort=bytes]');
    await page.click('[data-sort=bytes]');
    assert.equal((await rowNames())[0], 'lm_head.weight');
    assert.equal(await page.getAttribute('th.bytes', 'aria-sort'), 'descending');
    await page.click('[data-sort=bytes]');
    assert.deepEqual(
      await rowNames(),
      KNOWN.map(({ name }) => name),
    );
    assert.deepEqual(opened.errors, []);
  });

  it('shows the values that the file has, read back from the GPU', async () => {
    await load(`${server.origin}/model.safetensors`);
    await page.click('#rows tr >> nth=0');
    await page.locator('ol.values').waitFor();
    assert.deepEqual(await page.locator('ol.values li').allInnerTexts(), [
      '0.5',
      '-1.25',
      '3',
      '0',
      '7.75',
      '-2',
      '0.1',
      '1e-7',
    ]);
    const facts = await text('.facts');
    assert.match(facts, /float32[\s\S]*2 × 4[\s\S]*GPU buffer/);
    const statistics = await text('.statistics');
    assert.match(statistics, /Minimum\s+-2\s+Maximum\s+7\.75\s+Mean\s+1\.013\s/);
    assert.match(statistics, /Zeros\s+1\s/);
    assert.match(await text('#inspector-body'), /From all 8 values/);

    await page.click('#rows tr >> nth=2');
    await page.locator('ol.values li >> text=2147483647').waitFor();
    assert.deepEqual(await page.locator('ol.values li').allInnerTexts(), ['-1', '0', '2147483647']);
  });

  it('says that a large tensor is looked at in part', async () => {
    const large = randomTensor('large', 'U8', [5, 2 ** 20], 3);
    server.files['/large.safetensors'] = safetensors([large]);
    await load(`${server.origin}/large.safetensors`);
    await page.click('#rows tr >> nth=0');
    await page.locator('ol.values').waitFor();
    assert.match(
      await text('#inspector-body'),
      /From a sample: 4,194,304 of 5,242,880 values, in 16 stretches/,
    );
    const first = [...large.bytes.subarray(0, 64)].map(String);
    assert.deepEqual(await page.locator('ol.values li').allInnerTexts(), first);
  });

  it('shows packed blocks as bytes, and their values where they are converted', async () => {
    // Q8_0: a float16 scale, 0.5 here, and 32 int8
    const bytes = Uint8Array.from([0x00, 0x38, ...Array.from({ length: 32 }, (_, i) => i)]);
    server.files['/q.gguf'] = gguf([{ name: 'q', dtype: 'q8_0', shape: [32], bytes }]);
    await load(`${server.origin}/q.gguf`);
    await page.click('#rows tr >> nth=0');
    await page.locator('pre.values').waitFor();
    assert.ok((await text('pre.values')).startsWith('00 38 00 01 02 03 04 05\n06 07'));

    await page.click('.options summary');
    await page.selectOption('#dtype', 'float32');
    await page.click('#load');
    await page.locator('#rows td.dtype >> text=float32').waitFor();
    await page.click('#rows tr >> nth=0');
    await page.locator('ol.values').waitFor();
    const values = await page.locator('ol.values li').allInnerTexts();
    assert.deepEqual(
      values,
      Array.from({ length: 32 }, (_, i) => String(i / 2)),
    );
  });

  it('tells an error in words, with what to do, and loads when tried again', async () => {
    await enter(`${server.origin}/later/`);
    await page.locator('#failure').waitFor();
    assert.equal(await text('#failure-title'), 'There is no model at this address');
    assert.match(await text('#failure-message'), /tensor-cache\.json/);
    assert.match(await text('#failure-advice'), /Check the address/);
    assert.match(await text('#failure-details'), /not_found/);
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'failure');
    assert.deepEqual(await opened.evaluate(structureFaults, undefined), []);

    server.files['/later/model.safetensors'] = safetensors(KNOWN);
    await page.click('#retry');
    await page.locator('#tensors').waitFor();
    assert.ok(!(await visible('#failure')));
  });

  it('tells of wrong input beside it, and does not load', async () => {
    await page.click('#load');
    assert.match(await text('#url-error'), /Give the address/);
    assert.equal(await page.getAttribute('#url', 'aria-invalid'), 'true');
    await enter('ftp://example.org/model/');
    assert.match(await text('#url-error'), /not an address/);
    await page.click('.options summary');
    await page.fill('#budget', '0');
    await page.click('.options summary');
    await enter(`${server.origin}/model.safetensors`);
    assert.match(await text('#budget-error'), /Give a number of MiB/);
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'budget');
    assert.ok(await visible('#empty'));
    assert.equal(server.requests.length, 0);
  });

  it('tells of a budget that is too small', async () => {
    await page.click('.options summary');
    await page.fill('#budget', '0.125');
    await page.selectOption('#dtype', 'float16'); // which needs room to convert in
    await enter(`${server.origin}/model.safetensors`);
    await page.locator('#failure').waitFor();
    assert.equal(await text('#failure-title'), 'The memory budget is too small');
    assert.match(await text('#failure-advice'), /Raise the memory budget/);
  });

  it('shows progress while it loads, and cancels on Escape', async () => {
    const tensors = Array.from({ length: 40 }, (_, i) =>
      randomTensor(`layer.${i}.weight`, 'F32', [64, 1024], i),
    );
    server.files['/slow.safetensors'] = safetensors(tensors);
    server.addFault({ path: '/slow.safetensors', bytesPerSecond: 1e6 });
    await enter(`${server.origin}/slow.safetensors`);
    await page.locator('#stage >> text=/Loading, [1-9]/').waitFor();
    assert.match(await text('#tile-bytes-of'), /of 10\.0 MiB/);
    assert.match(await text('#tile-memory-of'), /of 64\.0 MiB/);
    assert.match((await page.getAttribute('#plot-rate', 'aria-label')) ?? '', /Throughput/);
    assert.equal(await text('#live'), 'Loading slow.safetensors');
    assert.ok(await page.locator('#load').isDisabled());

    await page.keyboard.press('Escape');
    await page.locator('#stage >> text=Cancelled').waitFor();
    assert.ok(!(await visible('#cancel')));
    assert.ok(!(await visible('#failure')));
    assert.ok(!(await visible('#tensors')));
    assert.ok(await page.locator('#load').isEnabled());
    assert.match(await text('#live'), /Cancelled/);
    for (let i = 0; i < 50 && server.openResponses > 0; i++) await page.waitForTimeout(100);
    assert.equal(server.openResponses, 0);

    await load(`${server.origin}/model.safetensors`);
    assert.equal((await rowNames()).length, 4);
  });

  it('is used by keyboard alone', async () => {
    await page.keyboard.press('Tab');
    assert.equal(await focusedText(), 'Skip to the model');
    for (const link of ['Tensors', 'Chat', 'Stored models']) {
      await page.keyboard.press('Tab');
      assert.equal(await focusedText(), link);
    }
    await page.keyboard.press('Tab');
    await page.keyboard.type(`${server.origin}/model.safetensors`);
    await page.keyboard.press('Enter');
    await page.locator('#tensors').waitFor();
    // To the first row: each stop on the way has a visible focus
    for (let i = 0; i < 40; i++) {
      await page.keyboard.press('Tab');
      const [outline, inTable] = await page.evaluate(() => {
        const focused = document.activeElement ?? document.body;
        const { outlineStyle } = getComputedStyle(focused);
        return [outlineStyle, focused.closest('#rows') !== null] as const;
      });
      assert.notEqual(outline, 'none', await focusedText());
      if (inTable) break;
    }
    assert.equal(await focusedText(), 'model.layers.0.mlp.weight');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('ArrowDown');
    assert.equal(await focusedText(), 'position_ids');
    await page.keyboard.press('End');
    assert.equal(await focusedText(), 'lm_head.weight');
    await page.keyboard.press('Home');
    await page.keyboard.press('Enter');
    await page.locator('ol.values').waitFor();
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'inspector-title');
    await page.keyboard.press('Escape');
    assert.equal(await focusedText(), 'model.layers.0.mlp.weight');
    assert.equal(await page.getAttribute('#rows button:focus', 'aria-current'), 'true');
  });

  it('keeps few of many tensors in the page, and reaches the last by key', async () => {
    const many = Array.from({ length: 3000 }, (_, i) =>
      randomTensor(`model.layers.${i}.weight`, 'F32', [2], i),
    );
    server.files['/many.safetensors'] = safetensors(many);
    await load(`${server.origin}/many.safetensors`);
    assert.equal(await page.getAttribute('#table', 'aria-rowcount'), '3001');
    assert.ok((await page.locator('#rows tr').count()) < 60);
    await page.locator('#rows button >> nth=0').focus();
    await page.keyboard.press('End');
    assert.equal(await focusedText(), 'model.layers.2999.weight');
    assert.equal(await page.getAttribute('#rows tr:has(:focus)', 'aria-rowindex'), '3001');
    assert.ok(await page.locator('#rows button:focus').isVisible());
    assert.ok((await page.locator('#rows tr').count()) < 60);
    assert.equal(await page.getAttribute('#grid', 'aria-label'), '3000 of 3000 tensors are loaded');
  });

  it('loads files that are picked, and files that are dropped', async () => {
    const files = tensorCacheFiles([[randomTensor('a', 'float32', [4], 1)]]);
    await page.setInputFiles(
      '#files-input',
      Object.entries(files).map(([name, body]) => ({
        name,
        mimeType: 'application/octet-stream',
        buffer: Buffer.from(body),
      })),
    );
    await page.locator('#tensors').waitFor();
    assert.deepEqual(await rowNames(), ['a']);
    assert.match(await text('#model-line'), /tensor-cache/);

    const bytes = [...safetensors(KNOWN)];
    const transfer = await page.evaluateHandle((content) => {
      const made = new DataTransfer();
      made.items.add(new File([Uint8Array.from(content)], 'dropped.safetensors'));
      return made;
    }, bytes);
    await page.dispatchEvent('body', 'dragenter', { dataTransfer: transfer });
    assert.ok(await visible('#drop-veil'));
    await page.dispatchEvent('body', 'drop', { dataTransfer: transfer });
    await page.locator('#model-line >> text=dropped.safetensors').waitFor();
    assert.ok(!(await visible('#drop-veil')));
    assert.equal((await rowNames()).length, 4);
  });

  it('says why when there is no WebGPU, and loads to the CPU', async () => {
    await page.addInitScript(() => {
      Object.defineProperty(navigator, 'gpu', { value: undefined });
    });
    await page.goto(`${demo.origin}/`);
    await page.locator('#no-gpu').waitFor();
    assert.match(await text('#no-gpu'), /no WebGPU.*loaded to CPU memory/);
    await load(`${server.origin}/model.safetensors`);
    assert.match(await text('#stage'), /Loaded to CPU memory/);
    await page.click('#rows tr >> nth=0');
    await page.locator('ol.values').waitFor();
    assert.equal(await page.locator('ol.values li >> nth=4').innerText(), '7.75');
  });

  it('copies the values as JSON', async () => {
    await chromium.context.grantPermissions(['clipboard-read', 'clipboard-write'], {
      origin: demo.origin,
    });
    await load(`${server.origin}/model.safetensors`);
    await page.click('#rows tr >> nth=0');
    await page.click('#inspector button >> text=JSON');
    await page.locator('#inspector [role=status] >> text=Copied').waitFor();
    const copied = JSON.parse(await page.evaluate(() => navigator.clipboard.readText())) as {
      name: string;
      first: string[];
    };
    assert.equal(copied.name, 'model.layers.0.mlp.weight');
    assert.deepEqual(copied.first.map(Number).slice(0, 3), [0.5, -1.25, 3]);
  });

  it('frees the model when it is unloaded', async () => {
    await load(`${server.origin}/model.safetensors`);
    await page.click('#unload');
    assert.ok(await visible('#empty'));
    assert.ok(!(await visible('#tensors')));
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'url');
  });

  for (const scheme of ['light', 'dark'] as const) {
    it(`is readable and well-formed in every state: ${scheme}`, async () => {
      await page.emulateMedia({ colorScheme: scheme });
      const check = (state: string): Promise<void> => checkAppearance(opened, state);
      await page.click('.options summary');
      await check('empty');
      await load(`${server.origin}/model.safetensors`);
      await page.click('#rows tr >> nth=1');
      await page.locator('ol.values').waitFor();
      await check('loaded');
      await enter(`${server.origin}/a/long/path/where/there/is/nothing/that/could/be/loaded/`);
      await page.locator('#failure').waitFor();
      await check('error');
    });
  }
});
