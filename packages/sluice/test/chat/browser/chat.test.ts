// sluice/chat in Chromium, on a page and in a worker: a fake model answers, the tokenizer's libraries come bundled. Its
// other tests run in Node.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { startChromium, type Chromium, type ChromiumPage } from '../../support/chromium.js';
import { CONFIG, TOKENIZER } from '../small_tokenizer.js';
import type * as PageChat from './page_chat.js';
import type { Outcome } from './page_chat.js';

describe('sluice/chat in Chromium', { timeout: 120_000 }, () => {
  let browser: Chromium;
  let page: ChromiumPage;
  before(async () => {
    browser = await startChromium();
    page = await browser.newPage();
  });
  after(() => browser.close());

  for (const where of ['page', 'worker'] as const)
    test(`in a ${where}`, async () => {
      const act = async (given: PageChat.Given): Promise<Outcome> => {
        const path = `${given.origin}/test/chat/browser/page_chat.js`;
        const { driveChat } = (await import(path)) as typeof PageChat;
        return driveChat(given);
      };
      const given = { origin: browser.origin, tokenizer: TOKENIZER, config: CONFIG };
      const outcome = await (where === 'page'
        ? page.evaluate(act, given)
        : page.evaluateInWorker(act, given));
      for (const answer of [outcome.cpu, outcome.gpu]) {
        assert.deepEqual(answer, { pieces: ['h', 'e', 'y', ' ', 'ß'], reason: 'stop' });
      }
      assert.equal(outcome.aborted, 'abort');
      assert.equal(outcome.lost, 'device_lost');
      assert.match(
        outcome.noModel,
        /^invalid_argument: option model\.wasm holds no compiled model/,
      );
      assert.deepEqual(page.errors, []);
    });
});
