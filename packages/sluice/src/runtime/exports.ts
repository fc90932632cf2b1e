/** What both entries, index.ts and node.ts, export beside their own createRuntime(). */
export { SluiceError } from '../errors.js';
export type { ErrorCode, ErrorDetails } from '../errors.js';
export type { RuntimeOptions } from './create.js';
export { RuntimeError } from './errors.js';
export type { RuntimeErrorDetails } from './errors.js';
export type { Owned, RuntimeFunction } from './function.js';
export { LoadedTensors } from './load.js';
export type { LoadTensorsOptions, ModelSource } from './load.js';
export { RuntimeArray, RuntimeModule, RuntimeObject } from './object.js';
export { Runtime } from './runtime.js';
export type { ScopeOptions } from './runtime.js';
export { Scope } from './scope.js';
export { ShapeTuple } from './shapes.js';
export { Tensor } from './tensor.js';
export type { ViewOptions } from './tensor.js';
export type { TensorArray, TensorData } from './tensor_data.js';
export { DataType, Device, Float, float, Pointer } from './values.js';
export type { Argument, Callback, DeviceName, Value } from './values.js';
