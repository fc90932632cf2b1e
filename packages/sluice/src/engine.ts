import { SluiceError } from './errors.js';
import { OP } from './generated/abi.js';
import type { Conversion } from './sinks/conversion.js';
import type { DirectSink, Sink } from './sinks/sink.js';
import { Concurrency } from './sources/concurrency.js';
import type { ModelSource, ModelStream, StoredBytes } from './sources/source.js';
import { aborted, orAborted } from './util/abort.js';
import type {
  Command,
  LoaderModel,
  LoadProgress,
  ModelManifest,
  ModelPlan,
} from './wasm/loader_module.js';

/** Milliseconds between two progress reports. */
const PROGRESS_INTERVAL_MS = 50;

/** Bytes of a stored file that are held at a time for a sink that has no memory of its own. */
const STORED_BYTES = 256 * 1024;

/** Commands that the loader waits for an event of, or that end something: carried out though the load has failed. */
const SETTLING: ReadonlySet<number> = new Set([OP.allocate, OP.upload, OP.flush, OP.cancel]);

interface Transfer {
  /** Counted among those that run. */
  running?: boolean;
  stream?: ModelStream;
  chunk?: Uint8Array | StoredBytes;
  timer?: ReturnType<typeof setTimeout>;
}

/** What was done, and how. */
export interface LoadOutcome extends LoadProgress {
  /** The most transfers at a time. */
  connections: number;
}

export interface EngineOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Tensor `index` of the manifest is in its buffer. */
  onTensor?: ((index: number) => void) | undefined;
}

/**
 * Carries out a planned load: a host of core/load/loader.h. Bytes that need no decoding go from the source's
 * chunk straight to the sink. Resolves when every tensor is in its buffer; rejects with the loader's error,
 * with nothing of this load under way any more. Closing source and sink stays with the caller.
 */
export function runLoad(
  model: LoaderModel,
  manifest: ModelManifest,
  plan: ModelPlan,
  source: ModelSource,
  sink: Sink,
  options: EngineOptions = {},
): Promise<LoadOutcome> {
  return new Engine(model, manifest, plan, source, sink, options).run();
}

class Engine {
  readonly #model: LoaderModel;
  readonly #manifest: ModelManifest;
  readonly #plan: ModelPlan;
  readonly #source: ModelSource;
  readonly #sink: Sink;
  readonly #options: EngineOptions;
  readonly #transfers = new Map<number, Transfer>();
  readonly #concurrency: Concurrency;
  /** Transfers that are to be opened once fewer run. */
  readonly #held = new Map<number, Command>();
  /** Of each tensor that the device expands. */
  readonly #conversions: (Conversion | undefined)[];
  #pumping = false;
  #ended = false;
  /** The loader was told to stop; of the commands that it gave before, only SETTLING ones still count. */
  #stopping = false;
  #lastReport = -Infinity;
  #resolve: (outcome: LoadOutcome) => void = () => undefined;
  #reject: (error: unknown) => void = () => undefined;

