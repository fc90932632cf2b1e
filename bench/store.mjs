// The local store: warm and cold loads against bare loops over files of the same place, and starting up.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startChromium, startNode } from './hosts.mjs';
import { fetchModel, noStoreUrl } from './model.mjs';
import { table, throughput, throughputText } from './rounds.mjs';
import { median } from './size.mjs';

export const TARGET_RATIO = 0.85;
const MIB = 2 ** 20;

const RING_4 = { slots: 6, slotBytes: 4 * MIB };
const RING_16 = { slots: 4, slotBytes: 16 * MIB };

const CHROMIUM = [
  {
    name: 'warm: bare loop, ring 6 x 4 MiB, worker',
    contestant: 'storedRing',
    ...RING_4,
    thread: 'worker',
    kind: 'warm, worker',
    limit: true,
  },
  {
    name: 'warm: bare loop, ring 4 x 16 MiB, worker',
    contestant: 'storedRing',
    ...RING_16,
    thread: 'worker',
    kind: 'warm, worker',
    limit: true,
  },
  {
    name: 'sluice, warm, all in a worker',
    contestant: 'storedSluice',
    thread: 'worker',
    kind: 'warm, worker',
  },
  {
    name: 'warm: bare loop, blocks transferred to the main thread',
    contestant: 'storedTransferred',
    ...RING_4,
    thread: 'main',
    kind: 'warm, main thread',
    limit: true,
  },
  {
    name: 'sluice, warm, main thread and worker',
    contestant: 'storedSluice',
    thread: 'main',
    kind: 'warm, main thread',
  },
  {
    name: 'warm: tvmjs 0.27 from the Cache API',
    contestant: 'cachedFetchTensorCache',
    cache: 'cache',
    thread: 'main',
    kind: 'warm, main thread',
  },
  {
    name: 'warm: tvmjs 0.27 from OPFS, async as by default',
    contestant: 'cachedFetchTensorCache',
    cache: 'opfs',
    thread: 'main',
    kind: 'warm, main thread',
  },
  {
    name: 'warm: tvmjs 0.27 from OPFS, sync, worker',
    contestant: 'cachedFetchTensorCache',
    cache: 'opfs-sync',
    thread: 'worker',
    kind: 'warm, worker',
  },
  {
    name: 'cold: fetch and discard, worker, BYOB',
    contestant: 'discard',
    stream: 'byob',
    thread: 'worker',
    kind: 'cold',
    limit: true,
  },
  {
    name: 'sluice, cold, stored, all in a worker',
    contestant: 'storingSluice',
    thread: 'worker',
    kind: 'cold',
  },
  {
    name: 'sluice, cold, stored, main thread and worker',
    contestant: 'storingSluice',
    thread: 'main',
    kind: 'cold',
  },
  {
    name: 'sluice, cold, no store, all in a worker',
    contestant: 'sluice',
    thread: 'worker',
    kind: 'cold',
  },
  {
    name: 'sluice, cold, no store, main thread and worker',
    contestant: 'sluice',
    thread: 'main',
    kind: 'cold',
  },
  {
    name: 'cold: tvmjs 0.27 to its Cache API',
    contestant: 'fetchTensorCache',
    cache: 'cache',
    thread: 'main',
    kind: 'cold',
  },
];

const NODE = [
  { name: 'bare loop, readSync', contestant: 'storedRead', kind: 'cpu', limit: true },
  { name: 'sluice, warm, to the CPU', contestant: 'storedSluice', cpu: true, kind: 'cpu' },
  {
    name: 'bare loop, ring 6 x 4 MiB',
    contestant: 'storedRing',
    ...RING_4,
    kind: 'device',
    limit: true,
  },
  {
    name: 'bare loop, ring 4 x 16 MiB',
    contestant: 'storedRing',
    ...RING_16,
    kind: 'device',
    limit: true,
  },
  { name: 'sluice, warm, to the device', contestant: 'storedSluice', kind: 'device' },
];

const ROWS = [
  { name: 'bare loop, a read for each row, worker', bare: true, thread: 'worker' },
  { name: 'sluice, to an array, worker', thread: 'worker' },
  { name: 'sluice, to a GPU buffer, worker', target: true, thread: 'worker' },
  { name: 'sluice, to an array, main thread', thread: 'main' },
  { name: 'sluice, to a GPU buffer, main thread', target: true, thread: 'main' },
];

const START = [
  { name: 'sluice, all in a worker', contestant: 'storedSluice', thread: 'worker' },
  { name: 'sluice, main thread and worker', contestant: 'storedSluice', thread: 'main' },
];

/** The contestants whose name contains `only`, and what they are compared with. */
function chosen(list, only) {
  const named = list.filter(({ name }) => name.includes(only));
  const kinds = new Set(named.map(({ kind }) => kind));
  return list.filter((each) => named.includes(each) || (each.limit && kinds.has(each.kind)));
}

