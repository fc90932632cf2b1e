import { asSluiceError, SluiceError } from './errors.js';
import {
  buildModel,
  chooseExpansion,
  countExpanded,
  type DeviceAhead,
  gpuTensors,
  newDevice,
  resolveTarget,
  tensorCallback,
} from './load.js';
import type { Model } from './model.js';
import { planOptions, type LoadOptions } from './options.js';
import { MAX_STAGING_SLOTS, serveSink } from './sinks/remote_sink.js';
import { closeBehind } from './store/closing.js';
import { aborted, orAborted } from './util/abort.js';
import { storeReport, warnUnavailable } from './store/store_use.js';
import type { LoadProgress, ModelPlan } from './wasm/loader_module.js';
import type { FromWorker, ModelPlace, StoreWish, ToWorker } from './worker_protocol.js';

/**
 * What a slot's bytes are held in: a block, which the worker fills and which is transferred here without a copy;
 * the staging slot that it is copied into here; and the copy of that in the process that owns the GPU. A block
 * that is copied goes back to be filled again at once, so all three exist at a time. But of staging slots there
 * are MAX_STAGING_SLOTS however many blocks there are, and so many copies of them.
 */
const REMOTE_SLOTS = { staged: true, slotCopies: 3, copiedSlots: MAX_STAGING_SLOTS };

/**
 * Loads with everything but the device in a worker: it fetches and decodes, and blocks of bytes are
 * transferred to this thread, which owns the device. `ahead` is of the same device, and the caller's to stop. The worker
 * is ended with the load, or where that has succeeded given to `keep`. Rejects as loadHere() does.
 */
export async function loadInWorker(
  module: Promise<WebAssembly.Module>,
  worker: Worker,
  place: ModelPlace,
  options: LoadOptions,
  ahead: DeviceAhead,
  store?: StoreWish,
  keep?: (worker: Worker) => void,
): Promise<Model> {
  const talk = new Conversation(worker, options.signal);
  const release: (() => void)[] = [];
  try {
    const target = resolveTarget(options.device);
    if (target === 'cpu') throw new SluiceError('internal', 'the CPU needs no worker');
    const compiled = await orAborted(module, options.signal, () => undefined);
    talk.stopsInOrder = store !== undefined;
    talk.send({ type: 'open', module: compiled, place, ...(store ? { store } : {}) });
    const { manifest, reservedBytes, allStored, unbuffered, unavailable } =
      await talk.next('opened');
    if (unavailable !== undefined) warnUnavailable(unavailable);
    const expandOnDevice = await chooseExpansion(target, manifest, options, ahead);
    talk.send({
      type: 'plan',
      options: planOptions(options, manifest, {
        ...REMOTE_SLOTS,
        expandOnDevice,
        reservedBytes,
        unbuffered,
        ...(allStored ? { allStored } : {}),
      }),
    });
    let plan: ModelPlan | undefined;
    let device: GPUDevice;
    if (target === 'gpu') {
      ({ plan } = await talk.next('planned'));
      const own = await newDevice(manifest, plan, options, ahead);
      device = own;
      release.push(() => {
        own.destroy();
      });
    } else {
      device = target;
    }
    const sink = await ahead.sink(device);
    // Also the buffers that the worker's half has closed to keep, where a callback throws after that
    release.push(() => {
      sink.close(false);
    });
    const { port1, port2 } = new MessageChannel();
    const served = serveSink(port1, sink);
    release.push(() => {
      served.fail(new SluiceError('aborted', 'the load has failed'));
    });
    talk.onFailure = (error) => {
      served.fail(error);
    };
    talk.onProgress = options.onProgress;
    talk.onTensor = tensorCallback(options, manifest);
    talk.send(
      {
        type: 'run',
        port: port2,
        progress: options.onProgress !== undefined,
        tensors: options.onTensor !== undefined,
      },
      [port2],
    );
    // Where the device was known, the worker has gone on from its plan by itself
    plan ??= (await talk.next('planned')).plan;
    const { progress, store: report } = await talk.next('done');
    // The worker's half has closed its sink before it said so; on this side that may still be on its way
    await served.finished;
    talk.keep = keep;
    const tensors = gpuTensors(manifest, plan, sink);
    return buildModel(manifest, tensors, device, target === 'gpu', {
      ...progress,
      milliseconds: performance.now() - ahead.begin,
      upload: sink.path,
      expandedOnDevice: countExpanded(plan),
      thread: 'worker',
      store: storeReport(report, unavailable),
    });
  } catch (error) {
    for (const free of release.reverse()) free();
    throw asSluiceError(error);
  } finally {
    talk.end();
  }
}

/** After so long a worker that puts its store in order is ended all the same. */
const STOP_TIMEOUT_MS = 5000;

type Answer<T extends FromWorker['type']> = Extract<FromWorker, { type: T }>;

