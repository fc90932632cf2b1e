/** `sluice/runtime` in the browser: the runtime of compiled models, for new code. */
import { runtimeModule } from '../wasm_files.js';
import { createWith, type RuntimeOptions } from './create.js';
import type { ModelLoader } from './load.js';
import type { Runtime } from './runtime.js';

export * from './exports.js';

// Not before it is used
const loadModel: ModelLoader = async (from, options) =>
  (await import('../index.js')).loadModel(from, options);

/**
 * A runtime of its own. Its wasm is fetched from beside this module, once a page, unless `options.wasm` says otherwise. Rejects
 * with a SluiceError.
 */
export function createRuntime(options: RuntimeOptions = {}): Promise<Runtime> {
  return createWith(options, runtimeModule, loadModel);
}
