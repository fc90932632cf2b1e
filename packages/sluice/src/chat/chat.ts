import type { LoadReport } from '../model.js';
import type { Answering } from './answer.js';
import { Completions } from './completions.js';

/** What making a chat took. Phases run beside each other: their times do not add up to the total. */
export interface ChatReport {
  /** Of each phase, from its own beginning. */
  milliseconds: {
    total: number;
    /** The GPU device; 0 where it was given. */
    device: number;
    /** The compiled model: fetched and compiled. */
    wasm: number;
    /** The runtime and the compiled model's VM. */
    start: number;
    /** The tokenizer and the chat template. */
    tokenizer: number;
    weights: number;
    /** The GPU's kernels, beside the weights. */
    pipelines: number;
    /** The KV cache. */
    cache: number;
  };
  pipelines: number;
  weights: LoadReport;
}

/** Of Chat alone. */
export interface ChatParts extends Answering {
  /** What answers say of the model. */
  name: string;
  report: ChatReport;
  /** Gives back what the chat holds. */
  release: () => void;
}

/** A model that answers. Made by createChat(); its owner calls dispose(). */
export class Chat implements AsyncDisposable {
  readonly completions: Completions;
  readonly report: ChatReport;

  readonly #parts: ChatParts;
  #disposed: Promise<void> | undefined;

  constructor(parts: ChatParts) {
    this.#parts = parts;
    this.completions = new Completions(parts, parts.name);

    this.report = parts.report;
  }

  /** Tokens of a conversation with its answer at most. */
  get contextWindowSize(): number {
    return this.#parts.model.contextWindowSize;
  }

  /** Ends all answers and gives back all memory; resolves when that is done. */
  dispose(): Promise<void> {
    this.#disposed ??= this.completions.end().finally(() => this.#parts.release());
    return this.#disposed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }
}
