// The processes of a measurement: the server's, a Chromium, a Node. Each host has `run(task)` and `close()`.
import { fork, spawn } from 'node:child_process';
import cluster from 'node:cluster';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SOFTWARE_DRIVER = '/usr/lib/chromium/vk_swiftshader_icd.json';
const CHROMIUM = process.env.GPU_CHROMIUM ?? process.env.SLUICE_CHROMIUM ?? '/usr/bin/chromium';
const CHROMIUM_FLAGS =
  process.env.GPU_CHROMIUM_FLAGS ??
  '--headless=new --no-sandbox --disable-quic --no-first-run --disable-background-networking ' +
    '--disable-component-update --disable-sync --enable-unsafe-webgpu ' +
    '--use-webgpu-adapter=swiftshader --enable-features=Vulkan';
const START_MILLISECONDS = 60_000;

const here = (name) => fileURLToPath(new URL(name, import.meta.url));

/** Whether Chromium's flags choose the software adapter, whose GPU memory is the browser's own. */
export const softwareAdapter = /swiftshader/.test(CHROMIUM_FLAGS);

/** Starts `processes` server processes on one port. `onAsk(body, reply)` is called for each POST /ask. */
export async function startServer({ dist, llm, processes }) {
  cluster.setupPrimary({ exec: here('server.mjs'), args: [JSON.stringify({ dist, llm })] });
  const server = { origin: '', onAsk: undefined, close: undefined };
  const workers = Array.from({ length: processes }, () => cluster.fork());
  const ports = workers.map(
    (worker) =>
      new Promise((resolve, reject) => {
        worker.on('exit', (code) => reject(new Error(`the server ended with status ${code}`)));
        worker.on('message', ({ port, id, body }) => {
          if (port !== undefined) resolve(port);
          else server.onAsk?.(body, (answer) => worker.send({ id, answer }));
        });
      }),
  );
  const [port] = await Promise.all(ports);
  for (const worker of workers) worker.removeAllListeners('exit');
  server.origin = `http://127.0.0.1:${port}`;
  server.close = () => {
    for (const worker of workers) worker.process.kill();
  };
  return server;
}

/** Starts `sluice serve --synth SHAPE`; gives its origin and `close()`. It also ends with this process. */
export async function startSluice(executable, shape) {
  const arguments_ = ['serve', '--synth', shape, '--port', '0', '--until-stdin-closes'];
  const child = spawn(executable, arguments_, { stdio: ['pipe', 'pipe', 'inherit'] });
  const ended = new Promise((_, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`${executable} ended with status ${code}`)));
  });
  ended.catch(() => undefined);
  const line = new Promise((resolve) => {
    let said = '';
    child.stdout.on('data', (text) => {
      said += text;
      if (said.includes('\n')) resolve(said.split('\n')[0]);
    });
  });
  const origin = await within(line, START_MILLISECONDS, executable, ended);
  return { origin, close: () => child.stdin.end() };
}

/** Rejects after a while, or when `ended` does. */
function within(promise, milliseconds, what, ended) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`${what}: nothing in ${milliseconds} ms`)),
      milliseconds,
    );
  });
  return Promise.race([promise, late, ...(ended ? [ended] : [])]).finally(() =>
    clearTimeout(timer),
  );
}

