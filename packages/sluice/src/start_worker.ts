/** Starts the package's workers, wherever the package is served from. */
import { SluiceError } from './errors.js';

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
    return await startScript(makeWorker);
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

/** The store's worker, ready for messages. Rejects where it cannot be started. */
export function startStoreWorker(): Promise<Worker> {
  return startScript(
    () => new Worker(new URL('./store_worker.js', import.meta.url), { type: 'module' }),
  );
}

/** The one expression by which bundlers know that worker.js is a worker's script; they write its place there. */
function makeWorker(): Worker {
  return new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
}

/**
 * The worker that `make` makes, once it says that it is ready. `make` must be the one expression by which bundlers know
 * a worker's script: `new Worker(new URL(…, import.meta.url), …)`.
 */
async function startScript(make: () => Worker): Promise<Worker> {
  try {
    return await ready(make());
  } catch (cause) {
    const { url, type } = scriptOf(make);
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

/** What `make` gives to the constructor: after a bundler it is no longer what is written there. */
function scriptOf(make: () => Worker): { url: URL; type: WorkerType } {
  const { Worker } = globalThis;
  let url = '';
  let type: WorkerType = 'classic';
  globalThis.Worker = function (script: string | URL, options?: WorkerOptions) {
    url = String(script);
    type = options?.type ?? type;
  } as unknown as typeof Worker;
  try {
    make();
  } finally {
    globalThis.Worker = Worker;
  }
  return { url: new URL(url, location.href), type };
}

/** Settles once the worker's script runs, or has failed to. */
function ready(worker: Worker): Promise<Worker> {
  return new Promise((resolve, reject) => {
    worker.addEventListener('message', ({ data }: MessageEvent<{ type?: string }>) => {
      if (data.type === 'ready') resolve(worker);
    });
    worker.addEventListener('error', (event) => {
      worker.terminate();
      reject(new Error(event.message || 'its script does not load, or is not allowed to'));
    });
  });
}
