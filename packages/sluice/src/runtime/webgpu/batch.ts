import { BufferUsage } from '../../sinks/gpu_buffers.js';
import type { BufferEntry } from './buffer_table.js';
import type { GpuErrors } from './gpu_errors.js';
import type { PassTimer } from './profile.js';

/** Bytes of one batch's uniforms and small uploads. */
export const ARENA_BYTES = 512 * 1024;

/** Commands of one batch at most where few of them are dispatches. */
const MOST_COMMANDS = 2048;

/** Names of kernels that an error lists. */
const NAMED = 4;

/**
 * The commands that have not been submitted yet. Dispatches that follow each other share a compute pass, in which
 * WebGPU orders them; a copy ends it. Uniforms and small uploads lie in an arena, written once for each submit. One
 * arena serves all batches: the queue does its writes and submits one after the other.
 */
export class Batch {
  /** Counts from 1; that of the commands now collected. */
  id = 1;
  submits = 0;
  passes = 0;
  dispatches = 0;
  /** Set while kernels are timed: each dispatch then has a pass of its own. */
  timer: PassTimer | undefined;
  readonly arenaWords = new Uint32Array(ARENA_BYTES / 4);
  readonly arenaBytes = new Uint8Array(this.arenaWords.buffer);
  readonly #device: GPUDevice;
  readonly #errors: GpuErrors;
  readonly #dispatchesPerSubmit: number;
  #arena: GPUBuffer | undefined;
  #used = 0;
  #encoder: GPUCommandEncoder | undefined;
  #pass: GPUComputePassEncoder | undefined;
  #pipeline: GPUComputePipeline | undefined;
  #commands: string[] = [];
  #dispatched = 0;
  #destroy: GPUBuffer[] = [];
  #submitted: (() => void)[] = [];

  constructor(device: GPUDevice, errors: GpuErrors, dispatchesPerSubmit: number) {
    this.#device = device;
    this.#errors = errors;
    this.#dispatchesPerSubmit = dispatchesPerSubmit;
  }

