import { SluiceError } from '../errors.js';
import { DTYPES } from '../generated/abi.js';
import type { GpuTensor, LoadReport, Model } from '../model.js';
import type { LoadOptions, TensorInfo } from '../options.js';
import type { ModelFiles } from '../sources/model_files.js';
import type { ManifestTensor } from '../wasm/loader_module.js';
import { DEVICE_CPU, DEVICE_WEBGPU } from './abi.js';
import type { Core, DeviceMemory } from './core.js';
import { emptyTensor, notATensor, Tensor } from './tensor.js';
import { Device, Pointer } from './values.js';

/** What loadModel() loads from. */
export type ModelSource = string | URL | ModelFiles;

/** loadModel() of the package's entry for browsers, or for Node. */
export type ModelLoader = (from: ModelSource, options: LoadOptions) => Promise<Model>;

export interface LoadTensorsOptions extends Omit<
  LoadOptions,
  'device' | 'requiredFeatures' | 'placement' | 'usage' | 'shareBelowBytes' | 'consume'
> {
  /** Where the tensors go: WebGPU where the runtime has a device and the CPU elsewhere, unless given. */
  device?: Device;
  /** Whether each is put into the tensor cache as well, under its name, where compiled models look for parameters. */
  cache?: boolean;
}

/** A model's tensors. Its owner calls dispose(); those in the tensor cache stay there. */
export class LoadedTensors implements Disposable {
  /** The container: "tensor-cache", "safetensors" or "gguf". */
  readonly format: string;
  /** The format's own metadata. */
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly report: LoadReport;
  /** By name, in the order in which they came. They belong to no scope. */
  readonly tensors: ReadonlyMap<string, Tensor>;

  constructor(model: Model, tensors: ReadonlyMap<string, Tensor>) {
    this.format = model.format;
    this.metadata = model.metadata;
    this.report = model.report;
    this.tensors = tensors;
  }

  get(name: string): Tensor | undefined {
    return this.tensors.get(name);
  }

  dispose(): void {
    for (const tensor of this.tensors.values()) tensor.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Runtime.loadTensors(). */
export async function loadTensors(
  core: Core,
  loadModel: ModelLoader,
  from: ModelSource,
  { device, cache = false, ...options }: LoadTensorsOptions,
): Promise<LoadedTensors> {
  const target = device ?? new Device(core.gpu ? 'webgpu' : 'cpu');
  const tensors = new Map<string, Tensor>();
  try {
    const model =
      target.type === DEVICE_CPU
        ? await loadToCpu(core, loadModel, from, options, target, tensors)
        : await loadToGpu(core, loadModel, from, options, target, tensors);
    if (cache) for (const [name, tensor] of tensors) putIntoCache(core, name, tensor);
    return new LoadedTensors(model, tensors);
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    throw error;
  }
}

/** Each tensor's bytes are written where they stay, as they come. */
async function loadToCpu(
  core: Core,
  loadModel: ModelLoader,
  from: ModelSource,
  options: LoadOptions,
  device: Device,
  tensors: Map<string, Tensor>,
): Promise<Model> {
  const { tensors: wanted, dtype } = options;
  const names = typeof wanted === 'object' ? new Set(wanted) : undefined;
  const selects = typeof wanted === 'function' ? wanted : undefined;
  const selected = new Map<string, ManifestTensor>();
  let checked = false;
  const checkNames = (): void => {
    if (checked) return;
    checked = true;
    for (const name of names ?? []) if (!selected.has(name)) throw noSuchTensor(name);
  };
  const allocate = (info: TensorInfo): Tensor => {
    const tensor = core.scopes.outside(() => makeTensor(core, info, device));
    tensors.set(info.name, tensor);
    return tensor;
  };
  const model = await loadModel(from, {
    ...options,
    device: 'cpu',
    // Also tells of the tensors that have no bytes
    tensors: (tensor) => {
      const take = selects ? selects(tensor) : (names?.has(tensor.name) ?? true);
      if (take) selected.set(tensor.name, tensor);
      return take;
    },
    consume: (info, offset, bytes) => {
      checkNames();
      const tensor = tensors.get(info.name) ?? allocate(info);
      tensor.inPlace().set(bytes, offset);
    },
  });
  checkNames();
  for (const [name, { shape, dtype: stored }] of selected) {
    if (tensors.has(name)) continue;
    const converted = dtype !== undefined && dtype !== 'stored' && isConverted(stored);
    allocate({
      name,
      shape,
      dtype: (converted ? dtype : stored) as TensorInfo['dtype'],
      nbytes: 0,
    });
  }
  return model;
}

/** Whether the option `dtype` is about tensors of this type. */
function isConverted(stored: string): boolean {
  return DTYPES[stored as keyof typeof DTYPES].quantized || /^b?float/.test(stored);
}

async function loadToGpu(
  core: Core,
  loadModel: ModelLoader,
  from: ModelSource,
  options: LoadOptions,
  device: Device,
  tensors: Map<string, Tensor>,
): Promise<Model> {
  const { gpu } = core;
  if (device.type !== DEVICE_WEBGPU || !gpu) {
    throw new SluiceError('invalid_argument', `there is no device ${String(device)}`, {
      hint: 'pass the GPUDevice to createRuntime()',
    });
  }
  // A kernel binds a tensor's whole buffer
  const model = await loadModel(from, { ...options, device: gpu.device, shareBelowBytes: 0 });
  const left = new Map(model.tensors);
  try {
    for (const [name, tensor] of left) {
      if (tensor.location !== 'gpu') throw new SluiceError('internal', `'${name}' is on no GPU`);
      checkDType(core, tensor);
      tensors.set(name, adopt(core, gpu, tensor, device));
      left.delete(name);
    }
  } catch (error) {
    for (const tensor of left.values()) if (tensor.location === 'gpu') tensor.buffer.destroy();
    throw error;
  }
  return model;
}

/** A tensor over the buffer, which it takes over. */
function adopt(core: Core, gpu: DeviceMemory, loaded: GpuTensor, device: Device): Tensor {
  const { name, shape, dtype, buffer } = loaded;
  const fromHandle = core.global('sluice.runtime.TensorFromHandle');
  const tuple = core.shapes.get(shape);
  const handle = gpu.adoptBuffer(buffer);
  const tensor = core.scopes.outside(() =>
    core.call(fromHandle, [new Pointer(handle), tuple, dtype, device]),
  );
  if (!(tensor instanceof Tensor)) throw notATensor('sluice.runtime.TensorFromHandle', tensor);
  tensor.name = name;
  return tensor;
}

function makeTensor(core: Core, info: TensorInfo, device: Device): Tensor {
  checkDType(core, info);
  const tensor = emptyTensor(core, info.shape, core.dtype(info.dtype), device);
  tensor.name = info.name;
  return tensor;
}

/** Formats have types that tensors do not. */
function checkDType(core: Core, { name, dtype }: Pick<TensorInfo, 'name' | 'dtype'>): void {
  if (!DTYPES[dtype].quantized) return;
  throw new SluiceError('unsupported_dtype', `tensor '${name}' is ${dtype}, in blocks`, {
    tensor: name,
    hint: "load it with the option dtype: 'float16' or 'float32'",
  });
}

function putIntoCache(core: Core, name: string, tensor: Tensor): void {
  core.call(core.global('vm.builtin.tensor_cache.update'), [name, tensor, true]);
}

function noSuchTensor(name: string): SluiceError {
  return new SluiceError('invalid_argument', `the model has no tensor '${name}'`, { tensor: name });
}
