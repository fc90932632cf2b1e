// The store's faults in Node, a few of each; `make faults` tries many.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as disk from './disk_faults.js';
import { cacheModel, Chance, Tally } from './support.js';

describe('faults of a store on disk', { timeout: 240_000 }, () => {
  const cases: Record<string, (tally: Tally, chance: Chance) => Promise<void>> = {
    'a process killed at a random moment': (tally, chance) => disk.processKills(tally, 4, chance),
    'a process killed while a journal is rewritten': (tally) => disk.compactionKills(tally, 6),
    'a connection cut at a random byte': (tally, chance) => disk.cuts(tally, 6, chance),
    'a server that lies': (tally, chance) => disk.lies(tally, 12, chance),
    'a file replaced on the server': (tally, chance) => disk.changes(tally, 3, chance),
    'a bit flipped in every stored extent': (tally, chance) =>
      disk.flips(tally, 1, chance, [cacheModel(1, 6 * 2 ** 20, 1)]),
    'data files damaged': (tally, chance) => disk.damagedFiles(tally, 6, chance),
    'a journal cut, and flipped': (tally, chance) => disk.journals(tally, 61, chance),
    'a full disk': (tally) =>
      disk.diskErrors(tally, 'quota_exceeded', ['write', 'truncate'], [cacheModel(2, 40_000, 1)]),
    'a disk that cannot be read': (tally) =>
      disk.diskErrors(tally, 'io', ['read', 'size'], [cacheModel(1, 40_000, 1)]),
    'processes at once': (tally, chance) => disk.processesAtOnce(tally, 2, chance),
    'loads at once in one process': (tally, chance) => disk.loadsAtOnce(tally, 2, chance),
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
