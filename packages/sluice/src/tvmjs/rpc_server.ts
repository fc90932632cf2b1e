import type { InitProgressCallback, InstanceBase } from './instance.js';
import type { Untyped } from './types.js';

/** Serves a runtime to TVM's RPC clients, in tvmjs. Here its constructor throws: the wasm module has no RPC. */
export class RPCServer {
  url: string;
  key: string;

  constructor(
    url: string,
    key: string,
    _getImports: () => Record<string, unknown>,
    _logger?: (msg: string) => void,
    _tensorCacheUrl?: string,
    _tensorCacheDevice?: string,
    _initProgressCallback?: InitProgressCallback,
    _asyncOnServerLoad?: (inst: InstanceBase) => Promise<Untyped>,
  ) {
    this.url = url;
    this.key = key;
    throw new Error(
      `RPCServer[${key}]: this runtime serves no RPC, since its wasm module has no functions ` +
        'rpc.CreateEventDrivenServer and wasm.LocalSession; tvmjs serves a module of TVM',
    );
  }
}
