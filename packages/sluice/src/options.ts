import { SluiceError } from './errors.js';
import type { DType } from './model.js';
import type { UploadPath } from './sinks/measure_upload.js';
import { FIRST_TRANSFERS } from './sources/concurrency.js';
import type { ModelStore } from './store/model_store.js';
import type {
  LoadProgress,
  ManifestTensor,
  ModelManifest,
  PlanOptions,
} from './wasm/loader_module.js';

/** Takes bytes [offset, offset + bytes.length) of a tensor; `bytes` is valid until the call is done. */
export type TensorConsumer = (
  tensor: TensorInfo,
  offset: number,
  bytes: Uint8Array,
) => void | Promise<void>;

/** What is known of a tensor before it is loaded. */
export interface TensorInfo {
  readonly name: string;
  /** The element type once loaded. */
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** Bytes once loaded. */
  readonly nbytes: number;
}

/** Where a tensor is kept. */
export type Placement = 'gpu' | 'cpu' | 'disk';

export interface LoadOptions {
  /**
   * Where tensors go. A GPUDevice; 'gpu' to request one with limits as this model needs them; 'cpu' for
   * ArrayBuffers; 'auto' (the default) for 'gpu' where there is WebGPU and 'cpu' elsewhere.
   */
  device?: GPUDevice | 'gpu' | 'cpu' | 'auto';
  /** Features of the device that is requested. */
  requiredFeatures?: GPUFeatureName[];
  /** Most bytes of weights on their way, beside the tensors themselves: 64 MiB unless given. */
  budgetBytes?: number;
  /** Stops the load; everything it allocated is freed and the promise rejects with `aborted`. */
  signal?: AbortSignal;
  /** Called some twenty times a second, and once at the end. */
  onProgress?: (progress: LoadProgress) => void;
  /** Called as each tensor becomes usable: written, or queued ahead of what the caller submits next. */
  onTensor?: (name: string) => void;
  /**
   * Transfers at a time, at most: 6 unless given; fewer where the budget is small. A load begins with 4, adds one after
   * another while each makes it clearly faster, and takes back what the server does not bear.
   */
  connections?: number;
  /** Converts floating-point and quantised tensors; 'stored', the default, keeps every type. */
  dtype?: 'stored' | 'float32' | 'float16' | 'bfloat16';
  /** Which tensors to load: names, or a function of name, stored dtype and shape. All unless given. */
  tensors?: readonly string[] | ((tensor: ManifestTensor) => boolean);
  /**
   * Where tensors are converted that are loaded to a GPU: by the GPU, so that fewer bytes are uploaded, or before that.
   * The same bytes come out. 'auto', the default, is 'device' but for adapters that run on the CPU, and for a `usage`
   * without STORAGE.
   */
  expand?: 'auto' | 'device' | 'cpu';
  /**
   * Where tensors go, all or each: 'gpu' (where `device` says), 'cpu', or 'disk': kept in the local store and read by
   * rows, for tables of which a little is used at a time (see DiskTensor). Needs `store` for 'disk'.
   */
  placement?: Placement | ((tensor: ManifestTensor) => Placement);
  /** How bytes reach the GPU: 'auto', the default, measures the device once. */
  upload?: UploadPath | 'auto';
  /** GPUBufferUsage of the tensors' buffers: STORAGE | COPY_SRC | COPY_DST unless given. */
  usage?: GPUBufferUsageFlags;
  /** Tensors below so many bytes share buffers: 65,536 unless given; 0 gives each its own. */
  shareBelowBytes?: number;
  /**
   * Fetch and decode in a worker, so that a page stays responsive. True on a page's main thread unless
   * given, false elsewhere. Needs a GPU, and neither `fetch` nor `headers` as a function of the caller's. Where
   * the worker cannot be started, loading goes on without it and console.warn() says so once; with `true` that
   * is an error.
   */
  worker?: boolean;
  /**
   * For http(s): keeps what is fetched on this device, and takes from there what is kept. True for the default store,
   * or one of openStore(); false for none. True in browsers unless given, false in Node. Where there is none, the load
   * goes on without, and console.warn() says so once.
   */
  store?: boolean | ModelStore;
  /**
   * Pins the model: 'sha256-…' (base64, as for subresource integrity) of its manifest, whose own digests then cover
   * every file, or of the file where a model is one file. Anything else is refused, with `checksum_mismatch`; the
   * model is checked, whole files of it, before loadModel() resolves. Needs `store`.
   */
  integrity?: string;
  /** The model's name in the store; its URL unless given. For URLs that differ each time, as signed ones do. */
  storeKey?: string;
  /** Instead of keeping tensors, passes their bytes here, each tensor's in order. No device is used. */
  consume?: TensorConsumer;

