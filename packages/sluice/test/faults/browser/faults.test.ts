// The store's faults in Chromium, a few of each; `make faults` tries many.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as faults from '../browser_faults.js';
import { Chance, Tally } from '../support.js';

describe('faults of the store in Chromium', { timeout: 240_000 }, () => {
  const cases: Record<string, (tally: Tally, chance: Chance) => Promise<void>> = {
    'the browser killed at a random moment': (tally, chance) =>
      faults.browserKills(tally, 1, chance),
    'tabs at once': (tally, chance) => faults.tabs(tally, 2, chance),
    'a bit flipped in a stored extent': (tally, chance) => faults.browserFlips(tally, chance),
    'handles that nobody can share': (tally) => faults.exclusiveHandles(tally, 1),
    'an exhausted quota': (tally, chance) => faults.quotas(tally, 2, chance),
  };
  for (const [name, run] of Object.entries(cases)) {
    test(name, async (t) => {
      const tally = new Tally(name);
      await run(tally, new Chance(name.length));
      t.diagnostic(String(tally));
      assert.equal(tally.failed, 0, 'see above');
      assert.ok(tally.passed > 0);
    });
  }
});
