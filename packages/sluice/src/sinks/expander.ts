import { SluiceError } from '../errors.js';
import { elementBytes, unitOf, type Conversion } from './conversion.js';
import { expandShader, WORKGROUP } from './expand_wgsl.js';
import { BufferUsage, gpuFailure, inErrorScopes, scopedFailure } from './gpu_buffers.js';
import type { GpuBuffers } from './gpu_buffers.js';
import type { Lifeline } from './lifeline.js';
import type { Piece } from './sink.js';

/** What WebGPU's offsets of bindings are multiples of, at most: https://www.w3.org/TR/webgpu/#limits */
const ALIGNMENT = 256;
/** Dispatches of one submission at most, each with its parameters. */
const BATCH = 128;
/** https://www.w3.org/TR/webgpu/#dom-supported-limits-maxcomputeworkgroupsperdimension, which every device has. */
const MAX_WORKGROUPS = 65_535;
const VISIBLE_TO_COMPUTE = 0x4;

interface Shaders {
  readonly layout: GPUBindGroupLayout;
  readonly pipelines: Map<string, Promise<GPUComputePipeline>>;
}

/** Each pipeline is made once a device, however many loads use it. */
const cache = new WeakMap<GPUDevice, Shaders>();

function shadersOf(device: GPUDevice): Shaders {
  let shaders = cache.get(device);
  if (shaders === undefined) {
    const layout = device.createBindGroupLayout({
      entries: (['read-only-storage', 'storage', 'uniform'] as const).map((type, binding) => ({
        binding,
        visibility: VISIBLE_TO_COMPUTE,
        buffer: { type },
      })),
    });
    shaders = { layout, pipelines: new Map() };
    cache.set(device, shaders);
  }
  return shaders;
}

const nameOf = ({ from, to }: Conversion): string => `${from} to ${to}`;

function pipelineFor(device: GPUDevice, conversion: Conversion): Promise<GPUComputePipeline> {
  const { layout, pipelines } = shadersOf(device);
  const name = nameOf(conversion);
  let pipeline = pipelines.get(name);
  if (pipeline === undefined) {
    const code = expandShader(conversion);
    if (code === undefined) {
      return Promise.reject(new SluiceError('internal', `no shader expands ${name}`));
    }
    pipeline = device.createComputePipelineAsync({
      label: `sluice ${name}`,
      layout: device.createPipelineLayout({ bindGroupLayouts: [layout] }),
      compute: { module: device.createShaderModule({ code }), entryPoint: 'expand' },
    });
    pipelines.set(name, pipeline);
    pipeline.catch(() => pipelines.delete(name));
  }
  return pipeline;
}

/** One dispatch. */
interface Step {
  readonly pipeline: GPUComputePipeline;
  readonly elements: number;
  /** Bytes from the start of the scratch buffer. */
  readonly source: number;
  readonly target: GPUBuffer;
  /** Bytes; multiples of 4. */
  readonly targetOffset: number;
  readonly targetBytes: number;
}

/**
 * Expands stored bytes on the device: they are put into a scratch buffer as large as a slot, at the places that they have
 * in the slot, and a compute shader writes each piece's elements into its tensor's buffer. The queue does one upload
 * after the other, so one scratch buffer serves all slots.
 */
export class Expander {
  readonly #device: GPUDevice;
  readonly #lifeline: Lifeline;
  readonly #buffers: GpuBuffers;
  readonly #pipelines = new Map<string, GPUComputePipeline>();
  #scratch: GPUBuffer | undefined;
  #params: GPUBuffer | undefined;

  /** `lifeline` is the owner's: it must watch the device, and end before close(). */
  constructor(device: GPUDevice, lifeline: Lifeline, buffers: GpuBuffers) {
    this.#device = device;
    this.#lifeline = lifeline;
    this.#buffers = buffers;
  }

