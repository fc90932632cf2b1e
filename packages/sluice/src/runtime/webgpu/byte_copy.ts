import type { Batch } from './batch.js';
import type { GpuErrors } from './gpu_errors.js';

/** Bytes of a buffer. */
export interface ByteRange {
  readonly buffer: GPUBuffer;
  readonly offset: number;
}

const VISIBLE_TO_COMPUTE = 0x4;
const WORKGROUP = 256;
const UNIFORM_BYTES = 16;
/** Bytes of one dispatch: within every device's binding size and 65,535 workgroups of 256 words. */
const MOST_BYTES = 32 * 2 ** 20;

// One invocation a word of the target: the bytes of it that are meant are taken from the source, the others stay.
const CODE = /* wgsl */ `
struct Range { target_byte : u32, source_byte : u32, nbytes : u32 }
@group(0) @binding(0) var<storage, read_write> target_words : array<u32>;
@group(0) @binding(1) var<storage, read> source_words : array<u32>;
@group(0) @binding(2) var<uniform> range : Range;

@compute @workgroup_size(${WORKGROUP})
fn copy_bytes(@builtin(global_invocation_id) id : vec3<u32>) {
  let word = range.target_byte / 4 + id.x;
  let end = range.target_byte + range.nbytes;
  if (word * 4 >= end) { return; }
  var value = target_words[word];
  for (var i = 0u; i < 4; i++) {
    let at = word * 4 + i;
    if (at < range.target_byte || at >= end) { continue; }
    let taken = range.source_byte + (at - range.target_byte);
    let byte = (source_words[taken / 4] >> (8 * (taken % 4))) & 0xff;
    value = insertBits(value, byte, 8 * i, 8);
  }
  target_words[word] = value;
}`;

/** Copies between buffers at any byte: WebGPU's own copies are of whole words. */
export class ByteCopier {
  readonly #device: GPUDevice;
  readonly #errors: GpuErrors;
  readonly #batch: Batch;
  #made: { layout: GPUBindGroupLayout; pipeline: GPUComputePipeline } | undefined;

  constructor(device: GPUDevice, errors: GpuErrors, batch: Batch) {
    this.#device = device;
    this.#errors = errors;
    this.#batch = batch;
  }

  /** The buffers differ. */
  copy(what: string, source: ByteRange, target: ByteRange, nbytes: number): void {
    for (let done = 0; done < nbytes; done += MOST_BYTES) {
      this.#dispatch(
        what,
        this.#batch.reserve(UNIFORM_BYTES, this.#alignment),
        { buffer: source.buffer, offset: source.offset + done },
        { buffer: target.buffer, offset: target.offset + done },
        Math.min(MOST_BYTES, nbytes - done),
      );
    }
  }

  /** Bytes from the CPU, by way of the batch's arena: at most half of it. */
  upload(what: string, bytes: Uint8Array, target: ByteRange): void {
    const batch = this.#batch;
    const room = UNIFORM_BYTES + Math.ceil(bytes.length / 4) * 4;
    const uniform = batch.reserve(room, this.#alignment);
    const offset = uniform + UNIFORM_BYTES;
    batch.arenaBytes.set(bytes, offset);
    this.#dispatch(what, uniform, { buffer: batch.arena, offset }, target, bytes.length);
  }

  get #alignment(): number {
    return this.#device.limits.minUniformBufferOffsetAlignment;
  }

  #dispatch(
    what: string,
    uniform: number,
    source: ByteRange,
    target: ByteRange,
    nbytes: number,
  ): void {
    const batch = this.#batch;
    const from = this.#window(source, nbytes);
    const to = this.#window(target, nbytes);
    batch.arenaWords.set([to.begin, from.begin, nbytes], uniform / 4);
    const { arena } = batch;
    const { group, pipeline } = this.#errors.capture(what, () => {
      const parts = this.#parts();
      const resources = [to.binding, from.binding, { buffer: arena, size: UNIFORM_BYTES }];
      const entries = resources.map((resource, binding) => ({ binding, resource }));
      const made = this.#device.createBindGroup({ layout: parts.layout, entries });
      return { group: made, pipeline: parts.pipeline };
    });
    const words = Math.ceil(((to.begin % 4) + nbytes) / 4);
    batch.dispatch(what, pipeline, group, [uniform], Math.ceil(words / WORKGROUP), 1, 1);
  }

  /** A binding that holds the bytes, and where they begin in it. */
  #window(
    { buffer, offset }: ByteRange,
    nbytes: number,
  ): { binding: GPUBufferBinding; begin: number } {
    const begin = offset % this.#device.limits.minStorageBufferOffsetAlignment;
    const size = Math.ceil((begin + nbytes) / 4) * 4;
    return { binding: { buffer, offset: offset - begin, size }, begin };
  }

  #parts(): { layout: GPUBindGroupLayout; pipeline: GPUComputePipeline } {
    if (this.#made !== undefined) return this.#made;
    const device = this.#device;
    const layout = device.createBindGroupLayout({
      entries: (['storage', 'read-only-storage', 'uniform'] as const).map((type, binding) => ({
        binding,
        visibility: VISIBLE_TO_COMPUTE,
        buffer: { type, hasDynamicOffset: type === 'uniform' },
      })),
    });
    const pipeline = device.createComputePipeline({
      label: 'sluice copy bytes',
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: device.createShaderModule({ code: CODE }), entryPoint: 'copy_bytes' },
    });
    return (this.#made = { layout, pipeline });
  }
}
