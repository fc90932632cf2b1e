// A small byte-level tokenizer, as Hugging Face's libraries read it.

/** GPT-2's letters for bytes: printable ones stand for themselves, the others for letters from 256 on. */
function byteLetters(): string[] {
  const printable = (byte: number): boolean =>
    (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) =>
    String.fromCodePoint(printable(byte) ? byte : next++),
  );
}

const SPECIALS = ['<|begin|>', '<|end|>', '<|other|>'];
const letters = byteLetters();
const merges = [
  ['h', 'e'],
  ['l', 'l'],
  ['he', 'll'],
  ['hell', 'o'],
];
export const words = [...letters, ...merges.map((pair) => pair.join('')), ...SPECIALS];
/** The token that is spelled so. */
export const idOf = (text: string): number => words.indexOf(text);

/** The content of a tokenizer.json. */
export const TOKENIZER = {
  version: '1.0',
  added_tokens: SPECIALS.map((content) => ({
    id: idOf(content),
    content,
    single_word: false,
    lstrip: false,
    rstrip: false,
    normalized: false,
    special: true,
  })),
  normalizer: null,
  pre_tokenizer: {
    type: 'ByteLevel',
    add_prefix_space: false,
    trim_offsets: true,
    use_regex: true,
  },
  post_processor: null,
  decoder: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true },
  model: {
    type: 'BPE',
    vocab: Object.fromEntries(words.map((word, id) => [word, id])),
    merges,
    dropout: null,
    unk_token: null,
    continuing_subword_prefix: null,
    end_of_word_suffix: null,
    fuse_unk: false,
    byte_fallback: false,
  },
};

/** That of a tokenizer_config.json. */
export const CONFIG = {
  bos_token: '<|begin|>',
  eos_token: { content: '<|end|>' },
  chat_template: `{% for message in messages %}
    {{- bos_token + message['role'] + ':' + message['content'] | trim }}
    {%- if not loop.last or message['role'] != 'assistant' %}{{ '<|end|>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|begin|>assistant:' }}{% endif %}`,
};
