import { asSluiceError, SluiceError, type ErrorCode, type ErrorDetails } from '../errors.js';
import {
  ABI_VERSION,
  CALL_RESULT,
  COMMAND,
  DECODE_INPUT_BYTES,
  OP,
  PIECE,
  PROGRESS,
} from '../generated/abi.js';
import type { Conversion } from '../sinks/conversion.js';
import { instantiate } from './instance.js';
import type { Piece } from '../sinks/sink.js';

/** The functions of hosts/wasm/exports.txt. Addresses, handles and counts are numbers; see there. */
interface Exports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  sluice_abi_version(): number;
  sluice_allocate(nbytes: number): number;
  sluice_deallocate(address: number): void;
  sluice_initialize(): void;
  sluice_model_abort(model: number, error: number, length: number): void;
  sluice_model_allocated(model: number, buffer: number): void;
  sluice_model_allocation_failed(
    model: number,
    buffer: number,
    error: number,
    length: number,
  ): void;
  sluice_model_chunk(model: number, stream: number, nbytes: number, held: number): void;
  sluice_model_decode(model: number, stream: number, tensor: number, nbytes: number): void;
  sluice_model_ended(model: number, stream: number): void;
  sluice_model_error(model: number): number;
  sluice_model_failed(
    model: number,
    stream: number,
    error: number,
    length: number,
    retryable: number,
    retryAfterMs: number,
  ): void;
  sluice_model_finished(model: number): number;
  sluice_model_flush_failed(model: number, error: number, length: number): void;
  sluice_model_flushed(model: number): void;
  sluice_model_free(model: number): void;
  sluice_model_manifest(model: number): number;
  sluice_model_missing(model: number): number;
  sluice_model_new(name: number, length: number): number;
  sluice_model_opened(
    model: number,
    stream: number,
    begin: number,
    ranged: number,
    fileBytes: number,
  ): void;
  sluice_model_pieces(model: number, slot: number): number;
  sluice_model_plan(model: number, options: number, length: number): number;
  sluice_model_poll(model: number): number;
  sluice_model_progress(model: number): number;
  sluice_model_provide(model: number, bytes: number, nbytes: number, fileBytes: number): number;
  sluice_model_request(model: number): number;
  sluice_model_start(model: number): number;
  sluice_model_upload_failed(model: number, slot: number, error: number, length: number): void;
  sluice_model_uploaded(model: number, slot: number): void;
  sluice_model_waited(model: number, stream: number): void;
}

/** Where a stored tensor lies and what it is: one entry of the manifest. */
export interface ManifestTensor {
  name: string;
  dtype: string;
  /** The element type in the file; differs from `dtype` where the format packs float32 as bfloat16. */
  storedDtype: string;
  /** Elements, outermost dimension first. */
  shape: number[];
  storedBytes: number;
  /** Index into the manifest's files. */
  file: number;
  /** Bytes from the start of the file. */
  offset: number;
}

export interface ModelManifest {
  format: 'tensor-cache' | 'safetensors' | 'gguf';
  metadata: Record<string, unknown>;
  /** `md5`: of the whole file, in hexadecimal digits, where the manifest has it. */
  files: { path: string; nbytes?: number; md5?: string }[];
  tensors: ManifestTensor[];
}

export interface ModelPlan {
  /** One for each tensor of the manifest; null for one that is not selected. */
  placements: (null | {
    dtype: string;
    nbytes: number;
    buffer: number;
    offset: number;
    /** The stored bytes are uploaded, and converted on the device. */
    onDevice?: true;
  })[];
  buffers: { nbytes: number; tensor: number }[];
  shares: {
    connections: number;
    chunkBytes: number;
    slots: number;
    slotBytes: number;
    scratchBytes: number;
  };
  sourceBytes: number;
  outputBytes: number;
  largestBuffer: number;
}

/** Options of the plan; see core/load/plan.h, PlanOptions. */
export interface PlanOptions {
  budgetBytes?: number;
  connections?: number;
  staged?: boolean;
  slotCopies?: number;
  copiedSlots?: number;
  allocateAhead?: number;
  maxSlotBytes?: number;
  maxSegmentBytes?: number;
  shareBelowBytes?: number;
  splitTensors?: boolean;
  expandOnDevice?: boolean;
  dtype?: string;
  selected?: number[];
}

