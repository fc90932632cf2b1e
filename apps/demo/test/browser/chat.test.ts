// The chat page as a person uses it, in headless Chromium, with a model whose answers are known. Reading back what a pass
// computed can be held, so that an answer waits where a test wants to look at it.
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, it } from 'node:test';

import type { Page } from 'playwright-core';

import { startChromium } from '../../../../packages/sluice/test/support/chromium.js';
import type { Chromium, ChromiumPage } from '../../../../packages/sluice/test/support/chromium.js';
import { startDemo } from '../../server.js';
import type { Demo } from '../../server.js';
import { ALPHABET, CONTEXT, writeAlphabetModel } from './alphabet_model.js';
import { checkAppearance, structureFaults } from './support.js';

/** Building the pipelines takes most of it, on a busy machine tens of seconds. */
const START_MS = 240_000;

/** What the tests reach of a page's GPU; runs in the page before its own scripts. */
interface Control {
  devices: GPUDevice[];
  /** So many more read-backs pass; the others wait. */
  reads: number;
  /** Pipelines wait. */
  holdPipelines: boolean;
  waiting: (() => void)[];
}

function control(): void {
  const state: Control = { devices: [], reads: Infinity, holdPipelines: false, waiting: [] };
  Object.assign(globalThis, { control: state });
  const gpu = (navigator as Partial<Navigator>).gpu;
  if (!gpu) return;
  const wait = (): Promise<void> => new Promise((resolve) => state.waiting.push(resolve));
  /* eslint-disable @typescript-eslint/unbound-method -- each is called on what it belongs to */
  const { requestDevice } = GPUAdapter.prototype;
  GPUAdapter.prototype.requestDevice = async function (descriptor) {
    const device = await requestDevice.call(this, descriptor);
    state.devices.push(device);
    return device;
  };
  const { mapAsync } = GPUBuffer.prototype;
  GPUBuffer.prototype.mapAsync = async function (mode, ...range) {
    if (mode === GPUMapMode.READ && state.reads-- <= 0) await wait();
    return mapAsync.call(this, mode, ...range);
  };
  const { createComputePipelineAsync } = GPUDevice.prototype;
  /* eslint-enable @typescript-eslint/unbound-method */
  GPUDevice.prototype.createComputePipelineAsync = async function (descriptor) {
    if (state.holdPipelines) await wait();
    return createComputePipelineAsync.call(this, descriptor);
  };
}

