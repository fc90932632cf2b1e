// Headless Chromium with WebGPU for the tests, and its memory as seen from outside.
//
// SLUICE_CHROMIUM names another binary; SLUICE_CHROMIUM_FLAGS (separated by spaces) replaces the flags
// that choose the software adapter, as a machine with a GPU needs.
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join, normalize, sep } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';
import type { BrowserContext, Page } from 'playwright-core';
import ts from 'typescript';

const PACKAGE = fileURLToPath(new URL('../../', import.meta.url));

const SOFTWARE_ADAPTER_FLAGS =
  '--enable-unsafe-webgpu --use-webgpu-adapter=swiftshader --enable-features=Vulkan';
const FLAGS = [
  '--no-sandbox',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const TYPES: Record<string, string> = {
  '.js': 'text/javascript',
  '.json': 'application/json',
  '.wasm': 'application/wasm',
  '.html': 'text/html',
  '.map': 'application/json',
};

// tsx compiles with keepNames: functions that are sent to the page call this helper.
const NAME_HELPER = 'globalThis.__name ??= (target) => target;';

/** Answers a request and returns true, or returns false to leave it to the harness. */
export type RequestHandler = (request: IncomingMessage, response: ServerResponse) => boolean;

export interface ChromiumOptions {
  /** Sees each request first. */
  handler?: RequestHandler;
  /** Flags beside those above. */
  flags?: string[];
  /** A profile folder that stays; a fresh one that is removed unless given. */
  profile?: string;
  /** A fixed port of the origin; the system chooses unless given. */
  port?: number;
}

export interface ChromiumPage {
  readonly page: Page;
  /** Errors of the page and its workers: console.error, uncaught exceptions, failed loads. */
  readonly errors: string[];
  /**
   * Runs `act` in the page with `argument`, copied as JSON; gives a copy of what it returns. It sees nothing of
   * the file it is written in.
   */
  evaluate<A, R>(act: (argument: A) => R | Promise<R>, argument: A): Promise<R>;
  /** The same in a dedicated module worker of its own, which ends afterwards. */
  evaluateInWorker<A, R>(act: (argument: A) => R | Promise<R>, argument: A): Promise<R>;
  close(): Promise<void>;
}

export interface Chromium {
  /**
   * `http://127.0.0.1:<port>`, a secure context. Serves a blank page at `/`, the built package at `/dist/`
   * and the tests' modules, compiled, at `/test/` (`/test/sinks/x.js` from `test/sinks/x.ts`).
   */
  readonly origin: string;
  /** The browser's main process. */
  readonly pid: number;
  readonly context: BrowserContext;
  newPage(path?: string): Promise<ChromiumPage>;
  /** Ends the browser and the server, and removes the profile. */
  close(): Promise<void>;
}

/** Starts a browser with a profile on disk, so that OPFS and the Cache API are files. */
export async function startChromium(options: ChromiumOptions = {}): Promise<Chromium> {
  if (!existsSync(join(PACKAGE, 'dist'))) {
    throw new Error('packages/sluice/dist is missing: run `npm run build` first');
  }
  const server = createServer((request, response) => {
    if (options.handler?.(request, response)) return;
    serve(request, response).catch((error: unknown) => {
      response.writeHead(500).end(String(error));
    });
  });
  await listen(server, options.port ?? 0);
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const profile = options.profile ?? (await mkdtemp(join(tmpdir(), 'sluice-chromium-')));
  const removeProfile = async (): Promise<void> => {
    if (options.profile !== undefined) return;
    await rm(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  };

  let context: BrowserContext;
  let pid: number;
  try {
    const adapter = process.env['SLUICE_CHROMIUM_FLAGS'] ?? SOFTWARE_ADAPTER_FLAGS;
    context = await chromium.launchPersistentContext(profile, {
      executablePath: process.env['SLUICE_CHROMIUM'] ?? '/usr/bin/chromium',
      headless: true,
      args: [...FLAGS, ...adapter.split(/\s+/).filter(Boolean), ...(options.flags ?? [])],
    });
    pid = await processOfProfile(profile);
    await context.addInitScript(NAME_HELPER);
  } catch (error) {
    await stop(server);
    await removeProfile();
    throw error;
  }
  return {
    origin,
    pid,
    context,
    newPage: async (path = '/') => openPage(context, origin + path),
    close: async () => {
      try {
        await context.close(); // rejects where the browser was killed in the middle of something
      } finally {
        await stop(server);
        await removeProfile();
      }
    },
  };
}

/** A fixed port that was just used can be taken for a while yet, by a connection from it that is ending. */
async function listen(server: Server, port: number): Promise<void> {
  for (const end = Date.now() + 20_000; ; await sleep(100)) {
    try {
      server.listen(port, '127.0.0.1');
      await once(server, 'listening');
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || Date.now() > end) throw error;
    }
  }
}

async function openPage(context: BrowserContext, url: string): Promise<ChromiumPage> {
  const page = await context.newPage();
  const errors: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error') errors.push(message.text());
  });
  page.on('pageerror', (error) => errors.push(String(error)));
  await page.goto(url);
  return {
    page,
    errors,
    // An expression rather than a function and its argument: Playwright's types reject a generic one.
    evaluate: <A, R>(act: (argument: A) => R | Promise<R>, argument: A) =>
      page.evaluate<R>(`(${act.toString()})(${JSON.stringify(argument)})`),
    evaluateInWorker: <A, R>(act: (argument: A) => R | Promise<R>, argument: A) =>
      page.evaluate<R>(`new Promise((resolve, reject) => {
        const source = ${JSON.stringify(workerSource(act.toString(), JSON.stringify(argument)))};
        const url = URL.createObjectURL(new Blob([source], { type: 'text/javascript' }));
        const worker = new Worker(url, { type: 'module' });
        const end = (settle, value) => { worker.terminate(); URL.revokeObjectURL(url); settle(value); };
        worker.onmessage = ({ data }) =>
          'error' in data ? end(reject, new Error(data.error)) : end(resolve, data.value);
        worker.onerror = (event) => end(reject, new Error('worker: ' + event.message));
      })`),
    close: () => page.close(),
  };
}

