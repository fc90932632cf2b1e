/** Starts the loading worker, wherever the package is served from. */
import { SluiceError } from './errors.js';
import type { FromWorker } from './worker_protocol.js';

const HINT =
  'serve worker.js beside the package, from another origin with CORS headers; where the page has a ' +
  'Content-Security-Policy, let worker-src allow it (blob: for another origin); or load with worker: false';

let warned = false;

/**
 * The worker, ready for messages. Where it cannot be started: undefined, said once on the console, or, where it is
 * required, a rejection with `internal`.
 */
export async function startWorker(required: boolean): Promise<Worker | undefined> {
  try {
    return await start();
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const message = `the loading worker could not be started: ${reason}`;
    if (required) throw new SluiceError('internal', message, { hint: HINT, cause });
    // eslint-disable-next-line no-console -- a page that is slower than it should be has no other sign
    if (!warned) console.warn(`sluice: ${message}. Models load in the calling thread. ${HINT}`);
    warned = true;
    return undefined;
  }
}

/** The one expression by which bundlers know that worker.js is a worker's script; they write its place there. */
function makeWorker(): Worker {
  return new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
}

async function start(): Promise<Worker> {
  try {
    return await ready(makeWorker());
  } catch (cause) {
    const { url, type } = scriptOfWorker();
    if (url.origin === location.origin) throw cause;
    // Browsers start workers from scripts of the page's own origin alone; such a script may import others by CORS
    const address = JSON.stringify(url.href);
    const script = type === 'module' ? `import ${address};` : `importScripts(${address});`;
    const blob = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
    try {
      return await ready(new Worker(blob, { type }));
    } finally {
      URL.revokeObjectURL(blob);
    }
  }
}

/** What makeWorker() gives to the constructor: after a bundler it is no longer what is written there. */
function scriptOfWorker(): { url: URL; type: WorkerType } {
  const { Worker } = globalThis;
  let url = '';
  let type: WorkerType = 'classic';
  globalThis.Worker = function (script: string | URL, options?: WorkerOptions) {
    url = String(script);
    type = options?.type ?? type;
  } as unknown as typeof Worker;
  try {
    makeWorker();
  } finally {
    globalThis.Worker = Worker;
  }
  return { url: new URL(url, location.href), type };
}

/** Settles once the worker's script runs, or has failed to. */
function ready(worker: Worker): Promise<Worker> {
  return new Promise((resolve, reject) => {
    worker.addEventListener('message', ({ data }: MessageEvent<FromWorker>) => {
      if (data.type === 'ready') resolve(worker);
    });
    worker.addEventListener('error', (event) => {
      worker.terminate();
      reject(new Error(event.message || 'its script does not load, or is not allowed to'));
    });
  });
}
