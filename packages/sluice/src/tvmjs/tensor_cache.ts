/** fetchTensorCache(), and what is there of it later. */
import { DEVICE_CPU } from '../runtime/abi.js';
import type { Core } from '../runtime/core.js';
import {
  LoadedTensors,
  loadTensors,
  type LoadTensorsOptions,
  type ModelLoader,
  type ModelSource,
} from '../runtime/load.js';
import { emptyTensor, type Tensor as RuntimeTensor } from '../runtime/tensor.js';
import { Device } from '../runtime/values.js';
import type { TensorInfo } from '../options.js';
import type { ModelStore } from '../store/model_store.js';
import type { ManifestTensor } from '../wasm/loader_module.js';
import {
  ArtifactCrossOriginStorageCache,
  cacheTypeOf,
  createArtifactCache,
  hasCrossOriginStorage,
  type ArtifactCacheTemplate,
  type TensorCacheAccessOptions,
  getTensorCacheRecordBytes,
} from './artifact_cache.js';
import type { Host, InitProgressReport } from './instance.js';
import type { Tensor } from './objects.js';
import type { Untyped } from './types.js';

export interface FetchTensorCacheOptions extends TensorCacheAccessOptions {
  /** Stops it; what it rejects with is the signal's reason. */
  signal?: AbortSignal;
}

/** What loading needs of an instance. */
export interface CacheTarget {
  readonly core: Core;
  readonly host: Host;
  report(report: InitProgressReport): void;
  /** Puts a tensor into the tensor cache. Throws where its name is there already. */
  update(name: string, tensor: Tensor): void;
  /** The tensor, taken over, as tvmjs's. */
  wrap(tensor: RuntimeTensor): Tensor;
  /** Fills a tensor on the CPU with a record's bytes, converted. */
  decode(tensor: Tensor, bytes: Uint8Array, format: string, dtype: string): void;
}

/** A record of a shard, as the manifest has it. */
interface CacheRecord {
  name: string;
  shape: number[];
  dtype: string;
  format: string;
  byteOffset: number;
  nbytes: number;
}

interface Shard {
  dataPath: string;
  nbytes: number;
  records: CacheRecord[];
}

/** The options of either way to call the functions below. */
export function accessOptions<T extends TensorCacheAccessOptions>(
  scopeOrOptions: string | T,
  cacheType: string,
): T | TensorCacheAccessOptions {
  if (typeof scopeOrOptions === 'object') return scopeOrOptions;
  return { cacheScope: scopeOrOptions, cacheType: cacheTypeOf(cacheType) };
}

/** Where the tensors of a manifest are kept. */
class Place {
  /** A cache that the caller, or the extension for all origins, brings; the store has no part in it. */
  readonly artifacts: ArtifactCacheTemplate | undefined;
  readonly manifest: string;
  /** In the package's store. */
  readonly key: string;
  readonly #scope: string;
  readonly #type: string;

  constructor(url: string, options: TensorCacheAccessOptions) {
    const { cacheScope = 'tvmjs', artifactCache } = options;
    const type = cacheTypeOf(options.cacheType);
    this.manifest = new URL('tensor-cache.json', url).href;
    this.artifacts =
      artifactCache ??
      (type === 'cross-origin' && hasCrossOriginStorage()
        ? createArtifactCache(cacheScope, { cacheType: type })
        : undefined);
    this.#scope = cacheScope;
    this.#type = type === 'cross-origin' ? 'cache' : type;
    this.key = `tvmjs ${this.#type} ${cacheScope} ${this.manifest}`;
  }

  async isStored(host: Host): Promise<boolean> {
    const store = await storeOf(host);
    const models = (await store?.models()) ?? [];
    return models.some(({ key, complete }) => complete && key === this.key);
  }

