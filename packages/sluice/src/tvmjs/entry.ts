import type { TensorCacheAccessOptions } from './artifact_cache.js';
import { Environment } from './environment.js';
import { InstanceBase, type Host, type InitProgressCallback } from './instance.js';
import { RPCServerBase } from './rpc_server.js';
import { accessOptions, deleteTensors, hasTensors } from './tensor_cache.js';
import type { Untyped } from './types.js';

/** A function of a URL, and of the options, or of the scope and the type alone. */
export interface OfTensorCache<Result> {
  (cacheUrl: string, options?: TensorCacheAccessOptions): Promise<Result>;
  (cacheUrl: string, cacheScope?: string, cacheType?: string): Promise<Result>;
}

/** What of tvmjs depends on whether it runs in a browser or in Node. */
export interface Entry {
  Instance: new (
    wasmModule: WebAssembly.Module,
    importObject?: Record<string, Untyped>,
    wasmInstance?: WebAssembly.Instance,
    env?: Environment,
  ) => InstanceBase;
  /** An instance of a wasm module's bytes. `logger` is where the runtime logs. */
  instantiate: (
    bufferSource: BufferSource,
    importObject?: Record<string, Untyped>,
    logger?: (message: string) => void,
  ) => Promise<InstanceBase>;
  /** Whether fetchTensorCache() of that URL, scope and type would need no network. */
  hasTensorInCache: OfTensorCache<boolean>;
  /** Removes what fetchTensorCache() has kept. */
  deleteTensorCache: OfTensorCache<void>;
  /** Serves wasm modules to TVM's RPC clients. */
  RPCServer: new (
    url: string,
    key: string,
    getImports: () => Record<string, unknown>,
    logger?: (msg: string) => void,
    tensorCacheUrl?: string,
    tensorCacheDevice?: string,
    initProgressCallback?: InitProgressCallback,
    asyncOnServerLoad?: (inst: InstanceBase) => Promise<Untyped>,
  ) => RPCServerBase;
}

export function makeEntry(host: Host): Entry {
  class Instance extends InstanceBase {
    constructor(
      wasmModule: WebAssembly.Module,
      importObject?: Record<string, Untyped>,
      wasmInstance?: WebAssembly.Instance,
      env?: Environment,
    ) {
      super(host, wasmModule, importObject, wasmInstance, env);
    }
  }
  const instantiate: Entry['instantiate'] = async (bufferSource, importObject, logger) => {
    const env = new Environment(importObject, logger);
    const { module, instance } = await WebAssembly.instantiate(
      bufferSource,
      env.imports as WebAssembly.Imports,
    );
    return new Instance(module, {}, instance, env);
  };
  class RPCServer extends RPCServerBase {
    constructor(...args: ConstructorParameters<Entry['RPCServer']>) {
      super(instantiate, ...args);
    }
  }
  return {
    Instance,
    instantiate,
    RPCServer,
    hasTensorInCache: ofTensorCache((url, options) => hasTensors(host, url, options)),
    deleteTensorCache: ofTensorCache((url, options) => deleteTensors(host, url, options)),
  };
}

function ofTensorCache<Result>(
  act: (url: string, options: TensorCacheAccessOptions) => Promise<Result>,
): OfTensorCache<Result> {
  return async (
    url: string,
    scopeOrOptions: string | TensorCacheAccessOptions = 'tvmjs',
    cacheType?: string,
  ) => act(url, accessOptions(scopeOrOptions, cacheType ?? 'cache'));
}
