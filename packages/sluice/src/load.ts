import { asSluiceError, SluiceError } from './errors.js';
import { runLoad } from './engine.js';
import { Model, type DType, type LoadedTensor, type LoadReport } from './model.js';
import { openModel } from './open.js';
import { DEFAULT_BUDGET_BYTES, planOptions, SLOT_BYTES, type LoadOptions } from './options.js';
import { ConsumerSink } from './sinks/consumer_sink.js';
import { CpuSink } from './sinks/cpu_sink.js';
import { defaultAdapter, requestDevice } from './sinks/device.js';
import type { GpuSlotSink } from './sinks/gpu_buffers.js';
import { expandsOnDevice } from './sinks/expand_where.js';
import { createUploadSink } from './sinks/measure_upload.js';
import type { Sink } from './sinks/sink.js';
import type { Source } from './sources/source.js';
import { closeBehind } from './store/closing.js';
import { storeReport, warnUnavailable, type StoreUse } from './store/store_use.js';
import { orAborted } from './util/abort.js';
import type { ModelManifest, ModelPlan } from './wasm/loader_module.js';

/**
 * How many times a slot's bytes exist: once where the page writes them, once more in the process that owns
 * the GPU, to which the browser copies them.
 */
const GPU_SLOT_COPIES = 2;

/** Staging slots of SLOT_BYTES that the default budget gives a load in one thread, with a store or without. */
const SLOTS_AHEAD = 6;

/** Puts the store in front of a source; gives nothing where there is none, and tells why. */
export type StoreOpener = (
  origin: Source,
  onUnavailable: (reason: string) => void,
) => Promise<StoreUse | undefined>;

/** Loads in the calling thread. Rejects with a SluiceError and nothing else; frees everything if so. */
export async function loadHere(
  module: Promise<WebAssembly.Module>,
  origin: Source,
  name: string,
  options: LoadOptions,
  openStore?: StoreOpener,
): Promise<Model> {
  let use: StoreUse | undefined;
  let destination: Destination | undefined;
  let ahead: DeviceAhead | undefined;
  let unavailable: string | undefined;
  try {
    const target = options.consume ? 'consume' : resolveTarget(options.device);
    ahead = new DeviceAhead(target, options);
    use = await openStore?.(origin, (reason) => {
      warnUnavailable(reason);
      unavailable = reason;
    });
    const source = use?.source ?? origin;
    if (options.integrity !== undefined && !use) throw integrityNeedsStore();
    const compiled = await orAborted(module, options.signal, () => undefined);
    const loader = await openModel(compiled, source, name, options.signal, checkOf(use));
    const manifest = loader.manifest();
    const reservedBytes = use?.budgetBytes(manifest) ?? 0;
    if (options.tensors === undefined) use?.opened(manifest);
    const staged = target !== 'consume' && target !== 'cpu';
    const expandOnDevice = await chooseExpansion(target, manifest, options, ahead);
    const plan = loader.plan(
      planOptions(options, manifest, {
        staged,
        expandOnDevice,
        slotCopies: staged ? GPU_SLOT_COPIES : 1,
        reservedBytes,
        allStored: use?.hasAll(manifest) ?? false,
        unbuffered: source.unbuffered,
      }),
    );
    await use?.planned(manifest, plan);
    destination = await destinationFor(target, manifest, plan, options, ahead);
    const progress = await runLoad(loader, manifest, plan, source, destination.sink, {
      signal: options.signal,
      onProgress: options.onProgress,
      onTensor: tensorCallback(options, manifest),
    });
    await use?.finish(manifest, plan);
    const tensors = destination.tensors();
    origin.close();
    if (use) closeBehind(use.close());
    destination.sink.close(true);
    const { device, owned, upload } = destination;
    return buildModel(manifest, tensors, device, owned, {
      ...progress,
      milliseconds: performance.now() - ahead.begin,
      upload,
      expandedOnDevice: countExpanded(plan),
      thread: 'caller',
      store: storeReport(use?.report, unavailable),
    });
  } catch (error) {
    destination?.sink.close(false);
    if (destination?.owned) destination.device?.destroy();
    origin.close();
    await use?.close();
    throw asSluiceError(error);
  } finally {
    ahead?.stop();
  }
}

/** Holds the manifest to what the load was pinned to. */
export function checkOf(
  use: StoreUse | undefined,
): ((path: string, bytes: Uint8Array<ArrayBuffer>) => Promise<void>) | undefined {
  return use?.pinned && ((path, bytes) => use.check(path, bytes));
}

export function integrityNeedsStore(): SluiceError {
  return new SluiceError(
    'invalid_argument',
    'option integrity needs the local store, in which whole files are checked',
    { hint: 'pass the option store, and a URL' },
  );
}

