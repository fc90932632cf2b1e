import { SluiceError } from '../../errors.js';
import type { Batch } from './batch.js';
import type { BindGroups, GroupShape } from './bind_groups.js';
import type { BufferEntry, BufferTable } from './buffer_table.js';
import { noBuffer } from './buffer_table.js';
import type { GpuErrors } from './gpu_errors.js';
import { planLaunch, spreadBlocks } from './launch.js';
import type { FunctionInfo, KernelArgument, LaunchPlan, PodKind } from './launch.js';

const VISIBLE_TO_COMPUTE = 0x4;

/** The parts of a device that a kernel works with. */
export interface KernelHost {
  readonly device: GPUDevice;
  readonly errors: GpuErrors;
  readonly batch: Batch;
  readonly table: BufferTable;
  readonly groups: BindGroups;
}

/** A kernel as a function of its arguments: buffer handles, plain values, and the extents of the launch. */
export type KernelFunction = (...args: KernelArgument[]) => void;

let nextId = 1;

/** Launches one compiled kernel. */
class Kernel implements GroupShape {
  readonly name: string;
  readonly id = nextId++;
  readonly uniformBytes: number;
  readonly writable: readonly boolean[];
  readonly layout: GPUBindGroupLayout;
  readonly #host: KernelHost;
  readonly #plan: LaunchPlan;
  readonly #pipeline: GPUComputePipeline;
  readonly #alignment: number;
  readonly #limit: number;
  readonly #entries: BufferEntry[] = [];
  readonly #extents = [1, 1, 1, 1, 1, 1];
  readonly #offsets = [0];
  readonly #uniforms: () => GPUBuffer;
  /** The batch that #offsets is of; what lies there is its last uniform. */
  #batch = 0;

  constructor(
    host: KernelHost,
    plan: LaunchPlan,
    layout: GPUBindGroupLayout,
    pipeline: GPUComputePipeline,
  ) {
    this.#host = host;
    this.#plan = plan;
    this.#pipeline = pipeline;
    this.name = plan.name;
    this.layout = layout;
    this.writable = plan.writable;
    this.uniformBytes = uniformBytes(plan);
    this.#alignment = host.device.limits.minUniformBufferOffsetAlignment;
    this.#limit = host.device.limits.maxComputeWorkgroupsPerDimension;
    this.#uniforms = () => host.batch.arena;
  }

  launch(args: readonly KernelArgument[]): void {
    const { batch, table, groups, errors } = this.#host;
    const { buffers, pods, dims, argumentCount, name } = this.#plan;
    if (errors.lifeline.error !== undefined) errors.check(`kernel "${name}"`);
    if (args.length !== argumentCount) {
      throw this.#wrong(
        `${args.length} arguments were given, and it takes ${argumentCount}: ` +
          `${buffers.length} buffers, ${pods.length} values and ${dims.length} launch extents`,
      );
    }
    // Everything is checked before the first command, so that a wrong call leaves no trace
    const entries = this.#entries;
    for (let i = 0; i < buffers.length; i++) {
      const handle = args[buffers[i]!];
      const entry = typeof handle === 'number' ? table.find(handle) : undefined;
      if (entry === undefined) throw noBuffer(handle, `kernel "${name}": argument ${buffers[i]!}`);
      entries[i] = entry;
    }
    const extents = this.#extents;
    const first = argumentCount - dims.length;
    extents.fill(1);
    for (let i = 0; i < dims.length; i++) {
      extents[dims[i]!] = this.#extent(args[first + i]!, first + i);
    }
    const [blocks, y, reserved] = extents as [number, number, number];
    if (reserved !== 1)
      throw this.#wrong(`blockIdx.z is ${reserved}, and is in use for blockIdx.x`);
    if (y > this.#limit) {
      throw this.#wrong(`blockIdx.y is ${y}, and this device has at most ${this.#limit}`);
    }
    let x = blocks;
    let z = 1;
    if (blocks > this.#limit) {
      const spread = spreadBlocks(blocks, this.#limit);
      if (spread === undefined) {
        throw this.#wrong(
          `blockIdx.x is ${blocks}, and this device has at most ${this.#limit ** 2}`,
        );
      }
      [x, z] = spread;
    }
    const words = this.#words(args, blocks);
    if (x === 0 || y === 0) return;
    this.#place(words);
    const group = groups.get(this, entries, this.#uniforms);
    for (let i = 0; i < buffers.length; i++) entries[i]!.batch = batch.id;
    batch.dispatch(name, this.#pipeline, group, this.#offsets, x, y, z);
  }

  /** The uniform of a call: its plain values, and the number of blocks last. */
  #words(args: readonly KernelArgument[], blocks: number): Uint32Array {
    const { pods } = this.#plan;
    for (let i = 0; i < pods.length; i++) {
      const { position, kind } = pods[i]!;
      const value = args[position]!;
      // The common cases first
      if (kind === 'int' && typeof value === 'number' && (value | 0) === value) ints[i] = value;
      else if (kind === 'float' && typeof value === 'number') floats[i] = value;
      else this.#word(i, kind, value, position);
    }
    uints[pods.length] = blocks;
    return uints;
  }

