import { SluiceError } from '../errors.js';
import type { RuntimeFunction } from '../runtime/function.js';
import { RuntimeArray, RuntimeObject } from '../runtime/object.js';
import type { Runtime } from '../runtime/runtime.js';
import { Tensor } from '../runtime/tensor.js';
import type { Device } from '../runtime/values.js';

/** Positions a page of the KV cache; kernels that TVM compiles know no other. */
const PAGE_SIZE = 16;
const SEQUENCE = 0;
/** Milliseconds of work on the CPU after which others get their turn. */
const TURN_MS = 20;

/** What a compiled model's function `_metadata` tells, as far as it is used. */
export interface ModelMetadata {
  model_type?: string;
  /** Tokens that one forward pass takes at most. */
  prefill_chunk_size: number;
  /** Tokens of a conversation with its answer at most. */
  context_window_size: number;
  /** -1 for none. */
  sliding_window_size?: number;
  /** The weights, in the order in which the functions take them. */
  params: readonly { name: string; shape: readonly number[]; dtype: string }[];
}

export interface LanguageModelParts {
  runtime: Runtime;
  /** Gives a function of the compiled model: `embed`, `prefill`, `decode`, `create_tir_paged_kv_cache`. */
  function: (name: string) => RuntimeFunction;
  /** In the order of the metadata. They, and what the model makes, last as long as the runtime. */
  weights: readonly Tensor[];
  metadata: ModelMetadata;
  /** Where the model runs. */
  device: Device;
  /** Tokens of the KV cache; the model's context window unless given. */
  contextWindowSize?: number | undefined;
}

/** What the tokens of a call cost. */
export interface Pass {
  /** After the last token: one for each token of the vocabulary. */
  logits: Float32Array<ArrayBuffer>;
  /** Tokens that were in the KV cache from before. */
  cached: number;
}

/** Throws `invalid_argument` where it is no metadata of a model that can be run here. */
export function parseMetadata(text: unknown): ModelMetadata {
  let metadata: Partial<ModelMetadata>;
  try {
    metadata = JSON.parse(String(text)) as Partial<ModelMetadata>;
  } catch (cause) {
    throw wrong("the compiled model's _metadata is no JSON", { cause });
  }
  for (const name of ['prefill_chunk_size', 'context_window_size'] as const) {
    const value = metadata[name];
    if (!(Number.isSafeInteger(value) && (value as number) > 0)) {
      throw wrong(`the compiled model's _metadata has ${name} ${String(value)}`, {
        hint: 'compile the model with a number above 0',
      });
    }
  }
  if (!Array.isArray(metadata.params)) {
    throw wrong("the compiled model's _metadata has no list params of its weights");
  }
  const { sliding_window_size: window = -1 } = metadata;
  if (window > 0) {
    throw wrong(`the model has a sliding window of ${window} tokens, which chats do not know yet`, {
      hint: 'compile it with a context window and no sliding window',
    });
  }
  return metadata as ModelMetadata;
}

/**
 * A compiled language model with a KV cache of one sequence. The cache keeps what it was given last, and the next call
 * begins where its tokens differ from that.
 */
export class LanguageModel {
  readonly metadata: ModelMetadata;
  readonly contextWindowSize: number;
  readonly #runtime: Runtime;
  readonly #device: Device;
  readonly #embed: RuntimeFunction;
  readonly #prefill: RuntimeFunction;
  readonly #decode: RuntimeFunction;
  readonly #weights: RuntimeArray;
  readonly #cache: RuntimeObject;
  readonly #state: Readonly<Record<(typeof STATE_FUNCTIONS)[number], RuntimeFunction>>;
  /** The tokens in the KV cache; undefined where it is not known what is there. */
  #tokens: number[] | undefined;
  #turn = performance.now();

