/** `sluice/tvmjs` in Node: in place of `@mlc-ai/web-runtime`. */
import { fileURLToPath } from 'node:url';
import { makeEntry } from './entry.js';
import type { InstanceBase } from './instance.js';
import type { RPCServerBase } from './rpc_server.js';

export * from './exports.js';

const entry = /* @__PURE__ */ makeEntry({
  // Not before they are used
  loadModel: async (from, options) => (await import('../node.js')).loadModel(from, options),
  openStore: async () => (await import('../node.js')).openStore(),
});

export const { Instance, instantiate, hasTensorInCache, deleteTensorCache, RPCServer } = entry;
export type Instance = InstanceBase;
export type RPCServer = RPCServerBase;

/** The folder of the package's `sluice_runtime.wasm`. */
export function wasmPath(): string {
  return fileURLToPath(new URL('..', import.meta.url)).replace(/[/\\]$/, '');
}
