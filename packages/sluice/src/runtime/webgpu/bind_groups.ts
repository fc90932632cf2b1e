import { SluiceError } from '../../errors.js';
import type { BufferEntry } from './buffer_table.js';
import type { GpuErrors } from './gpu_errors.js';

/** What a kernel's bind groups are made of. */
export interface GroupShape {
  readonly name: string;
  /** Another one for each kernel. */
  readonly id: number;
  readonly layout: GPUBindGroupLayout;
  readonly writable: readonly boolean[];
  /** Bytes of its uniform. */
  readonly uniformBytes: number;
}

/** A bind group that is kept. */
export interface CachedGroup {
  readonly group: GPUBindGroup;
  readonly shape: GroupShape;
  readonly entries: readonly BufferEntry[];
  readonly hash: number;
  /** The next of the same hash. */
  next: CachedGroup | undefined;
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
  /** By hash. */
  readonly #table = new Map<number, CachedGroup>();
  /** The oldest first. */
  readonly #groups = new Set<CachedGroup>();

  constructor(device: GPUDevice, errors: GpuErrors, most: number) {
    this.#device = device;
    this.#errors = errors;
    this.#most = most;
  }

  get size(): number {
    return this.#groups.size;
  }

  /** `uniforms` is only called for when the group has to be made. */
  get(shape: GroupShape, entries: readonly BufferEntry[], uniforms: () => GPUBuffer): GPUBindGroup {
    const { length } = entries;
    let hash = shape.id;
    for (let i = 0; i < length; i++) hash = (Math.imul(hash, 0x9e3779b1) + entries[i]!.handle) | 0;
    for (let cached = this.#table.get(hash); cached; cached = cached.next) {
      if (cached.shape !== shape) continue;
      let i = 0;
      while (i < length && cached.entries[i] === entries[i]) i++;
      if (i === length) return cached.group;
    }
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
    const next = this.#table.get(hash);
    const cached: CachedGroup = { group, shape, entries: [...entries], hash, next };
    this.#table.set(hash, cached);
    this.#groups.add(cached);
    for (const entry of entries) entry.groups.add(cached);
    if (this.#groups.size > this.#most) this.#dropOldest();
    return group;
  }

  /** Forgets the groups that hold a buffer. */
  drop(entry: BufferEntry): void {
    for (const cached of entry.groups) this.#forget(cached);
  }

  clear(): void {
    for (const cached of this.#groups) this.#forget(cached);
  }

  #dropOldest(): void {
    for (const cached of this.#groups) {
      this.#forget(cached);
      return;
    }
  }

  #forget(cached: CachedGroup): void {
    for (const entry of cached.entries) entry.groups.delete(cached);
    this.#groups.delete(cached);
    const first = this.#table.get(cached.hash);
    if (first !== cached) {
      let before = first;
      while (before && before.next !== cached) before = before.next;
      if (before) before.next = cached.next;
    } else if (cached.next) {
      this.#table.set(cached.hash, cached.next);
    } else {
      this.#table.delete(cached.hash);
    }
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
