import { SluiceError } from '../../errors.js';
import type { BufferEntry } from './buffer_table.js';
import type { GpuErrors } from './gpu_errors.js';

/** What a kernel's bind groups are made of. */
export interface GroupShape {
  readonly name: string;
  /** Distinguishes kernels in keys. */
  readonly id: number;
  readonly layout: GPUBindGroupLayout;
  readonly writable: readonly boolean[];
  /** Bytes of its uniform. */
  readonly uniformBytes: number;
}

interface Cached {
  readonly group: GPUBindGroup;
  readonly entries: readonly BufferEntry[];
}

const VALIDATION: readonly GPUErrorFilter[] = ['validation'];

/**
 * Bind groups by kernel and buffers: made once, dropped when one of their buffers is freed, and no more than a number of
 * them, the oldest going first. The uniform is bound with a dynamic offset, so that it is no part of the key.
 */
export class BindGroups {
  made = 0;
  readonly #device: GPUDevice;
  readonly #errors: GpuErrors;
  readonly #most: number;
  readonly #groups = new Map<string, Cached>();

  constructor(device: GPUDevice, errors: GpuErrors, most: number) {
    this.#device = device;
    this.#errors = errors;
    this.#most = most;
  }

  get size(): number {
    return this.#groups.size;
  }

  /** `key`: the shape's id and the handles. `uniforms` is only called for when the group has to be made. */
  get(
    key: string,
    shape: GroupShape,
    entries: readonly BufferEntry[],
    uniforms: () => GPUBuffer,
  ): GPUBindGroup {
    const cached = this.#groups.get(key);
    if (cached !== undefined) return cached.group;
    this.#check(shape, entries);
    const buffer = uniforms();
    const group = this.#errors.capture(
      `kernel "${shape.name}"`,
      () =>
        this.#device.createBindGroup({
          label: shape.name,
          layout: shape.layout,
          entries: [
            ...entries.map((entry, binding) => ({ binding, resource: { buffer: entry.buffer } })),
            { binding: entries.length, resource: { buffer, size: shape.uniformBytes } },
          ],
        }),
      { filters: VALIDATION },
    );
    this.made++;
    this.#groups.set(key, { group, entries: [...entries] });
    for (const entry of entries) entry.groups.add(key);
    if (this.#groups.size > this.#most) this.#dropOldest();
    return group;
  }

  /** Forgets the groups that hold a buffer. */
  drop(entry: BufferEntry): void {
    for (const key of entry.groups) this.#forget(key);
  }

  clear(): void {
    for (const key of this.#groups.keys()) this.#forget(key);
  }

  #dropOldest(): void {
    for (const key of this.#groups.keys()) {
      this.#forget(key);
      return;
    }
  }

  #forget(key: string): void {
    for (const entry of this.#groups.get(key)?.entries ?? []) entry.groups.delete(key);
    this.#groups.delete(key);
  }

  /** What WebGPU would refuse, while the call that does it is known. */
  #check({ name, writable }: GroupShape, entries: readonly BufferEntry[]): void {
    const most = this.#device.limits.maxStorageBufferBindingSize;
    for (const [i, { handle, buffer }] of entries.entries()) {
      if (buffer.size > most) {
        throw new SluiceError(
          'device_limit',
          `kernel "${name}": buffer ${i} has ${buffer.size} bytes, and this device binds at most ${most}`,
          { expected: most, actual: buffer.size, hint: 'use a model with smaller tensors' },
        );
      }
      if (writable[i] !== true) continue;
      const other = entries.findIndex((each, j) => j !== i && each.handle === handle);
      if (other < 0) continue;
      throw new SluiceError(
        'invalid_argument',
        `kernel "${name}": buffers ${i} and ${other} are the same (handle ${handle}), and the kernel writes to it`,
        { hint: 'give it a copy: WebGPU binds no buffer twice that is written to' },
      );
    }
  }
}
