/** `sluice/chat` in the browser: a compiled language model that answers, in the shape of OpenAI's chat completions. */
import { createRuntime } from '../runtime/index.js';
import type { Chat } from './chat.js';
import { createChatWith, type ChatOptions } from './create.js';
import { fetchBytes } from './files.js';

export * from './exports.js';

/**
 * Loads a compiled model, its weights and its tokenizer. URLs are absolute or relative to the page. Rejects with a
 * SluiceError; whatever was allocated is freed then.
 */
export function createChat(options: ChatOptions): Promise<Chat> {
  return createChatWith({ createRuntime, readFile: fetchBytes }, options);
}