  constructor(parts: LanguageModelParts) {
    const { runtime, metadata, device, weights } = parts;
    const most = metadata.context_window_size;
    const { contextWindowSize = most } = parts;
    if (!(Number.isSafeInteger(contextWindowSize) && contextWindowSize > 0)) {
      throw wrong(`contextWindowSize is ${contextWindowSize}; it must be an integer above 0`);
    }
    if (contextWindowSize > most) {
      throw wrong(`contextWindowSize is ${contextWindowSize}, and the model knows ${most} tokens`, {
        expected: most,
        actual: contextWindowSize,
      });
    }
    this.metadata = metadata;
    this.contextWindowSize = contextWindowSize;
    this.#runtime = runtime;
    this.#device = device;
    this.#embed = parts.function('embed');
    this.#prefill = parts.function('prefill');
    this.#decode = parts.function('decode');
    this.#state = Object.fromEntries(
      STATE_FUNCTIONS.map((name) => [name, runtime.getFunction(`vm.builtin.kv_state_${name}`)]),
    ) as Record<(typeof STATE_FUNCTIONS)[number], RuntimeFunction>;
    this.#weights = runtime.array(weights);
    const create = parts.function('create_tir_paged_kv_cache');
    const sizes = [1, contextWindowSize, metadata.prefill_chunk_size, PAGE_SIZE, 0];
    const cache = create(...sizes.map((size) => runtime.shape([size])));
    create.dispose();
    if (!(cache instanceof RuntimeObject)) throw noObject('create_tir_paged_kv_cache', 'KV cache');
    this.#cache = cache;
  }

  /**
   * The logits after these tokens, of which there is at least one and no more than contextWindowSize. The tokens at the
   * beginning that are in the KV cache are not computed again. `between` is called between the forward passes and may
   * throw: what is in the cache by then stays. One call at a time. Rejects with a SluiceError; the next call begins anew then.
   */
  async logitsAfter(tokens: readonly number[], between: () => void): Promise<Pass> {
    const kept = this.#keepPrefix(tokens);
    const chunk = this.metadata.prefill_chunk_size;
    for (let at = kept; ; at += chunk) {
      const piece = tokens.slice(at, at + chunk);
      const last = at + chunk >= tokens.length;
      const logits = this.#forward(piece);
      try {
        if (last) return { logits: await this.#read(logits), cached: kept };
        await this.#runtime.sync();
      } catch (error) {
        // What the GPU did not do is not in the cache
        this.#tokens = undefined;
        throw error;
      } finally {
        logits.dispose();
      }
      await this.#giveTurn();
      between();
    }
  }

  /** Takes out of the cache what differs from `tokens`, and gives how many stay: fewer than there are. */
  #keepPrefix(tokens: readonly number[]): number {
    const before = this.#tokens ?? [];
    const most = Math.min(before.length, tokens.length - 1);
    let kept = 0;
    while (kept < most && before[kept] === tokens[kept]) kept++;
    if (this.#tokens && kept === before.length) return kept;
    this.#tokens = undefined;
    if (kept > 0) {
      this.#state.popn(this.#cache, SEQUENCE, before.length - kept);
    } else {
      this.#state.clear(this.#cache);
      this.#state.add_sequence(this.#cache, SEQUENCE);
    }
    this.#tokens = before.slice(0, kept);
    return kept;
  }

  /** Appends tokens to the cache and gives the logits after them, on the device. */
  #forward(tokens: readonly number[]): Tensor {
    const runtime = this.#runtime;
    const before = this.#tokens ?? [];
    this.#tokens = undefined;
    const logits = runtime.withScope(() => {
      const ids = runtime.tensor(tokens, [tokens.length], 'int32', this.#device);
      const embedded = this.#embed(ids, this.#weights);
      if (!(embedded instanceof Tensor)) throw noObject('embed', 'tensor');
      const input = embedded.view([1, ...embedded.shape]);
      const [sequences, lengths] = [runtime.shape([SEQUENCE]), runtime.shape([tokens.length])];
      this.#state.begin_forward(this.#cache, sequences, lengths);
      const name = tokens.length > 1 ? 'prefill' : 'decode';
      const step = tokens.length > 1 ? this.#prefill : this.#decode;
      const result = step(input, this.#cache, this.#weights);
      this.#state.end_forward(this.#cache);
      const first = result instanceof RuntimeArray ? result.get(0) : undefined;
      if (!(first instanceof Tensor)) throw noObject(name, 'array that begins with logits');
      return first;
    });
    before.push(...tokens);
    this.#tokens = before;
    return logits;
  }

  async #read(logits: Tensor): Promise<Float32Array<ArrayBuffer>> {
    if (logits.dtype !== 'float32') {
      throw wrong(`the model's logits are ${logits.dtype}, and must be float32`);
    }
    const bytes = await logits.read();
    await this.#giveTurn();
    return new Float32Array(bytes.buffer);
  }

  /** Lets other code run now and then where nothing waits for a GPU. */
  async #giveTurn(): Promise<void> {
    if (this.#runtime.core.gpu || performance.now() - this.#turn < TURN_MS) return;
    await new Promise((resolve) => setTimeout(resolve));
    this.#turn = performance.now();
  }
}

const STATE_FUNCTIONS = ['clear', 'add_sequence', 'popn', 'begin_forward', 'end_forward'] as const;

function wrong(
  message: string,
  details: { hint?: string; cause?: unknown; expected?: number; actual?: number } = {},
): SluiceError {
  return new SluiceError('invalid_argument', message, details);
}

function noObject(name: string, what: string): SluiceError {
  return wrong(`the model's function ${name} gave no ${what}`, {
    hint: 'compile the model as MLC-LLM does, for one device',
  });
}