const workerSource = (act: string, argument: string | undefined): string => `${NAME_HELPER}
  try {
    postMessage({ value: await (${act})(${argument}) });
  } catch (error) {
    postMessage({ error: String(error.stack ?? error) });
  }`;

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { pathname } = new URL(request.url ?? '/', 'http://127.0.0.1');
  if (pathname === '/') {
    response.writeHead(200, { 'Content-Type': 'text/html' });
    response.end('<!doctype html><link rel="icon" href="data:,"><title>Sluice test</title>');
    return;
  }
  const file = normalize(join(PACKAGE, decodeURIComponent(pathname)));
  const test = file.startsWith(join(PACKAGE, 'test') + sep);
  if (!test && !file.startsWith(join(PACKAGE, 'dist') + sep)) {
    response.writeHead(404).end();
    return;
  }
  let body: Buffer | string;
  try {
    body = await readFile(test ? file.replace(/\.js$/, '.ts') : file);
  } catch {
    response.writeHead(404).end();
    return;
  }
  if (test && file.endsWith('.js')) {
    body = ts.transpileModule(body.toString(), {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 },
    }).outputText;
  }
  const type = TYPES[extname(file)] ?? 'application/octet-stream';
  response.writeHead(200, { 'Content-Type': type, 'Cache-Control': 'no-store' }).end(body);
}

function stop(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => {
      resolve();
    });
    server.closeAllConnections();
  });
}

/** The browser's main process: the one with this profile whose parent has another command line. */
async function processOfProfile(profile: string): Promise<number> {
  const mine = new Set<number>();
  const parents = await parentProcesses();
  for (const pid of parents.keys()) {
    const line = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (line.includes(`--user-data-dir=${profile}`)) mine.add(pid);
  }
  for (const pid of mine) {
    if (!mine.has(parents.get(pid) ?? 0)) return pid;
  }
  throw new Error('the browser process was not found in /proc');
}

/** Every process and its parent. */
async function parentProcesses(): Promise<Map<number, number>> {
  const parents = new Map<number, number>();
  const names = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  await Promise.all(
    names.map(async (name) => {
      const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
      // "pid (command) state parent ...", where the command may hold anything.
      const parent = /^.*\) \S (\d+)/s.exec(stat)?.[1];
      if (parent !== undefined) parents.set(Number(name), Number(parent));
    }),
  );
  return parents;
}

/**
 * Bytes of memory that a process and its descendants hold, shared pages shared out among their users (PSS,
 * https://docs.kernel.org/filesystems/proc.html). With the software adapter it includes the "GPU" memory.
 */
export async function browserMemory(pid: number): Promise<number> {
  const parents = await parentProcesses();
  const inTree = (process: number): boolean => {
    for (let at: number | undefined = process; at; at = parents.get(at))
      if (at === pid) return true;
    return false;
  };
  const sizes = await Promise.all(
    [...parents.keys()].filter(inTree).map(async (process) => {
      const text = await readFile(`/proc/${process}/smaps_rollup`, 'utf8').catch(() => '');
      return 1024 * Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1] ?? 0);
    }),
  );
  return sizes.reduce((sum, size) => sum + size, 0);
}

export interface MemorySampler {
  /** The largest sample so far, in bytes. */
  readonly peak: number;
  /** Takes a last sample and gives the peak. */
  stop(): Promise<number>;
}

/** Samples browserMemory() until stopped. A peak shorter than the interval may be missed. */
export function sampleMemory(pid: number, intervalMs = 50): MemorySampler {
  let peak = 0;
  const stopping = new AbortController();
  const { signal } = stopping;
  const sample = async (): Promise<void> => {
    peak = Math.max(peak, await browserMemory(pid));
  };
  const loop = (async () => {
    while (!signal.aborted) {
      await sample();
      await sleep(intervalMs, undefined, { signal }).catch(() => undefined);
    }
    await sample();
  })();
  return {
    get peak() {
      return peak;
    },
    stop: async () => {
      stopping.abort();
      await loop;
      return peak;
    },
  };
}
