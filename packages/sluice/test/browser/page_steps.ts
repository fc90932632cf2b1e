// What the browser's tests of cuts and aborts run in a page: many small loads with the loading worker, each
// watched. All from the page's side: what the worker itself does is tested in Node, where it is the same code.
import type * as Sluice from 'sluice';

type Upload = 'ring' | 'writeBuffer';

export interface StepOutcome {
  /** The bytes of each tensor, in hexadecimal; empty after a failure. */
  tensors: Record<string, string>;
  thread?: string;
  error?: { name: string; code: string; message: string; file?: string };
}

export interface AbortOutcome extends StepOutcome {
  /** What the abort came with, or nothing where the load ended before. */
  step: string | undefined;
  /** The error's cause is the reason of the abort. */
  cause: boolean;
  /** Of the load, once it had settled: at the latest two seconds later. */
  buffers: number;
  workers: number;
  /** Calls of the caller's functions after the load had settled. */
  late: number;
}

const buffers = new Set<GPUBuffer>();
const workers = new Set<Worker>();
/** Is told of every call to the device, of every answer, and of every message of a worker. */
let step: (what: string) => void = () => undefined;

type Method = (this: object, ...given: unknown[]) => unknown;

/** Puts `make`'s result in the place of a method. */
function replace(prototype: object, name: string, make: (method: Method) => Method): void {
  const method = Object.getOwnPropertyDescriptor(prototype, name)?.value as Method;
  Object.defineProperty(prototype, name, { value: make(method), configurable: true });
}

let watching = false;

function watch(): void {
  if (watching) return;
  watching = true;
  for (const [prototype, name] of [
    [GPUDevice.prototype, 'createBuffer'],
    [GPUDevice.prototype, 'popErrorScope'],
    [GPUBuffer.prototype, 'mapAsync'],
    [GPUQueue.prototype, 'submit'],
    [GPUQueue.prototype, 'writeBuffer'],
    [GPUQueue.prototype, 'onSubmittedWorkDone'],
  ] as const) {
    replace(
      prototype,
      name,
      (method) =>
        function (...given) {
          step(name);
          const result = method.apply(this, given);
          if (result instanceof GPUBuffer) buffers.add(result);
          if (!(result instanceof Promise)) return result;
          return result.finally(() => {
            step(`${name} answered`);
          });
        },
    );
  }
  replace(
    GPUBuffer.prototype,
    'destroy',
    (method) =>
      function () {
        buffers.delete(this as GPUBuffer);
        return method.call(this);
      },
  );
  globalThis.Worker = class extends Worker {
    constructor(url: string | URL, options?: WorkerOptions) {
      step('worker');
      super(url, options);
      workers.add(this);
      this.addEventListener('message', ({ data }: MessageEvent<{ type: string }>) => {
        step(`message ${data.type}`);
      });
    }
    override postMessage(message: unknown, transfer?: unknown): void {
      super.postMessage(message, transfer as Transferable[]);
      // The load has ended by then
      if ((message as { type: string }).type !== 'stop') step('postMessage');
    }
    override terminate(): void {
      workers.delete(this);
      super.terminate();
    }
  };
}

async function newDevice(): Promise<GPUDevice> {
  const adapter = await navigator.gpu.requestAdapter();
  if (!adapter) throw new Error('no adapter');
  return adapter.requestDevice();
}

async function outcomeOf(
  { SluiceError }: typeof Sluice,
  load: Promise<Sluice.Model>,
): Promise<StepOutcome & { cause?: unknown }> {
  const outcome: StepOutcome = { tensors: {} };
  try {
    const model = await load;
    outcome.thread = model.report.thread;
    for (const [name, tensor] of model.tensors) outcome.tensors[name] = await hex(model, tensor);
    model.destroy();
    return outcome;
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error;
    const { name, code, message, file, cause } = error;
    outcome.error = { name, code, message, ...(file === undefined ? {} : { file }) };
    return { ...outcome, cause };
  }
}

async function hex(model: Sluice.Model, tensor: Sluice.LoadedTensor): Promise<string> {
  if (tensor.location !== 'gpu' || !model.device) throw new Error(`${tensor.name} is not on a GPU`);
  const size = Math.ceil(tensor.nbytes / 4) * 4;
  const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;
  const staging = model.device.createBuffer({ size, usage });
  const encoder = model.device.createCommandEncoder();
  encoder.copyBufferToBuffer(tensor.buffer, tensor.offset, staging, 0, size);
  model.device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = new Uint8Array(staging.getMappedRange(), 0, tensor.nbytes);
  const text = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  staging.destroy();
  return text;
}

const LOAD = { worker: true, budgetBytes: 200_000, store: false } as const;

/** Loads each URL, some at a time. */
export async function loadEach(given: {
  dist: string;
  urls: string[];
}): Promise<{ outcomes: StepOutcome[]; buffers: number; workers: number }> {
  const sluice = (await import(`${given.dist}index.js`)) as typeof Sluice;
  watch();
  step = () => undefined;
  const device = await newDevice();
  const outcomes: StepOutcome[] = [];
  let next = 0;
  const work = async (): Promise<void> => {
    for (let i = next++; i < given.urls.length; i = next++) {
      const url = given.urls[i] ?? '';
      const load = sluice.loadModel(url, { ...LOAD, device });
      outcomes[i] = await outcomeOf(sluice, load);
    }
  };
  await Promise.all(Array.from({ length: 24 }, work));
  const left = { buffers: buffers.size, workers: workers.size };
  device.destroy();
  return { outcomes, ...left };
}

/** Loads, and aborts at one step after the other, or at each `stride`-th, until a load ends before its abort. */
export async function abortEach(given: {
  dist: string;
  url: string;
  upload: Upload;
  stride: number;
}): Promise<AbortOutcome[]> {
  const sluice = (await import(`${given.dist}index.js`)) as typeof Sluice;
  watch();
  const device = await newDevice();
  const outcomes: AbortOutcome[] = [];
  for (let at = 0; outcomes.at(-1)?.step !== undefined || at === 0; at += given.stride) {
    const abort = new AbortController();
    let taken = 0;
    let last: string | undefined;
    let over = false;
    let late = 0;
    step = (what) => {
      if (over || taken++ !== at) return;
      last = `step ${at}, ${what}`;
      abort.abort(new Error(last));
    };
    const callback = (what: string): void => {
      if (over) late++;
      step(what);
    };
    const load = sluice.loadModel(given.url, {
      ...LOAD,
      device,
      upload: given.upload,
      signal: abort.signal,
      onProgress: () => {
        callback('onProgress');
      },
      onTensor: () => {
        callback('onTensor');
      },
    });
    const settle = (): void => void (over = true);
    load.then(settle, settle);
    const { cause, ...outcome } = await outcomeOf(sluice, load);
    // A worker may put something in order before it ends, or is kept
    for (let i = 0; i < 100 && (i === 0 || (outcome.error && workers.size > 0)); i++) {
      await new Promise((turn) => setTimeout(turn, 20 * Math.min(i, 1)));
    }
    outcomes.push({
      ...outcome,
      step: last,
      cause: abort.signal.aborted && cause === abort.signal.reason,
      buffers: buffers.size,
      workers: workers.size,
      late,
    });
  }
  step = () => undefined;
  device.destroy();
  return outcomes;
}
