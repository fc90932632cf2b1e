/** What both entries, index.ts and node.ts, export beside what entry.ts makes for each. */
export {
  ArtifactCache,
  ArtifactCrossOriginStorageCache,
  ArtifactIndexedDBCache,
  ArtifactOPFSCache,
  createArtifactCache,
} from './artifact_cache.js';
export type {
  ArtifactCacheTemplate,
  ArtifactCacheType,
  OPFSAccessMode,
  TensorCacheAccessOptions,
} from './artifact_cache.js';
export { CacheState, LRUCache } from './cache_state.js';
export type { InitProgressCallback, InitProgressReport } from './instance.js';
export {
  DLDataType,
  DLDevice,
  Module,
  Scalar,
  Tensor,
  TVMArray,
  TVMObject,
  VirtualMachine,
} from './objects.js';
export type { AsyncPackedFunc, PackedFunc } from './objects.js';
export { assert, LinearCongruentialGenerator } from './support.js';
export type { RNGState } from './support.js';
export type { FetchTensorCacheOptions } from './tensor_cache.js';
export type { Disposable, LibraryProvider } from './types.js';
export { createPolyfillWASI } from './wasi.js';
export { detectGPUDevice } from './webgpu.js';
export type { GPUDeviceDetectOutput } from './webgpu.js';
