import type { DTYPES } from './generated/abi.js';
import type { DiskTensor } from './store/disk_tensor.js';
import type { StoreReport } from './store/session.js';
import type { LoadProgress } from './wasm/loader_module.js';

/** Names of element types, as TVM and numpy spell them; GGUF's blocks as ggml does (`q4_1`). */
export type DType = keyof typeof DTYPES;

/** What tensors have wherever they are. */
export interface TensorBase {
  readonly name: string;
  /** The element type of the loaded bytes. */
  readonly dtype: DType;
  /** Elements, outermost dimension first; empty for a 0-d tensor. */
  readonly shape: readonly number[];
  /** Bytes of the tensor itself, without padding. */
  readonly nbytes: number;
}

/** A tensor in GPU memory. Small tensors share a buffer, so bind `{buffer, offset, size: nbytes}`. */
export interface GpuTensor extends TensorBase {
  readonly location: 'gpu';
  readonly buffer: GPUBuffer;
  /** Bytes from the buffer's start, a multiple of 256. */
  readonly offset: number;
}

/** A tensor in CPU memory. */
export interface CpuTensor extends TensorBase {
  readonly location: 'cpu';
  /** The tensor's bytes, little-endian. */
  readonly data: Uint8Array<ArrayBuffer>;
}

export type LoadedTensor = GpuTensor | CpuTensor | DiskTensor;

/** What a load did. */
export interface LoadReport extends LoadProgress {
  /** From the call of loadModel() to the last tensor, in milliseconds. */
  milliseconds: number;
  /** How bytes reached the GPU; undefined on the CPU. */
  upload: 'ring' | 'writeBuffer' | undefined;
  /** Tensors that the GPU converted; the others that are converted were so before they were uploaded. */
  expandedOnDevice: number;
  /** The thread that fetched and decoded. */
  thread: 'worker' | 'caller';
  /**
   * The most transfers at a time: fewer than the option `connections` where more did not make the load faster, or where
   * the server did not bear them.
   */
  connections: number;
  /** What came from the local store and what went there; undefined where it was not to be used. */
  store: StoreReport | undefined;
}

/** A loaded model: tensors by name, in the manifest's order. Its owner calls destroy(). */
export class Model {
  /** The container: "tensor-cache", "safetensors" or "gguf". */
  readonly format: string;
  /** The format's own metadata. */
  readonly metadata: Readonly<Record<string, unknown>>;
  readonly tensors: ReadonlyMap<string, LoadedTensor>;
  /** The device that holds the tensors; undefined on the CPU. */
  readonly device: GPUDevice | undefined;
  readonly report: LoadReport;
  readonly #ownsDevice: boolean;
  #release: (() => void) | undefined;

  constructor(parts: {
    format: string;
    metadata: Record<string, unknown>;
    tensors: ReadonlyMap<string, LoadedTensor>;
    device: GPUDevice | undefined;
    ownsDevice: boolean;
    report: LoadReport;
    /** Called once by destroy(): what else belongs to the model. */
    release?: (() => void) | undefined;
  }) {
    this.format = parts.format;
    this.metadata = parts.metadata;
    this.tensors = parts.tensors;
    this.device = parts.device;
    this.report = parts.report;
    this.#ownsDevice = parts.ownsDevice;
    this.#release = parts.release;
  }

  /** The tensor of that name, or undefined. */
  get(name: string): LoadedTensor | undefined {
    return this.tensors.get(name);
  }

  /** Frees every buffer, and the device where loadModel() made it. Safe to call again. */
  destroy(): void {
    const buffers = new Set<GPUBuffer>();
    for (const tensor of this.tensors.values()) {
      if (tensor.location === 'gpu') buffers.add(tensor.buffer);
    }
    for (const buffer of buffers) buffer.destroy();
    if (this.#ownsDevice) this.device?.destroy();
    // Dawn frees what was destroyed with the next submission, which would have to wait for it
    else if (buffers.size > 0) this.device?.queue.submit([]);
    this.#release?.();
    this.#release = undefined;
  }
}
