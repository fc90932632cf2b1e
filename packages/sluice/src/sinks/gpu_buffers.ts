import { SluiceError } from '../errors.js';
import type { Lifeline } from './lifeline.js';
import { checkPlan } from './pieces.js';
import type { BufferPlan, SlotSink } from './sink.js';

/** https://www.w3.org/TR/webgpu/#buffer-usage, as numbers: Node has no such globals of its own. */
export const BufferUsage = {
  MAP_READ: 0x1,
  MAP_WRITE: 0x2,
  COPY_SRC: 0x4,
  COPY_DST: 0x8,
  UNIFORM: 0x40,
  STORAGE: 0x80,
} as const;

/** https://www.w3.org/TR/webgpu/#map-mode */
export const MAP_MODE_WRITE = 0x2;

/** What a model's buffers can be used for unless the caller says otherwise. */
export const DEFAULT_USAGE = BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST;

/** A slot sink whose buffers are on this thread's device. */
export interface GpuSlotSink extends SlotSink {
  readonly path: 'ring' | 'writeBuffer';
  /** Buffer `index`, once allocate() has resolved. The caller's after close(true). */
  buffer(index: number): GPUBuffer;
  /** Begins to make slots for a prepare() that will ask for such, while it is not known yet for how many. */
  makeSlots?(slots: number, slotBytes: number): void;
}

export interface GpuSinkOptions {
  /** GPUBufferUsage flags of the destination buffers; COPY_DST is added. */
  usage?: GPUBufferUsageFlags;
}

const ALL_FILTERS = ['internal', 'validation', 'out-of-memory'] as const;
/** Filters of what createBuffer() and queued work can give rise to (https://www.w3.org/TR/webgpu/#errors-and-debugging). */
const CREATING = ['validation', 'out-of-memory'] as const;
export const QUEUED = ['validation'] as const;

/** What error scopes caught, and the filter that caught it. */
export interface ScopedError {
  filter: GPUErrorFilter;
  message: string;
}

/**
 * Runs `act` between error scopes. Scopes are a stack, so push, act and pop are one synchronous step and
 * calls may overlap; only the outcome is awaited. Rejects with what `act` throws. Each of `filters` takes an answer of
 * the GPU's process.
 */
export async function inErrorScopes<T>(
  device: GPUDevice,
  act: () => T,
  filters: readonly GPUErrorFilter[] = ALL_FILTERS,
): Promise<{ value: T; error: ScopedError | undefined }> {
  for (const filter of filters) device.pushErrorScope(filter);
  const pops: Promise<GPUError | null>[] = [];
  let value: T;
  try {
    value = act();
  } finally {
    for (let i = 0; i < filters.length; i++) {
      const pop = device.popErrorScope();
      pop.catch(() => undefined); // a lost device may refuse to pop; the lifeline tells why
      pops.push(pop);
    }
  }
  const caught = await Promise.all(pops);
  for (const [i, filter] of [...filters].reverse().entries()) {
    const error = caught[i];
    if (error) return { value, error: { filter, message: firstLine(error.message) } };
  }
  return { value, error: undefined };
}

const firstLine = (text: string): string => text.trim().split('\n', 1)[0] ?? '';

interface DeviceWatch {
  error: SluiceError | undefined;
  readonly lifelines: Set<Lifeline>;
}

// One handler on each device's `lost`, however many sinks it serves: handlers cannot be removed.
const watches = new WeakMap<GPUDevice, DeviceWatch>();

/** Ends `lifeline` with `device_lost` when the device is lost. Returns a function that stops watching. */
export function watchDevice(device: GPUDevice, lifeline: Lifeline): () => void {
  let watch = watches.get(device);
  if (watch === undefined) {
    const made: DeviceWatch = { error: undefined, lifelines: new Set() };
    watch = made;
    watches.set(device, made);
    void device.lost.then((info) => {
      const error = lostError(info);
      made.error = error;
      for (const each of made.lifelines) each.end(error);
      made.lifelines.clear();
    });
  }
  if (watch.error !== undefined) {
    lifeline.end(watch.error);
    return () => undefined;
  }
  const { lifelines } = watch;
  lifelines.add(lifeline);
  return () => void lifelines.delete(lifeline);
}

