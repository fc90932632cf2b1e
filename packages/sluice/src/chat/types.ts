/** Requests and answers in the shape of OpenAI's chat completions. */

export interface TextPart {
  type: 'text';
  text: string;
}

export interface ChatMessage {
  role: 'system' | 'user' | 'assistant';
  content: string | readonly TextPart[];
}

export interface CompletionRequest {
  /** The conversation. Where the last message is the assistant's, the answer goes on from there. */
  messages: readonly ChatMessage[];
  /** 0 takes the likeliest token each time, so that the answer is always the same. From 0; 1 unless given. */
  temperature?: number;
  /** Samples among the likeliest tokens that hold so much of the probability. Above 0, to 1; 1 unless given. */
  top_p?: number;
  /** Tokens that are generated at most; as many as the context window has room for unless given. */
  max_tokens?: number;
  /** Texts that end the answer where they appear; they are not part of it. */
  stop?: string | readonly string[];
  /** Answers with the same seed are the same. An integer; drawn at random unless given. */
  seed?: number;
  /** Taken from the logit of a token for each time that it was generated. -2 to 2; 0 unless given. */
  frequency_penalty?: number;
  /** Taken from the logit of a token that was generated. -2 to 2; 0 unless given. */
  presence_penalty?: number;
  /** Makes tokens that were generated less likely where it is above 1. Above 0; 1 unless given. */
  repetition_penalty?: number;
  stream?: boolean | undefined;
  stream_options?: {
    /** Adds a last chunk without choices that has the usage. */
    include_usage?: boolean;
  };
  /** Ends the answer where it is, with finish_reason `abort`. */
  signal?: AbortSignal | undefined;
}

export interface StreamingRequest extends CompletionRequest {
  stream: true;
}

export interface WholeRequest extends CompletionRequest {
  stream?: false | undefined;
}

/**
 * Why an answer ended: the model ended it, or a text of `stop` appeared; it has max_tokens, or the context window is full;
 * its signal was aborted.
 */
export type FinishReason = 'stop' | 'length' | 'abort';

export interface CompletionUsage {
  /** Tokens of the conversation, written out by the chat template. */
  prompt_tokens: number;
  /** Tokens generated, but for the one that ends an answer. */
  completion_tokens: number;
  total_tokens: number;
  prompt_tokens_details: {
    /** Tokens of the prompt that were in the KV cache from before. */
    cached_tokens: number;
  };
  extra: {
    /** From the request to the end, waiting for the answer before it included. */
    e2e_latency_s: number;
    /** From the request to the first token. 0 where none came. */
    time_to_first_token_s: number;
    /** Seconds a token after the first. 0 where there is none. */
    time_per_output_token_s: number;
    /** Tokens of the prompt, those in the KV cache left out, for each second that reading them took. */
    prefill_tokens_per_s: number;
    /** Tokens after the first for each second that generating them took. */
    decode_tokens_per_s: number;
  };
}

export interface ChatCompletion {
  id: string;
  object: 'chat.completion';
  /** Seconds since 1970. */
  created: number;
  model: string;
  choices: [
    {
      index: 0;
      message: { role: 'assistant'; content: string };
      logprobs: null;
      finish_reason: FinishReason;
    },
  ];
  usage: CompletionUsage;
}

export interface ChatCompletionChunk {
  id: string;
  object: 'chat.completion.chunk';
  /** Seconds since 1970. */
  created: number;
  model: string;
  /** One; none in the chunk that has the usage. */
  choices: {
    index: 0;
    delta: { role?: 'assistant'; content?: string };
    logprobs: null;
    finish_reason: FinishReason | null;
  }[];
  usage?: CompletionUsage;
}