describe('the chat page', () => {
  const root = mkdtempSync(join(tmpdir(), 'sluice-chat-page-'));
  const built = join(root, 'built');
  let demo: Demo;
  let chromium: Chromium;

  const serve = (folder: string): Promise<Demo> =>
    startDemo({
      chatModel: {
        name: 'Alphabet-27k',
        folder,
        contextWindowSize: CONTEXT,
        command: 'make alphabet',
      },
    });

  before(async () => {
    await writeAlphabetModel(built);
    demo = await serve(built);
    chromium = await startChromium();
    await chromium.context.addInitScript(control);
  });
  after(async () => {
    await chromium.close();
    await demo.close();
    rmSync(root, { recursive: true });
  });

  async function open(origin: string): Promise<ChromiumPage> {
    const opened = await chromium.newPage('/');
    opened.page.setDefaultTimeout(120_000);
    await opened.page.setViewportSize({ width: 1440, height: 900 });
    await opened.page.goto(`${origin}/chat.html`);
    return opened;
  }
  const textOf = async (page: Page, selector: string): Promise<string> =>
    (await page.locator(selector).innerText()).replaceAll('\u00a0', ' ');
  const focusedId = (page: Page): Promise<string> =>
    page.evaluate(() => document.activeElement?.id ?? '');
  /** Lets all that waits go on, and the rest pass. */
  const release = (page: Page): Promise<void> =>
    page.evaluate(() => {
      const { control: state } = globalThis as unknown as { control: Control };
      Object.assign(state, { reads: Infinity, holdPipelines: false });
      for (const go of state.waiting.splice(0)) go();
    });

  describe('before a model is loaded', () => {
    let opened: ChromiumPage;
    let own: Demo | undefined;
    afterEach(async () => {
      await opened.close();
      await own?.close();
      own = undefined;
    });

    it('says how the model is made, and finds it then', async () => {
      const folder = join(root, 'later');
      own = await serve(folder);
      opened = await open(own.origin);
      const { page } = opened;
      await page.locator('#make').waitFor();
      assert.equal(await textOf(page, '#start-title'), 'Alphabet-27k');
      assert.equal(await textOf(page, '#start-notice'), 'The model is not built yet.');
      assert.equal(await textOf(page, '#make-command'), 'make alphabet');
      assert.ok(!(await page.locator('#load').isVisible()));
      assert.deepEqual(await opened.evaluate(structureFaults, undefined), []);
      cpSync(built, folder, { recursive: true });
      await page.click('#look-again');
      await page.locator('#load').waitFor();
      assert.ok(!(await page.locator('#make').isVisible()));
      assert.match(await textOf(page, '#offer-line'), /^1\.\d MiB, float32; kept on this device/);
      assert.deepEqual(opened.errors, []);
    });

    it('says why where there is no WebGPU', async () => {
      opened = await open(demo.origin);
      const { page } = opened;
      await page.addInitScript(() => {
        Object.defineProperty(navigator, 'gpu', { value: undefined });
      });
      await page.reload();
      await page.locator('#start-notice').waitFor();
      assert.match(await textOf(page, '#start-notice'), /has no WebGPU; current Chrome.*needs/);
      assert.equal(await textOf(page, '#adapter'), 'No WebGPU');
      assert.ok(!(await page.locator('#load').isVisible()));
      assert.deepEqual(opened.errors, []);
    });

    it('shows each phase while it loads, and cancels on Escape', async () => {
      opened = await open(demo.origin);
      const { page } = opened;
      await page.evaluate(() => {
        (globalThis as unknown as { control: Control }).control.holdPipelines = true;
      });
      await page.click('#load');
      await page.locator('[data-phase=weights][data-state=done]').waitFor();
      await page.locator('[data-phase=pipelines] >> text=/^0 of \\d+$/').waitFor();
      assert.match(await textOf(page, '[data-phase=wasm]'), /Program \(wasm\)\s+1\.\d MiB/);
      assert.match(await textOf(page, '[data-phase=weights]'), /Weights\s+105\.5 KiB/);
      assert.match(await textOf(page, '#live'), /^Loading Alphabet-27k$|% of the weights, 0 of/);
      assert.equal(await focusedId(page), 'cancel');
      await page.keyboard.press('Escape');
      // The first to be built finds that there is no need of the others
      await page.evaluate(() => {
        (globalThis as unknown as { control: Control }).control.waiting[0]?.();
      });
      await page.locator('#load').waitFor();
      assert.equal(await textOf(page, '#live'), 'Cancelled');
      assert.equal(await focusedId(page), 'load');
      assert.ok(!(await page.locator('#failure').isVisible()));
      assert.deepEqual(opened.errors, []);
    });

    it('tells what is wrong with the model, and what to do', async () => {
      const folder = join(root, 'broken');
      cpSync(built, folder, { recursive: true });
      writeFileSync(join(folder, 'float32/model-software.wasm'), 'no program');
      own = await serve(folder);
      opened = await open(own.origin);
      const { page } = opened;
      await page.click('#load');
      await page.locator('#failure').waitFor();
      assert.equal(await textOf(page, '#failure-title'), 'The model cannot run this way');
      assert.match(await textOf(page, '#failure-message'), /Option model\.wasm does not compile/);
      assert.match(await textOf(page, '#failure-advice'), /Make it again with `make smollm2`/);
      assert.equal(await focusedId(page), 'failure');
      assert.ok(await page.locator('#restart').isVisible());
      assert.deepEqual(opened.errors, []);
    });
  });

  describe('with a model', () => {
    let opened: ChromiumPage;
    let page: Page;
    before(async () => {
      opened = await open(demo.origin);
      ({ page } = opened);
      await page.click('#load');
      await page.locator('#figures').waitFor({ timeout: START_MS });
      assert.equal(await focusedId(page), 'prompt');
      await setting('max-tokens', '100');
    });
    after(() => opened.close());
    beforeEach(async () => {
      if (await page.locator('#clear').isVisible()) await page.click('#clear');
    });
    afterEach(() => {
      assert.deepEqual(opened.errors, []);
    });

    const text = (selector: string): Promise<string> => textOf(page, selector);
    const answers = (): Promise<string[]> => page.locator('.turn.assistant .text').allInnerTexts();
    const setting = (id: string, value: string): Promise<void> => page.fill(`#${id}`, value);
    /** Sends a message by Enter. */
    async function say(message: string): Promise<void> {
      await page.fill('#prompt', message);
      await page.press('#prompt', 'Enter');
    }
    /** Until no answer is under way. */
    const ended = (): Promise<void> => page.locator('#send').waitFor();
    /** The last answer waits after so many tokens. */
    async function holdAfter(tokens: number): Promise<void> {
      await page.evaluate((reads) => {
        Object.assign((globalThis as unknown as { control: Control }).control, { reads });
      }, tokens);
    }
    const shows = (answer: string): Promise<void> =>
      page.locator(`.turn.assistant:last-child .text >> text=/^${answer}$/`).waitFor();

    it('shows an answer as it comes, and reads it out once, when it is whole', async () => {
      await holdAfter(3);
      await say('Hello?');
      await shows('abc');
      assert.equal(await text('#live'), 'Alphabet answers');
      assert.equal(await page.getAttribute('.turn.assistant', 'aria-busy'), 'true');
      assert.match(await text('.turn.assistant .meta'), /^answering/);
      assert.ok(await page.locator('#stop').isVisible());
      assert.ok(!(await page.locator('.turn.assistant button').first().isVisible()));
      assert.equal(await text('.turn.user .text'), 'Hello?');
      await release(page);
      await ended();
      assert.deepEqual(await answers(), [ALPHABET]);
      assert.equal(await text('#live'), `Alphabet: ${ALPHABET}`);
      assert.equal(await page.getAttribute('.turn.assistant', 'aria-busy'), 'false');
      assert.equal(await focusedId(page), 'prompt');
      assert.match(
        await text('.turn.assistant .meta'),
        /^63 tokens · [\d.]+ tokens\/s · first after [\d.]+ s$/,
      );
      // The model ended it: there is nothing to go on with
      assert.deepEqual(await page.locator('.turn.assistant button').allInnerTexts(), [
        'Regenerate',
        'Copy',
      ]);
      assert.match(await text('#tile-decode'), /^[\d.]+ tokens\/s$/);
      assert.match(await text('#tile-prefill'), /^[\d.]+ tokens\/s$/);
      assert.match(await text('#tile-first'), /^[\d.]+ s$/);
      assert.match(await text('#tile-memory'), /^\d+\.\d KiB$/);
      assert.equal(await text('#tile-memory-of'), 'weights 105.5 KiB');
      assert.match(await text('#tile-context-of'), /of 256 tokens/);
    });

    it('stops on Escape, and goes on from there', async () => {
      await holdAfter(5);
      await say('Hello?');
      await shows('abcde');
      await page.keyboard.press('Escape');
      assert.equal(await text('#stop'), 'Stopping…');
      await release(page);
      await ended();
      assert.deepEqual(await answers(), ['abcde']);
      assert.match(await text('.turn.assistant .meta'), /^stopped · 5 tokens/);
      assert.equal(await text('#live'), 'Alphabet: abcde Stopped.');
      await page.click('.turn.assistant button >> text=Continue');
      await shows(ALPHABET);
      await ended();
      assert.deepEqual(await answers(), [ALPHABET]);
      assert.equal(await text('#live'), `Alphabet: ${ALPHABET.slice(5)}`);
    });

    it('stops by its button before the first word, and answers anew', async () => {
      await holdAfter(0);
      await say('Hello?');
      await page.locator('.text.waiting').waitFor();
      await page.click('#stop');
      await release(page);
      await ended();
      assert.match(await text('.turn.assistant .meta'), /^stopped before the first word/);
      await page.click('.turn.assistant button >> text=Regenerate');
      await shows(ALPHABET);
      assert.deepEqual(await answers(), [ALPHABET]);
    });

    it('keeps the conversation, and uses what was read of it', async () => {
      await say('One');
      await shows(ALPHABET);
      await ended();
      const first = Number(await text('#tile-context'));
      await say('Two');
      await ended();
      assert.deepEqual(await answers(), [ALPHABET, ALPHABET]);
      // What was said is not read again: the last answer and what is new
      const [, fresh = NaN, all = NaN] = (
        /^(\d+) new of (\d+) tokens$/.exec(await text('#tile-prefill-of')) ?? []
      ).map(Number);
      assert.ok(all > first && fresh < all - first + 5, `${fresh} of ${all}, ${first} before`);
      await page.click('.turn.assistant:last-child button >> text=Regenerate');
      await ended();
      assert.deepEqual(await answers(), [ALPHABET, ALPHABET]);
      await page.click('#clear');
      assert.deepEqual(await answers(), []);
      assert.ok(await page.locator('#suggestions').isVisible());
      await page.click('#suggestion-list button >> nth=0');
      await ended();
      assert.deepEqual(await answers(), [ALPHABET]);
    });

    it('takes the settings, and tells what they may be', async () => {
      for (const [id, wrong, right, message] of [
        ['temperature', '-1', '0.2', 'Give a number from 0 to 5.'],
        ['top-p', '', '0.9', 'Give a number from 0.01 to 1.'],
        ['max-tokens', '1.5', '8', 'Give a whole number from 1 to 8,192.'],
        ['seed', '-3', '7', 'Give a whole number from 0 to 4,294,967,295, or nothing.'],
        ['presence', '3', '0', 'Give a number from -2 to 2.'],
      ] as const) {
        await setting(id, wrong);
        await say('Hello?');
        assert.equal(await text(`#${id}-error`), message);
        assert.equal(await focusedId(page), id);
        assert.equal(await page.getAttribute(`#${id}`, 'aria-invalid'), 'true');
        await setting(id, right);
        assert.equal(await text(`#${id}-error`), '');
      }
      assert.deepEqual(await answers(), []);
      assert.equal(await page.inputValue('#prompt'), 'Hello?');

      await page.press('#prompt', 'Enter');
      await ended();
      assert.deepEqual(await answers(), ['abcdefgh']);
      assert.match(await text('.turn.assistant .meta'), /^cut off at the limit of tokens · 8/);

      // At a high temperature the seed decides
      const drawn: string[] = [];
      await setting('temperature', '3');
      for (const seed of ['7', '7', '8']) {
        await setting('seed', seed);
        await page.click('.turn.assistant button >> text=Regenerate');
        await ended();
        drawn.push(...(await answers()));
      }
      assert.equal(drawn[0], drawn[1]);
      assert.notEqual(drawn[0], drawn[2]);
      const before = Number(await text('#tile-context'));
      await setting('temperature', '0');
      await setting('system', 'Speak up.');
      await page.click('.turn.assistant button >> text=Regenerate');
      await ended();
      assert.deepEqual(await answers(), ['abcdefgh']);
      assert.ok(Number(await text('#tile-context')) > before);
      await setting('system', '');
      await setting('seed', '');
      await setting('max-tokens', '100');
    });

    it('says that the context window is full, and goes on without the oldest messages', async () => {
      const long = 'x'.repeat(60);
      for (let i = 1; i <= 2; i++) {
        await say(long);
        await ended();
      }
      // The second answer had no room
      const [whole, cut = ''] = await answers();
      assert.equal(whole, ALPHABET);
      assert.ok(cut.length < ALPHABET.length && ALPHABET.startsWith(cut));
      assert.match(
        await text('.turn.assistant:last-child .meta'),
        /^cut off: the context window is full/,
      );
      await say('More');
      await page.locator('#failure').waitFor();
      assert.equal(
        await text('#failure-title'),
        'The conversation is longer than the context window',
      );
      assert.match(await text('#failure-message'), /is \d+ tokens long.*window of 256/);
      assert.equal(await focusedId(page), 'failure');
      await page.click('#shorten');
      await shows(ALPHABET);
      await ended();
      assert.ok(!(await page.locator('#failure').isVisible()));
      const forgotten = await page.locator('.turn.forgotten .text').allInnerTexts();
      assert.deepEqual(forgotten, [long, ALPHABET]);
      assert.match(await text('.turn.user.forgotten .meta'), /^no longer seen by the model$/);

      await page.click('#clear');
      await say('x'.repeat(300));
      await page.locator('#failure').waitFor();
      assert.ok(!(await page.locator('#shorten').isVisible()), 'there is nothing to leave out');
      await page.click('#clear-failed');
      assert.ok(!(await page.locator('#failure').isVisible()));
      assert.equal(await focusedId(page), 'prompt');
    });

    it('writes lines with Shift+Enter, and sends nothing empty', async () => {
      await page.focus('#prompt');
      await page.keyboard.press('Enter');
      await page.keyboard.type('  ');
      await page.keyboard.press('Enter');
      assert.equal(await page.locator('.turn').count(), 0);
      await page.fill('#prompt', '');
      await page.keyboard.type('one');
      await page.keyboard.press('Shift+Enter');
      await page.keyboard.type('<b>two</b>');
      await page.keyboard.press('Enter');
      await ended();
      assert.equal(await text('.turn.user .text'), 'one\n<b>two</b>');
      assert.equal(await page.inputValue('#prompt'), '');
    });

    it('has a visible focus at every stop of Tab', async () => {
      await say('Hello?');
      await ended();
      await page.focus('.skip');
      const seen = new Set<string>();
      for (let i = 0; i < 40 && !seen.has('presence'); i++) {
        await page.keyboard.press('Tab');
        const [id, outline] = await page.evaluate(() => {
          const focused = document.activeElement ?? document.body;
          return [focused.id || focused.textContent, getComputedStyle(focused).outlineStyle];
        });
        assert.notEqual(outline, 'none', id);
        seen.add(id);
      }
      for (const stop of ['Tensors', 'clear', 'messages-box', 'Regenerate', 'Copy', 'prompt']) {
        assert.ok(seen.has(stop), `${stop}: ${[...seen].join()}`);
      }
      for (const stop of ['send', 'unload', 'system', 'temperature', 'context', 'presence']) {
        assert.ok(seen.has(stop), `${stop}: ${[...seen].join()}`);
      }
    });

    it('keeps the end of an answer in view, unless one has scrolled away', async () => {
      await page.setViewportSize({ width: 360, height: 560 });
      await say('One');
      await ended();
      await holdAfter(3);
      await say('Two');
      await shows('abc');
      const below = await page.evaluate(() => {
        const { scrollHeight, scrollTop, clientHeight } =
          document.getElementById('messages-box') ?? document.body;
        return scrollHeight - scrollTop - clientHeight;
      });
      assert.ok(below < 2, `${below} pixels are below`);
      await page.evaluate(async () => {
        const box = document.getElementById('messages-box') ?? document.body;
        const scrolled = new Promise((resolve) => box.addEventListener('scroll', resolve));
        box.scrollTop = 0;
        await scrolled;
      });
      await release(page);
      await ended();
      assert.deepEqual(await answers(), [ALPHABET, ALPHABET]);
      assert.equal(
        await page.evaluate(() => document.getElementById('messages-box')?.scrollTop),
        0,
      );
      await page.setViewportSize({ width: 1440, height: 900 });
    });

    it('clears a chat while it answers', async () => {
      await holdAfter(2);
      await say('Hello?');
      await shows('ab');
      await page.click('#clear');
      await release(page);
      await ended();
      assert.equal(await page.locator('.turn').count(), 0);
      assert.equal(await text('#live'), 'New chat');
      await say('Hello?');
      await ended();
      assert.deepEqual(await answers(), [ALPHABET]);
    });

    for (const scheme of ['light', 'dark'] as const) {
      it(`is readable and well-formed in every state: ${scheme}`, async () => {
        await page.emulateMedia({ colorScheme: scheme });
        const check = (state: string): Promise<void> => checkAppearance(opened, state);
        await check('empty');
        await holdAfter(4);
        await say('Hello?');
        await shows('abcd');
        await check('answering');
        await release(page);
        await ended();
        await check('answered');
        await setting('seed', '-1');
        await say('x'.repeat(300));
        await check('wrong setting');
        await setting('seed', '');
        await page.press('#prompt', 'Enter');
        await page.locator('#failure').waitFor();
        await check('error');
      });
    }

    it('survives a lost GPU in mid-answer: on a new device, in the same page', async () => {
      const lose = (): Promise<void> =>
        page.evaluate(() => {
          (globalThis as unknown as { control: Control }).control.devices.at(-1)?.destroy();
        });
      await holdAfter(5);
      await say('Hello?');
      await shows('abcde');
      await lose();
      await release(page);
      await page.locator('#failure').waitFor();
      assert.equal(await text('#failure-title'), 'The GPU was lost');
      assert.match(await text('#failure-advice'), /Start the model again: on a new device/);
      assert.match(await text('#failure-details'), /device_lost/);
      assert.deepEqual(await answers(), ['abcde']);
      assert.match(await text('.turn.assistant .meta'), /^broken off/);
      assert.ok(await page.locator('#prompt').isDisabled());
      await page.click('#restart');
      await page.locator('#figures').waitFor({ timeout: START_MS });
      assert.equal(
        await page.evaluate(
          () => (globalThis as unknown as { control: Control }).control.devices.length,
        ),
        2,
      );
      await page.click('.turn.assistant button >> text=Continue');
      await shows(ALPHABET);
      await ended();

      // Also while nothing is answered
      await lose();
      await page.locator('#failure').waitFor();
      assert.equal(await text('#failure-title'), 'The GPU was lost');
      assert.deepEqual(await answers(), [ALPHABET]);
    });
  });

  it('is a page beside the other', async () => {
    const opened = await open(demo.origin);
    const { page, errors } = opened;
    await page.click('nav >> text=Tensors');
    await page.locator('#url').waitFor();
    await page.click('nav >> text=Chat');
    await page.locator('#load').waitFor();
    assert.equal(await textOf(page, '[aria-current=page]'), 'Chat');
    assert.deepEqual(errors, []);
    await opened.close();
  });
});
