// A compiled model made of JavaScript, in Node and in pages: its functions have the names and arguments of those that are
// compiled, and its logits are what a rule says of the tokens in the KV cache. Tokens are bytes of UTF-8; END ends messages.
import { Chat } from '../../dist/chat/chat.js';
import { LanguageModel, type ModelMetadata } from '../../dist/chat/language_model.js';
import { Sampler } from '../../dist/chat/sampler.js';
import type { ChatTokenizer } from '../../dist/chat/tokenizer.js';
import type { Runtime, Tensor } from '../../dist/runtime/exports.js';

export const END = 256;
/** Begin messages of each role. */
const ROLES = { system: 257, user: 258, assistant: 259 } as const;
export const VOCABULARY = 300;

/** Logits by token; those that are not named are -100. */
export type Logits = Readonly<Record<number, number>>;
/** The logits after these tokens. */
export type Rule = (history: readonly number[]) => Logits;

export interface FakeOptions {
  rule: Rule;
  metadata?: Partial<ModelMetadata>;
  contextWindowSize?: number;
  /** Logits are on the GPU; the rule is given zeros, as many as there are tokens. */
  gpu?: boolean;
  /** Called at the begin of each forward pass with its number of tokens; may throw. */
  onForward?: (count: number) => void;
}

export interface Fake {
  chat: Chat;
  runtime: Runtime;
  /** How many tokens each forward pass took, since it was last emptied. */
  passes: number[];
  /** What is in the KV cache. */
  cache: number[];
  released: () => boolean;
}

const bytesOf = (text: string): number[] => [...new TextEncoder().encode(text)];

/** The tokens of a conversation: role, bytes, END, and the role of who answers. */
export const tokenizer: ChatTokenizer = {
  encodeChat(messages) {
    const tokens: number[] = [];
    for (const { role, content } of messages) {
      const text =
        typeof content === 'string' ? content : content.map((part) => part.text).join('');
      tokens.push(ROLES[role], ...bytesOf(text), END);
    }
    if (messages.at(-1)?.role === 'assistant') tokens.pop();
    else tokens.push(ROLES.assistant);
    return tokens;
  },
  decode: (tokens) =>
    new TextDecoder().decode(Uint8Array.from(tokens.filter((token) => token < 256))),
  endTokens: new Set([END]),
};

/** Says `text` and ends, whatever it is asked. */
export const says = (text: string): Rule => saysTokens([...bytesOf(text), END]);

/** Says these tokens after the role of the assistant. */
export function saysTokens(tokens: readonly number[]): Rule {
  return (history) => {
    const said = history.length - 1 - history.lastIndexOf(ROLES.assistant);
    return { [tokens[said] ?? END]: 10 };
  };
}

export function fakeChat(runtime: Runtime, options: FakeOptions): Fake {
  const { rule, gpu = false, contextWindowSize } = options;
  const passes: number[] = [];
  const cache: number[] = [];
  let pending: number | undefined;
  let sequences = 0;
  let released = false;
  const place = gpu ? runtime.webgpu() : runtime.cpu();
  const forward = (input: Tensor, kept: Tensor): unknown => {
    if (kept.dtype !== 'int8') throw new Error('that is no KV cache');
    const [batch, count = 0] = input.shape;
    if (batch !== 1 || count !== pending) throw new Error(`${count} tokens, not ${pending}`);
    passes.push(count);
    options.onForward?.(count);
    cache.push(...(gpu ? Array<number>(count).fill(0) : Array.from(input.toArray(), Number)));
    const logits = new Float32Array(VOCABULARY).fill(-100);
    for (const [token, logit] of Object.entries(rule(cache))) logits[Number(token)] = logit;
    return runtime.array([runtime.tensor(logits, [1, 1, VOCABULARY], 'float32', place), kept]);
  };
  const state = {
    clear: () => {
      cache.length = 0;
      sequences = 0;
      pending = undefined;
    },
    add_sequence: (_: Tensor, id: number) => {
      if (id !== 0 || sequences++ !== 0) throw new Error('one sequence, once');
    },
    popn: (_: Tensor, id: number, count: number) => {
      if (id !== 0 || count <= 0 || count > cache.length) throw new Error(`popn of ${count}`);
      cache.length -= count;
    },
    begin_forward: (_: Tensor, [id]: number[], [count]: number[]) => {
      if (id !== 0 || sequences !== 1 || pending !== undefined) throw new Error('begin_forward');
      pending = count;
    },
    end_forward: () => {
      if (pending === undefined) throw new Error('end_forward');
      pending = undefined;
    },
  };
  for (const [name, act] of Object.entries(state)) {
    runtime.registerFunction(`vm.builtin.kv_state_${name}`, act);
  }
  const functions = {
    embed: (ids: Tensor) =>
      gpu
        ? runtime.empty([ids.size, 1], 'float32', place)
        : runtime.tensor(Array.from(ids.toArray(), Number), [ids.size, 1]),
    prefill: forward,
    decode: (input: Tensor, kept: Tensor) => {
      if (input.shape[1] !== 1) throw new Error('decode takes one token');
      return forward(input, kept);
    },
    create_tir_paged_kv_cache: (...sizes: number[][]) => runtime.empty(sizes.flat(), 'int8'),
  };
  for (const [name, act] of Object.entries(functions)) {
    runtime.registerFunction(`fake.${name}`, act);
  }
  const metadata = {
    prefill_chunk_size: 16,
    context_window_size: 4096,
    params: [],
    ...options.metadata,
  };
  const model = new LanguageModel({
    runtime,
    function: (name) => runtime.getFunction(`fake.${name}`),
    weights: [],
    metadata,
    device: place,
    contextWindowSize,
  });
  const chat = new Chat({
    model,
    tokenizer,
    sampler: new Sampler(runtime),
    name: 'fake',
    report: {} as Chat['report'],
    release: () => {
      released = true;
      runtime.dispose();
    },
  });
  return { chat, runtime, passes, cache, released: () => released };
}