  #word(i: number, kind: PodKind, given: KernelArgument, position: number): void {
    const { dtype } = this.#plan.pods[i]!;
    const value = typeof given === 'bigint' || typeof given === 'boolean' ? Number(given) : given;
    const [least, most] = RANGES[kind];
    const integer = kind !== 'float';
    if (typeof value !== 'number' || (integer && !Number.isInteger(value))) {
      throw this.#wrong(`argument ${position} is ${String(given)}, and must be of type ${dtype}`);
    }
    if (value < least || value > most) {
      throw this.#wrong(
        `argument ${position} is ${String(given)}, and ${dtype} is given to a shader in 32 bits: ${least} to ${most}`,
      );
    }
    if (integer) uints[i] = value;
    else floats[i] = value;
  }

  /** Puts the uniform into the arena, unless it is the one of the call before, in the same batch. */
  #place(words: Uint32Array): void {
    const { batch } = this.#host;
    const { arenaWords } = batch;
    const count = this.uniformBytes / 4;
    const last = this.#offsets[0]! / 4;
    if (this.#batch === batch.id) {
      let i = 0;
      while (i < count && arenaWords[last + i] === words[i]) i++;
      if (i === count) return;
    }
    const offset = batch.reserve(this.uniformBytes, this.#alignment);
    for (let i = 0; i < count; i++) arenaWords[offset / 4 + i] = words[i]!;
    this.#offsets[0] = offset;
    this.#batch = batch.id;
  }

  #extent(given: KernelArgument, position: number): number {
    const value = Number(given);
    if (typeof given === 'boolean' || !Number.isInteger(value) || value < 0 || value >= 2 ** 32) {
      throw this.#wrong(`argument ${position} is ${String(given)}, and must be a launch extent`);
    }
    return value;
  }

  #wrong(what: string): SluiceError {
    return new SluiceError('invalid_argument', `kernel "${this.name}": ${what}`);
  }
}

/** Plain arguments and the block count of one call; a kernel with more has no place in a uniform. */
const MOST_WORDS = 1024;
const uints = new Uint32Array(MOST_WORDS);
const ints = new Int32Array(uints.buffer);
const floats = new Float32Array(uints.buffer);

const RANGES: Record<PodKind, readonly [number, number]> = {
  int: [-(2 ** 31), 2 ** 31 - 1],
  uint: [0, 2 ** 32 - 1],
  bool: [0, 1],
  float: [-Infinity, Infinity],
};

const uniformBytes = (plan: LaunchPlan): number => 4 * (plan.pods.length + 1);

interface Parts {
  readonly plan: LaunchPlan;
  readonly module: GPUShaderModule;
  readonly layout: GPUBindGroupLayout;
  readonly descriptor: GPUComputePipelineDescriptor;
}

/** The kernel, built when the device gets to it: what is wrong with it is told at the next sync. */
export function createKernel(
  host: KernelHost,
  info: FunctionInfo | string,
  wgsl: string,
): KernelFunction {
  const plan = checkedPlan(host, info);
  let module: GPUShaderModule | undefined;
  return host.errors.capture(
    `kernel "${plan.name}"`,
    () => {
      const parts = describe(host, plan, wgsl);
      ({ module } = parts);
      return finish(host, parts, host.device.createComputePipeline(parts.descriptor));
    },
    { explain: async () => module && compilerErrors(module, wgsl) },
  );
}