/** `device_lost`, with what the browser says of it. */
export function lostError(info: Pick<GPUDeviceLostInfo, 'reason' | 'message'>): SluiceError {
  const { reason } = info;
  const detail = firstLine(info.message);
  return new SluiceError(
    'device_lost',
    `the GPU device was lost (reason: ${reason})${detail ? `: ${detail}` : ''}`,
    {
      hint:
        reason === 'destroyed'
          ? 'device.destroy() was called; keep the device until the load has ended'
          : 'request a new device and load again',
    },
  );
}

/** Turns a rejection of the GPU into the sink's error: a loss may be reported a moment after its effects. */
export async function gpuFailure(
  lifeline: Lifeline,
  what: string,
  cause: unknown,
): Promise<SluiceError> {
  if (cause instanceof SluiceError) return cause;
  for (let waited = 0; waited < 100 && lifeline.error === undefined; waited += 20) await pause(20);
  if (lifeline.error !== undefined) return lifeline.error;
  const message = cause instanceof Error ? `${cause.name} ${cause.message}` : String(cause);
  return new SluiceError('internal', `${what}: ${message}`, { cause });
}

export function scopedFailure(what: string, error: ScopedError): SluiceError {
  return new SluiceError(
    error.filter === 'out-of-memory' ? 'out_of_device_memory' : 'internal',
    `${what}: ${error.message}`,
  );
}

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

/** Resolves when all work queued so far is done; rejects if the device was lost on the way. */
export async function queueDone(device: GPUDevice, lifeline: Lifeline): Promise<void> {
  await lifeline.race(device.queue.onSubmittedWorkDone());
  // A lost device resolves this promise too, and may do so before `lost`.
  await pause(0);
  lifeline.check();
}

/**
 * The staging buffers of a ring, mapped: they can be written at once, while the device still makes them. `made` resolves
 * when it has, and rejects with `out_of_device_memory` where it cannot; the buffers are then destroyed. Throws
 * `device_limit` or `out_of_device_memory`, having released what it made.
 */
export function createMappedSlots(
  device: GPUDevice,
  slots: number,
  slotBytes: number,
): { buffers: GPUBuffer[]; made: Promise<void> } {
  const what = `${slots} staging slots of ${slotBytes} bytes`;
  const limit = device.limits.maxBufferSize;
  if (slotBytes > limit) {
    throw new SluiceError(
      'device_limit',
      `${what}: a slot exceeds this device's maxBufferSize of ${limit} bytes`,
      { expected: limit, actual: slotBytes, hint: 'choose a smaller budget or smaller slots' },
    );
  }
  const buffers: GPUBuffer[] = [];
  let thrown: SluiceError | undefined;
  // Where memory is short, an error scope reports it, and mappedAtCreation may also throw a RangeError
  const scoped = inErrorScopes(
    device,
    () => {
      try {
        for (let i = 0; i < slots; i++) {
          buffers.push(
            device.createBuffer({
              label: `sluice staging ${i}`,
              size: slotBytes,
              usage: BufferUsage.MAP_WRITE | BufferUsage.COPY_SRC,
              mappedAtCreation: true,
            }),
          );
        }
      } catch (cause) {
        const message = cause instanceof Error ? cause.message : String(cause);
        thrown = new SluiceError(
          cause instanceof RangeError ? 'out_of_device_memory' : 'internal',
          `${what}: ${message}`,
          { cause },
        );
      }
    },
    CREATING,
  );
  if (thrown) {
    scoped.catch(() => undefined);
    destroyAll(buffers);
    throw thrown;
  }
  const made = scoped.then(({ error }) => {
    if (!error) return;
    destroyAll(buffers);
    throw scopedFailure(what, error);
  });
  return { buffers, made };
}

/** All bytes of a mapped buffer. */
export const mappedView = (buffer: GPUBuffer): Uint8Array =>
  new Uint8Array(buffer.getMappedRange());

export function destroyAll(buffers: readonly GPUBuffer[]): void {
  for (const buffer of buffers) buffer.destroy();
}

/** The destination buffers of a load, by index. Allocations may overlap. */
export class GpuBuffers {
  readonly #device: GPUDevice;
  readonly #usage: GPUBufferUsageFlags;
  readonly #lifeline: Lifeline;
  readonly #entries = new Map<number, { plan: BufferPlan; buffer: GPUBuffer; ready: boolean }>();
  #allocatedBytes = 0;