  /**
   * Makes what the conversions need. Rejects with `device_limit` or `device_lost`; memory that the device turns out not
   * to have ends the owner's lifeline with `out_of_device_memory`.
   */
  async prepare(slotBytes: number, conversions: readonly Conversion[]): Promise<void> {
    const what = `a buffer of ${slotBytes} bytes to expand tensors from`;
    const { maxStorageBufferBindingSize: limit } = this.#device.limits;
    if (slotBytes > limit) {
      throw new SluiceError(
        'device_limit',
        `${what} exceeds this device's maxStorageBufferBindingSize of ${limit} bytes`,
        { expected: limit, actual: slotBytes, hint: 'choose a smaller budget' },
      );
    }
    const failure = (cause: unknown): Promise<SluiceError> =>
      gpuFailure(this.#lifeline, 'preparing to expand tensors on the device', cause);
    try {
      const scoped = inErrorScopes(this.#device, () => {
        this.#scratch = this.#device.createBuffer({
          label: 'sluice packed',
          size: slotBytes,
          usage: BufferUsage.STORAGE | BufferUsage.COPY_DST,
        });
        this.#params = this.#device.createBuffer({
          label: 'sluice expansion parameters',
          size: BATCH * ALIGNMENT,
          usage: BufferUsage.UNIFORM | BufferUsage.COPY_DST,
        });
      });
      // Its answer comes when the device has done what was asked before; uploads need not wait for it
      scoped
        .then(({ error }) => {
          if (error) throw scopedFailure(what, error);
        })
        .catch(async (cause: unknown) => {
          this.#lifeline.end(await failure(cause));
        });
      await Promise.all(
        conversions.map(async (conversion) => {
          const pipeline = await this.#lifeline.race(pipelineFor(this.#device, conversion));
          this.#pipelines.set(nameOf(conversion), pipeline);
        }),
      );
    } catch (cause) {
      this.close();
      throw await failure(cause);
    }
  }

  /** Where the packed bytes of an upload go, at the offsets that they have in their slot. */
  get scratch(): GPUBuffer {
    if (this.#scratch === undefined) throw unprepared('a piece');
    return this.#scratch;
  }

  /** The part of a slot that its pieces to be expanded span; undefined where there are none. */
  span(pieces: readonly Piece[]): { offset: number; nbytes: number } | undefined {
    let begin = Infinity;
    let end = 0;
    for (const { slotOffset, nbytes, expand } of pieces) {
      if (expand === undefined) continue;
      begin = Math.min(begin, slotOffset);
      end = Math.max(end, slotOffset + nbytes);
    }
    return end === 0 ? undefined : { offset: begin, nbytes: end - begin };
  }

  /** Throws `internal` unless it was prepared for every piece. */
  check(pieces: readonly Piece[]): void {
    for (const { expand } of pieces) {
      if (expand && !this.#pipelines.has(nameOf(expand))) throw unprepared(nameOf(expand));
    }
  }

  /**
   * Submits `encoder`, with the expansion of the pieces behind what it has: their bytes must be in the scratch buffer
   * then.
   */
  expand(pieces: readonly Piece[], encoder: GPUCommandEncoder): void {
    const steps = pieces.flatMap((piece) => this.#steps(piece));
    for (let i = 0; i === 0 || i < steps.length; i += BATCH) {
      const next = i === 0 ? encoder : this.#device.createCommandEncoder();
      this.#submit(next, steps.slice(i, i + BATCH));
    }
  }

  close(): void {
    this.#scratch?.destroy();
    this.#params?.destroy();
    this.#scratch = undefined;
    this.#params = undefined;
    this.#pipelines.clear();
  }

  /** A piece in parts that a binding can hold. */
  #steps({ slotOffset, buffer, bufferOffset, expand }: Piece): Step[] {
    if (expand === undefined) return [];
    const name = nameOf(expand);
    const pipeline = this.#pipelines.get(name);
    const unit = unitOf(expand.from);
    if (pipeline === undefined || unit === undefined) throw unprepared(name);
    const target = this.#buffers.buffer(buffer);
    const each = elementBytes(expand.to);
    const total = expand.nbytes / each;
    // Pairs of units are multiples of 4 bytes on either side
    const pair = 2 * unit.blockElements;
    const room = this.#device.limits.maxStorageBufferBindingSize - ALIGNMENT;
    const most = Math.floor(room / each / pair) * pair;
    const steps: Step[] = [];
    for (let done = 0; done < total; done += most) {
      const elements = Math.min(most, total - done);
      steps.push({
        pipeline,
        elements,
        source: slotOffset + (done / unit.blockElements) * unit.blockBytes,
        target,
        targetOffset: bufferOffset + done * each,
        targetBytes: Math.ceil((elements * each) / 4) * 4,
      });
    }
    return steps;
  }

  #submit(encoder: GPUCommandEncoder, steps: readonly Step[]): void {
    const device = this.#device;
    const { layout } = shadersOf(device);
    if (this.#params === undefined) throw unprepared('a piece');
    const params = new Uint32Array((steps.length * ALIGNMENT) / 4);
    const pass = encoder.beginComputePass();
    for (const [i, step] of steps.entries()) {
      const { pipeline, elements, source, target, targetOffset, targetBytes } = step;
      const begin = targetOffset - (targetOffset % ALIGNMENT);
      params.set([elements, source, (targetOffset - begin) / 4], (i * ALIGNMENT) / 4);
      const resources: GPUBufferBinding[] = [
        { buffer: this.scratch },
        { buffer: target, offset: begin, size: targetOffset - begin + targetBytes },
        { buffer: this.#params, offset: i * ALIGNMENT, size: 16 },
      ];
      pass.setPipeline(pipeline);
      const entries = resources.map((resource, binding) => ({ binding, resource }));
      pass.setBindGroup(0, device.createBindGroup({ layout, entries }));
      pass.dispatchWorkgroups(Math.min(Math.ceil(targetBytes / 4 / WORKGROUP), MAX_WORKGROUPS));
    }
    pass.end();
    // Before what is submitted now and after what was before
    device.queue.writeBuffer(this.#params, 0, params);
    device.queue.submit([encoder.finish()]);
  }
}

const unprepared = (what: string): SluiceError =>
  new SluiceError('internal', `the upload sink was not prepared to expand ${what}`);
