// Runs in a page and in a worker of a browser: the main paths of sluice/tvmjs.
import type * as Tvmjs from 'sluice/tvmjs';

async function load(origin: string): Promise<typeof Tvmjs> {
  const entry = `${origin}/dist/tvmjs/index.js`;
  return (await import(entry)) as typeof Tvmjs;
}

async function start(tvmjs: typeof Tvmjs): Promise<Tvmjs.Instance> {
  const response = await fetch(`${tvmjs.wasmPath()}/sluice_runtime.wasm`);
  return tvmjs.instantiate(await response.arrayBuffer(), tvmjs.createPolyfillWASI());
}

export interface ValuesOutcome {
  values: unknown[];
  errors: string[];
}

/** Functions, callbacks, errors, scopes; tensors on the GPU. */
export async function driveValues(origin: string): Promise<ValuesOutcome> {
  const tvmjs = await load(origin);
  const tvm = await start(tvmjs);
  tvm.beginScope();
  const echo = tvm.getGlobalFunc('testing.echo') as Tvmjs.PackedFunc & ((x: unknown) => unknown);
  const callback = tvm.toPackedFunc((x: number, shape: number[]) => x + shape.length);
  const fails = tvm.toPackedFunc(() => {
    throw new Error('mine');
  });
  const error = (act: () => unknown): string => {
    try {
      act();
      return 'none';
    } catch (thrown) {
      return String(thrown);
    }
  };
  const errors = [
    error(() => fails() as unknown),
    error(() => tvm.getGlobalFunc('no.such')),
    error(() => tvm.getGlobalFunc('tvmjs.testing.add_one')('x') as unknown),
  ];
  const detected = await tvmjs.detectGPUDevice();
  if (!detected) throw new Error('there is no WebGPU here');
  tvm.initWebGPU(detected.device);
  const gpu = tvm.webgpu();
  const cpu = (tensor: Tvmjs.Tensor): Tvmjs.Tensor =>
    tvm.empty(tensor.shape, tensor.dtype).copyFrom(tensor);
  const onGpu = tvm.empty([2, 2], 'float32', gpu).copyFrom([1, 2, 3, 4]);
  const back = cpu(onGpu.view([4]));
  await gpu.sync();
  const values: unknown[] = [
    echo(tvm.scalar(3, 'int')),
    echo('Größe 🦥, longer than a small string'),
    callback(40, tvm.makeShapeTuple([7, 7])),
    [...back.toArray()],
    /^peak-memory=\d+ MB/.test(tvm.runtimeStatsText()),
    detected.device.limits.maxBufferSize === detected.adapter.limits.maxBufferSize,
  ];
  tvm.endScope();
  tvm.dispose();
  return { values, errors };
}

export interface CacheRequest {
  origin: string;
  url: string;
  device: 'cpu' | 'webgpu';
  cacheType: Tvmjs.ArtifactCacheType;
  cacheScope: string;
  /** Tensors by name. */
  names: string[];
}

export interface CacheOutcome {
  before: boolean;
  after: boolean;
  /** dtype, shape, device and bytes of each tensor. */
  tensors: [dtype: string, shape: number[], device: string, bytes: number[]][];
  reports: string[];
  metadata: unknown;
}

/** fetchTensorCache(), and what is there before and after. */
export async function driveCache(request: CacheRequest): Promise<CacheOutcome> {
  const { origin, url, device: name, cacheType, cacheScope, names } = request;
  const tvmjs = await load(origin);
  const tvm = await start(tvmjs);
  if (name === 'webgpu') {
    const detected = await tvmjs.detectGPUDevice();
    if (!detected) throw new Error('there is no WebGPU here');
    tvm.initWebGPU(detected.device);
  }
  const reports: string[] = [];
  tvm.registerInitProgressCallback(({ text }) => reports.push(text));
  const device = tvm.device(name);
  const before = await tvmjs.hasTensorInCache(url, { cacheScope, cacheType });
  await tvm.fetchTensorCache(url, device, { cacheScope, cacheType });
  const after = await tvmjs.hasTensorInCache(url, cacheScope, cacheType);
  tvm.beginScope();
  const tensors: CacheOutcome['tensors'] = [];
  for (const each of names) {
    const tensor = tvm.tensorCacheGet(each);
    if (!tensor) throw new Error(`there is no tensor ${each}`);
    const copy = tvm.empty(tensor.shape, tensor.dtype).copyFrom(tensor);
    await device.sync();
    tensors.push([tensor.dtype, tensor.shape, String(tensor.device), [...copy.toRawBytes()]]);
  }
  tvm.endScope();
  const metadata = tvm.cacheMetadata;
  tvm.dispose();
  return { before, after, tensors, reports, metadata };
}

/** deleteTensorCache(): whether it is there afterwards. */
export async function driveDelete({
  origin,
  url,
  cacheType,
  cacheScope,
}: CacheRequest): Promise<boolean> {
  const tvmjs = await load(origin);
  await tvmjs.deleteTensorCache(url, { cacheScope, cacheType });
  return tvmjs.hasTensorInCache(url, { cacheScope, cacheType });
}