/** Where a load's bytes go, and what its tensors are then. */
interface Destination {
  readonly sink: Sink;
  readonly device: GPUDevice | undefined;
  /** The device was made for this load. */
  readonly owned: boolean;
  readonly upload: 'ring' | 'writeBuffer' | undefined;
  tensors(): Map<string, LoadedTensor>;
}

async function destinationFor(
  target: GPUDevice | 'gpu' | 'cpu' | 'consume',
  manifest: ModelManifest,
  plan: ModelPlan,
  options: LoadOptions,
  ahead: DeviceAhead,
): Promise<Destination> {
  const onCpu = { device: undefined, owned: false, upload: undefined };
  if (target === 'consume') {
    const sink = new ConsumerSink(consumer(options, manifest, plan));
    return { ...onCpu, sink, tensors: () => new Map() };
  }
  if (target === 'cpu') {
    const sink = new CpuSink();
    return { ...onCpu, sink, tensors: () => cpuTensors(manifest, plan, sink) };
  }
  const owned = target === 'gpu';
  const device = owned ? await newDevice(manifest, plan, options, ahead) : target;
  try {
    const sink = await ahead.sink(device);
    const tensors = () => gpuTensors(manifest, plan, sink);
    return { sink, device, owned, upload: sink.path, tensors };
  } catch (error) {
    if (owned) device.destroy();
    throw error;
  }
}

/** What `device` means here. */
export function resolveTarget(device: LoadOptions['device']): GPUDevice | 'gpu' | 'cpu' {
  if (device !== undefined && device !== 'auto') {
    // A GPUDevice of whatever implementation has a queue
    if (device === 'gpu' || device === 'cpu' || (device as Partial<GPUDevice> | null)?.queue) {
      return device;
    }
    const given = typeof device === 'string' ? `'${String(device)}'` : typeof device;
    throw new SluiceError(
      'invalid_argument',
      `option device is ${given}; expected a GPUDevice, 'gpu', 'cpu' or 'auto'`,
    );
  }
  const gpu = typeof navigator === 'undefined' ? undefined : (navigator as Partial<Navigator>).gpu;
  return gpu === undefined ? 'cpu' : 'gpu';
}

/** What takes time of a device and depends on no model: begun at once, so that it is done when the model is opened. */
export class DeviceAhead {
  /** When the load began, by performance.now(). */
  readonly begin = performance.now();
  readonly #stop = new AbortController();
  readonly #options: LoadOptions;
  readonly #adapter: Promise<GPUAdapter> | undefined;
  /** Of the caller's device, until somebody takes it. */
  #sink: Promise<GpuSlotSink> | undefined;

  /** `slots` of staging are made at once: what a load that fills them as planned has, at most. */
  constructor(
    target: GPUDevice | 'gpu' | 'cpu' | 'consume',
    options: LoadOptions,
    slots: number = SLOTS_AHEAD,
  ) {
    this.#options = options;
    const { signal, budgetBytes = DEFAULT_BUDGET_BYTES } = options;
    if (signal?.aborted || target === 'cpu' || target === 'consume') return;
    if (target === 'gpu') {
      this.#adapter = defaultAdapter();
      this.#adapter.catch(() => undefined); // heard by who asks for it
      return;
    }
    const { signal: stopped } = this.#stop;
    const onAbort = (): void => {
      this.stop();
    };
    signal?.addEventListener('abort', onAbort, { once: true, signal: stopped });
    this.#sink = uploadSink(target, { ...options, signal: stopped }).then((sink) => {
      if (budgetBytes >= DEFAULT_BUDGET_BYTES) sink.makeSlots?.(slots, SLOT_BYTES);
      return sink;
    });
    this.#sink.catch(() => undefined); // heard by who takes it
  }

  /** A sink on this device, not yet prepared; the taker closes it. Rejects as createUploadSink() does. */
  async sink(device: GPUDevice): Promise<GpuSlotSink> {
    const { signal } = this.#options;
    const ahead = this.#sink;
    if (!ahead) return uploadSink(device, this.#options);
    const sink = await orAborted(ahead, signal, () => undefined);
    this.#sink = undefined;
    return sink;
  }

  /** The adapter of which a device is to be requested. Rejects as defaultAdapter() does, and with `aborted`. */
  adapter(): Promise<GPUAdapter> {
    const adapter = this.#adapter ?? defaultAdapter();
    return orAborted(adapter, this.#options.signal, () => undefined);
  }

  /** Nobody wants it any more: the memory of what nobody took is given back. */
  stop(): void {
    this.#stop.abort();
    this.#sink?.then(
      (sink) => {
        sink.close(false);
      },
      () => undefined,
    );
    this.#sink = undefined;
  }
}

