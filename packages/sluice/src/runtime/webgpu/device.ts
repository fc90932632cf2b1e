import { SluiceError } from '../../errors.js';
import { DEFAULT_USAGE } from '../../sinks/gpu_buffers.js';
import { Batch } from './batch.js';
import { BindGroups } from './bind_groups.js';
import { BufferTable } from './buffer_table.js';
import type { BufferEntry } from './buffer_table.js';
import { ByteCopier } from './byte_copy.js';
import { CanvasView } from './canvas.js';
import { GpuErrors } from './gpu_errors.js';
import { createKernel, createKernelAsync } from './kernel.js';
import type { KernelFunction, KernelHost } from './kernel.js';
import type { FunctionInfo } from './launch.js';
import { PassTimer } from './profile.js';
import type { KernelTime } from './profile.js';
import { Readback } from './readback.js';

/** How the device sees the memory of the wasm module. */
export interface WasmBytes {
  /** A view of the memory as it is now; it is asked for again whenever it may have grown. Throws where it ends too early. */
  bytes(pointer: number, nbytes: number): Uint8Array;
  /** Writes bytes there, which may be gone as soon as this returns. */
  store(pointer: number, bytes: Uint8Array): void;
}

/** What images are shown on; a canvas, mostly. */
export interface ImageView {
  /** Shows `height` rows of `width` pixels, four bytes each, from a buffer's start. */
  draw(buffer: GPUBuffer, height: number, width: number): void;
  clear(): void;
  dispose(): void;
}

export interface WebGPUDeviceOptions {
  /** A batch is submitted when it has this many dispatches, so that the GPU works while more come. Default 64. */
  dispatchesPerSubmit?: number;
  /** Bind groups that are kept. Default 8192. */
  mostBindGroups?: number;
  /** Bytes of staging buffers that are kept for the next reads. Default 32 MiB. */
  readPoolBytes?: number;
}

export interface WebGPUStats {
  /** Live buffers, and bytes of them as allocated: now, at most, and ever. Staging and uniforms are not counted. */
  buffers: number;
  allocatedBytes: number;
  peakBytes: number;
  totalBytes: number;
  dispatches: number;
  /** Compute passes that the dispatches were put into. */
  passes: number;
  submits: number;
  /** Bind groups kept now, and ever made. */
  bindGroups: number;
  bindGroupsMade: number;
  /** Bytes of staging buffers kept for reads. */
  readPoolBytes: number;
}

export interface KernelSource {
  info: FunctionInfo | string;
  wgsl: string;
}

/** An upload up to this size goes along with the batch; a larger one is not worth a second copy. */
const SMALL_UPLOAD = 64 * 1024;
const VALIDATION: readonly GPUErrorFilter[] = ['validation'];
const ALLOCATION: readonly GPUErrorFilter[] = ['internal', 'validation', 'out-of-memory'];

/**
 * A WebGPU device for compiled modules: buffers by handle, kernels, copies, all in the order of the calls. Commands collect
 * and are submitted at reads, at sync(), and every so many dispatches. What can be checked throws at once; what WebGPU
 * finds out later is thrown by the next sync() or read, in the words of the call that caused it. After the device is lost
 * or disposed of, every call throws.
 */
export class WebGPUDevice {
  readonly device: GPUDevice;
  readonly #memory: WasmBytes;
  readonly #errors: GpuErrors;
  readonly #table = new BufferTable();
  readonly #batch: Batch;
  readonly #groups: BindGroups;
  readonly #readback: Readback;
  readonly #copier: ByteCopier;
  readonly #host: KernelHost;
  /** Where showImage() draws. */
  canvas: ImageView | undefined;
  #flushing = false;

