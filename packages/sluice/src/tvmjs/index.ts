/** `sluice/tvmjs` in the browser: in place of `@mlc-ai/web-runtime`. */
import { makeEntry } from './entry.js';
import type { InstanceBase } from './instance.js';
import type { RPCServerBase } from './rpc_server.js';

export * from './exports.js';

const entry = /* @__PURE__ */ makeEntry({
  // Not before they are used
  loadModel: async (from, options) => (await import('../index.js')).loadModel(from, options),
  openStore: async () => (await import('../index.js')).openStore(),
});

export const { Instance, instantiate, hasTensorInCache, deleteTensorCache, RPCServer } = entry;
export type Instance = InstanceBase;
export type RPCServer = RPCServerBase;

/** The URL of the folder of the package's `sluice_runtime.wasm`. */
export function wasmPath(): string {
  return new URL('..', import.meta.url).href.replace(/\/$/, '');
}
