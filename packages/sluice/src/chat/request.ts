import { SluiceError } from '../errors.js';
import { describe } from '../runtime/errors.js';
import { anySeed } from './random.js';
import type { SamplingOptions } from './sampler.js';
import type { ChatMessage, CompletionRequest } from './types.js';

/** A request that was checked, with what was left out filled in. */
export interface CheckedRequest {
  readonly messages: readonly ChatMessage[];
  readonly sampling: SamplingOptions;
  readonly maxTokens: number;
  readonly stops: readonly string[];
  readonly stream: boolean;
  readonly includeUsage: boolean;
  readonly signal: AbortSignal | undefined;
}

const ROLES: readonly string[] = ['system', 'user', 'assistant'];

/** Throws `invalid_argument`, which names the field and its value. */
export function checkRequest(request: CompletionRequest): CheckedRequest {
  const given = request as unknown;
  if (typeof given !== 'object' || given === null) {
    throw wrong(`a request is an object, not ${describe(given)}`);
  }
  const { stop } = request;
  const stops = stop === undefined ? [] : typeof stop === 'string' ? [stop] : stop;
  if (!Array.isArray(stops) || !stops.every((each) => typeof each === 'string' && each !== '')) {
    throw wrong('stop must be a text or an array of texts, none of them empty');
  }
  return {
    messages: checkMessages(request.messages),
    sampling: {
      temperature: number(request, 'temperature', 1, { from: 0, to: 1e6 }),
      topP: number(request, 'top_p', 1, { above: 0, to: 1 }),
      frequencyPenalty: number(request, 'frequency_penalty', 0, { from: -2, to: 2 }),
      presencePenalty: number(request, 'presence_penalty', 0, { from: -2, to: 2 }),
      repetitionPenalty: number(request, 'repetition_penalty', 1, { above: 0, to: 1e6 }),
      seed: integer(request, 'seed', Number.MIN_SAFE_INTEGER) ?? anySeed(),
    },
    maxTokens: integer(request, 'max_tokens', 1) ?? Infinity,
    stops: [...(stops as string[])],
    stream: request.stream === true,
    includeUsage: request.stream_options?.include_usage === true,
    signal: request.signal,
  };
}

function checkMessages(given: unknown): ChatMessage[] {
  if (!Array.isArray(given) || given.length === 0) {
    throw wrong(`messages must be an array of at least one message, not ${describe(given)}`);
  }
  return given.map((message: Partial<ChatMessage> | null, i) => {
    const { role, content } = message ?? {};
    if (role === undefined || !ROLES.includes(role)) {
      throw wrong(`messages[${i}].role is ${describe(role)}; known are ${ROLES.join(', ')}`);
    }
    if (!isContent(content)) {
      throw wrong(
        `messages[${i}].content is ${describe(content)}; it must be a text, or an array of parts of type text`,
      );
    }
    return { role, content };
  });
}

function isContent(content: unknown): content is ChatMessage['content'] {
  if (typeof content === 'string') return true;
  return (
    Array.isArray(content) &&
    (content as ({ type?: unknown; text?: unknown } | null)[]).every(
      (part) => part?.type === 'text' && typeof part.text === 'string',
    )
  );
}

type NumberField =
  'temperature' | 'top_p' | 'frequency_penalty' | 'presence_penalty' | 'repetition_penalty';

function number(
  request: CompletionRequest,
  name: NumberField,
  otherwise: number,
  range: { from: number; to: number } | { above: number; to: number },
): number {
  // JSON of other programs says null for what is left out
  const value: unknown = request[name] ?? otherwise;
  const low = 'from' in range ? range.from : range.above;
  const inside =
    typeof value === 'number' &&
    ('from' in range ? value >= low : value > low) &&
    value <= range.to;
  if (inside) return value;
  const from = 'from' in range ? `from ${low}` : `above ${low}`;
  throw wrong(`${name} is ${describe(value)}; it must be a number ${from} to ${range.to}`);
}

function integer(
  request: CompletionRequest,
  name: 'max_tokens' | 'seed',
  least: number,
): number | undefined {
  const value: unknown = request[name] ?? undefined;
  if (value === undefined) return undefined;
  if (Number.isSafeInteger(value) && (value as number) >= least) return value as number;
  const from = least > 0 ? ` from ${least} on` : '';
  throw wrong(`${name} is ${describe(value)}; it must be an integer${from}`);
}

const wrong = (message: string): SluiceError => new SluiceError('invalid_argument', message);