  /** `device` stays the caller's, who destroys it after dispose(). */
  constructor(device: GPUDevice, memory: WasmBytes, options: WebGPUDeviceOptions = {}) {
    const { dispatchesPerSubmit = 64, mostBindGroups = 8192, readPoolBytes = 2 ** 25 } = options;
    this.device = device;
    this.#memory = memory;
    this.#errors = new GpuErrors(device);
    this.#batch = new Batch(device, this.#errors, dispatchesPerSubmit);
    this.#groups = new BindGroups(device, this.#errors, mostBindGroups);
    this.#readback = new Readback(device, this.#errors, this.#batch, readPoolBytes);
    this.#copier = new ByteCopier(device, this.#errors, this.#batch);
    this.#host = {
      device,
      errors: this.#errors,
      batch: this.#batch,
      table: this.#table,
      groups: this.#groups,
    };
  }

  /**
   * A buffer of `nbytes` bytes, rounded up to a multiple of 4, with STORAGE, COPY_SRC and COPY_DST: its handle. Throws
   * `device_limit` where the device allows no such buffer; out of memory is told by the next sync().
   */
  allocate(nbytes: number): number {
    const what = `allocating a GPU buffer of ${nbytes} bytes`;
    this.#errors.check(what);
    if (!Number.isSafeInteger(nbytes) || nbytes < 0) {
      throw new SluiceError('invalid_argument', `${what}: that is no size`);
    }
    const size = Math.max(4, roundUp(nbytes));
    const { maxBufferSize } = this.device.limits;
    if (size > maxBufferSize) {
      throw new SluiceError(
        'device_limit',
        `${what}: this device allows ${maxBufferSize} at most`,
        {
          expected: maxBufferSize,
          actual: nbytes,
          hint: 'ask the adapter for a larger maxBufferSize, or use a model with smaller tensors',
        },
      );
    }
    const buffer = this.#errors.capture(
      what,
      () => this.device.createBuffer({ size, usage: storageUsage() }),
      { filters: ALLOCATION, hint: 'free tensors, or use a smaller model' },
    );
    return this.#table.add(buffer, nbytes).handle;
  }

  /**
   * Destroys a buffer, once the commands that use it are submitted. The handle is invalid at once. Throws nothing when the
   * device is gone: whoever holds a handle can always let go of it.
   */
  free(handle: number): void {
    const what = 'freeing a GPU buffer';
    const gone = this.#errors.lifeline.error !== undefined;
    const entry = gone ? this.#table.find(handle) : this.#table.get(handle, what);
    if (entry === undefined) return;
    this.#table.remove(entry);
    this.#groups.drop(entry);
    if (this.#batch.uses(entry)) this.#batch.destroyAfter(entry.buffer);
    else entry.buffer.destroy();
  }

  /** Takes over a buffer of the same device, which free() destroys: its handle. */
  adoptBuffer(buffer: GPUBuffer): number {
    const what = `taking over a GPU buffer of ${buffer.size} bytes`;
    this.#errors.check(what);
    if ((buffer.usage & DEFAULT_USAGE) !== DEFAULT_USAGE) {
      throw new SluiceError('invalid_argument', `${what}: its usage is ${buffer.usage}`, {
        hint: 'it must have STORAGE, COPY_SRC and COPY_DST',
      });
    }
    if (buffer.mapState !== 'unmapped') {
      throw new SluiceError('invalid_argument', `${what}: it is mapped`, {
        hint: 'unmap it first',
      });
    }
    return this.#table.add(buffer, buffer.size).handle;
  }

  /** The buffer of a handle; it stays the device's. Whoever submits commands with it calls flush() before. */
  bufferOf(handle: number): GPUBuffer {
    return this.#table.get(handle, 'looking up a GPU buffer').buffer;
  }

  /** Bytes from wasm memory to a buffer, at any offset. */
  copyToGPU(from: number, to: number, toOffset: number, nbytes: number): void {
    const what = `copying ${nbytes} bytes to a GPU buffer`;
    this.#range(what, to, toOffset, nbytes);
    this.copyBytesToBuffer(this.#memory.bytes(from >>> 0, nbytes), to, toOffset);
  }

  /** Bytes to a buffer, at any offset. They may change as soon as this returns. */
  copyBytesToBuffer(bytes: Uint8Array, to: number, toOffset = 0): void {
    const nbytes = bytes.length;
    const what = `copying ${nbytes} bytes to a GPU buffer`;
    const entry = this.#range(what, to, toOffset, nbytes);
    if (nbytes === 0) return;
    const end = toOffset + nbytes;
    if (toOffset % 4 === 0 && (nbytes % 4 === 0 || end === entry.nbytes)) {
      this.#write(what, entry, toOffset, bytes);
      return;
    }
    // The words at either end belong to others as well
    if (nbytes <= SMALL_UPLOAD) {
      this.#patch(what, entry, toOffset, bytes);
      return;
    }
    const first = roundUp(toOffset) - toOffset;
    const last = end % 4;
    if (first > 0) this.#patch(what, entry, toOffset, bytes.subarray(0, first));
    this.#write(what, entry, toOffset + first, bytes.subarray(first, nbytes - last));
    if (last > 0) this.#patch(what, entry, end - last, bytes.subarray(nbytes - last));
  }

  /**
   * Bytes of a buffer, from any offset, to wasm memory, where they are after the next sync(): until then that memory must
   * stay allocated.
   */
  copyFromGPU(from: number, fromOffset: number, to: number, nbytes: number): void {
    this.#read(`reading ${nbytes} bytes of a GPU buffer`, from, fromOffset, nbytes, (bytes) => {
      this.#memory.store(to >>> 0, bytes);
    }).catch(() => undefined); // sync() tells
  }

  /** A copy of bytes of a buffer, as the commands so far leave them. */
  async readBytes(
    from: number,
    fromOffset: number,
    nbytes: number,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const what = `reading ${nbytes} bytes of a GPU buffer`;
    let copy = new Uint8Array(0);
    const read = this.#read(what, from, fromOffset, nbytes, (bytes) => (copy = bytes.slice()));
    this.flush();
    await read.catch(() => undefined); // settle() tells
    await this.#errors.settle(what);
    return copy;
  }

  /** Bytes of one buffer to another or itself, where they may overlap; at any offsets. */
  copyWithinGPU(
    from: number,
    fromOffset: number,
    to: number,
    toOffset: number,
    nbytes: number,
  ): void {
    const what = `copying ${nbytes} bytes between GPU buffers`;
    const source = this.#range(what, from, fromOffset, nbytes);
    const target = this.#range(what, to, toOffset, nbytes);
    if (nbytes === 0 || (source === target && fromOffset === toOffset)) return;
    if (source !== target) {
      this.#copy(what, source.buffer, fromOffset, target, toOffset, nbytes);
    } else {
      // WebGPU copies no buffer to itself
      const begin = fromOffset % 4;
      const copied = roundUp(begin + nbytes);
      const between = this.#errors.capture(what, () =>
        this.device.createBuffer({ size: copied, usage: DEFAULT_USAGE }),
      );
      this.#batch.copy(what, source.buffer, fromOffset - begin, between, 0, copied);
      this.#copy(what, between, begin, target, toOffset, nbytes);
      this.#batch.destroyAfter(between);
    }
    source.batch = this.#batch.id;
    target.batch = this.#batch.id;
    this.#batch.relieve();
  }

  /** A kernel of WGSL, compiled when the device gets to it. What is wrong with it is told by the next sync(). */
  createShader(info: FunctionInfo | string, wgsl: string): KernelFunction {
    return createKernel(this.#host, info, wgsl);
  }

  /** The same, compiled beside others and before it is used. Rejects with the kernel's name, the line and the compiler's words. */
  createShaderAsync(info: FunctionInfo | string, wgsl: string): Promise<KernelFunction> {
    return createKernelAsync(this.#host, info, wgsl);
  }

  /** All kernels of a module, compiled in parallel, in their order. Rejects with the first that is wrong. */
  async pipelines(
    sources: Iterable<KernelSource>,
    onProgress?: (done: number, total: number) => void,
  ): Promise<KernelFunction[]> {
    const list = [...sources];
    let done = 0;
    return Promise.all(
      list.map(async ({ info, wgsl }) => {
        const kernel = await this.createShaderAsync(info, wgsl);
        onProgress?.(++done, list.length);
        return kernel;
      }),
    );
  }

  /** The functions that a runtime looks up by these names. Throws `invalid_argument` for any other. */
  deviceAPI(name: string): (...args: number[]) => number | undefined {
    const command =
      (act: (a: number, b: number, c: number, d: number, e: number) => void) =>
      // An argument that a caller from outside left out is no number, which no check lets pass
      (a = NaN, b = NaN, c = NaN, d = NaN, e = NaN): undefined => {
        act(a, b, c, d, e);
      };
    switch (name) {
      case 'deviceAllocDataSpace':
        return (nbytes = NaN) => this.allocate(nbytes);
      case 'deviceFreeDataSpace':
        return command((handle) => this.free(handle));
      case 'deviceCopyToGPU':
        return command((from, to, toOffset, n) => this.copyToGPU(from, to, toOffset, n));
      case 'deviceCopyFromGPU':
        return command((from, fromOffset, to, n) => this.copyFromGPU(from, fromOffset, to, n));
      case 'deviceCopyWithinGPU':
        return command((from, fromOffset, to, toOffset, n) =>
          this.copyWithinGPU(from, fromOffset, to, toOffset, n),
        );
      // Copies may begin and end at any byte, which other hosts than this one cannot say
      case 'deviceCopiesAnyByte':
        return () => 1;
      default:
        throw new SluiceError('invalid_argument', `the WebGPU device has no function "${name}"`);
    }
  }

  /** Submits the commands that wait. */
  flush(): void {
    this.#errors.check('submitting GPU commands');
    this.#batch.flush();
  }

  /** Waits until everything so far is done and every read has landed. Throws the first failure since the last time. */
  async sync(): Promise<void> {
    const what = 'waiting for the GPU';
    this.#errors.check(what);
    this.#batch.flush();
    // A read that was submitted last is itself the sign that all before it is done
    const last = this.#readback.pending > 0 && this.#readback.lastBatch === this.#batch.id - 1;
    if (!last) {
      await this.#errors.race(what, this.device.queue.onSubmittedWorkDone());
    }
    await this.#readback.landed();
    await this.#errors.settle(what);
  }

  /** Whether this device can tell the time of its kernels. */
  get canProfile(): boolean {
    return this.device.features.has('timestamp-query');
  }

  /**
   * Runs `act` and gives the time of each kernel on the GPU meanwhile, by name. Each dispatch has a pass of its own for
   * that long, so that the sum is above the time of a run that is not watched. Rejects with `device_limit` where the device lacks
   * the feature `timestamp-query`.
   */
  async profile(act: () => void | Promise<void>): Promise<Map<string, KernelTime>> {
    if (!this.canProfile) {
      throw new SluiceError('device_limit', 'this GPU device has no feature "timestamp-query"', {
        hint: 'request it with the device, where the adapter offers it',
      });
    }
    if (this.#batch.timer !== undefined) {
      throw new SluiceError('invalid_argument', 'kernels are being timed already');
    }
    this.flush();
    const timer = this.#errors.capture(
      'timing kernels',
      () => new PassTimer(this.device, this.#readback),
    );
    this.#batch.timer = timer;
    try {
      await act();
      await this.sync();
      return timer.times;
    } finally {
      this.#batch.timer = undefined;
      timer.destroy();
    }
  }

  /** Draws into a canvas from now on; undefined: no longer. */
  bindCanvas(canvas: HTMLCanvasElement | OffscreenCanvas | undefined): void {
    this.#errors.check('binding a canvas');
    this.canvas?.dispose();
    this.canvas = canvas && new CanvasView(this.device, this.#errors, canvas);
  }

  /** Shows `height` rows of `width` pixels, each of the four bytes r, g, b, a. */
  showImage(handle: number, height: number, width: number): void {
    const what = `showing an image of ${height} x ${width}`;
    const canvas = this.#boundCanvas(what);
    if (!(Number.isInteger(height) && Number.isInteger(width) && height > 0 && width > 0)) {
      throw new SluiceError('invalid_argument', `${what}: that is no size of an image`);
    }
    const { buffer } = this.#range(what, handle, 0, 4 * height * width);
    this.#batch.flush();
    // A read before it is no sign that it is done
    this.#readback.lastBatch = 0;
    canvas.draw(buffer, height, width);
  }

  /** Makes the canvas white. */
  clearCanvas(): void {
    const canvas = this.#boundCanvas('clearing the canvas');
    this.#readback.lastBatch = 0;
    canvas.clear();
  }

  stats(): WebGPUStats {
    const { dispatches, passes, submits } = this.#batch;
    return {
      ...this.#table.stats(),
      dispatches,
      passes,
      submits,
      bindGroups: this.#groups.size,
      bindGroupsMade: this.#groups.made,
      readPoolBytes: this.#readback.pooledBytes,
    };
  }

  /** Destroys every buffer. Commands that wait are submitted; a sync or read that waits rejects with `aborted`. */
  dispose(): void {
    if (this.#errors.lifeline.error === undefined) this.#batch.flush();
    this.#errors.end(
      new SluiceError('aborted', 'this WebGPU device was disposed of', {
        hint: 'wait for sync() before dispose()',
      }),
    );
    this.canvas?.dispose();
    this.canvas = undefined;
    this.#groups.clear();
    this.#readback.dispose();
    this.#batch.dispose();
    for (const entry of this.#table.live()) {
      this.#table.remove(entry);
      entry.buffer.destroy();
    }
  }

  /** Whole words, or fewer bytes at the very end. */
  #write(what: string, entry: BufferEntry, offset: number, bytes: Uint8Array): void {
    const { buffer } = entry;
    const batch = this.#batch;
    if (batch.uses(entry)) {
      if (bytes.length <= SMALL_UPLOAD) {
        const at = batch.stage(bytes);
        batch.copy(what, batch.arena, at, buffer, offset, roundUp(bytes.length));
        entry.batch = batch.id;
        batch.relieve();
        return;
      }
      batch.flush();
    }
    // No command that waits uses the buffer, so the queue may write it before they come
    this.#readback.lastBatch = 0;
    const whole = bytes.length - (bytes.length % 4);
    this.#errors.capture(
      what,
      () => {
        const { queue } = this.device;
        if (whole > 0)
          queue.writeBuffer(buffer, offset, bytes as Uint8Array<ArrayBuffer>, 0, whole);
        if (whole < bytes.length) {
          const rest = new Uint8Array(4);
          rest.set(bytes.subarray(whole));
          queue.writeBuffer(buffer, offset + whole, rest);
        }
      },
      { filters: VALIDATION },
    );
  }

  #patch(what: string, entry: BufferEntry, offset: number, bytes: Uint8Array): void {
    this.#copier.upload(what, bytes, { buffer: entry.buffer, offset });
    entry.batch = this.#batch.id;
  }

  /** Between different buffers. */
  #copy(
    what: string,
    source: GPUBuffer,
    fromOffset: number,
    target: BufferEntry,
    toOffset: number,
    nbytes: number,
  ): void {
    const { buffer } = target;
    if (fromOffset % 4 !== 0 || toOffset % 4 !== 0) {
      const from = { buffer: source, offset: fromOffset };
      this.#copier.copy(what, from, { buffer, offset: toOffset }, nbytes);
      return;
    }
    const toEnd = toOffset + nbytes === target.nbytes;
    const whole = toEnd ? roundUp(nbytes) : nbytes - (nbytes % 4);
    if (whole > 0) this.#batch.copy(what, source, fromOffset, buffer, toOffset, whole);
    if (whole < nbytes) {
      const from = { buffer: source, offset: fromOffset + whole };
      this.#copier.copy(what, from, { buffer, offset: toOffset + whole }, nbytes - whole);
    }
  }

  #read(
    what: string,
    from: number,
    fromOffset: number,
    nbytes: number,
    land: (bytes: Uint8Array) => void,
  ): Promise<void> {
    const entry = this.#range(what, from, fromOffset, nbytes);
    if (nbytes === 0) return Promise.resolve();
    const read = this.#readback.read(what, entry.buffer, fromOffset, nbytes, land);
    entry.batch = this.#batch.id;
    this.#flushSoon();
    return read;
  }

  /** Reads that follow each other share a submit; one that nobody waits for lands all the same. */
  #flushSoon(): void {
    if (this.#flushing) return;
    this.#flushing = true;
    queueMicrotask(() => {
      this.#flushing = false;
      if (this.#errors.lifeline.error === undefined) this.#batch.flush();
    });
  }

  /** The buffer, if it has these bytes. */
  #range(what: string, handle: number, offset: number, nbytes: number): BufferEntry {
    this.#errors.check(what);
    const entry = this.#table.get(handle, what);
    const valid = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
    if (!valid(offset) || !valid(nbytes)) {
      throw new SluiceError('invalid_argument', `${what}: offset ${offset}, ${nbytes} bytes`);
    }
    if (offset + nbytes > entry.nbytes) {
      throw new SluiceError(
        'range_out_of_bounds',
        `${what}: from ${offset} on, and buffer ${handle} has ${entry.nbytes} bytes`,
        { expected: entry.nbytes, actual: offset + nbytes },
      );
    }
    return entry;
  }

  #boundCanvas(what: string): ImageView {
    this.#errors.check(what);
    if (this.canvas === undefined) {
      throw new SluiceError('invalid_argument', `${what}: no canvas is bound`, {
        hint: 'call bindCanvas() first',
      });
    }
    return this.canvas;
  }
}

const roundUp = (nbytes: number): number => Math.ceil(nbytes / 4) * 4;

/** By the host's own constants where it has them. */
function storageUsage(): GPUBufferUsageFlags {
  const host = (globalThis as { GPUBufferUsage?: typeof GPUBufferUsage }).GPUBufferUsage;
  return host ? host.STORAGE | host.COPY_SRC | host.COPY_DST : DEFAULT_USAGE;
}