  /** Where the arena's bytes will be on the device. */
  get arena(): GPUBuffer {
    this.#arena ??= this.#errors.capture('making the buffer of uniforms', () =>
      this.#device.createBuffer({
        label: 'sluice uniforms and uploads',
        size: ARENA_BYTES,
        usage:
          BufferUsage.UNIFORM | BufferUsage.STORAGE | BufferUsage.COPY_SRC | BufferUsage.COPY_DST,
      }),
    );
    return this.#arena;
  }

  /** Whether commands wait that use the buffer. */
  uses(entry: BufferEntry): boolean {
    return entry.batch === this.id && this.#encoder !== undefined;
  }

  /** Space for `nbytes` bytes in the arena: its offset. May submit what there is, so it comes before a command's other steps. */
  reserve(nbytes: number, alignment: number): number {
    let offset = Math.ceil(this.#used / alignment) * alignment;
    if (offset + nbytes > ARENA_BYTES) {
      this.flush();
      offset = 0;
    }
    this.#used = offset + nbytes;
    return offset;
  }

  /** Bytes into the arena, padded to a multiple of 4: their offset. At most ARENA_BYTES. */
  stage(bytes: Uint8Array): number {
    const offset = this.reserve(Math.ceil(bytes.length / 4) * 4, 4);
    this.arenaBytes.set(bytes, offset);
    return offset;
  }

  dispatch(
    name: string,
    pipeline: GPUComputePipeline,
    group: GPUBindGroup,
    offsets: readonly number[],
    x: number,
    y: number,
    z: number,
  ): void {
    const { timer } = this;
    const pass = timer === undefined ? this.#openPass() : this.#timedPass(timer, name);
    if (pipeline !== this.#pipeline) {
      pass.setPipeline(pipeline);
      this.#pipeline = pipeline;
    }
    pass.setBindGroup(0, group, offsets);
    pass.dispatchWorkgroups(x, y, z);
    if (timer !== undefined) this.#endPass();
    this.#commands.push(name);
    this.dispatches++;
    if (++this.#dispatched >= this.#dispatchesPerSubmit || timer?.full) this.flush();
  }

  /** All in bytes, multiples of 4. */
  copy(
    what: string,
    source: GPUBuffer,
    sourceOffset: number,
    target: GPUBuffer,
    targetOffset: number,
    nbytes: number,
  ): void {
    this.#endPass();
    this.#open().copyBufferToBuffer(source, sourceOffset, target, targetOffset, nbytes);
    this.#commands.push(what);
  }

  /** Whatever else is encoded between passes. */
  encode(what: string, act: (encoder: GPUCommandEncoder) => void): void {
    this.#endPass();
    act(this.#open());
    this.#commands.push(what);
  }

  /** Destroys a buffer once the commands that may use it are submitted. */
  destroyAfter(buffer: GPUBuffer): void {
    this.#destroy.push(buffer);
  }

  /** Calls `act` once the commands collected so far are submitted. */
  afterSubmit(act: () => void): void {
    this.#submitted.push(act);
  }

  /** Submits what there is. */
  flush(): void {
    const encoder = this.#encoder;
    if (encoder === undefined && this.#used === 0) return;
    if (encoder !== undefined) this.#submit(encoder);
    this.#encoder = undefined;
    this.#used = 0;
    this.#commands = [];
    this.#dispatched = 0;
    this.id++;
    const submitted = this.#submitted;
    const destroy = this.#destroy;
    this.#submitted = [];
    this.#destroy = [];
    for (const act of submitted) act();
    for (const buffer of destroy) buffer.destroy();
  }

  /** Submits what there is if it is much: for the end of a call that copies. */
  relieve(): void {
    if (this.#commands.length >= MOST_COMMANDS) this.flush();
  }

  /** Drops what was not submitted, and everything it holds. */
  dispose(): void {
    this.#encoder = undefined;
    this.#pass = undefined;
    for (const buffer of this.#destroy) buffer.destroy();
    this.#destroy = [];
    this.#submitted = [];
    this.#arena?.destroy();
    this.#arena = undefined;
  }

  #submit(encoder: GPUCommandEncoder): void {
    this.#endPass();
    this.timer?.resolve(encoder);
    const commands = this.#commands;
    const { queue } = this.#device;
    const used = Math.ceil(this.#used / 4) * 4;
    const arena = used > 0 ? this.arena : undefined;
    this.#errors.capture(
      () => `submitting ${summary(commands)}`,
      () => {
        if (arena) queue.writeBuffer(arena, 0, this.arenaBytes, 0, used);
        queue.submit([encoder.finish()]);
      },
    );
    this.submits++;
  }

  #open(): GPUCommandEncoder {
    return (this.#encoder ??= this.#device.createCommandEncoder());
  }

  #openPass(): GPUComputePassEncoder {
    if (this.#pass === undefined) {
      this.#pass = this.#open().beginComputePass();
      this.passes++;
    }
    return this.#pass;
  }

  #timedPass(timer: PassTimer, name: string): GPUComputePassEncoder {
    this.#endPass();
    const encoder = this.#open();
    this.#pass = encoder.beginComputePass({ timestampWrites: timer.next(name) });
    this.passes++;
    return this.#pass;
  }

  #endPass(): void {
    this.#pass?.end();
    this.#pass = undefined;
    this.#pipeline = undefined;
  }
}

/** Commands by their names, for an error that may come of any of them. */
function summary(commands: readonly string[]): string {
  const counts = new Map<string, number>();
  for (const name of commands) counts.set(name, (counts.get(name) ?? 0) + 1);
  const names = [...counts].slice(0, NAMED).map(([name, n]) => (n > 1 ? `${name} x ${n}` : name));
  const more = counts.size > NAMED ? `, and ${counts.size - NAMED} others` : '';
  return `${commands.length} ${commands.length === 1 ? 'command' : 'commands'} (${names.join(', ')}${more})`;
}