export interface LoadProgress {
  /** Tensor bytes received, of `sourceBytes`. */
  sourceBytesDone: number;
  sourceBytes: number;
  /** Tensor bytes in their buffers, of `outputBytes`; differs from the source where dtypes are converted. */
  outputBytesDone: number;
  outputBytes: number;
  tensorsDone: number;
  tensors: number;
  /** Transfers that were opened again after a failure. */
  retries: number;
  /** Bytes of the memory budget: held now, at most so far, and the limit. */
  budgetUsed: number;
  budgetPeak: number;
  budgetLimit: number;
}

/** What is to be read to open a model. */
export interface OpenRequest {
  path: string;
  begin: number;
  /** Undefined: to the file's end. */
  end?: number;
  /** Some of the files of which the same bytes will be asked for next. */
  upcoming?: string[];
}

/** One step of the loader (core/load/loader.h, Command). */
export interface Command {
  op: number;
  stream: number;
  target: number;
  tensor: number;
  begin: number;
  end: number;
  nbytes: number;
  offset: number;
  output: number;
}

/** More than there can be transfers and uploads at a time, each of which may report one. */
const ERRORS_KEPT = 128;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/**
 * One model in one instance of sluice_loader.wasm. An instance is small and starts in a millisecond, and
 * one that has panicked takes nothing else down with it.
 */
export class LoaderModel {
  readonly #exports: Exports;
  readonly #model: number;
  #view: DataView;
  #heap: Uint8Array;
  #decodeInput = 0;
  /** What failed, as the loader was told; the last few. */
  readonly #told: SluiceError[] = [];

