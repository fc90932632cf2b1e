// The main job on real input: a published model is packed, served, loaded into WebGPU in headless Chromium, and loaded
// again from the browser's local store. Both times every tensor is read back and held against what the native command
// computed from the original file. Then the model, compiled by `make smollm2`, answers a prompt.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import {
  browserMemory,
  sampleMemory,
  startChromium,
  type Chromium,
} from '../../packages/sluice/test/support/chromium.js';
import { answerPrompt } from './answer.js';
import { digestInPage, loadInPage, type LoadResult, type TensorDigest } from './page.js';
import { serve, type ModelServer } from './server_process.js';
import { formatBytes, ProgressBar } from './terminal.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const SLUICE = join(ROOT, 'build/native/hosts/native/sluice');
const MODEL = join(ROOT, 'build/models/SmolLM2-135M-Instruct.Q4_1.gguf');
/** The same model compiled, with its weights packed, by `make smollm2`. */
const COMPILED = join(ROOT, 'build/smollm2/web/float32');

/** What `sluice load --digests` writes. */
interface Digests {
  sha256: string;
  tensors: Record<string, { dtype: string; shape: number[]; nbytes: number; sha256: string }>;
}

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: MODEL },
    dtype: { type: 'string', default: 'float32' },
    budget: { type: 'string', default: '64' },
    prompt: { type: 'string', default: 'What is the capital of France?' },
    tokens: { type: 'string', default: '24' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  console.log(
    'usage: make run [RUN="--prompt TEXT --tokens N --budget MiB"]\n' +
      '       make run  RUN="--model FILE [--dtype float16|float32|bfloat16] [--budget MiB]"\n' +
      'Packs the model, serves it on 127.0.0.1, loads it in headless Chromium, loads it again from the\n' +
      'local store, and checks every tensor both times. Then the model answers the prompt with N tokens at\n' +
      'most, always the likeliest; a model of yours is loaded and checked only.',
  );
  process.exit(0);
}
try {
  process.exitCode = await main(values.model, values.dtype, Number(values.budget) * 2 ** 20);
} catch (error) {
  const [reason = ''] = (error instanceof Error ? error.message : String(error)).split('\n');
  console.error(`make run: ${values.model} was not loaded and checked: ${reason}`);
  process.exitCode = 1;
}

async function main(model: string, dtype: string, budgetBytes: number): Promise<number> {
  const answers = model === MODEL && dtype === 'float32';
  const made = join(ROOT, 'build/run', `${basename(model).replace(/\.[^.]*$/, '')}-${dtype}`);
  const packed = answers ? COMPILED : join(made, 'packed');
  if (!answers) await pack(model, dtype, packed);
  const expected = await digestsOf(model, dtype, join(made, 'digests.json'));

  const server = await serve(packed);
  const chromium = await startChromium();
  try {
    const load = () => loadAndCheck(chromium, server, budgetBytes, expected);
    const cold = await load();
    const warm = await load();
    print(cold, warm, expected, { budgetBytes, origin: server.origin });
    if (warm.sentBytes > 0) {
      console.error(
        `make run: the second load fetched ${warm.sentBytes.toLocaleString('en')} bytes`,
      );
      return 1;
    }
    if (cold.wrong.length + warm.wrong.length > 0) return 1;
    if (!answers) return 0;
    const { prompt, tokens } = values;
    return (await answerPrompt(chromium, server.origin, {
      prompt,
      tokens: Number(tokens),
      budgetBytes,
    }))
      ? 0
      : 1;
  } finally {
    await chromium.close();
    server.stop();
  }
}

/** A load, and what was found of it. */
interface Checked extends LoadResult {
  /** Bytes that the server sent meanwhile. */
  sentBytes: number;
  /** Bytes of memory above the idle browser. */
  peak: number;
  /** What differs from the original, a line each. */
  wrong: string[];
}

/** Loads in a page of its own, which is closed then: nothing but the local store stays from one to the next. */
async function loadAndCheck(
  chromium: Chromium,
  server: ModelServer,
  budgetBytes: number,
  expected: Digests,
): Promise<Checked> {
  const page = await chromium.newPage();
  try {
    const bar = new ProgressBar();
    await page.page.exposeFunction('report', (done: number, total: number) => {
      bar.update(done, total);
    });
    const before = await server.sentBytes();
    const idle = await browserMemory(chromium.pid);
    const memory = sampleMemory(chromium.pid);
    const result = await page
      .evaluate(loadInPage, { url: `${server.origin}/`, budgetBytes })
      .finally(() => memory.stop());
    bar.end();
    const sentBytes = (await server.sentBytes()) - before;
    const wrong = compare(await page.evaluate(digestInPage, undefined), expected);
    return { ...result, sentBytes, peak: memory.peak - idle, wrong };
  } finally {
    await page.close();
  }
}