/** Each contestant first in a fresh page, then again in the same. */
async function starts(host, url, rounds) {
  const figures = START.map(({ name }) => ({ name, fresh: [], again: [] }));
  await host.run({ contestant: 'fillStores', stream: 'byob', url, thread: 'worker' });
  for (let round = 0; round <= rounds; round++) {
    for (const [index, task] of START.entries()) {
      await host.run({ contestant: 'reload' });
      await host.run({ contestant: 'prepare', url, thread: task.thread });
      for (const which of ['fresh', 'again']) {
        const result = await host.run({ ...task, url, check: 8 });
        if (round === 0) continue; // fills the browser's own caches
        const { milliseconds } = result;
        figures[index][which].push({ milliseconds, ...result.figures });
      }
    }
  }
  return figures;
}

/** Milliseconds of gatherRows() of the model's largest tensor. */
async function gathers(host, url) {
  const rows = [];
  for (const { name, ...task } of ROWS) {
    const { figures } = await host.run({ contestant: 'gatherRows', ...task, url });
    rows.push({ name, ...figures });
  }
  return rows;
}

/** `startSmall()` starts the server of a small model. */
export async function storeFigures({ server, model: given, dist, rounds, only, startSmall }) {
  // As `sluice serve` sends it: of other responses Chromium holds whole copies, for which everybody waits
  const model = { ...given, url: noStoreUrl(given.url) };
  const figures = {};
  const timeoutMilliseconds = 60_000 + model.nbytes / 10_000;
  const chromium = chosen(CHROMIUM, only);
  const wants = (name) => name.includes(only);
  if (chromium.length > 0 || wants('start') || wants('gatherRows')) {
    const host = await startChromium(server, { timeoutMilliseconds });
    try {
      const fill = { contestant: 'fillStores', stream: 'byob', url: model.url, thread: 'worker' };
      if (chromium.length > 0 || wants('gatherRows')) await host.run(fill);
      if (wants('gatherRows')) figures.gatherRows = await gathers(host, model.url);
      if (chromium.length > 0) {
        figures.chromium = await throughput([host], chromium, model, rounds);
      }
      if (wants('start')) {
        let small;
        try {
          small = await startSmall();
          const { nbytes } = await fetchModel(small.origin);
          figures.start = { nbytes, rows: await starts(host, small.origin, rounds) };
        } catch (error) {
          figures.start = { missing: error.message.split('\n')[0] };
        } finally {
          small?.close();
        }
      }
    } finally {
      await host.close();
    }
  }
  const node = chosen(NODE, only);
  if (node.length > 0) figures.node = await inNode(node, { model, dist, rounds });
  return figures;
}

async function inNode(list, { model, dist, rounds }) {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-bench-store-'));
  const hosts = [];
  try {
    const timeoutMilliseconds = 60_000 + model.nbytes / 10_000;
    while (hosts.length < list.length) hosts.push(await startNode({ dist, timeoutMilliseconds }));
    await hosts[0].run({ contestant: 'fillStores', stream: 'http', url: model.url, folder });
    const tasks = list.map((task) => ({ ...task, folder }));
    return await throughput(hosts, tasks, model, rounds);
  } finally {
    for (const host of hosts) await host.close();
    await rm(folder, { recursive: true, force: true });
  }
}

export function storeText({ chromium, node, start, gatherRows }) {
  const texts = [];
  if (chromium) texts.push(throughputText('Store, Chromium', chromium, TARGET_RATIO));
  if (node) texts.push(throughputText('Store, Node', node, TARGET_RATIO));
  if (gatherRows) {
    const [{ tensorBytes, rowBytes }] = gatherRows;
    const body = gatherRows.map(({ name, milliseconds }) => [
      name,
      ...[median(milliseconds), Math.min(...milliseconds), Math.max(...milliseconds)].map((ms) =>
        ms.toFixed(2),
      ),
    ]);
    const title = `512 rows of ${rowBytes} bytes of a tensor of ${(tensorBytes / MIB).toFixed(0)} MiB: ms`;
    texts.push(table([title, 'median', 'fastest', 'slowest'], body));
  }
  if (start?.missing) texts.push(`Start-up: not measured: ${start.missing}.`);
  else if (start) {
    const of = (list, name) => median(list.map((each) => each[name])).toFixed(0);
    const body = start.rows.map(({ name, fresh, again }) => [
      name,
      ...[fresh, again].flatMap((list) => [
        of(list, 'firstTensorMilliseconds'),
        of(list, 'milliseconds'),
      ]),
    ]);
    const head = [
      `Chromium, warm load of ${(start.nbytes / MIB).toFixed(0)} MiB: ms`,
      'fresh page: first tensor',
      'all',
      'again: first tensor',
      'all',
    ];
    texts.push(table(head, body));
  }
  return texts.join('\n\n');
}
