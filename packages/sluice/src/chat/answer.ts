import type { LanguageModel } from './language_model.js';
import type { CheckedRequest } from './request.js';
import type { Sampler } from './sampler.js';
import { StopStrings } from './stop_strings.js';
import { TextStream } from './text_stream.js';
import type { ChatTokenizer } from './tokenizer.js';
import type { CompletionUsage, FinishReason } from './types.js';

/** What answers. */
export interface Answering {
  readonly model: LanguageModel;
  readonly tokenizer: ChatTokenizer;
  readonly sampler: Sampler;
}

export interface AnswerEnd {
  reason: FinishReason;
  usage: CompletionUsage;
}

/** The times of an answer, as performance.now() tells them. */
interface Times {
  readonly requested: number;
  began: number;
  first: number;
  last: number;
}

/** What ends an answer from within a pass. */
const ABORTED = new Error('the answer was aborted');

/**
 * Answers a prompt, which leaves room in the context window: `show` gets the text, piece by piece. `requested`: when it
 * was asked for, by performance.now(). Rejects with a SluiceError.
 */
export async function answer(
  { model, tokenizer, sampler }: Answering,
  request: CheckedRequest,
  prompt: readonly number[],
  signal: AbortSignal,
  requested: number,
  show: (text: string) => void,
): Promise<AnswerEnd> {
  const now = performance.now();
  const times: Times = { requested, began: now, first: now, last: now };
  const room = Math.min(request.maxTokens, model.contextWindowSize - prompt.length);
  const text = new TextStream((tokens) => tokenizer.decode(tokens));
  const stops = new StopStrings(request.stops);
  const draw = sampler.begin(request.sampling);
  const tokens = [...prompt];
  let cached = 0;
  let drawn = 0;
  const checkSignal = (): void => {
    if (signal.aborted) throw ABORTED;
  };
  const generate = async (): Promise<FinishReason> => {
    for (;;) {
      checkSignal();
      const pass = await model.logitsAfter(tokens, checkSignal);
      const token = draw(pass.logits);
      times.last = performance.now();
      if (drawn++ === 0) {
        times.first = times.last;
        cached = pass.cached;
      }
      checkSignal();
      if (tokenizer.endTokens.has(token)) return 'stop';
      tokens.push(token);
      const piece = stops.push(text.push(token));
      if (piece.text !== '') show(piece.text);
      if (piece.found) return 'stop';
      if (tokens.length - prompt.length >= room) return 'length';
    }
  };
  const reason = await generate().catch((error: unknown): FinishReason => {
    if (error === ABORTED) return 'abort';
    throw error;
  });
  const rest = stops.end();
  if (rest !== '') show(rest);
  const generated = tokens.length - prompt.length;
  return { reason, usage: usageOf(prompt.length, cached, generated, drawn, times) };
}

/** Of an answer that ended before it began. */
export function noAnswer(prompt: number, requested: number): AnswerEnd {
  const now = performance.now();
  const times = { requested, began: now, first: now, last: now };
  return { reason: 'abort', usage: usageOf(prompt, 0, 0, 0, times) };
}

/** `drawn`: tokens with the one that ended the answer. */
function usageOf(
  prompt: number,
  cached: number,
  generated: number,
  drawn: number,
  { requested, began, first, last }: Times,
): CompletionUsage {
  const seconds = (from: number, to: number): number => (to - from) / 1000;
  const rate = (count: number, time: number): number => (count > 0 && time > 0 ? count / time : 0);
  const after = Math.max(drawn - 1, 0);
  return {
    prompt_tokens: prompt,
    completion_tokens: generated,
    total_tokens: prompt + generated,
    prompt_tokens_details: { cached_tokens: cached },
    extra: {
      e2e_latency_s: seconds(requested, performance.now()),
      time_to_first_token_s: drawn > 0 ? seconds(requested, first) : 0,
      time_per_output_token_s: after > 0 ? seconds(first, last) / after : 0,
      prefill_tokens_per_s: drawn > 0 ? rate(prompt - cached, seconds(began, first)) : 0,
      decode_tokens_per_s: rate(after, seconds(first, last)),
    },
  };
}
