// Measures loading against a bare loop and against the common way, sizes, start-up and memory.
// Plain Node 20 without packages, so that it also runs where there is nothing but a browser and a GPU.
import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { dirname, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { codecFigures } from './codecs.mjs';
import { softwareAdapter, startChromium, startNode, startServer, startSluice } from './hosts.mjs';
import { expandFigures, expandText } from './expand.mjs';
import { llmFigures, llmStart, llmText } from './llm.mjs';
import { memoryFigures, memoryText } from './memory.mjs';
import { fetchModel } from './model.mjs';
import { table, throughput, throughputText, verdict } from './rounds.mjs';
import { runtimeFigures, runtimeText } from './runtime.mjs';
import { scriptFigures, wasmFigures } from './size.mjs';
import { storeFigures, storeText } from './store.mjs';
import { webgpuRuntimeFigures, webgpuRuntimeText } from './webgpu_runtime.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const HELP = `Usage: node bench/main.mjs [options]

  --model NAME      synthetic, or a shape that sluice serves: gemma-4-e2b, smollm2 (synthetic)
  --size BYTES      of the synthetic model: 256MiB, 3GiB, … (256MiB)
  --sizes LIST      of the synthetic models whose memory is measured: 1GiB,3GiB,8GiB (the model itself)
  --budget BYTES    of the loads whose memory is measured (64MiB)
  --connections N   of the loads whose memory is measured (4)
  --rounds N        measured rounds, after one that warms up and checks (5)
  --where LIST      of size, codecs, expand, runtime, dispatch, llm, node, chromium, store, memory (all)
  --only TEXT       only contestants whose name contains it; of the store, those and what they are compared with
  --servers N       processes of the server (1, or 4 where there are 8 processors)
  --llm FOLDER      of the compiled models, float32 and float16 (build/smollm2/web); weights that are not there are made
  --dtypes LIST     of these models (float32; where the GPU is software, float32-software)
  --prefill N       tokens of their prompts (128; there 16)
  --decode N        tokens of their answers (64; there 6)
  --starts N        times that they are started with their weights stored, after one that stores them (3; there 1)
  --hosts LIST      of node, chromium: where expand, runtime, dispatch and llm are measured (both)
  --package FOLDER  the built package (packages/sluice/dist)
  --sluice FILE     the command (build/native/hosts/native/sluice)
  --codecs FILE     the codecs' benchmark (build/native/core/load/codec_bench)
  --machine TEXT    which machine this is, to be kept with the figures
  --json FILE       where the figures go (build/bench/bench.json)

Environment: GPU_CHROMIUM, GPU_CHROMIUM_FLAGS and GPU_WEBGPU choose another browser, its flags and another
copy of the npm package webgpu, GPU_WEBGPU_FLAGS what it is started with; VK_ICD_FILENAMES chooses Node's driver.
`;
const TARGET_RATIO = 0.8;
const TARGET_BROTLI = 60_000;
const TARGET_INSTANTIATE_MS = 10;
/** A round of these takes milliseconds, so there are more of them. */
const DISPATCH_ROUNDS = 4;
const RUNTIME_ROUNDS = 10;
/** Of one answer, also where the GPU is software. */
const LLM_TIMEOUT = 600_000;
/** There a token takes seconds, and the schedules of real GPUs minutes. */
const LLM = softwareAdapter
  ? { dtypes: 'float32-software', prefill: '16', decode: '6', starts: '1' }
  : { dtypes: 'float32', prefill: '128', decode: '64', starts: '3' };
const LLM_ROUNDS_OF_SOFTWARE = 2;

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
      cache: 'cache',
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
    where: {
      type: 'string',
      default: 'size,codecs,expand,runtime,dispatch,llm,node,chromium,store,memory',
    },
    only: { type: 'string', default: '' },
    servers: { type: 'string', default: cpus().length >= 8 ? '4' : '1' },
    llm: { type: 'string', default: resolve(ROOT, 'build/smollm2/web') },
    dtypes: { type: 'string', default: LLM.dtypes },
    prefill: { type: 'string', default: LLM.prefill },
    decode: { type: 'string', default: LLM.decode },
    starts: { type: 'string', default: LLM.starts },
    hosts: { type: 'string', default: 'node,chromium' },
    budget: { type: 'string', default: '64MiB' },
    connections: { type: 'string', default: '4' },
    package: { type: 'string', default: resolve(ROOT, 'packages/sluice/dist') },
    sluice: { type: 'string', default: resolve(ROOT, 'build/native/hosts/native/sluice') },
    codecs: { type: 'string', default: resolve(ROOT, 'build/native/core/load/codec_bench') },
    json: { type: 'string', default: resolve(ROOT, 'build/bench/bench.json') },
    machine: { type: 'string' },
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
const storeOptions = { dist, rounds, only: options.only };
const timeoutOf = (model) => 30_000 + model.nbytes / 10_000;

function sizeText({ wasm, script }) {
  const sizes = (name, { raw, gzip, brotli }) => [name, raw, gzip, brotli];
  const rows = [
    sizes('sluice_loader.wasm', wasm),
    sizes('sluice_store.wasm', wasm.store),
    sizes(`JavaScript, ${script.files} files`, script),
  ];
  if (script.minified) {
    rows.push(sizes('index.js, minified bundle', script.minified.index));
    rows.push(sizes('worker.js, minified bundle', script.minified.worker));
    rows.push(sizes('store_worker.js, minified bundle', script.minified.storeWorker));
  }
  const together = wasm.compileAndInstantiateMs;
  return (
    `${table(['bytes', 'raw', 'gzip', 'brotli'], rows)}\n\n` +
    `The loader's wasm below ${TARGET_BROTLI} bytes brotli: ${verdict(wasm.brotli < TARGET_BROTLI)}. ` +
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
  return `${parts.join('\n\n')}\n\nBytes read and written, per second; memcpy takes turns with each codec and moves as many.`;
}