/** Files kept by URL in a cache: what it answers on the way. */
export async function driveFiles({
  origin,
  url,
  cacheType,
  cacheScope,
}: CacheRequest): Promise<unknown[]> {
  const tvmjs = await load(origin);
  const worker = typeof document === 'undefined';
  const opfsAccessMode = worker ? 'auto' : 'async';
  const cache = tvmjs.createArtifactCache(cacheScope, { cacheType, opfsAccessMode });
  const file = `${url}mlc-chat-config.json`;
  const bytes = `${url}bytes.bin`;
  const answers: unknown[] = [await cache.hasAllKeys([file])];
  answers.push(await cache.fetchWithCache(file, 'json'));
  const fetched = (await cache.fetchWithCache(bytes, 'arraybuffer')) as ArrayBuffer;
  answers.push(fetched.byteLength);
  await cache.addToCache(file, 'json');
  answers.push(await cache.hasAllKeys([file, bytes]), await cache.hasAllKeys([file, `${url}no`]));
  await cache.deleteInCache(file);
  await cache.deleteInCache(file);
  answers.push(await cache.hasAllKeys([file]), await cache.hasAllKeys([bytes]));
  try {
    await cache.fetchWithCache(`${url}missing`, 'json');
  } catch (error) {
    answers.push(/status 404/.test(String(error)));
  }
  try {
    await cache.addToCache(`${url}mlc-chat-config.json`, 'json', AbortSignal.abort());
  } catch (error) {
    answers.push((error as Error).name);
  }
  await cache.deleteInCache(bytes);
  return answers;
}

/** What `sluice load --digests` writes of a tensor. */
export interface DigestedTensor {
  dtype: string;
  shape: number[];
  sha256: string;
}

/** fetchTensorCache(), then every tensor of the list read back. */
export async function digestTensorCache(
  tvm: Tvmjs.Instance,
  url: string,
  device: Tvmjs.DLDevice,
): Promise<Record<string, DigestedTensor>> {
  await tvm.fetchTensorCache(url, device, { cacheScope: 'digests' });
  const list = (await (await fetch(`${url}tensor-cache.json`)).json()) as {
    records: { records: { name: string }[] }[];
  };
  const digests: Record<string, DigestedTensor> = {};
  for (const { name } of list.records.flatMap(({ records }) => records)) {
    tvm.beginScope();
    const tensor = tvm.tensorCacheGet(name);
    if (!tensor) throw new Error(`there is no tensor ${name}`);
    if (String(tensor.device) !== String(device)) throw new Error(`${name} is elsewhere`);
    const copy = tvm.empty(tensor.shape, tensor.dtype).copyFrom(tensor);
    await device.sync();
    const digest = await crypto.subtle.digest('SHA-256', copy.toRawBytes().slice());
    const sha256 = [...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, '0')).join('');
    digests[name] = { dtype: tensor.dtype, shape: tensor.shape, sha256 };
    tvm.endScope();
  }
  return digests;
}

/** The same in a page or worker. */
export async function driveDigests(
  origin: string,
  url: string,
  device: 'cpu' | 'webgpu',
): Promise<Record<string, DigestedTensor>> {
  const tvmjs = await load(origin);
  const tvm = await start(tvmjs);
  if (device === 'webgpu') {
    const detected = await tvmjs.detectGPUDevice();
    if (!detected) throw new Error('there is no WebGPU here');
    tvm.initWebGPU(detected.device);
  }
  const digests = await digestTensorCache(tvm, url, tvm.device(device));
  await tvmjs.deleteTensorCache(url, { cacheScope: 'digests' });
  tvm.dispose();
  return digests;
}

/** fetchTensorCache() of one large tensor to the CPU: SHA-256 of each `step` bytes of it, and how large the wasm memory is. */
export async function driveLarge(
  origin: string,
  url: string,
  name: string,
  step: number,
): Promise<{ digests: string[]; memoryBytes: number }> {
  const tvmjs = await load(origin);
  const tvm = await start(tvmjs);
  await tvm.fetchTensorCache(url, tvm.cpu(), { cacheScope: 'large' });
  const memoryBytes = tvm.memory.memory.buffer.byteLength;
  const digests: string[] = [];
  tvm.beginScope();
  const tensor = tvm.tensorCacheGet(name);
  if (!tensor) throw new Error(`there is no tensor ${name}`);
  const address = tensor.getCPUDataAddress();
  const nbytes = 4 * tensor.shape.reduce((product, extent) => product * extent, 1);
  for (let at = 0; at < nbytes; at += step) {
    const bytes = tvm.memory.viewRawBytes(address + at, step).slice();
    const digest = await crypto.subtle.digest('SHA-256', bytes);
    digests.push([...new Uint8Array(digest)].map((b) => b.toString(16).padStart(2, '0')).join(''));
  }
  tvm.endScope();
  await tvmjs.deleteTensorCache(url, { cacheScope: 'large' });
  tvm.dispose();
  return { digests, memoryBytes };
}