/** One load's messages with its worker. Ends the worker, or gives it to the next load, and ends every wait with it. */
class Conversation {
  onProgress: ((progress: LoadProgress) => void) | undefined;
  onTensor: ((index: number) => void) | undefined;
  /** The worker has something to put in order before it is ended. */
  stopsInOrder = false;
  /** Takes the worker when it has put everything in order. */
  keep: ((worker: Worker) => void) | undefined;
  /** Told of the first failure, whether or not somebody waits for an answer. */
  onFailure: ((error: SluiceError) => void) | undefined;
  readonly #worker: Worker;
  readonly #signal: AbortSignal | undefined;
  readonly #answers: FromWorker[] = [];
  /** Ends listening to the worker. */
  readonly #over = new AbortController();
  #waiting:
    { resolve: (message: FromWorker) => void; reject: (error: unknown) => void } | undefined;
  #error: SluiceError | undefined;

  // The worker is ended with the load, so nothing waits for one that does not answer
  readonly #onAbort = (): void => {
    if (this.#signal) this.#fail(aborted(this.#signal));
  };
  readonly #onMessage = ({ data }: MessageEvent<FromWorker>): void => {
    // Nobody is called back any more once the load has failed or ended
    if (this.#error) return;
    switch (data.type) {
      case 'progress':
        this.#call(() => this.onProgress?.(data.progress));
        break;
      case 'tensor':
        this.#call(() => this.onTensor?.(data.index));
        break;
      case 'failed': {
        const { code, message, ...details } = data.error;
        this.#fail(new SluiceError(code, message, details));
        break;
      }
      default:
        if (this.#waiting) {
          const { resolve } = this.#waiting;
          this.#waiting = undefined;
          resolve(data);
        } else {
          this.#answers.push(data);
        }
    }
  };
  readonly #onError = (event: ErrorEvent | MessageEvent): void => {
    const reason = 'message' in event && event.message ? event.message : 'it says nothing more';
    this.#fail(
      new SluiceError('internal', `the loading worker failed: ${reason}`, {
        hint: 'load with worker: false',
      }),
    );
  };

  constructor(worker: Worker, signal: AbortSignal | undefined) {
    this.#worker = worker;
    this.#signal = signal;
    const { signal: over } = this.#over;
    worker.addEventListener('message', this.#onMessage, { signal: over });
    worker.addEventListener('error', this.#onError, { signal: over });
    worker.addEventListener('messageerror', this.#onError, { signal: over });
    if (signal?.aborted) this.#onAbort();
    else signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  send(message: ToWorker, transfer: Transferable[] = []): void {
    this.#worker.postMessage(message, transfer);
  }

  async next<T extends FromWorker['type']>(type: T): Promise<Answer<T>> {
    if (this.#error) throw this.#error;
    const message =
      this.#answers.shift() ??
      (await new Promise<FromWorker>((resolve, reject) => {
        this.#waiting = { resolve, reject };
      }));
    if (message.type !== type) {
      throw new SluiceError(
        'internal',
        `the worker answered '${message.type}' instead of '${type}'`,
      );
    }
    return message as Answer<T>;
  }

  end(): void {
    this.#signal?.removeEventListener('abort', this.#onAbort);
    if (this.stopsInOrder || this.keep) {
      // No load waits for it; what it has fetched is kept for the next time
      closeBehind(this.#stopped());
    } else {
      this.#worker.terminate();
    }
    this.#fail(new SluiceError('aborted', 'the load has ended'));
  }

  /** Ends the worker, or gives it away, once its store is in order. */
  async #stopped(): Promise<void> {
    const worker = this.#worker;
    const { signal: over } = this.#over;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const inOrder = await new Promise<boolean>((resolve) => {
      const onMessage = ({ data }: MessageEvent<FromWorker>): void => {
        if (data.type === 'stopped') resolve(true);
        if (data.type === 'failed') resolve(false);
      };
      const onFailure = (): void => {
        resolve(false);
      };
      worker.addEventListener('message', onMessage, { signal: over });
      worker.addEventListener('error', onFailure, { signal: over });
      timer = setTimeout(onFailure, STOP_TIMEOUT_MS);
      this.send({ type: 'stop' });
    });
    clearTimeout(timer);
    this.#over.abort();
    if (inOrder && this.keep) this.keep(worker);
    else worker.terminate();
  }

  /** A callback of the caller's that throws ends the load, as it does without a worker. */
  #call(callback: () => void): void {
    try {
      callback();
    } catch (error) {
      this.#fail(asSluiceError(error));
    }
  }

  #fail(error: SluiceError): void {
    if (this.#error) return;
    this.#error = error;
    this.onFailure?.(error);
    this.#waiting?.reject(error);
    this.#waiting = undefined;
  }
}