  /** For http(s): used instead of the global fetch. */
  fetch?: typeof fetch;
  /**
   * For http(s): headers for the model's origin; they never reach another one, wherever the server redirects
   * to. In browsers a redirect is an error where there are others than Authorization. A function is called
   * with the URL before each request, for tokens that live shorter than a load may take.
   */
  headers?:
    | Record<string, string>
    | ((url: string) => Record<string, string> | Promise<Record<string, string>>);
  /** For http(s): cookies, as for fetch. */
  credentials?: RequestCredentials;
  /** For http(s): milliseconds without a byte after which a transfer is given up and opened again. */
  stallTimeoutMs?: number;
}

/** Every option by name: the compiler holds the list to LoadOptions. */
const OPTIONS: Record<keyof LoadOptions, true> = {
  device: true,
  requiredFeatures: true,
  budgetBytes: true,
  signal: true,
  onProgress: true,
  onTensor: true,
  connections: true,
  dtype: true,
  tensors: true,
  expand: true,
  placement: true,
  upload: true,
  usage: true,
  shareBelowBytes: true,
  worker: true,
  store: true,
  integrity: true,
  storeKey: true,
  consume: true,
  fetch: true,
  headers: true,
  credentials: true,
  stallTimeoutMs: true,
};

/** Throws `invalid_argument` for an option that there is none of, and names the one that may be meant. */
export function checkOptions(options: unknown): void {
  if (typeof options !== 'object' || options === null) {
    throw new SluiceError(
      'invalid_argument',
      `the options of loadModel() are of type ${typeof options}; expected an object`,
    );
  }
  for (const [name, value] of Object.entries(options)) {
    if (name in OPTIONS || value === undefined) continue;
    const near = nearest(name, Object.keys(OPTIONS));
    throw new SluiceError(
      'invalid_argument',
      `loadModel() has no option '${name}'`,
      near === undefined ? {} : { hint: `did you mean '${near}'?` },
    );
  }
}

/** The name that differs least from `given`, by a third of its letters at most. */
function nearest(given: string, names: readonly string[]): string | undefined {
  const [best] = names
    .map((name) => ({ name, edits: editDistance(given.toLowerCase(), name.toLowerCase()) }))
    .sort((a, b) => a.edits - b.edits);
  return best && best.edits <= given.length / 3 ? best.name : undefined;
}

