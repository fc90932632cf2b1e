/** `sluice/runtime` in Node: the runtime of compiled models, for new code. */
import { runtimeModule } from '../wasm_files_node.js';
import { createWith, type RuntimeOptions } from './create.js';
import type { ModelLoader } from './load.js';
import type { Runtime } from './runtime.js';

export * from './exports.js';

// Not before it is used
const loadModel: ModelLoader = async (from, options) =>
  (await import('../node.js')).loadModel(from, options);

/** A runtime of its own, of the package's wasm unless `options.wasm` says otherwise. Rejects with a SluiceError. */
export function createRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  return createWith(options, runtimeModule, loadModel);
}
