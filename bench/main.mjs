// Measures loading against a bare loop and against the common way, sizes, start-up and memory.
// Plain Node 20 without packages, so that it also runs where there is nothing but a browser and a GPU.
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { dirname, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import {
  processTreeMemory,
  processTreeSeconds,
  softwareAdapter,
  startChromium,
  startNode,
  startServer,
} from './hosts.mjs';
import { syntheticModel } from './model.mjs';
import { median, scriptFigures, wasmFigures } from './size.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const HELP = `Usage: node bench/main.mjs [options]

  --size BYTES      of the model: 256MiB, 3GiB, … (256MiB)
  --rounds N        measured rounds, after one that warms up and checks (5)
  --where LIST      of chromium, node, size, memory (all)
  --only TEXT       only contestants whose name contains it
  --servers N       processes of the server (1, or 4 where there are 8 processors)
  --package FOLDER  the built package (packages/sluice/dist)
  --json FILE       where the figures go (build/bench/bench.json)

Environment: GPU_CHROMIUM, GPU_CHROMIUM_FLAGS and GPU_WEBGPU choose another browser, its flags and another
copy of the npm package webgpu; VK_ICD_FILENAMES chooses Node's driver.
`;
const BUDGET_BYTES = 64 * 2 ** 20;
const TARGET_RATIO = 0.8;
const TARGET_BROTLI = 60_000;
const TARGET_INSTANTIATE_MS = 10;

const CONTESTANTS = {
  chromium: [
    { name: 'fetch and discard, main thread', contestant: 'discard', thread: 'main' },
    { name: 'fetch and discard, worker', contestant: 'discard', thread: 'worker' },
    { name: 'bare loop, ring, main thread', contestant: 'bare', path: 'ring', thread: 'main' },
    {
      name: 'bare loop, writeBuffer, main thread',
      contestant: 'bare',
      path: 'writeBuffer',
      thread: 'main',
    },
    { name: 'bare loop, ring, worker', contestant: 'bare', path: 'ring', thread: 'worker' },
    {
      name: 'bare loop, writeBuffer, worker',
      contestant: 'bare',
      path: 'writeBuffer',
      thread: 'worker',
    },
    {
      name: 'fetch and discard, worker, BYOB',
      contestant: 'discard',
      stream: 'byob',
      thread: 'worker',
    },
    {
      name: 'bare loop, ring, worker, BYOB',
      contestant: 'bare',
      path: 'ring',
      stream: 'byob',
      thread: 'worker',
    },
    { name: 'sluice, main thread and worker', contestant: 'sluice', thread: 'main' },
    { name: 'sluice, all in a worker', contestant: 'sluice', thread: 'worker' },
    { name: 'arrayBuffer(), then writeBuffer', contestant: 'common', thread: 'main' },
  ],
  node: [
    { name: 'node:http and discard', contestant: 'discard', stream: 'http' },
    { name: 'fetch and discard', contestant: 'discard', stream: 'fetch' },
    { name: 'bare loop, ring, node:http', contestant: 'bare', path: 'ring', stream: 'http' },
    {
      name: 'bare loop, writeBuffer, node:http',
      contestant: 'bare',
      path: 'writeBuffer',
      stream: 'http',
    },
    { name: 'bare loop, ring, fetch', contestant: 'bare', path: 'ring', stream: 'fetch' },
    {
      name: 'bare loop, writeBuffer, fetch',
      contestant: 'bare',
      path: 'writeBuffer',
      stream: 'fetch',
    },
    { name: 'sluice', contestant: 'sluice' },
    { name: 'arrayBuffer(), then writeBuffer', contestant: 'common' },
  ],
};

function parseSize(text) {
  const match = /^(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)?$/.exec(text);
  if (!match) throw new Error(`'${text}' is no size: 256MiB, 3GiB`);
  return Number(match[1]) * 1024 ** ['B', 'KiB', 'MiB', 'GiB'].indexOf(match[2] ?? 'B');
}

const { values: options } = parseArgs({
  options: {
    size: { type: 'string', default: '256MiB' },
    rounds: { type: 'string', default: '5' },
    where: { type: 'string', default: 'size,node,chromium,memory' },
    only: { type: 'string', default: '' },
    servers: { type: 'string', default: cpus().length >= 8 ? '4' : '1' },
    package: { type: 'string', default: resolve(ROOT, 'packages/sluice/dist') },
    json: { type: 'string', default: resolve(ROOT, 'build/bench/bench.json') },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit();
}
const nbytes = parseSize(options.size);
const rounds = Number(options.rounds);
const where = new Set(options.where.split(','));
const dist = resolve(options.package);
const model = syntheticModel(nbytes);
const timeoutMilliseconds = 30_000 + model.nbytes / 10_000;

/** Interleaved rounds, each beginning with another contestant; the medians, as rates and ratios. */
async function throughput(hosts, list) {
  const prepare = { contestant: 'prepare', nbytes, thread: 'main' };
  const [{ adapter, userAgent }] = await Promise.all(hosts.map((host) => host.run(prepare)));
  const times = list.map(() => []);
  const processor = list.map(() => []);
  const notes = [];
  for (let round = 0; round <= rounds; round++) {
    for (let i = 0; i < list.length; i++) {
      const index = (i + round) % list.length;
      const { name, ...task } = list[index];
      const check = round === 0;
      const host = hosts[index % hosts.length];
      const before = await processTreeSeconds(host.pid);
      const { milliseconds, note } = await host.run({ ...task, nbytes, check });
      const seconds = (await processTreeSeconds(host.pid)) - before;
      if (!check) {
        times[index].push(milliseconds);
        processor[index].push(seconds);
      }
      notes[index] = note;
      process.stderr.write(`  round ${round}: ${name}: ${Math.round(milliseconds)} ms\n`);
    }
  }
  const rows = list.map(({ name, contestant }, index) => {
    const milliseconds = median(times[index]);
    const rate = model.nbytes / milliseconds / 1e6;
    return {
      name,
      contestant,
      note: notes[index],
      gigabytesPerSecond: rate,
      processorSecondsPerGigabyte: median(processor[index]) / (model.nbytes / 1e9),
      milliseconds: times[index],
    };
  });
  const bare = rows.filter((row) => row.contestant === 'bare');
  const best = Math.max(...bare.map((row) => row.gigabytesPerSecond));
  for (const row of rows) if (bare.length > 0) row.ratio = row.gigabytesPerSecond / best;
  return { adapter, userAgent, modelBytes: model.nbytes, rows };
}

/** Peak memory of the browser's process tree while one load runs, above that of the page at rest. */
async function chromiumMemory(server) {
  const host = await startChromium(server, { timeoutMilliseconds });
  try {
    await host.run({ contestant: 'prepare', nbytes, thread: 'main' });
    await sleep(2000);
    const idle = await processTreeMemory(host.pid);
    let running = true;
    let peak = 0;
    const sampling = (async () => {
      while (running) {
        peak = Math.max(peak, await processTreeMemory(host.pid));
        await sleep(10);
      }
    })();
    await host.run({ contestant: 'sluice', nbytes, thread: 'main' });
    running = false;
    await sampling;
    const gpuBytes = softwareAdapter ? model.nbytes : 0;
    return { idle, peak, gpuBytes, above: peak - idle - gpuBytes, budget: BUDGET_BYTES };
  } finally {
    await host.close();
  }
}

async function nodeMemory(server) {
  const host = await startNode(server, { dist, timeoutMilliseconds });
  try {
    const memory = await host.run({ contestant: 'drop', budgetBytes: BUDGET_BYTES });
    return { ...memory, above: memory.peak - memory.idle, budget: BUDGET_BYTES };
  } finally {
    await host.close();
  }
}

const verdict = (good) => (good ? 'met' : 'NOT met');
const mib = (bytes) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

function table(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

function throughputText(title, { adapter, rows }) {
  const body = rows.map((row) => {
    const { name, note, gigabytesPerSecond, ratio, milliseconds } = row;
    const rate = (ms) => (model.nbytes / ms / 1e6).toFixed(2);
    const spread = `${rate(Math.max(...milliseconds))} - ${rate(Math.min(...milliseconds))}`;
    const label = note ? `${name} (${note})` : name;
    const processor = row.processorSecondsPerGigabyte.toFixed(1);
    return [label, gigabytesPerSecond.toFixed(2), spread, ratio?.toFixed(2) ?? '', processor];
  });
  const ours = rows.filter((row) => row.contestant === 'sluice' && row.ratio !== undefined);
  const aim = ours
    .map(({ name, ratio }) => `${name}: ${ratio.toFixed(2)} ${verdict(ratio >= TARGET_RATIO)}`)
    .join('; ');
  const head = [
    `${title} (${adapter})`,
    'GB/s, median',
    'slowest - fastest',
    'of the best bare loop',
    'CPU s/GB',
  ];
  return `${table(head, body)}\n\nAim ${TARGET_RATIO} of the bare loop: ${aim}.`;
}

function sizeText({ wasm, script }) {
  const sizes = (name, { raw, gzip, brotli }) => [name, raw, gzip, brotli];
  const rows = [
    sizes('sluice_loader.wasm', wasm),
    sizes(`JavaScript, ${script.files} files`, script),
  ];
  if (script.minified) {
    rows.push(sizes('index.js, minified bundle', script.minified.index));
    rows.push(sizes('worker.js, minified bundle', script.minified.worker));
  }
  const together = wasm.compileAndInstantiateMs;
  return (
    `${table(['bytes', 'raw', 'gzip', 'brotli'], rows)}\n\n` +
    `Wasm below ${TARGET_BROTLI} bytes brotli: ${verdict(wasm.brotli < TARGET_BROTLI)}. ` +
    `Compiled and instantiated in ${together.toFixed(2)} ms, instantiated alone in ` +
    `${wasm.instantiateMs.toFixed(2)} ms (medians of ${wasm.runs}); below ${TARGET_INSTANTIATE_MS} ms: ` +
    `${verdict(together < TARGET_INSTANTIATE_MS)}.`
  );
}

function memoryText({ chromium, node }) {
  const rows = [];
  if (node) {
    rows.push(['Node, bytes dropped (RSS)', mib(node.idle), mib(node.peak), mib(node.above)]);
  }
  if (chromium) {
    const name = `Chromium, process tree (PSS${chromium.gpuBytes ? ', less the model itself' : ''})`;
    rows.push([name, mib(chromium.idle), mib(chromium.peak), mib(chromium.above)]);
  }
  const said = chromium?.gpuBytes
    ? ` The software adapter's GPU memory is the browser's own, so the model's ${mib(chromium.gpuBytes)} are subtracted.`
    : '';
  const head = [
    `memory, ${mib(model.nbytes)} with a budget of ${mib(BUDGET_BYTES)}`,
    'idle',
    'peak',
    'above idle',
  ];
  return `${table(head, rows)}\n\nPeaks of the browser are sampled and may be missed.${said}`;
}

