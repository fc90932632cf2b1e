export { detectDevice } from './detect.js';
export type { DetectedDevice } from './detect.js';
export { WebGPUDevice } from './device.js';
export type {
  ImageView,
  KernelSource,
  WasmBytes,
  WebGPUDeviceOptions,
  WebGPUStats,
} from './device.js';
export type { KernelFunction } from './kernel.js';
export type { FunctionInfo, KernelArgument } from './launch.js';
export type { KernelTime } from './profile.js';
