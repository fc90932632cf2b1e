/** `sluice/runtime` in Node: the runtime of compiled models, for new code. */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { asSluiceError, SluiceError } from '../errors.js';
import { createWith, type RuntimeOptions } from './create.js';
import type { ModelLoader } from './load.js';
import type { Runtime } from './runtime.js';

export * from './exports.js';

// Not before it is used
const loadModel: ModelLoader = async (from, options) =>
  (await import('../node.js')).loadModel(from, options);

let compiled: Promise<WebAssembly.Module> | undefined;

/** The wasm lies beside the package's JavaScript; compiled once a process, and again after a failure. */
function runtimeModule(): Promise<WebAssembly.Module> {
  const file = fileURLToPath(new URL('../sluice_runtime.wasm', import.meta.url));
  compiled ??= readFile(file)
    .then((bytes) => WebAssembly.compile(bytes))
    .catch((cause: unknown) => {
      compiled = undefined;
      throw new SluiceError('internal', `${file} does not load: ${asSluiceError(cause).message}`, {
        file,
        hint: "it lies beside the package's JavaScript; install the package again",
        cause,
      });
    });
  return compiled;
}

/** A runtime of its own, of the package's wasm unless `options.wasm` says otherwise. Rejects with a SluiceError. */
export function createRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  return createWith(options, runtimeModule, loadModel);
}