  private constructor(exports: Exports, name: string) {
    this.#exports = exports;
    this.#view = new DataView(exports.memory.buffer);
    this.#heap = new Uint8Array(exports.memory.buffer);
    this.#model = this.#withText(name, (address, length) => {
      return this.#result(exports.sluice_model_new(address, length)).value;
    });
  }

  /** `name` is the last segment of the model's location, or nothing for a folder. */
  static async create(module: WebAssembly.Module, name: string): Promise<LoaderModel> {
    const exports = await instantiate<Exports>(module, 'sluice_loader.wasm', {
      wanted: ABI_VERSION,
      of: (exports) => exports.sluice_abi_version(),
    });
    return new LoaderModel(exports, name);
  }

  /** What to read next to open the model; undefined once it is open. */
  request(): OpenRequest | undefined {
    const { text } = this.#checked(this.#exports.sluice_model_request(this.#model));
    return text === '' ? undefined : (JSON.parse(text) as OpenRequest);
  }

  provide(bytes: Uint8Array, fileBytes: number | undefined): void {
    const address = this.#exports.sluice_allocate(bytes.byteLength);
    this.#refresh();
    this.#heap.set(bytes, address);
    try {
      this.#checked(
        this.#exports.sluice_model_provide(this.#model, address, bytes.byteLength, fileBytes ?? -1),
      );
    } finally {
      this.#exports.sluice_deallocate(address);
    }
  }

  /** Answers the request with: there is no such file. */
  missing(): void {
    this.#checked(this.#exports.sluice_model_missing(this.#model));
  }

  manifest(): ModelManifest {
    const { text } = this.#checked(this.#exports.sluice_model_manifest(this.#model));
    return JSON.parse(text) as ModelManifest;
  }

  plan(options: PlanOptions): ModelPlan {
    const { text } = this.#withText(JSON.stringify(options), (address, length) =>
      this.#checked(this.#exports.sluice_model_plan(this.#model, address, length)),
    );
    return JSON.parse(text) as ModelPlan;
  }

  start(): void {
    this.#decodeInput = this.#checked(this.#exports.sluice_model_start(this.#model)).value;
  }

  /**
   * The next commands, some at a time; empty when there is nothing to do until the next event. Copies of bytes that lie
   * one behind the other at both ends, as of several tensors, are one.
   */
  poll(): Command[] {
    const { data, value: count } = this.#result(this.#exports.sluice_model_poll(this.#model));
    const commands: Command[] = [];
    const view = this.#view;
    let last: Command | undefined;
    for (let i = 0, at = data; i < count; i++, at += COMMAND.size) {
      const command = {
        op: view.getUint32(at + COMMAND.op, true),
        stream: view.getUint32(at + COMMAND.stream, true),
        target: view.getUint32(at + COMMAND.target, true),
        tensor: view.getUint32(at + COMMAND.tensor, true),
        begin: view.getFloat64(at + COMMAND.begin, true),
        end: view.getFloat64(at + COMMAND.end, true),
        nbytes: view.getFloat64(at + COMMAND.nbytes, true),
        offset: view.getFloat64(at + COMMAND.offset, true),
        output: view.getFloat64(at + COMMAND.output, true),
      };
      if (last && continues(last, command)) {
        last.nbytes += command.nbytes;
        continue;
      }
      commands.push(command);
      last = command;
    }
    return commands;
  }

  /** The pieces of a slot whose upload was commanded. `conversions`: of each tensor that the device expands. */
  pieces(slot: number, conversions: readonly (Conversion | undefined)[]): Piece[] {
    const { data, value: count } = this.#result(
      this.#exports.sluice_model_pieces(this.#model, slot),
    );
    const pieces: Piece[] = [];
    const view = this.#view;
    for (let i = 0, at = data; i < count; i++, at += PIECE.size) {
      const conversion = conversions[view.getUint32(at + PIECE.tensor, true)];
      const nbytes = view.getFloat64(at + PIECE.expanded, true);
      pieces.push({
        buffer: view.getUint32(at + PIECE.buffer, true),
        slotOffset: view.getFloat64(at + PIECE.slot_offset, true),
        bufferOffset: view.getFloat64(at + PIECE.buffer_offset, true),
        nbytes: view.getFloat64(at + PIECE.nbytes, true),
        ...(conversion ? { expand: { ...conversion, nbytes } } : {}),
      });
    }
    return pieces;
  }

  /**
   * Carries out a decode command: `input` is called once to fill in its `nbytes` bytes. The output lies in wasm memory
   * and is valid until the next call.
   */
  decode(command: Command, input: (target: Uint8Array) => void): Uint8Array {
    const { stream, tensor, nbytes } = command;
    this.#refresh();
    input(this.#heap.subarray(this.#decodeInput, this.#decodeInput + nbytes));
    this.#exports.sluice_model_decode(this.#model, stream, tensor, nbytes);
    const output = this.#decodeInput + DECODE_INPUT_BYTES;
    return this.#heap.subarray(output, output + command.output);
  }

  // Events; see core/load/loader.h

  allocated(buffer: number): void {
    this.#exports.sluice_model_allocated(this.#model, buffer);
  }

  allocationFailed(buffer: number, error: unknown): void {
    this.#withError(error, (address, length) => {
      this.#exports.sluice_model_allocation_failed(this.#model, buffer, address, length);
    });
  }

  opened(stream: number, begin: number, ranged: boolean, fileBytes: number | undefined): void {
    this.#exports.sluice_model_opened(this.#model, stream, begin, ranged ? 1 : 0, fileBytes ?? -1);
  }

  /** `held`: the chunk lies in memory, and is of the budget. */
  chunk(stream: number, nbytes: number, held: boolean): void {
    this.#exports.sluice_model_chunk(this.#model, stream, nbytes, held ? 1 : 0);
  }

  ended(stream: number): void {
    this.#exports.sluice_model_ended(this.#model, stream);
  }

  failed(stream: number, error: unknown): void {
    const { retryable, retryAfterMs } = asSluiceError(error);
    this.#withError(error, (address, length) => {
      this.#exports.sluice_model_failed(
        this.#model,
        stream,
        address,
        length,
        retryable ? 1 : 0,
        Math.ceil(retryAfterMs ?? 0),
      );
    });
  }

  waited(stream: number): void {
    this.#exports.sluice_model_waited(this.#model, stream);
  }

  uploaded(slot: number): void {
    this.#exports.sluice_model_uploaded(this.#model, slot);
  }

  uploadFailed(slot: number, error: unknown): void {
    this.#withError(error, (address, length) => {
      this.#exports.sluice_model_upload_failed(this.#model, slot, address, length);
    });
  }

  flushed(): void {
    this.#exports.sluice_model_flushed(this.#model);
  }

  flushFailed(error: unknown): void {
    this.#withError(error, (address, length) => {
      this.#exports.sluice_model_flush_failed(this.#model, address, length);
    });
  }

  abort(error: unknown): void {
    this.#withError(error, (address, length) => {
      this.#exports.sluice_model_abort(this.#model, address, length);
    });
  }

  get finished(): boolean {
    return this.#exports.sluice_model_finished(this.#model) !== 0;
  }

  /** Throws the error of a failed load. */
  check(): void {
    try {
      this.#checked(this.#exports.sluice_model_error(this.#model));
    } catch (error) {
      throw error instanceof SluiceError ? this.#withOrigin(error) : error;
    }
  }

  /** The loader's error with what does not pass through wasm: the status and the cause of what it was told. */
  #withOrigin(error: SluiceError): SluiceError {
    const { code, message } = error;
    const origin = this.#told.find(
      (told) => told.code === code && message.startsWith(told.message),
    );
    if (!origin) return error;
    const { status, cause } = origin;
    return new SluiceError(code, message, {
      ...error.toJSON(),
      ...(status === undefined ? {} : { status }),
      ...(cause === undefined ? {} : { cause }),
    });
  }

  progress(): LoadProgress {
    const { data } = this.#result(this.#exports.sluice_model_progress(this.#model));
    const field = (offset: number): number => this.#view.getFloat64(data + offset, true);
    return {
      sourceBytesDone: field(PROGRESS.source_bytes_done),
      sourceBytes: field(PROGRESS.source_bytes),
      outputBytesDone: field(PROGRESS.output_bytes_done),
      outputBytes: field(PROGRESS.output_bytes),
      tensorsDone: field(PROGRESS.tensors_done),
      tensors: field(PROGRESS.tensors),
      retries: field(PROGRESS.retries),
      budgetUsed: field(PROGRESS.budget_used),
      budgetPeak: field(PROGRESS.budget_peak),
      budgetLimit: field(PROGRESS.budget_limit),
    };
  }

  /** Memory may have grown, which detaches every view of it. */
  #refresh(): void {
    const { buffer } = this.#exports.memory;
    if (this.#view.buffer === buffer) return;
    this.#view = new DataView(buffer);
    this.#heap = new Uint8Array(buffer);
  }

  #result(address: number): { status: number; data: number; length: number; value: number } {
    this.#refresh();
    const view = this.#view;
    return {
      status: view.getUint32(address + CALL_RESULT.status, true),
      data: view.getUint32(address + CALL_RESULT.data, true),
      length: view.getUint32(address + CALL_RESULT.length, true),
      value: view.getUint32(address + CALL_RESULT.value, true),
    };
  }

  /** The result's text and value; throws its error. */
  #checked(address: number): { text: string; value: number } {
    const { status, data, length, value } = this.#result(address);
    const text = decoder.decode(this.#heap.subarray(data, data + length));
    if (status !== 0) throw errorFromJson(text);
    return { text, value };
  }

  #withText<T>(text: string, call: (address: number, length: number) => T): T {
    const bytes = encoder.encode(text);
    const address = this.#exports.sluice_allocate(bytes.byteLength);
    this.#refresh();
    this.#heap.set(bytes, address);
    try {
      return call(address, bytes.byteLength);
    } finally {
      this.#exports.sluice_deallocate(address);
    }
  }

  #withError(error: unknown, call: (address: number, length: number) => void): void {
    const told = asSluiceError(error);
    this.#told.push(told);
    if (this.#told.length > ERRORS_KEPT) this.#told.shift();
    this.#withText(JSON.stringify(told.toJSON()), call);
  }
}

function continues(last: Command, { op, stream, target, begin, offset }: Command): boolean {
  return (
    op === OP.copy &&
    last.op === OP.copy &&
    last.stream === stream &&
    last.target === target &&
    last.begin + last.nbytes === begin &&
    last.offset + last.nbytes === offset
  );
}

/** A SluiceError from the JSON of core/base/error.h's to_json(). */
export function errorFromJson(text: string): SluiceError {
  const { code, message, ...details } = JSON.parse(text) as ErrorDetails & {
    code: ErrorCode;
    message: string;
  };
  return new SluiceError(code, message, details);
}