/** How many letters must be changed, added or taken away to make `b` of `a` (Levenshtein's distance). */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 0; i < a.length; i++) {
    const next = [i + 1];
    for (let j = 0; j < b.length; j++) {
      const [kept = 0, added = 0, taken = 0] = [row[j], row[j + 1], next[j]];
      next.push(Math.min(kept + (a[i] === b[j] ? 0 : 1), added + 1, taken + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

export const DEFAULT_BUDGET_BYTES = 64 * 2 ** 20;
/** Bytes of a staging slot, where the budget allows. 4 to 16 MiB are fastest on the GPUs measured (docs/benchmarks.md). */
export const SLOT_BYTES = 4 * 2 ** 20;
/** Transfers at a time, at most: what browsers give an origin over HTTP/1.1. */
const MAX_TRANSFERS = 6;
/**
 * What the requests under way may have asked for, all together, where a browser may take in whole responses, read or
 * not, and hold them beside the budget (Chromium's BufferingBytesConsumer).
 */
const BUFFERED_BYTES = 64 * 2 ** 20;
/** Each request costs some 10 ms of a connection, so that larger ones are faster. */
const MAX_REQUEST_BYTES = 32 * 2 ** 20;
/** What lies on this device is not requested. */
const MAX_STORED_BYTES = 2 ** 40;

/** The plan's options for a manifest. Errors: `invalid_argument`, naming a tensor that is not there. */
export function planOptions(
  options: LoadOptions,
  manifest: ModelManifest,
  {
    reservedBytes,
    allStored = false,
    unbuffered = false,
    ...sink
  }: {
    staged: boolean;
    slotCopies: number;
    copiedSlots?: number;
    expandOnDevice: boolean;
    reservedBytes: number;
    allStored?: boolean;
    /** As Source.unbuffered. */
    unbuffered?: boolean | undefined;
  },
): PlanOptions {
  const upload: string = options.upload ?? 'auto';
  if (!['auto', 'ring', 'writeBuffer'].includes(upload)) {
    throw new SluiceError(
      'invalid_argument',
      `option upload is '${upload}'; expected 'auto', 'ring' or 'writeBuffer'`,
    );
  }
  const expand: string = options.expand ?? 'auto';
  if (!['auto', 'device', 'cpu'].includes(expand)) {
    throw new SluiceError(
      'invalid_argument',
      `option expand is '${expand}'; expected 'auto', 'device' or 'cpu'`,
    );
  }
  // What JSON cannot say; the loader checks the rest
  for (const name of ['budgetBytes', 'connections', 'shareBelowBytes'] as const) {
    const value = options[name];
    if (typeof value === 'number' && !Number.isFinite(value)) {
      throw new SluiceError('invalid_argument', `option ${name} is ${value}; expected a number`);
    }
  }
  const { connections = MAX_TRANSFERS } = options;
  const plan: PlanOptions = {
    budgetBytes: (options.budgetBytes ?? DEFAULT_BUDGET_BYTES) - reservedBytes,
    // What is stored is read from one end to the other, so that it is known what comes next
    connections: allStored ? Math.min(connections, 1) : connections,
    maxSlotBytes: SLOT_BYTES,
    // Nothing has to be fetched to learn that the device is too small
    ...(allStored ? { allocateAhead: 0 } : {}),
    maxSegmentBytes: allStored
      ? MAX_STORED_BYTES
      : Math.min(
          MAX_REQUEST_BYTES,
          // More than the first are added where each is slower than it is read, so that little of it lies about
          unbuffered
            ? Infinity
            : Math.ceil(BUFFERED_BYTES / Math.max(options.connections ?? FIRST_TRANSFERS, 1)),
        ),
    ...sink,
  };
  if (!sink.staged) plan.shareBelowBytes = 0;
  else if (options.shareBelowBytes !== undefined) plan.shareBelowBytes = options.shareBelowBytes;
  if (options.consume) plan.splitTensors = false;
  if (options.dtype !== undefined && options.dtype !== 'stored') plan.dtype = options.dtype;
  if (options.tensors !== undefined) plan.selected = select(options.tensors, manifest);
  return plan;
}

/** The tensors that the option `tensors` asks for, in the manifest's order. Errors as planOptions(). */
export function selectTensors(
  tensors: LoadOptions['tensors'],
  manifest: ModelManifest,
): ManifestTensor[] {
  if (tensors === undefined) return manifest.tensors;
  const chosen = new Set(select(tensors, manifest));
  return manifest.tensors.filter((_, index) => chosen.has(index));
}

function select(tensors: NonNullable<LoadOptions['tensors']>, manifest: ModelManifest): number[] {
  if (typeof tensors === 'function') {
    return manifest.tensors.flatMap((tensor, index) => (tensors(tensor) ? [index] : []));
  }
  if (!Array.isArray(tensors)) {
    throw new SluiceError(
      'invalid_argument',
      `option tensors is of type ${typeof tensors}; expected an array of names or a function`,
    );
  }
  const indices = new Map(manifest.tensors.map((tensor, index) => [tensor.name, index]));
  return (tensors as readonly string[]).map((name) => {
    const index = indices.get(name);
    if (index === undefined) {
      throw new SluiceError(
        'invalid_argument',
        `the model has no tensor '${name}' among its ${manifest.tensors.length}`,
        { tensor: name },
      );
    }
    return index;
  });
}
