import { asSluiceError, SluiceError } from '../errors.js';
import { hex } from '../util/bytes.js';
import { answer, noAnswer, type AnswerEnd, type Answering } from './answer.js';
import { Channel } from './channel.js';
import { checkRequest, type CheckedRequest } from './request.js';
import type {
  ChatCompletion,
  ChatCompletionChunk,
  CompletionRequest,
  StreamingRequest,
  WholeRequest,
} from './types.js';

/** One answer at a time, in the order of the requests; each goes on to its end whether it is read or not. */
export class Completions {
  readonly #parts: Answering;
  readonly #model: string;
  readonly #ended = new AbortController();
  #last: Promise<unknown> = Promise.resolve();

  /** `model`: what the answers say of it. */
  constructor(parts: Answering, model: string) {
    this.#parts = parts;
    this.#model = model;
  }

  /**
   * Answers a conversation: with `stream` in chunks, as they come; leaving the loop over them ends the answer. Rejects with a
   * SluiceError: `invalid_argument` for a wrong request, and where the conversation is longer than the context window;
   * `device_lost` where the GPU is gone, which the loop over chunks throws.
   */
  create(request: StreamingRequest): Promise<AsyncIterableIterator<ChatCompletionChunk>>;
  create(request: WholeRequest): Promise<ChatCompletion>;
  create(
    request: CompletionRequest,
  ): Promise<ChatCompletion | AsyncIterableIterator<ChatCompletionChunk>>;
  async create(
    given: CompletionRequest,
  ): Promise<ChatCompletion | AsyncIterableIterator<ChatCompletionChunk>> {
    const requested = performance.now();
    const request = checkRequest(given);
    if (this.#ended.signal.aborted) {
      throw new SluiceError('invalid_argument', 'the chat was disposed', {
        hint: 'make a new one with createChat()',
      });
    }
    const prompt = this.#encode(request);
    const head = {
      id: `chatcmpl-${hex(crypto.getRandomValues(new Uint8Array(12)))}`,
      created: Math.floor(Date.now() / 1000),
      model: this.#model,
    };
    if (request.stream) return this.#stream(request, prompt, requested, head);
    let content = '';
    const { reason, usage } = await this.#answer(request, prompt, requested, (text) => {
      content += text;
    });
    return {
      ...head,
      object: 'chat.completion',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content },
          logprobs: null,
          finish_reason: reason,
        },
      ],
      usage,
    };
  }

  /** Ends all answers, with finish_reason `abort`; resolves when they have ended. */
  async end(): Promise<void> {
    this.#ended.abort();
    await this.#last;
  }

  #encode({ messages }: CheckedRequest): number[] {
    const { tokenizer, model } = this.#parts;
    const prompt = tokenizer.encodeChat(messages);
    const most = model.contextWindowSize;
    if (prompt.length === 0) {
      throw new SluiceError('invalid_argument', 'the conversation has no tokens', {
        hint: 'the chat template writes nothing; is it that of this model?',
      });
    }
    if (prompt.length < most) return prompt;
    throw new SluiceError(
      'invalid_argument',
      `the conversation is ${prompt.length} tokens long, and the context window of ${most} must hold an answer as well`,
      { expected: most - 1, actual: prompt.length, hint: 'leave out the oldest messages' },
    );
  }

  #stream(
    request: CheckedRequest,
    prompt: readonly number[],
    requested: number,
    head: Pick<ChatCompletionChunk, 'id' | 'created' | 'model'>,
  ): AsyncIterableIterator<ChatCompletionChunk> {
    type Choice = ChatCompletionChunk['choices'][number];
    const left = new AbortController();
    const channel = new Channel<ChatCompletionChunk>(() => left.abort());
    const chunk = (delta: Choice['delta'], reason: Choice['finish_reason'] = null): void =>
      channel.push({
        ...head,
        object: 'chat.completion.chunk',
        choices: [{ index: 0, delta, logprobs: null, finish_reason: reason }],
      });
    const signals = [left.signal, ...(request.signal ? [request.signal] : [])];
    const signal = anyOf(signals);
    chunk({ role: 'assistant', content: '' });
    this.#answer({ ...request, signal }, prompt, requested, (content) => chunk({ content })).then(
      ({ reason, usage }) => {
        chunk({}, reason);
        if (request.includeUsage) {
          channel.push({ ...head, object: 'chat.completion.chunk', choices: [], usage });
        }
        channel.close();
      },
      (error: unknown) => channel.close({ error }),
    );
    return channel;
  }

  /** Waits for the turn of this answer, and answers. */
  #answer(
    request: CheckedRequest,
    prompt: readonly number[],
    requested: number,
    show: (text: string) => void,
  ): Promise<AnswerEnd> {
    const signal = anyOf([this.#ended.signal, ...(request.signal ? [request.signal] : [])]);
    return new Promise((resolve, reject) => {
      // Also while another answer comes
      const give = (): void => resolve(noAnswer(prompt.length, requested));
      signal.addEventListener('abort', give, { once: true });
      this.#last = this.#last.then(async () => {
        signal.removeEventListener('abort', give);
        if (signal.aborted) return give();
        await answer(this.#parts, request, prompt, signal, requested, show).then(
          resolve,
          (error: unknown) => reject(asSluiceError(error)),
        );
      });
    });
  }
}

/** Aborted as soon as one of them is; they keep nothing of it afterwards. */
const anyOf = (signals: AbortSignal[]): AbortSignal => AbortSignal.any(signals);