/** The kernel, built beside others. Rejects with what the compiler says. */
export async function createKernelAsync(
  host: KernelHost,
  info: FunctionInfo | string,
  wgsl: string,
): Promise<KernelFunction> {
  const plan = checkedPlan(host, info);
  const { device, errors } = host;
  // What a scope catches of the module, the pipeline's promise rejects with
  device.pushErrorScope('validation');
  let parts: Parts;
  let pipeline: Promise<GPUComputePipeline>;
  try {
    parts = describe(host, plan, wgsl);
    pipeline = device.createComputePipelineAsync(parts.descriptor);
  } finally {
    device.popErrorScope().catch(() => undefined);
  }
  try {
    return finish(host, parts, await errors.lifeline.race(pipeline));
  } catch (cause) {
    errors.check(`kernel "${plan.name}"`);
    const said = await errors.race(`kernel "${plan.name}"`, compilerErrors(parts.module, wgsl));
    const message = said ?? (cause instanceof Error ? cause.message : String(cause));
    throw new SluiceError('invalid_argument', `kernel "${plan.name}": ${message}`, { cause });
  }
}

function checkedPlan(host: KernelHost, info: FunctionInfo | string): LaunchPlan {
  const plan = planLaunch(info);
  const { maxStorageBuffersPerShaderStage: most } = host.device.limits;
  host.errors.check(`kernel "${plan.name}"`);
  if (plan.buffers.length > most) {
    throw new SluiceError(
      'device_limit',
      `kernel "${plan.name}" has ${plan.buffers.length} buffers, and this device binds at most ${most}`,
      { expected: most, actual: plan.buffers.length },
    );
  }
  if (plan.pods.length >= MOST_WORDS) {
    throw new SluiceError(
      'device_limit',
      `kernel "${plan.name}" has ${plan.pods.length} values, and takes at most ${MOST_WORDS - 1}`,
      { expected: MOST_WORDS - 1, actual: plan.pods.length },
    );
  }
  return plan;
}

function describe({ device }: KernelHost, plan: LaunchPlan, wgsl: string): Parts {
  const { name, writable } = plan;
  const layout = device.createBindGroupLayout({
    label: name,
    entries: [
      ...writable.map((write, binding) => ({
        binding,
        visibility: VISIBLE_TO_COMPUTE,
        buffer: { type: write ? ('storage' as const) : ('read-only-storage' as const) },
      })),
      {
        binding: writable.length,
        visibility: VISIBLE_TO_COMPUTE,
        buffer: { type: 'uniform', hasDynamicOffset: true, minBindingSize: uniformBytes(plan) },
      },
    ],
  });
  const module = device.createShaderModule({ label: name, code: wgsl });
  const descriptor = {
    label: name,
    layout: device.createPipelineLayout({ label: name, bindGroupLayouts: [layout] }),
    compute: { module, entryPoint: name },
  };
  return { plan, module, layout, descriptor };
}

function finish(host: KernelHost, parts: Parts, pipeline: GPUComputePipeline): KernelFunction {
  const kernel = new Kernel(host, parts.plan, parts.layout, pipeline);
  return (...args) => kernel.launch(args);
}

/** What the compiler found wrong, with the lines that it means; undefined where it found nothing. */
async function compilerErrors(module: GPUShaderModule, wgsl: string): Promise<string | undefined> {
  const { messages } = await module.getCompilationInfo();
  const errors = messages.filter(({ type }) => type === 'error');
  if (errors.length === 0) return undefined;
  const lines = wgsl.split('\n');
  return errors
    .slice(0, 3)
    .map(({ lineNum, linePos, message }) => {
      const line = lines[lineNum - 1]?.trim();
      const where = lineNum > 0 ? `line ${lineNum}:${linePos}: ` : '';
      return `${where}${message.trim()}${line ? ` in "${line.slice(0, 120)}"` : ''}`;
    })
    .join('; ');
}
