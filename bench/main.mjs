// Measures loading against a bare loop and against the common way, sizes, start-up and memory.
// Plain Node 20 without packages, so that it also runs where there is nothing but a browser and a GPU.
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { codecFigures } from './codecs.mjs';
import {
  processTreeSeconds,
  startChromium,
  startNode,
  startServer,
  startSluice,
} from './hosts.mjs';
import { memoryFigures, memoryText } from './memory.mjs';
import { fetchModel } from './model.mjs';
import { median, scriptFigures, wasmFigures } from './size.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const HELP = `Usage: node bench/main.mjs [options]

  --model NAME      synthetic, or a shape that sluice serves: gemma-4-e2b, smollm2 (synthetic)
  --size BYTES      of the synthetic model: 256MiB, 3GiB, … (256MiB)
  --sizes LIST      of the synthetic models whose memory is measured: 1GiB,3GiB,8GiB (the model itself)
  --budget BYTES    of the loads whose memory is measured (64MiB)
  --connections N   of the loads whose memory is measured (4)
  --rounds N        measured rounds, after one that warms up and checks (5)
  --where LIST      of size, codecs, node, chromium, memory (all)
  --only TEXT       only contestants whose name contains it
  --servers N       processes of the server (1, or 4 where there are 8 processors)
  --package FOLDER  the built package (packages/sluice/dist)
  --sluice FILE     the command (build/native/hosts/native/sluice)
  --codecs FILE     the codecs' benchmark (build/native/core/load/codec_bench)
  --json FILE       where the figures go (build/bench/bench.json)

