/** What both entries, index.ts and node.ts, export beside their own loadModel(). */
export { SluiceError } from './errors.js';
export type { ErrorCode, ErrorDetails } from './errors.js';
export { Model } from './model.js';
export type { CpuTensor, DType, GpuTensor, LoadedTensor, LoadReport } from './model.js';
export type { LoadOptions, Placement, TensorConsumer, TensorInfo } from './options.js';
export { requestDevice } from './sinks/device.js';
export { measureUpload } from './sinks/measure_upload.js';
export type { UploadMeasurement, UploadPath } from './sinks/measure_upload.js';
export type { ModelFiles } from './sources/model_files.js';
export { filesForImport, handleTarget } from './store/folders.js';
export type { DiskTensor, RowTarget } from './store/disk_tensor.js';
export { ModelStore } from './store/model_store.js';
export type { CopyOptions, FileTarget, StoredModelEntry } from './store/model_store.js';
export type { StoreReport } from './store/session.js';
export type { LoadProgress, ManifestTensor } from './wasm/loader_module.js';
