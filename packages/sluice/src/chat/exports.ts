/** What both entries, index.ts and node.ts, export beside their own createChat(). */
export { SluiceError } from '../errors.js';
export type { ErrorCode, ErrorDetails } from '../errors.js';
export type { Chat, ChatReport } from './chat.js';
export type { Completions } from './completions.js';
export type { ChatModel, ChatOptions, ChatProgress } from './create.js';
export type { TokenizerConfig } from './tokenizer.js';
export type {
  ChatCompletion,
  ChatCompletionChunk,
  ChatMessage,
  CompletionRequest,
  CompletionUsage,
  FinishReason,
  StreamingRequest,
  TextPart,
  WholeRequest,
} from './types.js';