Environment: GPU_CHROMIUM, GPU_CHROMIUM_FLAGS and GPU_WEBGPU choose another browser, its flags and another
copy of the npm package webgpu; VK_ICD_FILENAMES chooses Node's driver.
`;
const MAY_FAIL = new Set(['common', 'fetchTensorCache']);
const TARGET_RATIO = 0.8;
const TARGET_BROTLI = 60_000;
const TARGET_INSTANTIATE_MS = 10;

const INCUMBENT = [
  { name: 'tvmjs 0.27 fetchTensorCache', contestant: 'fetchTensorCache' },
  { name: 'tvmjs 0.24 fetchTensorCache', contestant: 'fetchTensorCache', staged: true },
];

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
    ...INCUMBENT.map((each) => ({ ...each, thread: 'main' })),
    {
      name: 'tvmjs 0.27 fetchTensorCache, by way of its cache',
      contestant: 'fetchTensorCache',
      cache: true,
      thread: 'main',
    },
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
    ...INCUMBENT,
  ],
};

function parseSize(text) {
  const match = /^(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB)?$/.exec(text);
  if (!match) throw new Error(`'${text}' is no size: 256MiB, 3GiB`);
  return Number(match[1]) * 1024 ** ['B', 'KiB', 'MiB', 'GiB'].indexOf(match[2] ?? 'B');
}

const { values: options } = parseArgs({
  options: {
    model: { type: 'string', default: 'synthetic' },
    size: { type: 'string', default: '256MiB' },
    sizes: { type: 'string', default: '' },
    rounds: { type: 'string', default: '5' },
    where: { type: 'string', default: 'size,codecs,node,chromium,memory' },
    only: { type: 'string', default: '' },
    servers: { type: 'string', default: cpus().length >= 8 ? '4' : '1' },
    budget: { type: 'string', default: '64MiB' },
    connections: { type: 'string', default: '4' },
    package: { type: 'string', default: resolve(ROOT, 'packages/sluice/dist') },
    sluice: { type: 'string', default: resolve(ROOT, 'build/native/hosts/native/sluice') },
    codecs: { type: 'string', default: resolve(ROOT, 'build/native/core/load/codec_bench') },
    json: { type: 'string', default: resolve(ROOT, 'build/bench/bench.json') },
    help: { type: 'boolean', default: false },
  },
});
if (options.help) {
  console.log(HELP);
  process.exit();
}
const rounds = Number(options.rounds);
const where = new Set(options.where.split(','));
const dist = resolve(options.package);
const memoryOptions = {
  budgetBytes: parseSize(options.budget),
  connections: Number(options.connections),
  only: options.only,
};
const timeoutOf = (model) => 30_000 + model.nbytes / 10_000;

/** Interleaved rounds, each beginning with another contestant; the medians, as rates and ratios. */
async function throughput(hosts, list, model) {
  const prepare = { contestant: 'prepare', url: model.url, thread: 'main' };
  const [{ adapter, userAgent }] = await Promise.all(hosts.map((host) => host.run(prepare)));
  const times = list.map(() => []);
  const processor = list.map(() => []);
  const notes = [];
  const failures = [];
  for (let round = 0; round <= rounds; round++) {
    for (let i = 0; i < list.length; i++) {
      const index = (i + round) % list.length;
      const { name, ...task } = list[index];
      const check = round === 0;
      const host = hosts[index % hosts.length];
      const before = await processTreeSeconds(host.pid);
      if (failures[index]) continue;
      let result;
      try {
        result = await host.run({ ...task, url: model.url, check });
      } catch (error) {
        // What a browser refuses to another way of loading is a result, too
        if (!MAY_FAIL.has(task.contestant) || /differs near/.test(error.message)) throw error;
        failures[index] = error.message.split('\n')[0];
        process.stderr.write(`  round ${round}: ${name}: ${failures[index]}\n`);
        continue;
      }
      const { milliseconds, note } = result;
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
    if (failures[index]) return { name, contestant, failure: failures[index] };
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
  for (const row of rows) {
    if (bare.length > 0 && !row.failure) row.ratio = row.gigabytesPerSecond / best;
  }
  return { adapter, userAgent, modelBytes: model.nbytes, rows };
}

const verdict = (good) => (good ? 'met' : 'NOT met');

function table(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

function throughputText(title, { adapter, modelBytes, rows }) {
  const body = rows.map((row) => {
    const { name, note, failure, gigabytesPerSecond, ratio, milliseconds } = row;
    if (failure) return [`${name} (${failure})`, 'failed', '', '', ''];
    const rate = (ms) => (modelBytes / ms / 1e6).toFixed(2);
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
  const said = aim && `\n\nAim ${TARGET_RATIO} of the bare loop: ${aim}.`;
  return `${table(head, body)}${said}`;
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

function codecText({ native, wasm }) {
  const parts = [native, wasm].map(({ title, missing, sizes, rows }) => {
    if (missing) return `${title}: not measured: ${missing}.`;
    const head = [title, ...sizes.flatMap((size) => [`${size}: GB/s`, 'of memcpy'])];
    const body = rows.map(({ name, figures: cells }) => [
      name,
      ...cells.flatMap(({ gigabytesPerSecond, ratio }) => [
        gigabytesPerSecond.toFixed(1),
        ratio.toFixed(2),
      ]),
    ]);
    return table(head, body);
  });
  return `${parts.join('\n\n')}\n\nBytes read and written, per second.`;
}

const figures = {
  date: new Date().toISOString(),
  node: process.version,
  cpus: cpus().length,
  model: options.model,
  rounds,
};
const texts = [];
const server = await startServer({ dist, processes: Number(options.servers) });
const synthetic = (size) => fetchModel(`${server.origin}/model/${parseSize(size)}`);
let served;
try {
  if (options.model !== 'synthetic') served = await startSluice(options.sluice, options.model);
  const model = served ? await fetchModel(served.origin) : await synthetic(options.size);
  figures.nbytes = model.nbytes;
  if (where.has('size')) {
    figures.size = { wasm: await wasmFigures(dist), script: await scriptFigures(dist) };
    texts.push(sizeText(figures.size));
  }
  if (where.has('codecs')) {
    figures.codecs = await codecFigures({ dist, executable: options.codecs });
    texts.push(codecText(figures.codecs));
  }
  for (const name of ['node', 'chromium']) {
    if (!where.has(name)) continue;
    const list = CONTESTANTS[name].filter((each) => each.name.includes(options.only));
    const timeoutMilliseconds = timeoutOf(model);
    // In Node each has a process of its own: what fetch leaves on the heap slows what comes after it
    const hosts = [];
    try {
      if (name === 'chromium') hosts.push(await startChromium(server, { timeoutMilliseconds }));
      else {
        while (hosts.length < list.length) {
          hosts.push(await startNode({ dist, timeoutMilliseconds }));
        }
      }
      figures[name] = await throughput(hosts, list, model);
    } finally {
      for (const host of hosts) await host.close();
    }
    texts.push(throughputText(name === 'node' ? 'Node' : 'Chromium', figures[name]));
  }
  if (where.has('memory')) {
    const models = [];
    for (const size of options.sizes.split(',').filter(Boolean)) models.push(await synthetic(size));
    if (models.length === 0) models.push(model);
    const small = await synthetic('40MiB'); // one shard and one record of 32 MiB
    figures.memory = await memoryFigures({ server, models, small, dist, ...memoryOptions });
    texts.push(memoryText(figures.memory));
  }
} finally {
  served?.close();
  server.close();
}
await mkdir(dirname(resolve(options.json)), { recursive: true });
await writeFile(options.json, `${JSON.stringify(figures, null, 2)}\n`);
console.log(`\n${texts.join('\n\n')}`);
process.exit();
