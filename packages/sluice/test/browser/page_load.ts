// What the browser's tests run in a page or in a worker of the page's own: one load, watched, and read back.
import type * as Sluice from 'sluice';

/** What is to be loaded, and what is to happen meanwhile. Crosses to the page as JSON. */
export interface LoadRequest {
  /** Where the built package is served. */
  dist: string;
  url: string;
  /** 'own': a device of the caller's. */
  device: 'own' | 'gpu' | 'cpu' | 'auto';
  options?: Pick<
    Sluice.LoadOptions,
    | 'upload'
    | 'expand'
    | 'worker'
    | 'budgetBytes'
    | 'connections'
    | 'dtype'
    | 'stallTimeoutMs'
    | 'shareBelowBytes'
    | 'store'
    | 'storeKey'
  >;
  /** Aborts once so many tensors are ready; -1 before the load. */
  abortAt?: number;
  abortAfterMs?: number;
  /** Destroys the caller's device once so many tensors are ready. */
  loseAt?: number;
  /** The onTensor callback throws this. */
  throwInCallback?: string;
  /** Digests of pieces of so many bytes; of whole tensors unless given. */
  pieceBytes?: number;
}

export interface LoadOutcome {
  /** By name; empty after a failure. */
  tensors: Record<string, { dtype: string; shape: readonly number[]; digests: string[] }>;
  report?: Sluice.LoadReport;
  error?: { name: string; code: string; message: string; tensor?: string; hint?: string };
  milliseconds: number;
  /** Names given to onTensor, and calls of onProgress. */
  ready: string[];
  progress: number;
  /** Buffers that exist after the load, in number and bytes, and after destroy(). */
  live: [number, number];
  liveAfterDestroy: [number, number];
}

const live = new Map<GPUBuffer, number>();
let watching = false;

/** Counts every buffer of this thread. */
function watchBuffers(): void {
  if (watching) return;
  watching = true;
  const create = Object.getOwnPropertyDescriptor(GPUDevice.prototype, 'createBuffer')
    ?.value as GPUDevice['createBuffer'];
  const destroy = Object.getOwnPropertyDescriptor(GPUBuffer.prototype, 'destroy')
    ?.value as GPUBuffer['destroy'];
  GPUDevice.prototype.createBuffer = function (this: GPUDevice, descriptor) {
    const buffer = create.call(this, descriptor);
    live.set(buffer, descriptor.size);
    return buffer;
  };
  GPUBuffer.prototype.destroy = function (this: GPUBuffer) {
    live.delete(this);
    return destroy.call(this);
  };
}

const liveNow = (): [number, number] => [
  live.size,
  [...live.values()].reduce((sum, size) => sum + size, 0),
];

export async function load(request: LoadRequest): Promise<LoadOutcome> {
  const { loadModel, SluiceError } = (await import(`${request.dist}index.js`)) as typeof Sluice;
  watchBuffers();
  let device: GPUDevice | 'gpu' | 'cpu' | 'auto';
  if (request.device === 'own') {
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) throw new Error('no adapter');
    device = await adapter.requestDevice();
  } else {
    device = request.device;
  }
  const outcome: LoadOutcome = {
    tensors: {},
    milliseconds: 0,
    ready: [],
    progress: 0,
    live: [0, 0],
    liveAfterDestroy: [0, 0],
  };
  const abort = new AbortController();
  if (request.abortAt === -1) abort.abort();
  if (request.abortAfterMs !== undefined) {
    setTimeout(() => {
      abort.abort();
    }, request.abortAfterMs);
  }
  const begin = performance.now();
  try {
    const model = await loadModel(request.url, {
      store: false,
      ...request.options,
      device,
      signal: abort.signal,
      onProgress: () => outcome.progress++,
      onTensor: (name) => {
        outcome.ready.push(name);
        if (request.throwInCallback !== undefined) throw new Error(request.throwInCallback);
        if (outcome.ready.length === request.abortAt) abort.abort();
        if (outcome.ready.length === request.loseAt && typeof device === 'object') device.destroy();
      },
    });
    outcome.milliseconds = performance.now() - begin;
    outcome.report = model.report;
    outcome.live = liveNow();
    for (const [name, tensor] of model.tensors) {
      const { dtype, shape } = tensor;
      const digests = await digest(model, tensor, request.pieceBytes ?? Infinity);
      outcome.tensors[name] = { dtype, shape, digests };
    }
    model.destroy();
  } catch (error) {
    outcome.milliseconds = performance.now() - begin;
    outcome.live = liveNow();
    if (!(error instanceof SluiceError)) throw error;
    const { name, code, message, tensor, hint } = error;
    outcome.error = {
      name,
      code,
      message,
      ...(tensor === undefined ? {} : { tensor }),
      ...(hint === undefined ? {} : { hint }),
    };
  }
  outcome.liveAfterDestroy = liveNow();
  if (typeof device === 'object') device.destroy();
  return outcome;
}

/** SHA-256 of each piece of a tensor, in hexadecimal. */
async function digest(
  model: Sluice.Model,
  tensor: Sluice.LoadedTensor,
  pieceBytes: number,
): Promise<string[]> {
  const digests: string[] = [];
  for (let at = 0; at < Math.max(tensor.nbytes, 1); at += pieceBytes) {
    const end = Math.min(at + pieceBytes, tensor.nbytes);
    const bytes = await read(model, tensor, at, end);
    const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    digests.push(Array.from(hash, (byte) => byte.toString(16).padStart(2, '0')).join(''));
  }
  return digests;
}

async function read(
  model: Sluice.Model,
  tensor: Sluice.LoadedTensor,
  begin: number,
  end: number,
): Promise<Uint8Array<ArrayBuffer>> {
  if (tensor.location === 'cpu') return tensor.data.slice(begin, end);
  const { device } = model;
  if (!device || tensor.location !== 'gpu') throw new Error('a tensor that is on no device');
  const size = Math.max(Math.ceil((end - begin) / 4) * 4, 4);
  const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;
  const staging = device.createBuffer({ size, usage });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(tensor.buffer, tensor.offset + begin, staging, 0, size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = new Uint8Array(staging.getMappedRange()).slice(0, end - begin);
  staging.destroy();
  return bytes;
}