const quoted = (argument) => (/[^\w.,:/=-]/.test(argument) ? JSON.stringify(argument) : argument);

const figures = {
  date: new Date().toISOString(),
  command: ['node bench/main.mjs', ...process.argv.slice(2).map(quoted)].join(' '),
  machine: options.machine,
  node: process.version,
  cpus: cpus().length,
  model: options.model,
  rounds,
};
const texts = [];
const server = await startServer({
  dist,
  llm: resolve(options.llm),
  processes: Number(options.servers),
});
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
  /** The figures of one measurement in Node and in Chromium. */
  const inBoth = async (measure, timeoutMilliseconds = timeoutOf(model)) => {
    const both = {};
    for (const [title, start] of [
      ['Node', () => startNode({ dist, timeoutMilliseconds })],
      ['Chromium', () => startChromium(server, { timeoutMilliseconds })],
    ]) {
      if (!options.hosts.split(',').includes(title.toLowerCase())) continue;
      const host = await start();
      try {
        if (title === 'Chromium') {
          const prepare = { contestant: 'prepare', url: model.url, thread: 'main' };
          figures.userAgent = (await host.run(prepare)).userAgent;
        }
        both[title] = await measure(host);
      } finally {
        await host.close();
      }
    }
    return both;
  };
  if (where.has('expand')) {
    const { url, nbytes } = model;
    const task = { url, nbytes, rounds, only: options.only };
    figures.expand = await inBoth((host) => expandFigures({ ...task, host }));
    for (const [title, each] of Object.entries(figures.expand)) {
      texts.push(expandText(`${title}, from memory`, each));
    }
  }
  if (where.has('runtime')) {
    const task = { url: model.url, rounds: RUNTIME_ROUNDS * rounds, only: options.only };
    figures.runtime = await inBoth((host) => runtimeFigures({ ...task, host }));
    for (const [title, each] of Object.entries(figures.runtime)) {
      texts.push(runtimeText(title, each));
    }
  }
  if (where.has('dispatch')) {
    const task = { url: model.url, rounds: DISPATCH_ROUNDS * rounds, only: options.only };
    figures.dispatch = await inBoth((host) => webgpuRuntimeFigures({ ...task, host }));
    for (const [title, each] of Object.entries(figures.dispatch)) {
      texts.push(webgpuRuntimeText(title, each));
    }
  }
  if (where.has('llm')) {
    const [prefill, decode, starts] = [options.prefill, options.decode, options.starts].map(Number);
    for (const dtype of options.dtypes.split(',')) {
      const folder = resolve(options.llm, dtype);
      if (!existsSync(resolve(folder, 'model.wasm'))) {
        texts.push(
          `The compiled model, ${dtype}: not measured: ${folder} has none; make smollm2 makes it.`,
        );
        continue;
      }
      const most = softwareAdapter ? Math.min(rounds, LLM_ROUNDS_OF_SOFTWARE) : rounds;
      const task = { origin: server.origin, dtype, rounds: most, prefill, decode };
      const both = await inBoth(async (host) => {
        const each = await llmFigures({ ...task, host });
        // The store is a browser's
        const start = host.browser && (await llmStart({ ...task, starts, host }));
        return { ...each, ...(start ? { start } : {}) };
      }, LLM_TIMEOUT);
      (figures.llm ??= {})[dtype] = both;
      for (const [title, { start, ...each }] of Object.entries(both)) {
        texts.push(llmText(title, each, start));
      }
    }
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
      figures[name] = await throughput(hosts, list, model, rounds);
    } finally {
      for (const host of hosts) await host.close();
    }
    texts.push(throughputText(name === 'node' ? 'Node' : 'Chromium', figures[name], TARGET_RATIO));
  }
  if (where.has('store')) {
    const startSmall = () => startSluice(options.sluice, 'smollm2');
    figures.store = await storeFigures({ ...storeOptions, server, model, startSmall });
    texts.push(storeText(figures.store));
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
