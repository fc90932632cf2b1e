/**
 * Tokenizers and chat templates in Hugging Face's formats, by its own libraries. Bundled with them for the browser; loaded
 * where a chat is made. What it throws are the libraries' errors.
 */
import { Template } from '@huggingface/jinja';
import { Tokenizer } from '@huggingface/tokenizers';

/** The library's own declarations import their files without extensions, which Node's resolution does not find. */
type TokenizerClass = new (
  tokenizer: object,
  config: object,
) => {
  encode(text: string, options: { add_special_tokens: boolean }): { ids: number[] };
  decode(
    tokens: number[],
    options: { skip_special_tokens: boolean; clean_up_tokenization_spaces: boolean },
  ): string;
  token_to_id(token: string): number | undefined;
};

/** Text to tokens and back. */
export interface TextCodec {
  /** Special tokens are found where they are written out, and none are added. */
  encode(text: string): number[];
  /** Special tokens are left out. Bytes that are no UTF-8 become U+FFFD. */
  decode(tokens: number[]): string;
  /** The token that is written like this; undefined where there is none. */
  tokenOf(text: string): number | undefined;
}

/** `tokenizer` is the content of a tokenizer.json, `config` that of tokenizer_config.json. */
export function createCodec(tokenizer: object, config: object): TextCodec {
  const library = new (Tokenizer as unknown as TokenizerClass)(tokenizer, config);
  return {
    encode: (text) => (text === '' ? [] : library.encode(text, { add_special_tokens: false }).ids),
    decode: (tokens) =>
      tokens.length === 0
        ? ''
        : library.decode(tokens, {
            skip_special_tokens: true,
            // It would change what was said before
            clean_up_tokenization_spaces: false,
          }),
    tokenOf: (text) => library.token_to_id(text),
  };
}

/** A chat template in Jinja, as tokenizer_config.json has it. */
export function createTemplate(source: string): (values: Record<string, unknown>) => string {
  const template = new Template(source);
  return (values) => template.render(values);
}
