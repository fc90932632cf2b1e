/** Sluice in Node: the same package over local files and http(s). */
import { stat } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { asSluiceError, SluiceError } from './errors.js';
import { loadHere, type StoreOpener } from './load.js';
import type { Model } from './model.js';
import { checkOptions, DEFAULT_BUDGET_BYTES, type LoadOptions } from './options.js';
import { loadPlaced } from './placement.js';
import { blobModel } from './sources/blob.js';
import { FileSource } from './sources/file.js';
import { httpModel } from './sources/http_model.js';
import { isModelFiles, modelOfFiles, notAModel, type ModelFiles } from './sources/model_files.js';
import { nodeHttpTransport } from './sources/node_http.js';
import type { Source } from './sources/source.js';
import { ModelStore } from './store/model_store.js';
import { nodePlatform } from './store/node.js';
import { checkStore, checkStoreName, storeKey, StoreUse } from './store/store_use.js';
import { loaderModule } from './wasm_files_node.js';

export * from './exports.js';

/**
 * Loads a model. `from` is an http(s) or file URL or a path, of a manifest, a file or a folder; or a `Blob` or
 * `File`, or several `File`s or a Map from paths to them, among which the model is found as modelOfFiles() in
 * sources/model_files.ts says. To the CPU unless `device` is given. Rejects with a SluiceError; whatever was
 * allocated is freed then.
 */
export async function loadModel(
  from: string | URL | ModelFiles,
  options: LoadOptions = {},
): Promise<Model> {
  try {
    checkOptions(options);
    checkStore(options.store);
    const module = loaderModule();
    module.catch(() => undefined); // heard by who needs it first
    const openStore = storeOpener(from, options);
    const openSource = async (): Promise<{ source: Source; name: string }> =>
      isModelFiles(from) ? blobModel(await modelOfFiles(from)) : modelAt(from, options);
    const load = async (part: LoadOptions): Promise<Model> => {
      const { source, name } = await openSource();
      return loadHere(module, source, name, part, openStore);
    };
    if (options.placement === undefined) return await load(options);
    return await loadPlaced({ module, source: openSource, openStore, load }, options);
  } catch (error) {
    throw asSluiceError(error);
  }
}

/** The store in a folder; unless given, `sluice` in the user's cache folder (XDG_CACHE_HOME, or ~/.cache). */
export async function openStore(directory: string = defaultDirectory()): Promise<ModelStore> {
  checkStoreName(directory);
  return new ModelStore(await nodePlatform(resolve(directory)));
}

function defaultDirectory(): string {
  const { XDG_CACHE_HOME: cache } = process.env;
  return join(cache === undefined || cache === '' ? join(homedir(), '.cache') : cache, 'sluice');
}

function storeOpener(
  from: string | URL | ModelFiles,
  { store, storeKey: key, signal, budgetBytes = DEFAULT_BUDGET_BYTES, integrity }: LoadOptions,
): StoreOpener | undefined {
  if (store === undefined || store === false || isModelFiles(from)) return undefined;
  if (!/^https?:/i.test(String(from))) return undefined;
  return (origin, onUnavailable) => {
    const open = store === true ? () => openStore() : () => Promise.resolve(store);
    return StoreUse.begin(open, storeKey(String(from), key), origin, {
      budgetBytes,
      signal,
      integrity,
      onUnavailable,
    });
  };
}

async function modelAt(
  given: string | URL,
  options: LoadOptions,
): Promise<{ source: Source; name: string }> {
  if (typeof given !== 'string' && !(given instanceof URL)) throw notAModel(given);
  const location = String(given);
  if (location === '') {
    throw new SluiceError('invalid_argument', 'the location of the model is empty', {
      hint: "give a URL or a path; '.' for the folder in which the process runs",
    });
  }
  if (/^https?:/i.test(location)) {
    return httpModel(location, {
      ...options,
      ...(options.fetch ? {} : { transport: nodeHttpTransport() }),
    });
  }
  const path = /^file:/i.test(location) ? fileURLToPath(location) : location;
  const folder = await stat(path).then(
    (info) => info.isDirectory(),
    () => false, // what is not there is reported when it is opened
  );
  return folder
    ? { source: new FileSource(path), name: '' }
    : { source: new FileSource(dirname(path)), name: basename(path) };
}