  /** The cache in which tvmjs would have kept it, where that is there. Makes none. */
  async earlier(): Promise<ArtifactCacheTemplate | undefined> {
    const scope = this.#scope;
    try {
      const exists =
        this.#type === 'indexeddb'
          ? (await indexedDB.databases()).some(({ name }) => name === scope)
          : this.#type === 'opfs'
            ? await hasOPFSFolder()
            : await caches.has(scope);
      return exists
        ? createArtifactCache(scope, { cacheType: cacheTypeOf(this.#type) })
        : undefined;
    } catch {
      return undefined;
    }
  }
}

/** Whether tvmjs has kept anything there. */
async function hasOPFSFolder(): Promise<boolean> {
  await (await navigator.storage.getDirectory()).getDirectoryHandle('tvmjs-opfs-store');
  return true;
}

async function storeOf(host: Host): Promise<ModelStore | undefined> {
  return host.openStore().catch(() => undefined);
}

/** Whether a whole model lies in a cache of files. */
async function holdsAll(cache: ArtifactCacheTemplate, manifest: string): Promise<boolean> {
  if (!(await cache.hasAllKeys([manifest]))) return false;
  const { shards } = await readManifest(cache, manifest);
  return cache.hasAllKeys(shards.map(({ dataPath }) => new URL(dataPath, manifest).href));
}

async function readManifest(
  cache: ArtifactCacheTemplate,
  manifest: string,
  signal?: AbortSignal,
): Promise<{ shards: Shard[]; metadata: Record<string, Untyped> }> {
  const list = (await cache.fetchWithCache(manifest, 'json', signal)) as {
    records?: unknown;
    metadata?: Record<string, Untyped>;
  };
  if (!Array.isArray(list.records)) throw new Error(`${manifest} has no list of records`);
  return { shards: list.records as Shard[], metadata: list.metadata ?? {} };
}

/** Whether fetchTensorCache() would need no network. */
export async function hasTensors(
  host: Host,
  url: string,
  options: TensorCacheAccessOptions,
): Promise<boolean> {
  const place = new Place(url, options);
  if (place.artifacts) return holdsAll(place.artifacts, place.manifest);
  if (await place.isStored(host)) return true;
  const earlier = await place.earlier();
  return earlier !== undefined && holdsAll(earlier, place.manifest);
}

/** Removes what fetchTensorCache() has kept. Rejects where it is being used. */
export async function deleteTensors(
  host: Host,
  url: string,
  options: TensorCacheAccessOptions,
): Promise<void> {
  const place = new Place(url, options);
  // Nothing can be deleted there
  if (place.artifacts instanceof ArtifactCrossOriginStorageCache) return;
  if (place.artifacts) return deleteFiles(place.artifacts, place.manifest);
  const store = await storeOf(host);
  if (store && !(await store.delete(place.key))) {
    throw new Error(
      `${place.manifest} cannot be deleted while it is loaded, here or in another tab`,
    );
  }
  const earlier = await place.earlier();
  if (earlier && (await earlier.hasAllKeys([place.manifest]))) {
    await deleteFiles(earlier, place.manifest);
  }
}

async function deleteFiles(cache: ArtifactCacheTemplate, manifest: string): Promise<void> {
  const { shards } = await readManifest(cache, manifest);
  await Promise.all(
    shards.map(({ dataPath }) => cache.deleteInCache(new URL(dataPath, manifest).href)),
  );
}

/** Loads every tensor and puts it into the tensor cache. Gives the manifest's metadata. */
export async function fetchIntoTensorCache(
  target: CacheTarget,
  url: string,
  device: Device,
  options: FetchTensorCacheOptions,
): Promise<Record<string, Untyped>> {
  const { signal } = options;
  signal?.throwIfAborted();
  const place = new Place(url, options);
  const { manifest } = place;
  const progress = new Progress(target);
  if (place.artifacts)
    return loadFiles(target, place.artifacts, manifest, device, progress, signal);
  const stored = await place.isStored(target.host);
  if (!stored) {
    const earlier = await place.earlier();
    if (earlier && (await holdsAll(earlier, manifest))) {
      return loadFiles(target, earlier, manifest, device, progress, signal);
    }
  }
  return loadModel(target, place, device, progress, stored, signal);
}

/** By the package's loader, from its store or through it. */
async function loadModel(
  target: CacheTarget,
  place: Place,
  device: Device,
  progress: Progress,
  stored: boolean,
  signal: AbortSignal | undefined,
): Promise<Record<string, Untyped>> {
  const fileOf = new Map<string, number>();
  /** Tensors of each file that are not there yet. */
  const left: number[] = [];
  const step = (bytes: number, total: number): void => {
    progress.step(stored, left.filter((count) => count === 0).length, left.length, bytes, total);
  };
  progress.start();
  const load = canAdopt(target.core, device) ? loadTensors : loadByCopies;
  const loaded = await load(target.core, target.host.loadModel, place.manifest, {
    device,
    store: true,
    storeKey: place.key,
    ...(signal ? { signal } : {}),
    tensors: ({ name, file }) => {
      while (left.length <= file) left.push(0);
      if (!fileOf.has(name)) left[file] = (left[file] ?? 0) + 1;
      fileOf.set(name, file);
      return true;
    },
    onTensor: (name) => {
      const file = fileOf.get(name);
      if (file !== undefined) left[file] = (left[file] ?? 0) - 1;
    },
    onProgress: ({ sourceBytesDone, sourceBytes }) => {
      step(sourceBytesDone, sourceBytes);
    },
  });
  const { sourceBytes } = loaded.report;
  progress.step(true, left.length, left.length, sourceBytes, sourceBytes);
  putAll(target, loaded.tensors);
  return loaded.metadata;
}

/** Whether tensors can be made of what the loader has filled: not in a module that was linked with TVM's own runtime. */
function canAdopt(core: Core, device: Device): boolean {
  if (device.type === DEVICE_CPU) return true;
  const handle = core.findGlobal('sluice.runtime.TensorFromHandle');
  if (handle !== 0) core.release(handle, core.calls);
  return handle !== 0;
}

/** The same as loadTensors(), into tensors that the module itself makes on the GPU. */
async function loadByCopies(
  core: Core,
  load: ModelLoader,
  from: ModelSource,
  { device = new Device('webgpu'), tensors: wanted, ...options }: LoadTensorsOptions,
): Promise<LoadedTensors> {
  const { gpu } = core;
  if (!gpu) throw new Error(`there is no device ${String(device)}: call initWebGPU() first`);
  const tensors = new Map<string, RuntimeTensor>();
  const make = ({
    name,
    shape,
    dtype,
  }: Pick<TensorInfo, 'name' | 'shape' | 'dtype'>): RuntimeTensor => {
    const known = tensors.get(name);
    if (known) return known;
    const made = core.scopes.outside(() => emptyTensor(core, shape, core.dtype(dtype), device));
    tensors.set(name, made);
    return made;
  };
  const all: ManifestTensor[] = [];
  try {
    const model = await load(from, {
      ...options,
      device: 'cpu',
      tensors: (tensor) => {
        all.push(tensor);
        return typeof wanted !== 'function' || wanted(tensor);
      },
      consume: (info, offset, bytes) => {
        const tensor = make(info);
        gpu.copyBytesToBuffer(bytes, tensor.data, tensor.byteOffset + offset);
      },
    });
    // Those of no bytes as well
    for (const { name, shape, dtype } of all)
      make({ name, shape, dtype: dtype as TensorInfo['dtype'] });
    await gpu.sync();
    return new LoadedTensors(model, tensors);
  } catch (error) {
    for (const tensor of tensors.values()) tensor.dispose();
    throw error;
  }
}

function putAll(target: CacheTarget, tensors: ReadonlyMap<string, RuntimeTensor>): void {
  try {
    for (const [name, tensor] of tensors) target.update(name, target.wrap(tensor));
  } finally {
    // The cache has references of its own
    for (const tensor of tensors.values()) tensor.dispose();
  }
}

/** File by file from a cache of files, each of which is in memory as a whole. */
async function loadFiles(
  target: CacheTarget,
  cache: ArtifactCacheTemplate,
  manifest: string,
  device: Device,
  progress: Progress,
  signal: AbortSignal | undefined,
): Promise<Record<string, Untyped>> {
  const { shards, metadata } = await readManifest(cache, manifest, signal);
  const urls = shards.map(({ dataPath }) => new URL(dataPath, manifest).href);
  const total = shards.reduce((sum, { nbytes }) => sum + nbytes, 0);
  progress.start();
  if (!(await cache.hasAllKeys(urls))) {
    let bytes = 0;
    let done = 0;
    const left = urls.entries();
    const download = async (): Promise<void> => {
      for (const [i, url] of left) {
        await cache.addToCache(url, 'arraybuffer', signal);
        bytes += shards[i]?.nbytes ?? 0;
        progress.step(false, ++done, urls.length, bytes, total);
      }
    };
    await Promise.all([download(), download(), download(), download()]);
  }
  let bytes = 0;
  for (const [i, { nbytes, records, dataPath }] of shards.entries()) {
    signal?.throwIfAborted();
    const file = (await cache.fetchWithCache(urls[i] ?? '', 'arraybuffer')) as
      ArrayBuffer | Uint8Array;
    for (const record of records) {
      try {
        await loadRecord(target, file, record, device);
      } catch (cause) {
        const message = cause instanceof Error ? cause.message : String(cause);
        throw new Error(`tensor '${record.name}' in ${dataPath}: ${message}`, { cause });
      }
    }
    bytes += nbytes;
    progress.step(true, i + 1, shards.length, bytes, total);
  }
  return metadata;
}

async function loadRecord(
  target: CacheTarget,
  file: ArrayBuffer | Uint8Array,
  record: CacheRecord,
  device: Device,
): Promise<void> {
  const { core } = target;
  const { name, shape, dtype, format } = record;
  const bytes = getTensorCacheRecordBytes(file, record);
  const make = (where: Device): RuntimeTensor =>
    core.scopes.outside(() => emptyTensor(core, shape, core.dtype(dtype), where));
  const tensor = make(device);
  try {
    if (format !== 'f32-to-bf16' || dtype !== 'float32') {
      tensor.set(bytes);
    } else if (device.type === DEVICE_CPU) {
      target.decode(target.wrap(tensor), bytes, format, dtype);
    } else {
      const decoded = make(new Device('cpu'));
      try {
        target.decode(target.wrap(decoded), bytes, format, dtype);
        tensor.set(decoded.inPlace());
      } finally {
        decoded.dispose();
      }
    }
    // So that no more is on its way than one record
    if (device.type !== DEVICE_CPU) await core.gpu?.sync();
    target.update(name, target.wrap(tensor));
  } finally {
    tensor.dispose();
  }
}

/** Reports in tvmjs's words. */
class Progress {
  readonly #target: CacheTarget;
  readonly #begin = performance.now();

  constructor(target: CacheTarget) {
    this.#target = target;
  }

  start(): void {
    this.#target.report({ progress: 0, timeElapsed: 0, text: 'Start to fetch params' });
  }

  /** `stored`: the bytes came from this device. */
  step(stored: boolean, done: number, count: number, bytes: number, total: number): void {
    const progress = total === 0 ? 1 : bytes / total;
    const timeElapsed = Math.ceil((performance.now() - this.#begin) / 1000);
    const text =
      (stored ? 'Loading model from cache' : 'Fetching param cache') +
      `[${done}/${count}]: ${Math.ceil(bytes / 2 ** 20)}MB ${stored ? 'loaded' : 'fetched'}. ` +
      `${Math.floor(progress * 100)}% completed, ${timeElapsed} secs elapsed.` +
      (stored
        ? ''
        : ' It can take a while when we first visit this page to populate the cache.' +
          ' Later refreshes will become faster.');
    this.#target.report({ progress, timeElapsed, text });
  }
}
