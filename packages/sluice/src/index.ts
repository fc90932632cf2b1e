/** Sluice in the browser: on a page's main thread, or in a worker of the caller's own. */
import { loadHere, resolveTarget } from './load.js';
import { loadInWorker } from './load_in_worker.js';
import type { Model } from './model.js';
import type { LoadOptions } from './options.js';
import { httpModel } from './sources/http_model.js';
import { asSluiceError } from './errors.js';

export { SluiceError } from './errors.js';
export type { ErrorCode, ErrorDetails } from './errors.js';
export { Model } from './model.js';
export type { CpuTensor, DType, GpuTensor, LoadedTensor, LoadReport } from './model.js';
export type { LoadOptions, TensorConsumer, TensorInfo } from './options.js';
export { requestDevice } from './sinks/device.js';
export { measureUpload } from './sinks/measure_upload.js';
export type { UploadMeasurement, UploadPath } from './sinks/measure_upload.js';
export type { LoadProgress, ManifestTensor } from './wasm/loader_module.js';

let compiled: Promise<WebAssembly.Module> | undefined;

/** The loader's wasm lies beside this file; compiled once a page, and again after a failure. */
function loaderModule(): Promise<WebAssembly.Module> {
  compiled ??= WebAssembly.compileStreaming(
    fetch(new URL('./sluice_loader.wasm', import.meta.url)),
  ).catch((error: unknown) => {
    compiled = undefined;
    throw error;
  });
  return compiled;
}

/**
 * Loads the model at `url`: a tensor cache, safetensors (one file or an index) or GGUF, given as its
 * manifest, its file or its folder, absolute or relative to the page. Rejects with a SluiceError; whatever
 * was allocated is freed then.
 */
export async function loadModel(url: string | URL, options: LoadOptions = {}): Promise<Model> {
  try {
    const module = await loaderModule();
    const href = new URL(url, globalThis.location.href).href;
    const page = typeof document !== 'undefined';
    const target = options.consume ? 'cpu' : resolveTarget(options.device);
    const wantsWorker = options.worker ?? page;
    if (wantsWorker && target !== 'cpu' && !options.fetch && typeof Worker !== 'undefined') {
      const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' });
      return await loadInWorker(module, worker, href, options);
    }
    const { source, name } = httpModel(href, options);
    return await loadHere(module, source, name, options);
  } catch (error) {
    throw asSluiceError(error);
  }
}