const figures = {
  date: new Date().toISOString(),
  node: process.version,
  cpus: cpus().length,
  nbytes,
  rounds,
};
const texts = [];
const server = await startServer({ nbytes, dist, processes: Number(options.servers) });
try {
  const contestants = (host) => CONTESTANTS[host].filter(({ name }) => name.includes(options.only));
  if (where.has('size')) {
    figures.size = { wasm: await wasmFigures(dist), script: await scriptFigures(dist) };
    texts.push(sizeText(figures.size));
  }
  for (const name of ['node', 'chromium']) {
    if (!where.has(name)) continue;
    const list = contestants(name);
    // In Node each has a process of its own: what fetch leaves on the heap slows what comes after it
    const hosts = [];
    try {
      if (name === 'chromium') hosts.push(await startChromium(server, { timeoutMilliseconds }));
      else {
        while (hosts.length < list.length) {
          hosts.push(await startNode(server, { dist, timeoutMilliseconds }));
        }
      }
      figures[name] = await throughput(hosts, list);
    } finally {
      for (const host of hosts) await host.close();
    }
    texts.push(throughputText(name === 'node' ? 'Node' : 'Chromium', figures[name]));
  }
  if (where.has('memory')) {
    figures.memory = { node: await nodeMemory(server), chromium: await chromiumMemory(server) };
    texts.push(memoryText(figures.memory));
  }
} finally {
  server.close();
}
await mkdir(dirname(resolve(options.json)), { recursive: true });
await writeFile(options.json, `${JSON.stringify(figures, null, 2)}\n`);
console.log(`\n${texts.join('\n\n')}`);
process.exit();
