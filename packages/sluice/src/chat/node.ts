/** `sluice/chat` in Node: a compiled language model that answers, in the shape of OpenAI's chat completions. */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { SluiceError } from '../errors.js';
import { createRuntime } from '../runtime/node.js';
import { aborted } from '../util/abort.js';
import type { Chat } from './chat.js';
import { createChatWith, type ChatOptions } from './create.js';
import { fetchBytes, type FileReader } from './files.js';

export * from './exports.js';

const readBytes: FileReader = async (location, signal) => {
  if (/^https?:/i.test(String(location))) return fetchBytes(location, signal);
  const file = /^file:/i.test(String(location)) ? fileURLToPath(location) : String(location);
  try {
    return new Uint8Array(await readFile(file, signal ? { signal } : {}));
  } catch (cause) {
    if (signal?.aborted) throw aborted(signal);
    const { code, message } = cause as NodeJS.ErrnoException;
    const missing = code === 'ENOENT';
    throw new SluiceError(
      missing ? 'not_found' : 'io',
      missing ? `${file} is not there` : `${file} does not open: ${message}`,
      { file, cause },
    );
  }
};

/**
 * Loads a compiled model, its weights and its tokenizer, from URLs or paths. Rejects with a SluiceError; whatever was
 * allocated is freed then.
 */
export function createChat(options: ChatOptions): Promise<Chat> {
  return createChatWith({ createRuntime, readFile: readBytes }, options);
}
