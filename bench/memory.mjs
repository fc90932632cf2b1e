// Memory of a process while it loads: of Node's, and of all processes of a browser, by their type.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { noStoreUrl } from './model.mjs';
import {
  browserMemory,
  processMemory,
  softwareAdapter,
  startChromium,
  startNode,
} from './hosts.mjs';

const MEMORY_POINTS = 200;
const SAMPLE_MILLISECONDS = 10;
const REST_MILLISECONDS = 3000;
/** Workers are kept for 10 s after a load: idle is without them. */
const IDLE_MILLISECONDS = 12_000;

/**
 * What is measured in the browser. `targetless` leaves out the model's buffers: each copy goes to the same few
 * bytes, so that what is left is what the load itself holds. Where the GPU's memory is the browser's own (a
 * software adapter) nothing else tells the two apart. `noStore`: from a server that sends Cache-Control: no-store.
 */
const SLUICE = { name: 'sluice, main thread and worker', contestant: 'sluice', thread: 'main' };
const SLUICE_WORKER = { name: 'sluice, all in a worker', contestant: 'sluice', thread: 'worker' };
const BARE = {
  name: 'bare loop, ring, worker, BYOB',
  contestant: 'bare',
  path: 'ring',
  stream: 'byob',
  thread: 'worker',
};
const DISCARD = {
  name: 'fetch and discard, worker, BYOB',
  contestant: 'discard',
  stream: 'byob',
  thread: 'worker',
};
const DROP = { name: 'sluice, bytes dropped, worker', contestant: 'drop', thread: 'worker' };
const targetless = (load) => ({ ...load, name: `${load.name}, no targets`, targetless: true });
/** `warm`: a browser with the same profile has stored the model before. */
const STORES = [false, true].flatMap((warm) =>
  [SLUICE, SLUICE_WORKER].map((load) => ({
    ...load,
    name: `store, ${warm ? 'warm' : 'cold'}: ${load.name}`,
    warm,
    options: { store: true },
  })),
);
const noStore = (load) => ({ ...load, name: `${load.name}, no-store`, noStore: true });
const LOADS = [
  SLUICE,
  targetless(SLUICE),
  noStore(SLUICE),
  noStore(targetless(SLUICE)),
  SLUICE_WORKER,
  targetless(SLUICE_WORKER),
  ...STORES,
  ...STORES.map(targetless),
  ...STORES.filter(({ warm }) => !warm).flatMap((load) => [
    noStore(load),
    noStore(targetless(load)),
  ]),
  BARE,
  targetless(BARE),
  noStore(targetless(BARE)),
  DROP,
  DISCARD,
  noStore(DISCARD),
];

/**
 * Calls `memory()`, which gives an object with `total`, every SAMPLE_MILLISECONDS while `work()` runs. Gives what
 * that gave, the sample with the largest total, and the largest of each of at most MEMORY_POINTS spans of time.
 */
async function sampled(memory, work) {
  const samples = [];
  const begin = performance.now();
  let running = true;
  const sampling = (async () => {
    while (running) {
      samples.push({ milliseconds: Math.round(performance.now() - begin), ...(await memory()) });
      await sleep(SAMPLE_MILLISECONDS);
    }
  })();
  const result = await work().finally(() => (running = false));
  await sampling;
  const each = Math.ceil(samples.length / MEMORY_POINTS);
  const larger = (a, b) => (b.total > a.total ? b : a);
  const overTime = [];
  for (let i = 0; i < samples.length; i += each) {
    overTime.push(samples.slice(i, i + each).reduce(larger));
  }
  return { result, peak: samples.reduce(larger), overTime };
}

/**
 * Memory of a browser of its own while one load runs. `page`: the page with its device made; `idle`: after `small`
 * was loaded in the same way and freed, and a rest; `peak`; `after`: the model freed, and a rest. `above` is the peak less idle.
 */