/** Whether the device expands tensors, where any are converted. */
export async function chooseExpansion(
  target: GPUDevice | 'gpu' | 'cpu' | 'consume',
  manifest: ModelManifest,
  options: LoadOptions,
  ahead: DeviceAhead,
): Promise<boolean> {
  const { dtype = 'stored', expand = 'auto', usage } = options;
  const converts = dtype !== 'stored' || manifest.tensors.some((t) => t.dtype !== t.storedDtype);
  if (target === 'cpu' || target === 'consume' || !converts) return false;
  return expandsOnDevice(expand, usage, async () => {
    // Browsers of before 2025 tell of an adapter, but not of a device
    if (target !== 'gpu') return (target as Partial<GPUDevice>).adapterInfo;
    return ((await ahead.adapter()) as Partial<GPUAdapter>).info;
  });
}

export function countExpanded(plan: ModelPlan): number {
  return plan.placements.filter((placement) => placement?.onDevice).length;
}

/** A device with limits as the plan needs them. */
export async function newDevice(
  manifest: ModelManifest,
  plan: ModelPlan,
  options: LoadOptions,
  ahead: DeviceAhead,
): Promise<GPUDevice> {
  const largest = plan.buffers.find((buffer) => buffer.nbytes === plan.largestBuffer);
  const tensor = largest && manifest.tensors[largest.tensor]?.name;
  const requested = requestDevice(await ahead.adapter(), {
    largestBufferBytes: plan.largestBuffer,
    ...(tensor === undefined ? {} : { tensor }),
    ...(options.requiredFeatures ? { requiredFeatures: options.requiredFeatures } : {}),
  });
  return orAborted(requested, options.signal, (late) => {
    late.destroy();
  });
}

function uploadSink(device: GPUDevice, options: LoadOptions): Promise<GpuSlotSink> {
  return createUploadSink(device, {
    path: options.upload ?? 'auto',
    signal: options.signal,
    ...(options.usage === undefined ? {} : { usage: options.usage }),
  });
}

export function tensorCallback(
  options: LoadOptions,
  manifest: ModelManifest,
): ((index: number) => void) | undefined {
  const { onTensor } = options;
  return onTensor && ((index) => onTensor(manifest.tensors[index]?.name ?? ''));
}

export function gpuTensors(
  manifest: ModelManifest,
  plan: ModelPlan,
  sink: GpuSlotSink,
): Map<string, LoadedTensor> {
  return eachTensor(manifest, plan, (base, buffer, offset) => ({
    ...base,
    location: 'gpu',
    buffer: sink.buffer(buffer),
    offset,
  }));
}

export function buildModel(
  manifest: ModelManifest,
  tensors: Map<string, LoadedTensor>,
  device: GPUDevice | undefined,
  ownsDevice: boolean,
  report: LoadReport,
): Model {
  const { format, metadata } = manifest;
  return new Model({ format, metadata, tensors, device, ownsDevice, report });
}

function cpuTensors(
  manifest: ModelManifest,
  plan: ModelPlan,
  sink: CpuSink,
): Map<string, LoadedTensor> {
  return eachTensor(manifest, plan, (base, buffer, offset) => ({
    ...base,
    location: 'cpu',
    data: new Uint8Array(sink.buffer(buffer), offset, base.nbytes),
  }));
}

type Base = Pick<LoadedTensor, 'name' | 'dtype' | 'shape' | 'nbytes'>;

function eachTensor(
  manifest: ModelManifest,
  plan: ModelPlan,
  make: (base: Base, buffer: number, offset: number) => LoadedTensor,
): Map<string, LoadedTensor> {
  const tensors = new Map<string, LoadedTensor>();
  plan.placements.forEach((placement, index) => {
    const tensor = manifest.tensors[index];
    if (placement === null || tensor === undefined) return;
    const { name, shape } = tensor;
    const { nbytes, buffer, offset } = placement;
    const base = { name, dtype: placement.dtype as DType, shape, nbytes };
    tensors.set(name, make(base, buffer, offset));
  });
  return tensors;
}

function consumer(
  options: LoadOptions,
  manifest: ModelManifest,
  plan: ModelPlan,
): (index: number, offset: number, bytes: Uint8Array) => void | Promise<void> {
  const { consume } = options;
  if (!consume) throw new SluiceError('internal', 'there is no consumer');
  const infos = plan.buffers.map(({ tensor: index }) => {
    const tensor = manifest.tensors[index];
    const placement = plan.placements[index];
    if (!tensor || !placement) throw new SluiceError('internal', `buffer of no tensor ${index}`);
    return {
      name: tensor.name,
      shape: tensor.shape,
      dtype: placement.dtype as DType,
      nbytes: placement.nbytes,
    };
  });
  return (index, offset, bytes) => {
    const info = infos[index];
    return info && consume(info, offset, bytes);
  };
}
