/**
 * Repeats the store's faults many times: `make faults`. Options: --seed N, and for each kind how often, 0 to leave it
 * out; `--only kills,tabs` leaves out all others. The last line is `N passed, M failed`.
 */
import { parseArgs } from 'node:util';
import * as browser from './browser_faults.js';
import * as disk from './disk_faults.js';
import { Chance, Tally } from './support.js';

interface Kind {
  /** How often unless told otherwise; for journals every so-many-th byte. */
  count: number;
  run: (tally: Tally, count: number, chance: Chance) => Promise<void>;
}

const KINDS: Record<string, Kind> = {
  'process-kills': { count: 500, run: disk.processKills },
  'compaction-kills': { count: 40, run: disk.compactionKills },
  cuts: { count: 300, run: disk.cuts },
  lies: { count: 240, run: disk.lies },
  changes: { count: 200, run: disk.changes },
  flips: { count: 5, run: disk.flips },
  'damaged-files': { count: 120, run: disk.damagedFiles },
  'journal-step': { count: 1, run: disk.journals },
  'disk-full': {
    count: 1,
    run: (tally) => disk.diskErrors(tally, 'quota_exceeded', ['write', 'truncate']),
  },
  'disk-errors': {
    count: 1,
    run: (tally) => disk.diskErrors(tally, 'io', ['read', 'size', 'write', 'truncate']),
  },
  processes: { count: 100, run: disk.processesAtOnce },
  'loads-at-once': { count: 100, run: disk.loadsAtOnce },
  tabs: { count: 60, run: browser.tabs },
  'browser-flips': { count: 1, run: (tally, _, chance) => browser.browserFlips(tally, chance) },
  quota: { count: 30, run: browser.quotas },
  'exclusive-handles': { count: 10, run: browser.exclusiveHandles },
  'browser-compaction-kills': { count: 30, run: browser.browserCompactionKills },
  'browser-kills': { count: 200, run: browser.browserKills },
};

const { values } = parseArgs({
  options: {
    seed: { type: 'string' },
    only: { type: 'string' },
    ...Object.fromEntries(Object.keys(KINDS).map((name) => [name, { type: 'string' as const }])),
  },
});
const given = values as Record<string, string | undefined>;
const seed = Number(given['seed'] ?? Date.now() % 2 ** 31);
const only = given['only']?.split(',');
for (const name of only ?? [])
  if (!(name in KINDS)) throw new Error(`--only ${name}: there is no such fault`);
console.log(`--seed ${seed}`);

let passed = 0;
let failed = 0;
process.on('unhandledRejection', (reason) => {
  failed++;
  console.error('FAILED: an unhandled rejection:', reason);
});
let index = 0;
for (const [name, { count, run }] of Object.entries(KINDS)) {
  index++;
  const times = Number(given[name] ?? (only && !only.includes(name) ? 0 : count));
  if (times === 0) continue;
  const tally = new Tally(name);
  // Each kind has chances of its own, whichever others are tried
  await run(tally, times, new Chance(seed + index * 7919));
  console.log(String(tally));
  passed += tally.passed;
  failed += tally.failed;
}
console.log(`${passed} passed, ${failed} failed`);
process.exitCode = failed > 0 ? 1 : 0;
