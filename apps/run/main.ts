// The main job on real input: a published model is packed, served, loaded into WebGPU in headless Chromium,
// and every tensor is read back and held against what the native command computed from the original file.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import {
  browserMemory,
  sampleMemory,
  startChromium,
} from '../../packages/sluice/test/support/chromium.js';
import { digestInPage, loadInPage, type LoadResult, type TensorDigest } from './page.js';
import { formatBytes, ProgressBar } from './terminal.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const SLUICE = join(ROOT, 'build/native/hosts/native/sluice');
const MODEL = join(ROOT, 'build/models/SmolLM2-135M-Instruct.Q4_1.gguf');

/** What `sluice load --digests` writes. */
interface Digests {
  sha256: string;
  tensors: Record<string, { dtype: string; shape: number[]; nbytes: number; sha256: string }>;
}

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: MODEL },
    dtype: { type: 'string', default: 'float16' },
    budget: { type: 'string', default: '64' },
    help: { type: 'boolean', default: false },
  },
});
if (values.help) {
  console.log(
    'usage: make run [RUN="--model FILE --dtype float16|float32|bfloat16 --budget MiB"]\n' +
      'Packs the model, serves it on 127.0.0.1, loads it in headless Chromium and checks every tensor.',
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
  const packed = join(ROOT, 'build/run', `${basename(model).replace(/\.[^.]*$/, '')}-${dtype}`);
  await pack(model, dtype, packed);
  const expected = JSON.parse(await readFile(join(packed, 'digests.json'), 'utf8')) as Digests;

  const server = await serve(packed);
  const chromium = await startChromium();
  try {
    const page = await chromium.newPage();
    const bar = new ProgressBar();
    await page.page.exposeFunction('report', (done: number, total: number) => {
      bar.update(done, total);
    });
    const idle = await browserMemory(chromium.pid);
    const memory = sampleMemory(chromium.pid);
    const result = await page
      .evaluate(loadInPage, { url: `${server.origin}/`, budgetBytes })
      .finally(() => memory.stop());
    const { peak } = memory;
    bar.end();
    const actual = await page.evaluate(digestInPage, undefined);
    const wrong = compare(actual, expected);
    print(result, wrong, expected, { peak: peak - idle, budgetBytes, origin: server.origin });
    return wrong.length === 0 ? 0 : 1;
  } finally {
    await chromium.close();
    server.stop();
  }
}

/** Packs the model and digests the original, once: both are kept with the packed files. */
async function pack(model: string, dtype: string, packed: string): Promise<void> {
  if (existsSync(join(packed, 'digests.json'))) return;
  await rm(packed, { recursive: true, force: true });
  await mkdir(packed, { recursive: true });
  run(['pack', model, '--output', packed, '--dtype', dtype]);
  // From the original, not from what was packed: the check covers the packing too
  run(['load', model, '--discard', '--dtype', dtype, '--digests', join(packed, 'digests.json')]);
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

/** The packed folder on a server of its own process, so that serving does not slow the measurement here. */
async function serve(root: string): Promise<{ origin: string; stop: () => void }> {
  const script = join(ROOT, 'packages/sluice/test/support/server.ts');
  const child = spawn(
    process.execPath,
    ['--import', 'tsx', script, JSON.stringify({ root, cors: true })],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  );
  const lines = createInterface({ input: child.stdout });
  const [origin] = (await once(lines, 'line')) as [string];
  return { origin, stop: () => child.stdin.end() };
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
  { report, browser, adapter }: LoadResult,
  wrong: string[],
  expected: Digests,
  run: { peak: number; budgetBytes: number; origin: string },
): void {
  const seconds = report.milliseconds / 1000;
  const software = adapter.includes('swiftshader');
  const count = Object.keys(expected.tensors).length;
  const rows: [string, string][] = [
    ['browser', `${browser}, WebGPU adapter ${adapter}`],
    [
      'source',
      `${run.origin}, ${report.thread === 'worker' ? 'fetched in a worker' : 'fetched in the page'}`,
    ],
    ['upload', String(report.upload)],
    ['tensors', String(report.tensors)],
    ['bytes', `${report.outputBytes.toLocaleString('en')} (${formatBytes(report.outputBytes)})`],
    ['seconds', seconds.toFixed(2)],
    ['GB/s', (report.outputBytes / 1e9 / seconds).toFixed(2)],
    ['budget', `${formatBytes(report.budgetPeak)} taken of ${formatBytes(run.budgetBytes)}`],
    [
      'peak memory',
      `${formatBytes(run.peak)} above the idle browser` +
        (software
          ? `, ${formatBytes(report.outputBytes)} of it the tensors (a software adapter)`
          : ''),
    ],
    [
      'digests',
      wrong.length === 0
        ? `all ${count} tensors equal those of the original file`
        : `${wrong.length} of ${count} tensors are wrong`,
    ],
  ];
  for (const [name, value] of rows) console.log(`${name.padEnd(12)} ${value}`);
  for (const line of wrong.slice(0, 10)) console.error(`  ${line}`);
}