  constructor(
    model: LoaderModel,
    manifest: ModelManifest,
    plan: ModelPlan,
    source: ModelSource,
    sink: Sink,
    options: EngineOptions,
  ) {
    this.#model = model;
    this.#manifest = manifest;
    this.#plan = plan;
    this.#source = source;
    this.#sink = sink;
    this.#options = options;
    this.#concurrency = new Concurrency(plan.shares.connections);
    this.#conversions = plan.placements.map((placement, index) => {
      const from = manifest.tensors[index]?.storedDtype;
      return placement?.onDevice && from !== undefined ? { from, to: placement.dtype } : undefined;
    });
  }

  async run(): Promise<LoadOutcome> {
    const { signal } = this.#options;
    const onAbort = (): void => {
      this.#event(() => {
        if (signal) this.#stop(aborted(signal));
      });
    };
    const { slots, slotBytes } = this.#plan.shares;
    if (this.#sink.kind === 'slots') {
      await orAborted(
        this.#sink.prepare(slots, slotBytes, distinct(this.#conversions)),
        signal,
        () => undefined,
      );
      // Heard at once, though no bytes are on their way that would meet it
      this.#sink.onEnd((error) => {
        this.#event(() => {
          this.#stop(error);
        });
      });
    }
    try {
      return await new Promise((resolve, reject) => {
        this.#resolve = resolve;
        this.#reject = reject;
        this.#event(() => {
          this.#model.start();
        });
        if (signal?.aborted) onAbort();
        else signal?.addEventListener('abort', onAbort, { once: true });
      });
    } finally {
      signal?.removeEventListener('abort', onAbort);
      // Also after a fault of the loader itself, which cancels nothing
      for (const transfer of this.#transfers.values()) stop(transfer);
      this.#transfers.clear();
      this.#held.clear();
    }
  }

  /** Tells the loader something, then does what it says. */
  #event(tell: () => void): void {
    if (this.#ended) return;
    try {
      tell();
    } catch (error) {
      this.#fault(error);
      return;
    }
    if (!this.#pumping) void this.#pump();
  }

  async #pump(): Promise<void> {
    this.#pumping = true;
    try {
      this.#report();
      // Events that come meanwhile are answered by the next poll
      for (let commands = this.#model.poll(); commands.length > 0; commands = this.#model.poll()) {
        for (const command of commands) {
          if (this.#stopping && !SETTLING.has(command.op)) continue;
          try {
            const pending = this.#execute(command);
            if (pending) await pending;
          } catch (error) {
            // The sink refused bytes, or a callback threw; the loader ends the load and says what to stop
            this.#stop(error);
          }
        }
      }
      if (this.#model.finished) this.#end();
    } catch (error) {
      this.#fault(error);
    } finally {
      this.#pumping = false;
    }
  }

  #stop(error: unknown): void {
    this.#stopping = true;
    this.#model.abort(error);
  }

  #end(): void {
    if (this.#ended) return;
    this.#ended = true;
    try {
      this.#model.check();
      const progress = this.#model.progress();
      const { onProgress, signal } = this.#options;
      onProgress?.(progress);
      // Also out of that last callback
      if (signal?.aborted) throw aborted(signal);
      this.#resolve({ ...progress, connections: this.#concurrency.most });
    } catch (error) {
      this.#reject(error);
    }
  }

  /** The loader's wasm itself failed: nothing may be asked of it any more. */
  #fault(error: unknown): void {
    this.#ended = true;
    this.#reject(error);
  }

  #report(): void {
    const { onProgress } = this.#options;
    if (!onProgress || this.#ended) return;
    const now = performance.now();
    if (now - this.#lastReport < PROGRESS_INTERVAL_MS) return;
    this.#lastReport = now;
    onProgress(this.#model.progress());
  }

  #execute(command: Command): void | Promise<void> {
    const model = this.#model;
    const { op, stream, target } = command;
    switch (op) {
      case OP.copy:
        return this.#copy(command);
      case OP.decode: {
        const output = model.decode(command, (into) => {
          this.#input(command, into);
        });
        if (output.byteLength === 0) return undefined;
        if (this.#sink.kind === 'slots') {
          this.#sink.slot(target).set(output, command.offset);
          return undefined;
        }
        // A sink that keeps bytes beyond the call must not keep wasm memory
        return this.#sink.write(target, command.offset, output.slice());
      }
      case OP.zero: {
        const { offset, nbytes } = command;
        if (this.#sink.kind === 'slots') this.#sink.slot(target).fill(0, offset, offset + nbytes);
        return undefined;
      }
      case OP.read:
        this.#read(stream);
        return undefined;
      case OP.upload:
        this.#upload(target);
        return undefined;
      case OP.open:
        this.#held.set(stream, command);
        this.#openHeld();
        return undefined;
      case OP.cancel: {
        const transfer = this.#transfers.get(stream);
        this.#transfers.delete(stream);
        this.#held.delete(stream);
        if (transfer) {
          stop(transfer);
          this.#over(transfer);
        }
        return undefined;
      }
      case OP.wait: {
        const timer = setTimeout(() => {
          this.#transfers.delete(stream);
          this.#event(() => {
            model.waited(stream);
          });
        }, command.nbytes);
        this.#transfers.set(stream, { timer });
        return undefined;
      }
      case OP.tensor_ready:
        this.#options.onTensor?.(target);
        return undefined;
      case OP.allocate:
        this.#allocate(target);
        return undefined;
      case OP.flush:
        this.#sink.flush().then(
          () => {
            this.#event(() => {
              model.flushed();
            });
          },
          (error: unknown) => {
            this.#event(() => {
              model.flushFailed(error);
            });
          },
        );
        return undefined;
      case OP.free:
        return undefined; // the caller closes the sink, which frees everything
      default:
        throw new SluiceError('internal', `the loader gave an unknown command ${op}`);
    }
  }

  #chunk(stream: number): Uint8Array | StoredBytes {
    const chunk = this.#transfers.get(stream)?.chunk;
    if (chunk === undefined) throw new SluiceError('internal', `transfer ${stream} holds no chunk`);
    return chunk;
  }

  /** Fills `target` with the bytes of the chunk from `begin` on. */
  #input({ stream, begin }: Command, target: Uint8Array): void {
    const chunk = this.#chunk(stream);
    if (chunk instanceof Uint8Array) target.set(chunk.subarray(begin, begin + target.byteLength));
    else chunk.readInto(target, begin);
  }

  #copy(command: Command): void | Promise<void> {
    const { stream, target, begin, nbytes, offset } = command;
    const sink = this.#sink;
    if (sink.kind === 'slots') {
      this.#input(command, sink.slot(target).subarray(offset, offset + nbytes));
      return undefined;
    }
    const chunk = this.#chunk(stream);
    if (chunk instanceof Uint8Array) {
      return sink.write(target, offset, chunk.subarray(begin, begin + nbytes));
    }
    return this.#copyStored(command, chunk, sink);
  }

  /** From a file to a sink that takes bytes: into its own memory where it has any, else through a little of ours. */
  async #copyStored(
    { target, begin, nbytes, offset }: Command,
    chunk: StoredBytes,
    sink: DirectSink,
  ): Promise<void> {
    const own = sink.view?.(target, offset, nbytes);
    if (own) {
      chunk.readInto(own, begin);
      return;
    }
    for (let done = 0; done < nbytes; done += STORED_BYTES) {
      const piece = new Uint8Array(Math.min(STORED_BYTES, nbytes - done));
      chunk.readInto(piece, begin + done);
      await sink.write(target, offset + done, piece);
    }
  }

  #allocate(index: number): void {
    const { nbytes, tensor } = this.#plan.buffers[index] ?? { nbytes: 0, tensor: 0 };
    const name = this.#manifest.tensors[tensor]?.name ?? '';
    this.#sink.allocate(index, { nbytes, tensor: name }).then(
      () => {
        this.#event(() => {
          this.#model.allocated(index);
        });
      },
      (error: unknown) => {
        this.#event(() => {
          this.#model.allocationFailed(index, error);
        });
      },
    );
  }

  /** Opens transfers that were held back, as many as may run, the first bytes of the model first. */
  #openHeld(): void {
    while (this.#held.size > 0 && this.#concurrency.free && !this.#stopping && !this.#ended) {
      const next = [...this.#held.values()].reduce((first, each) =>
        each.target < first.target || (each.target === first.target && each.begin < first.begin)
          ? each
          : first,
      );
      this.#held.delete(next.stream);
      this.#open(next);
    }
  }

  /** The transfer runs no longer; `failed` where fewer at a time may help. */
  #over(transfer: Transfer, failed = false): void {
    if (!transfer.running) return;
    transfer.running = false;
    this.#concurrency.ended(performance.now(), failed);
    this.#openHeld();
  }

  #open({ stream: id, target, begin, end }: Command): void {
    const transfer: Transfer = { running: true };
    this.#transfers.set(id, transfer);
    this.#concurrency.began();
    const asked = performance.now();
    const path = this.#manifest.files[target]?.path ?? '';
    this.#source.open(path, begin, end === 0 ? undefined : end).then(
      (stream) => {
        if (this.#transfers.get(id) !== transfer) {
          stream.cancel();
          return;
        }
        transfer.stream = stream;
        this.#concurrency.answered(performance.now() - asked);
        this.#event(() => {
          this.#model.opened(id, stream.begin, stream.ranged, stream.fileBytes);
        });
      },
      (error: unknown) => {
        this.#transferFailed(id, transfer, error);
      },
    );
  }

  #read(id: number): void {
    const transfer = this.#transfers.get(id);
    if (transfer?.stream === undefined) return;
    delete transfer.chunk;
    transfer.stream.read().then(
      (chunk) => {
        if (this.#transfers.get(id) !== transfer) return;
        this.#event(() => {
          if (chunk === null) {
            this.#model.ended(id);
          } else {
            transfer.chunk = chunk;
            // What lies on this device says nothing of the link
            if (
              chunk instanceof Uint8Array &&
              this.#concurrency.received(chunk.byteLength, performance.now())
            ) {
              this.#openHeld();
            }
            this.#model.chunk(id, chunk.byteLength, chunk instanceof Uint8Array);
          }
        });
      },
      (error: unknown) => {
        this.#transferFailed(id, transfer, error);
      },
    );
  }

  #transferFailed(id: number, transfer: Transfer, error: unknown): void {
    if (this.#transfers.get(id) !== transfer) return;
    this.#over(transfer, error instanceof SluiceError && error.retryable);
    this.#event(() => {
      this.#model.failed(id, error);
    });
  }

  #upload(slot: number): void {
    if (this.#sink.kind !== 'slots') return;
    this.#sink.upload(slot, this.#model.pieces(slot, this.#conversions)).then(
      () => {
        this.#event(() => {
          this.#model.uploaded(slot);
        });
      },
      (error: unknown) => {
        this.#event(() => {
          this.#model.uploadFailed(slot, error);
        });
      },
    );
  }
}

function distinct(conversions: readonly (Conversion | undefined)[]): Conversion[] {
  const found = new Map<string, Conversion>();
  for (const each of conversions) if (each) found.set(`${each.from} ${each.to}`, each);
  return [...found.values()];
}

function stop(transfer: Transfer): void {
  clearTimeout(transfer.timer);
  transfer.stream?.cancel();
}
