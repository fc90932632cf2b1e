/** Sluice in the browser: on a page's main thread, or in a worker of the caller's own. */
import { DeviceAhead, loadHere, resolveTarget, type StoreOpener } from './load.js';
import { loadInWorker } from './load_in_worker.js';
import type { Model } from './model.js';
import { checkOptions, DEFAULT_BUDGET_BYTES, type LoadOptions } from './options.js';
import { loadPlaced } from './placement.js';
import { blobModel } from './sources/blob.js';
import { httpModel } from './sources/http_model.js';
import { isModelFiles, modelOfFiles, notAModel, type ModelFiles } from './sources/model_files.js';
import type { Source } from './sources/source.js';
import { MAX_STAGING_SLOTS } from './sinks/remote_sink.js';
import { startWorker } from './start_worker.js';
import { orAborted } from './util/abort.js';
import { KeptWorkers } from './util/kept_workers.js';
import { askToPersist, browserPlatform, DEFAULT_ROOT } from './store/browser.js';
import { ModelStore } from './store/model_store.js';
import { checkStore, checkStoreName, storeKey, StoreUse } from './store/store_use.js';
import { loaderModule, storeModule } from './wasm_files.js';
import type { ModelPlace, StoreWish } from './worker_protocol.js';
import { asSluiceError, SluiceError } from './errors.js';

export * from './exports.js';
export { fromDataTransfer } from './sources/model_files.js';

/**
 * Loads a model: a tensor cache, safetensors (one file or an index) or GGUF (one file or split). `from` is
 * - the URL of its manifest, its file or its folder, absolute or relative to the page;
 * - a `File` or `Blob`, or a file handle;
 * - several files: those of an `<input type=file>` (`multiple` or `webkitdirectory`), an array, a Map from paths to
 *   files or handles, or what fromDataTransfer() gives;
 * - a directory handle, as `showDirectoryPicker()` and OPFS have them.
 *
 * Of several files and in a folder the model is found as modelOfFiles() in sources/model_files.ts says. Rejects
 * with a SluiceError; whatever was allocated is freed then.
 */
export async function loadModel(
  from: string | URL | ModelFiles,
  options: LoadOptions = {},
): Promise<Model> {
  try {
    checkOptions(options);
    checkStore(options.store);
    const place = await modelPlace(from, options);
    const module = loaderModule();
    module.catch(() => undefined); // heard by who needs it first
    const model =
      options.placement === undefined
        ? await loadAt(module, place, options)
        : await loadPlaced(
            {
              module,
              source: () => Promise.resolve(openPlace(place, options)),
              openStore: storeOpener(place, options),
              load: (part) => loadAt(module, place, part),
            },
            options,
          );
    if (model.report.store?.storedBytes) askToPersist();
    return model;
  } catch (error) {
    throw asSluiceError(error);
  }
}

/** One: of a page's loads mostly one is under way. */
const loadingWorkers = new KeptWorkers<Worker>(1, {
  rest(worker, gone) {
    worker.onerror = gone;
  },
  end(worker) {
    worker.terminate();
  },
});

/** Loads what lies at a place, in a worker where one is wanted and can be had. */
async function loadAt(
  module: Promise<WebAssembly.Module>,
  place: ModelPlace,
  options: LoadOptions,
): Promise<Model> {
  const page = typeof document !== 'undefined';
  const target = options.consume ? 'cpu' : resolveTarget(options.device);
  const wantsWorker = options.worker ?? page;
  const own = options.fetch !== undefined || typeof options.headers === 'function';
  const wish = storeWish(place, options);
  // Meanwhile; whoever cannot have it says so where it is needed
  const store = wish && storeModule().catch(() => undefined);
  if (wantsWorker && target !== 'cpu' && !own && typeof Worker !== 'undefined') {
    const ahead = new DeviceAhead(target, options, MAX_STAGING_SLOTS);
    const kept = loadingWorkers.take();
    const started = kept ? Promise.resolve(kept) : startWorker(options.worker === true);
    try {
      const worker = await orAborted(started, options.signal, (late) => late?.terminate());
      if (worker) {
        const storeWasm = await store;
        return await loadInWorker(
          module,
          worker,
          place,
          options,
          ahead,
          wish && { ...wish, ...(storeWasm ? { module: storeWasm } : {}) },
          (unused) => {
            loadingWorkers.give(unused);
          },
        );
      }
    } finally {
      // Of what a worker's load has not taken, or not got to
      ahead.stop();
    }
  }
  const { source, name } = openPlace(place, options);
  return await loadHere(module, source, name, options, storeOpener(place, options));
}

function openPlace(place: ModelPlace, options: LoadOptions): { source: Source; name: string } {
  return 'url' in place ? httpModel(place.url, options) : blobModel(place);
}

/** The store that the options ask for, in front of a source; undefined where they ask for none. */
function storeOpener(place: ModelPlace, options: LoadOptions): StoreOpener | undefined {
  const wish = storeWish(place, options);
  if (!wish) return undefined;
  const { store, signal } = options;
  const open = store instanceof ModelStore ? () => Promise.resolve(store) : () => openStore();
  return (origin, onUnavailable) =>
    StoreUse.begin(open, wish.key, origin, { ...wish, signal, onUnavailable });
}

/** The store of this browser, of which an origin may have several by name. Rejects with `io` where there is none. */
export async function openStore(name: string = DEFAULT_ROOT): Promise<ModelStore> {
  checkStoreName(name);
  return new ModelStore(await browserPlatform(name));
}

function storeWish(place: ModelPlace, options: LoadOptions): StoreWish | undefined {
  const { store = true, storeKey: key, budgetBytes = DEFAULT_BUDGET_BYTES, integrity } = options;
  if (!('url' in place) || store === false) return undefined;
  const root = store === true ? DEFAULT_ROOT : store.platform.place.root;
  return {
    root,
    key: storeKey(place.url, key),
    budgetBytes,
    ...(integrity === undefined ? {} : { integrity }),
    ...(options.tensors === undefined ? {} : { partial: true }),
  };
}

async function modelPlace(
  from: string | URL | ModelFiles,
  { headers, credentials, stallTimeoutMs }: LoadOptions,
): Promise<ModelPlace> {
  if (isModelFiles(from)) return modelOfFiles(from);
  if (typeof from !== 'string' && !(from instanceof URL)) throw notAModel(from);
  let url: string;
  try {
    url = new URL(from, globalThis.location.href).href;
  } catch (cause) {
    throw new SluiceError('invalid_argument', `'${String(from)}' is not a URL`, { cause });
  }
  return {
    url,
    http: {
      // Plain, since a Headers object cannot be posted to a worker
      ...(headers && typeof headers !== 'function'
        ? { headers: Object.fromEntries(new Headers(headers)) }
        : {}),
      ...(credentials ? { credentials } : {}),
      ...(stallTimeoutMs === undefined ? {} : { stallTimeoutMs }),
    },
  };
}
