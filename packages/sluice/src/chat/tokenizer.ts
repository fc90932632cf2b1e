import { SluiceError } from '../errors.js';
import type { TextCodec } from './libraries.js';
import type { ChatMessage } from './types.js';

/** The content of a tokenizer_config.json, as far as it is used. */
export interface TokenizerConfig {
  /** A template, or several with names, of which `default` is taken. */
  chat_template?: string | readonly { name: string; template: string }[];
  bos_token?: SpecialToken;
  eos_token?: SpecialToken;
  unk_token?: SpecialToken;
  pad_token?: SpecialToken;
}

type SpecialToken = string | { content: string } | null;

/** What turns conversations into tokens, and tokens into text. */
export interface ChatTokenizer {
  /** The tokens of a conversation up to where the answer goes on. Throws `invalid_argument`. */
  encodeChat(messages: readonly ChatMessage[]): number[];
  /** The text of tokens without the special ones; U+FFFD where a character is not whole. */
  decode(tokens: number[]): string;
  /** Tokens that end an answer. */
  readonly endTokens: ReadonlySet<number>;
}

/** What createTokenizer() is made of: contents of files that were parsed as JSON. */
export interface TokenizerFiles {
  tokenizer: unknown;
  config: unknown;
  /** Texts or ids of more tokens that end an answer. */
  stopTokens?: readonly (string | number)[];
}

/** Throws `invalid_argument` where the files are not what their names say. */
export async function createTokenizer(files: TokenizerFiles): Promise<ChatTokenizer> {
  const { createCodec, createTemplate } = await import('./libraries.js');
  const { tokenizer, config } = files;
  if (!isObject(tokenizer)) throw wrong('the tokenizer is no JSON object', 'tokenizer.json');
  if (!isObject(config)) throw wrong('the config is no JSON object', 'tokenizer_config.json');
  const settings = config as TokenizerConfig;
  const codec = explained('the tokenizer', () => createCodec(tokenizer, config));
  const render = explained('the chat template', () => createTemplate(templateOf(settings)));
  const specials = Object.fromEntries(
    (['bos_token', 'eos_token', 'unk_token', 'pad_token'] as const).map((name) => [
      name,
      textOf(settings[name]),
    ]),
  );

  return {
    encodeChat(messages) {
      const plain = messages.map(({ role, content }) => ({ role, content: plainText(content) }));
      const last = plain.at(-1);
      const goesOn = last?.role === 'assistant';
      let text = explained('the chat template', () =>
        render({ ...specials, messages: plain, add_generation_prompt: !goesOn }),
      );
      if (goesOn) text = upTo(text, last.content);
      return explained('the tokenizer', () => codec.encode(text));
    },
    decode: (tokens) => codec.decode(tokens),
    endTokens: endTokens(codec, settings, files.stopTokens ?? []),
  };
}

function endTokens(
  codec: TextCodec,
  { eos_token }: TokenizerConfig,
  more: readonly (string | number)[],
): Set<number> {
  const eos = textOf(eos_token);
  const tokens = [...(eos === undefined ? [] : [eos]), ...more].map((each) => {
    if (typeof each === 'number') return each;
    const token = codec.tokenOf(each);
    if (token === undefined) {
      throw wrong(`the token '${each}', which ends answers, is not among the tokenizer's`);
    }
    return token;
  });
  if (tokens.length === 0) {
    throw wrong('the config has no eos_token', 'name the tokens that end an answer in stopTokens');
  }
  return new Set(tokens);
}

function templateOf({ chat_template: template }: TokenizerConfig): string {
  const chosen = Array.isArray(template)
    ? (template as readonly { name: string; template: string }[]).find(
        ({ name }) => name === 'default',
      )?.template
    : template;
  if (typeof chosen === 'string') return chosen;
  throw wrong(
    'the config has no chat_template',
    'use the tokenizer_config.json of a model that was trained for chats',
  );
}

/** The text up to the end of the last message, where the model goes on. Templates may trim the message. */
function upTo(text: string, content: string): string {
  for (const each of [content, content.trim()]) {
    const at = text.lastIndexOf(each);
    if (at >= 0) return text.slice(0, at + each.length);
  }
  throw wrong(
    "the chat template does not write out the assistant's last message",
    'let the conversation end with a message of the user',
  );
}

export function plainText(content: ChatMessage['content']): string {
  return typeof content === 'string' ? content : content.map(({ text }) => text).join('');
}

function textOf(token: SpecialToken | undefined): string | undefined {
  return typeof token === 'string' ? token : token?.content;
}

function explained<T>(what: string, act: () => T): T {
  try {
    return act();
  } catch (cause) {
    if (cause instanceof SluiceError) throw cause;
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new SluiceError('invalid_argument', `${what}: ${message}`, { cause });
  }
}

const isObject = (value: unknown): value is object =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

function wrong(message: string, hint?: string): SluiceError {
  return new SluiceError('invalid_argument', message, hint === undefined ? {} : { hint });
}