async function browserLoad(server, { name, noStore, warm, ...task }, small, model) {
  const urlOf = ({ url }) => (noStore ? noStoreUrl(url) : url);
  const timeoutMilliseconds = 30_000 + model.nbytes / 10_000;
  const profile = warm ? await mkdtemp(join(tmpdir(), 'sluice-bench-')) : undefined;
  if (warm) {
    const before = await startChromium(server, { timeoutMilliseconds, profile });
    try {
      for (const each of [small, model]) await before.run({ ...task, url: urlOf(each) });
    } finally {
      await before.close();
    }
  }
  const host = await startChromium(server, { timeoutMilliseconds, profile });
  const memory = () => browserMemory(host.pid);
  const resting = async (milliseconds = REST_MILLISECONDS) => {
    await host.run({ contestant: 'rest', thread: task.thread });
    await sleep(milliseconds);
    return memory();
  };
  try {
    // The larger model first: its device serves both
    await host.run({ contestant: 'prepare', url: urlOf(model), thread: task.thread });
    const page = await resting();
    await host.run({ ...task, url: urlOf(small) });
    const idle = await resting(IDLE_MILLISECONDS);
    const { result, peak, overTime } = await sampled(memory, () =>
      host.run({ ...task, url: urlOf(model) }),
    );
    const after = await resting();
    const modelBytes = softwareAdapter && holdsModel(task) ? model.nbytes : 0;
    const above = difference(peak, idle);
    above.total -= modelBytes;
    if (modelBytes > 0) above.types.gpu -= modelBytes;
    return { name, ...result, page, idle, peak, after, modelBytes, above, overTime };
  } finally {
    await host.close();
    if (profile) await rm(profile, { recursive: true, force: true, maxRetries: 10 });
  }
}

const holdsModel = ({ contestant, targetless }) =>
  !targetless && (contestant === 'sluice' || contestant === 'bare');

function difference(a, b) {
  const types = {};
  for (const type of new Set([...Object.keys(a.types), ...Object.keys(b.types)])) {
    types[type] = (a.types[type]?.pss ?? 0) - (b.types[type]?.pss ?? 0);
  }
  return { total: a.total - b.total, types };
}

async function nodeLoad({ url, nbytes }, { dist, budgetBytes }) {
  const host = await startNode({ dist, timeoutMilliseconds: 30_000 + nbytes / 10_000 });
  try {
    const task = { contestant: 'drop', url, budgetBytes };
    const { result, overTime } = await sampled(
      async () => ({ total: await processMemory(host.pid) }),
      () => host.run(task),
    );
    return { ...result, above: result.peak - result.idle, overTime };
  } finally {
    await host.close();
  }
}

/** Memory of all loads whose name contains `only`, for each model. `small` is loaded before idle is measured. */
export async function memoryFigures(settings) {
  const { server, models, small, dist, budgetBytes, connections, only } = settings;
  const figures = [];
  for (const model of models) {
    const node = 'Node'.includes(only) ? await nodeLoad(model, { dist, budgetBytes }) : undefined;
    const browser = [];
    for (const load of LOADS.filter(({ name }) => name.includes(only))) {
      const task = { ...load, options: { budgetBytes, connections, ...load.options } };
      browser.push(await browserLoad(server, task, small, model));
      process.stderr.write(
        `  ${mib(model.nbytes)}: ${load.name}: ${mib(browser.at(-1).above.total)}\n`,
      );
    }
    figures.push({
      nbytes: model.nbytes,
      smallBytes: small.nbytes,
      budget: budgetBytes,
      node,
      browser,
    });
  }
  return figures;
}

const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

function table(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

/** The types of processes that have a column; all others share one. */
const TYPES = ['browser', 'network', 'renderer', 'gpu'];

export function memoryText(measured) {
  const texts = [];
  for (const { nbytes, smallBytes, budget, node, browser } of measured) {
    const rows = browser.map(({ name, milliseconds, page, idle, above, after }) => {
      const others = TYPES.reduce((sum, type) => sum - (above.types[type] ?? 0), above.total);
      return [
        name,
        (nbytes / milliseconds / 1e6).toFixed(2),
        mib(above.total),
        ...TYPES.map((type) => mib(above.types[type] ?? 0)),
        mib(others),
        mib(idle.total),
        mib(idle.total - page.total),
        mib(after.total - idle.total),
      ];
    });
    const head = [
      `Chromium, ${mib(nbytes)} with a budget of ${mib(budget)}`,
      'GB/s',
      'peak above idle',
      ...TYPES,
      'others',
      'idle',
      'idle above page',
      'after above idle',
    ];
    if (rows.length > 0) texts.push(table(head, rows));
    if (node) {
      texts.push(
        `Node, ${mib(nbytes)}, bytes dropped (RSS): idle ${mib(node.idle)}, peak ${mib(node.peak)}, ` +
          `above idle ${mib(node.above)}.`,
      );
    }
    if (rows.length > 0) {
      texts.push(
        `PSS of the browser's processes. Page: with its device; idle: after ${mib(smallBytes)} were loaded in the ` +
          'same way and freed, and a rest; the parts are those at the moment of the peak, which is sampled and ' +
          'may be missed.' +
          (browser.some(({ modelBytes }) => modelBytes > 0)
            ? " The software adapter's GPU memory is the browser's own, so the model's size is subtracted where it has targets."
            : ''),
      );
    }
  }
  return texts.join('\n\n');
}