  /** `lifeline` is the owner's: it must watch the device, and end before close(). */
  constructor(device: GPUDevice, lifeline: Lifeline, usage: GPUBufferUsageFlags = DEFAULT_USAGE) {
    this.#device = device;
    this.#lifeline = lifeline;
    this.#usage = usage | BufferUsage.COPY_DST;
  }

  /** Bytes of all buffers that exist, those of allocations under way included. */
  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  /** Rejects with `device_limit`, `out_of_device_memory` or `device_lost`. */
  async allocate(index: number, plan: BufferPlan): Promise<void> {
    const { tensor, nbytes } = plan;
    this.#check(plan);
    checkPlan(index, plan);
    if (this.#entries.has(index)) {
      throw new SluiceError('internal', `tensor "${tensor}": buffer ${index} is allocated twice`, {
        tensor,
      });
    }
    const limit = this.#device.limits.maxBufferSize;
    if (nbytes > limit) {
      throw new SluiceError(
        'device_limit',
        `tensor "${tensor}": ${nbytes} bytes exceed this device's maxBufferSize of ${limit} bytes`,
        {
          tensor,
          expected: limit,
          actual: nbytes,
          hint:
            'request the device with a larger maxBufferSize where the adapter has one, ' +
            'or place this tensor on cpu or disk',
        },
      );
    }
    const before = this.#allocatedBytes;
    let message: string | undefined;
    let filter: GPUErrorFilter = 'out-of-memory';
    try {
      const scoped = inErrorScopes(
        this.#device,
        () => {
          const usage = this.#usage;
          const made = this.#device.createBuffer({ label: tensor, size: nbytes, usage });
          this.#entries.set(index, { plan, buffer: made, ready: false });
          this.#allocatedBytes += nbytes;
        },
        CREATING,
      );
      const { error } = await this.#lifeline.race(scoped);
      if (error) ({ message, filter } = error);
    } catch (cause) {
      if (this.#lifeline.error === undefined) {
        message = cause instanceof Error ? cause.message : String(cause);
        if (!(cause instanceof RangeError)) filter = 'internal';
      }
    }
    const entry = this.#entries.get(index);
    if (message === undefined && entry !== undefined && this.#lifeline.error === undefined) {
      entry.ready = true;
      return;
    }
    if (entry !== undefined) this.#release(index);
    this.#check(plan);
    throw new SluiceError(
      filter === 'out-of-memory' ? 'out_of_device_memory' : 'internal',
      `tensor "${tensor}": the device refused a buffer of ${nbytes} bytes beside the ${before} bytes ` +
        `already allocated: ${message ?? 'no reason given'}`,
      {
        tensor,
        actual: nbytes,
        hint:
          filter === 'out-of-memory'
            ? 'close other pages that use the GPU, choose a smaller model or a stronger quantisation, ' +
              'or place large tensors on cpu or disk'
            : 'this is a fault in the buffer usage asked for or in this package',
      },
    );
  }

  /** The plan of an allocated buffer. */
  plan(index: number): BufferPlan | undefined {
    const entry = this.#entries.get(index);
    return entry?.ready ? entry.plan : undefined;
  }

  /** Throws `internal` where nothing has been allocated. */
  buffer(index: number): GPUBuffer {
    const entry = this.#entries.get(index);
    if (!entry?.ready) throw new SluiceError('internal', `buffer ${index} is not allocated`);
    return entry.buffer;
  }

  /** Destroys what is not finished, and with `keepBuffers` false everything. */
  close(keepBuffers: boolean): void {
    for (const [index, entry] of [...this.#entries]) {
      if (!keepBuffers || !entry.ready) this.#release(index);
    }
  }

  #release(index: number): void {
    const entry = this.#entries.get(index);
    if (entry === undefined) return;
    this.#entries.delete(index);
    this.#allocatedBytes -= entry.plan.nbytes;
    entry.buffer.destroy();
  }

  #check({ tensor, nbytes }: BufferPlan): void {
    const { error } = this.#lifeline;
    if (error === undefined) return;
    throw new SluiceError(error.code, `tensor "${tensor}" of ${nbytes} bytes: ${error.message}`, {
      tensor,
      actual: nbytes,
      cause: error,
      ...(error.hint === undefined ? {} : { hint: error.hint }),
    });
  }
}