/** Packs the model, once. */
async function pack(model: string, dtype: string, packed: string): Promise<void> {
  if (existsSync(join(packed, 'tensor-cache.json'))) return;
  await rm(packed, { recursive: true, force: true });
  run(['pack', model, '--output', packed, '--dtype', dtype]);
}

/** From the original, not from what was packed: the check covers the packing too. Computed once. */
async function digestsOf(model: string, dtype: string, file: string): Promise<Digests> {
  if (!existsSync(file)) {
    await mkdir(dirname(file), { recursive: true });
    run(['load', model, '--discard', '--dtype', dtype, '--digests', file]);
  }
  return JSON.parse(await readFile(file, 'utf8')) as Digests;
}

function run(args: string[]): void {
  console.log(`$ sluice ${args.map((arg) => arg.replace(ROOT, '')).join(' ')}`);
  const { status, error } = spawnSync(SLUICE, args, { stdio: 'inherit' });
  if (error) throw error;
  if (status !== 0) {
    console.error(`make run: sluice ${args[0] ?? ''} failed with status ${String(status)}`);
    process.exit(status ?? 1);
  }
}

/** What differs between the tensors read back and those of the original file, a line each. */
function compare(actual: Record<string, TensorDigest>, expected: Digests): string[] {
  const wrong: string[] = [];
  for (const [name, want] of Object.entries(expected.tensors)) {
    const got = actual[name];
    if (!got) {
      wrong.push(`${name}: missing`);
    } else if (got.sha256 !== want.sha256) {
      wrong.push(`${name}: SHA-256 ${got.sha256}, expected ${want.sha256}`);
    } else if (got.dtype !== want.dtype || String(got.shape) !== String(want.shape)) {
      const [is, was] = [got, want].map(({ dtype, shape }) => `${dtype} [${String(shape)}]`);
      wrong.push(`${name}: ${String(is)}, expected ${String(was)}`);
    }
  }
  for (const name of Object.keys(actual)) {
    if (!(name in expected.tensors)) wrong.push(`${name}: not in the original`);
  }
  return wrong;
}

function print(
  cold: Checked,
  warm: Checked,
  expected: Digests,
  run: { budgetBytes: number; origin: string },
): void {
  const { report } = cold;
  const software = cold.adapter.includes('swiftshader');
  const nbytes = report.outputBytes;
  const rate = ({ report: { outputBytes, milliseconds } }: Checked): number =>
    outputBytes / 1e6 / milliseconds;
  const speed = (load: Checked): string =>
    `${(load.report.milliseconds / 1000).toFixed(2)} s, ${rate(load).toFixed(2)} GB/s`;
  const rows: [string, string][] = [
    ['browser', `${cold.browser}, WebGPU adapter ${cold.adapter}`],
    [
      'source',
      `${run.origin}, ${report.thread === 'worker' ? 'fetched in a worker' : 'fetched in the page'}`,
    ],
    ['upload', String(report.upload)],
    ['tensors', String(report.tensors)],
    ['bytes', `${nbytes.toLocaleString('en')} (${formatBytes(nbytes)})`],
    ['cold load', `${speed(cold)}, ${formatBytes(cold.sentBytes)} fetched and stored`],
    [
      'warm load',
      `${speed(warm)}, ${warm.sentBytes.toLocaleString('en')} bytes fetched, ` +
        `${formatBytes(warm.report.store?.readBytes ?? 0)} read from the local store`,
    ],
    ['warm : cold', `${(rate(warm) / rate(cold)).toFixed(2)} times the rate`],
    [
      'budget',
      `${formatBytes(report.budgetPeak)} cold, ${formatBytes(warm.report.budgetPeak)} warm taken of ${formatBytes(run.budgetBytes)}`,
    ],
    [
      'peak memory',
      `${formatBytes(cold.peak)} cold, ${formatBytes(warm.peak)} warm above the idle browser` +
        (software ? `, ${formatBytes(nbytes)} of it the tensors (a software adapter)` : ''),
    ],
    ['digests', `cold: ${verdict(cold, expected)}; warm: ${verdict(warm, expected)}`],
  ];
  for (const [name, value] of rows) console.log(`${name.padEnd(12)} ${value}`);
  for (const { wrong } of [cold, warm]) {
    for (const line of wrong.slice(0, 10)) console.error(`  ${line}`);
  }
}

function verdict({ wrong }: Checked, { tensors }: Digests): string {
  const count = Object.keys(tensors).length;
  return wrong.length === 0
    ? `all ${count} tensors equal those of the original file`
    : `${wrong.length} of ${count} tensors are wrong`;
}
