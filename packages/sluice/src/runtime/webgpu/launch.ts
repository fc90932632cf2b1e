import { SluiceError } from '../../errors.js';

/** What a compiled module says of a kernel, in the names of its own JSON. */
export interface FunctionInfo {
  /** Also the entry point of the WGSL. */
  name: string;
  /** Of each argument: `handle` (a buffer), `int32`, `uint32`, `float32`, … */
  arg_types: readonly string[];
  /** What further arguments give: `blockIdx.x`, `threadIdx.x`, …; and `paramWriteAccess:[1,0,…]`, one for each buffer. */
  launch_param_tags: readonly string[];
}

export type KernelArgument = number | bigint | boolean;

export type PodKind = 'int' | 'uint' | 'float' | 'bool';

/** How a kernel is called. */
export interface LaunchPlan {
  readonly name: string;
  /** Argument positions of the buffers, in the order of their bindings. */
  readonly buffers: readonly number[];
  /** Of each binding: whether the kernel writes to it. */
  readonly writable: readonly boolean[];
  /** The plain arguments, in the order in which they lie in the uniform. */
  readonly pods: readonly {
    readonly position: number;
    readonly dtype: string;
    readonly kind: PodKind;
  }[];
  /** Of each launch argument: 0 to 2 for blockIdx.x to .z, 3 to 5 for threadIdx. */
  readonly dims: readonly number[];
  /** How many arguments a call has: the kernel's and the launch's. */
  readonly argumentCount: number;
}

const WRITE_ACCESS = 'paramWriteAccess:';
const THREAD_TAG = /^(blockIdx|threadIdx)\.([xyz])$/;
const POD = /^(u?int|float)(\d+)$|^bool$/;

/** Reads a FunctionInfo, as an object or its JSON. Throws `invalid_argument` with the kernel's name. */
export function planLaunch(given: FunctionInfo | string): LaunchPlan {
  const info = typeof given === 'string' ? parseInfo(given) : given;
  const { name } = info;
  const wrong = (what: string): SluiceError =>
    new SluiceError('invalid_argument', `kernel "${name}": ${what}`);
  const dims: number[] = [];
  let writable: boolean[] = [];
  for (const tag of info.launch_param_tags) {
    const thread = THREAD_TAG.exec(tag);
    if (thread) {
      dims.push('xyz'.indexOf(thread[2] ?? '') + (thread[1] === 'threadIdx' ? 3 : 0));
    } else if (tag.startsWith(WRITE_ACCESS)) {
      writable =
        parseAccess(tag.slice(WRITE_ACCESS.length)) ??
        fail(wrong(`"${tag}" is no list of 0 and 1`));
    } else {
      throw wrong(`the launch parameter "${tag}" is unknown`);
    }
  }
  const buffers: number[] = [];
  const pods: { position: number; dtype: string; kind: PodKind }[] = [];
  for (const [position, dtype] of info.arg_types.entries()) {
    if (dtype === 'handle') {
      buffers.push(position);
      continue;
    }
    const kind = podKind(dtype);
    if (kind === undefined) throw wrong(`argument ${position}: a shader takes no ${dtype}`);
    pods.push({ position, dtype, kind });
  }
  if (writable.length !== buffers.length) {
    throw wrong(`${buffers.length} buffers, and paramWriteAccess has ${writable.length}`);
  }
  const argumentCount = info.arg_types.length + dims.length;
  return { name, buffers, writable, pods, dims, argumentCount };
}

function podKind(dtype: string): PodKind | undefined {
  const match = POD.exec(dtype);
  if (match === null) return undefined;
  if (dtype === 'bool') return 'bool';
  // The uniform has 32 bits for each; wider integers are taken where their value fits
  if (match[1] === 'float') return match[2] === '32' ? 'float' : undefined;
  return match[1] as PodKind;
}

function parseInfo(json: string): FunctionInfo {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (cause) {
    throw new SluiceError(
      'invalid_argument',
      `a kernel's description is no JSON: ${String(cause)}`,
    );
  }
  const info = (typeof value === 'object' ? value : null) as Partial<FunctionInfo> | null;
  if (
    typeof info?.name !== 'string' ||
    !isStrings(info.arg_types) ||
    !isStrings(info.launch_param_tags)
  ) {
    throw new SluiceError(
      'invalid_argument',
      `a kernel's description has no name, arg_types and launch_param_tags: ${json.slice(0, 200)}`,
    );
  }
  return info as FunctionInfo;
}

const isStrings = (value: unknown): boolean =>
  Array.isArray(value) && value.every((each) => typeof each === 'string');

function parseAccess(json: string): boolean[] | undefined {
  try {
    const value: unknown = JSON.parse(json);
    if (!Array.isArray(value) || !value.every((each) => each === 0 || each === 1)) return undefined;
    return value.map((each) => each === 1);
  } catch {
    return undefined;
  }
}

function fail(error: SluiceError): never {
  throw error;
}

/** Larger factors are not looked for: one block too many is then computed, as everywhere before. */
const MOST_FACTORS = 4096;

/**
 * How `blocks` blocks are spread where a device has at most `limit` in one dimension: [x, z] with x * z >= blocks. A
 * kernel takes its block from z * x + …, and returns where that is above `blocks`: not where it equals it, so that a
 * product that is exact comes first. Undefined where there are too many.
 */
export function spreadBlocks(blocks: number, limit: number): [x: number, z: number] | undefined {
  if (blocks <= limit) return [blocks, 1];
  const least = Math.ceil(blocks / limit);
  if (least > limit) return undefined;
  const most = Math.min(limit, least + MOST_FACTORS);
  for (let z = least; z <= most; z++) if (blocks % z === 0) return [blocks / z, z];
  return [Math.ceil(blocks / least), least];
}