/** `profile`: the folder of a browser before, whose stores are wanted; it stays. Otherwise a fresh one. */
export async function startChromium(server, { timeoutMilliseconds, profile: given }) {
  const profile = given ?? (await mkdtemp(join(tmpdir(), 'sluice-bench-')));
  const flags = [
    ...CHROMIUM_FLAGS.split(/\s+/).filter(Boolean),
    `--user-data-dir=${profile}`,
    '--js-flags=--expose-gc',
  ];
  let report;
  let next;
  let reply;
  const expect = () => (report = new Promise((resolve) => (next = resolve)));
  expect();
  server.onAsk = (body, answer) => {
    reply = answer;
    next(body);
  };
  // A process group of its own, so that all of it can be ended
  const browser = spawn(CHROMIUM, [...flags, `${server.origin}/bench/page.html`], {
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let said = '';
  browser.stderr.on('data', (text) => (said = (said + text).slice(-4000)));
  const ended = new Promise((_, reject) => {
    browser.on('error', reject);
    browser.on('exit', (code) =>
      reject(new Error(`${CHROMIUM} ended with status ${code}: ${said}`)),
    );
  });
  ended.catch(() => undefined);
  const close = async () => {
    server.onAsk = undefined;
    try {
      process.kill(-browser.pid, 'SIGKILL');
    } catch {
      // it has ended
    }
    if (given === undefined)
      await rm(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  };
  try {
    await within(report, START_MILLISECONDS, `${CHROMIUM}: no page\n${said}`, ended);
  } catch (error) {
    await close();
    throw error;
  }
  return {
    pid: browser.pid,
    browser: true,
    async run(task) {
      expect();
      reply(task);
      const { result, error } = await within(report, timeoutMilliseconds, task.contestant, ended);
      if (error !== undefined) throw new Error(error);
      return result;
    },
    close,
  };
}

export async function startNode({ dist, timeoutMilliseconds }) {
  const environment = { ...process.env };
  if (environment.VK_ICD_FILENAMES === undefined && existsSync(SOFTWARE_DRIVER)) {
    environment.VK_ICD_FILENAMES = SOFTWARE_DRIVER;
  }
  const webgpu = process.env.GPU_WEBGPU ?? 'webgpu';
  const argument = JSON.stringify({ dist, webgpu });
  const child = fork(here('node_agent.mjs'), [argument], {
    env: environment,
    execPath: process.execPath,
    execArgv: ['--expose-gc', ...(process.env.BENCH_NODE_FLAGS ?? '').split(' ').filter(Boolean)],
  });
  const ended = new Promise((_, reject) => {
    child.on('exit', (code, signal) => reject(new Error(`Node ended with ${code ?? signal}`)));
  });
  ended.catch(() => undefined);
  const answer = () => new Promise((resolve) => child.once('message', resolve));
  await within(answer(), START_MILLISECONDS, 'Node', ended);
  return {
    pid: child.pid,
    async run(task) {
      const answered = answer();
      child.send(task);
      const { result, error } = await within(answered, timeoutMilliseconds, task.contestant, ended);
      if (error !== undefined) throw new Error(error);
      return result;
    },
    async close() {
      if (child.connected) child.disconnect(); // it ends by itself, and writes its profile if it was to
      await within(ended, 5000, 'Node').catch(() => child.kill('SIGKILL'));
    },
  };
}

/** A process and its descendants. */
async function processTree(pid) {
  const parents = new Map();
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const fields = await processFields(name);
    if (fields) parents.set(Number(name), Number(fields[1]));
  }
  const inTree = (process) => {
    for (let at = process; at; at = parents.get(at)) if (at === pid) return true;
    return false;
  };
  return [...parents.keys()].filter(inTree);
}

/** The fields of /proc/PID/stat from the third on: state, parent, … */
async function processFields(pid) {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined);
  // "pid (command) state parent …", where the command may hold anything
  return stat?.slice(stat.lastIndexOf(')') + 2).split(' ');
}

/** Fields of smaps_rollup that are summed, by their names here. */
const MEMORY_FIELDS = {
  pss: 'Pss',
  anonymous: 'Pss_Anon',
  file: 'Pss_File',
  shared: 'Pss_Shmem',
  lazyFree: 'LazyFree',
};

/**
 * Bytes that a browser's processes hold, shared pages shared out among their users (PSS,
 * https://docs.kernel.org/filesystems/proc.html): `{total, types}`, where `types` has for each type of process
 * `pss`, its parts `anonymous`, `file` and `shared` (where the kernel tells), `lazyFree` (given back to the kernel,
 * which has not taken it yet, and part of `anonymous`) and the number of `processes`.
 */
export async function browserMemory(pid) {
  const types = {};
  await Promise.all(
    (await processTree(pid)).map(async (process) => {
      const [command, text] = await Promise.all([
        readFile(`/proc/${process}/cmdline`, 'utf8').catch(() => ''),
        readFile(`/proc/${process}/smaps_rollup`, 'utf8').catch(() => ''),
      ]);
      if (text === '') return;
      const type = (types[processType(command)] ??= { processes: 0 });
      type.processes++;
      for (const [name, field] of Object.entries(MEMORY_FIELDS)) {
        const kilobytes = new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0;
        type[name] = (type[name] ?? 0) + 1024 * Number(kilobytes);
      }
    }),
  );
  const total = Object.values(types).reduce((sum, { pss }) => sum + pss, 0);
  return { total, types };
}

/** What a process of Chromium is for, by its command line: browser, gpu, network, renderer, … */
function processType(command) {
  const type = /--type=([\w-]+)/.exec(command)?.[1] ?? 'browser';
  if (type === 'gpu-process') return 'gpu';
  if (type !== 'utility') return type;
  return /--utility-sub-type=(\w+)/.exec(command)?.[1] ?? type;
}

/** Bytes of physical memory that one process holds (RSS). */
export async function processMemory(pid) {
  const text = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
  return 1024 * Number(/^VmRSS:\s+(\d+) kB/m.exec(text)?.[1] ?? 0);
}

/** Seconds of processor time that a process and its living descendants have taken, in steps of 10 ms. */
export async function processTreeSeconds(pid) {
  let ticks = 0;
  for (const process of await processTree(pid)) {
    const fields = await processFields(process);
    if (fields) ticks += Number(fields[11]) + Number(fields[12]); // utime, stime
  }
  return ticks / 100;
}
