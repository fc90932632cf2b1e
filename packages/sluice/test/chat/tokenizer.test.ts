// Tokenizers and chat templates in the formats of Hugging Face: a small byte-level one that is written here.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { TextStream } from '../../dist/chat/text_stream.js';
import { createTokenizer, type ChatTokenizer } from '../../dist/chat/tokenizer.js';
import { CONFIG, idOf, TOKENIZER, words } from './small_tokenizer.js';
import { rejects } from './support.js';

const make = (config: object = CONFIG, more: object = {}): Promise<ChatTokenizer> =>
  createTokenizer({ tokenizer: TOKENIZER, config, ...more });

describe('a tokenizer', async () => {
  const tokenizer = await make();
  const spelled = (tokens: number[]): string => tokens.map((id) => words[id]).join(' ');

  test('writes conversations by the template, special tokens as such', () => {
    const tokens = tokenizer.encodeChat([
      { role: 'user', content: ' hello ' },
      { role: 'assistant', content: [{ type: 'text', text: 'he' }] },
      { role: 'user', content: 'é' },
    ]);
    assert.equal(
      spelled(tokens),
      '<|begin|> u s e r : hello <|end|> <|begin|> a s s i s t a n t : he <|end|> ' +
        '<|begin|> u s e r : Ã © <|end|> <|begin|> a s s i s t a n t :',
    );
  });

  test('lets the last message of the assistant be gone on with', () => {
    const tokens = tokenizer.encodeChat([
      { role: 'user', content: 'hello' },
      { role: 'assistant', content: 'hell ' },
    ]);
    assert.equal(
      spelled(tokens),
      '<|begin|> u s e r : hello <|end|> <|begin|> a s s i s t a n t : hell',
    );
  });

  test('reads tokens, the special ones left out', () => {
    const decode = (tokens: number[]): string => tokenizer.decode(tokens);
    assert.equal(decode([idOf('hello'), idOf('Ġ'), idOf('<|other|>'), idOf('hell')]), 'hello hell');
    assert.equal(decode([]), '');
    assert.equal(decode([idOf('<|end|>')]), '');
    assert.equal(decode([0xc3]), '\uFFFD');
  });

  test('knows what ends an answer', async () => {
    assert.deepEqual([...tokenizer.endTokens], [idOf('<|end|>')]);
    const more = await make(CONFIG, { stopTokens: ['<|other|>', 7] });
    assert.deepEqual([...more.endTokens], [idOf('<|end|>'), idOf('<|other|>'), 7]);
  });

  test('text comes token by token as it comes at once', () => {
    const text = 'hello ß€🦥, he  said.\n\n👩‍👩‍👧 ok';
    const tokens = [...new TextEncoder().encode(text)];
    tokens.splice(9, 0, idOf('<|other|>'), idOf('<|other|>'));
    const stream = new TextStream((some) => tokenizer.decode(some));
    const pieces = tokens.map((token) => stream.push(token));
    assert.equal(pieces.join(''), text);
    assert.ok(pieces.every((piece) => !piece.includes('\uFFFD')));
  });
});

describe('files that are wrong', () => {
  test('the template', async () => {
    await rejects(
      make({ ...CONFIG, chat_template: '{% if %}' }),
      'invalid_argument',
      /^the chat template: /,
    );
    await rejects(
      make({ eos_token: '<|end|>' }),
      'invalid_argument',
      /the config has no chat_template/,
    );
    const refuses = await make({
      ...CONFIG,
      chat_template: "{{ raise_exception('roles must alternate') }}",
    });
    await rejects(
      (async () => refuses.encodeChat([{ role: 'user', content: '' }]))(),
      'invalid_argument',
      /the chat template: roles must alternate/,
    );
    const silent = await make({ ...CONFIG, chat_template: 'nothing' });
    await rejects(
      (async () => silent.encodeChat([{ role: 'assistant', content: 'hello' }]))(),
      'invalid_argument',
      /does not write out the assistant's last message/,
    );
  });

  test('of several templates, the default', async () => {
    const templates = [
      { name: 'tools', template: 'no' },
      { name: 'default', template: 'hello' },
    ];
    const tokenizer = await make({ ...CONFIG, chat_template: templates });
    const tokens = tokenizer.encodeChat([{ role: 'user', content: '' }]);
    assert.deepEqual(tokens, [idOf('hello')]);
  });

  test('the tokens that end an answer', async () => {
    await rejects(
      make({ ...CONFIG, eos_token: null }),
      'invalid_argument',
      /the config has no eos_token/,
    );
    await rejects(
      make({ ...CONFIG, eos_token: '<|stop|>' }),
      'invalid_argument',
      /the token '<\|stop\|>', which ends answers, is not among the tokenizer's/,
    );
  });

  test('what is no object, and what no tokenizer', async () => {
    await rejects(
      createTokenizer({ tokenizer: [], config: CONFIG }),
      'invalid_argument',
      /the tokenizer is no JSON object/,
    );
    await rejects(
      createTokenizer({ tokenizer: TOKENIZER, config: 'x' }),
      'invalid_argument',
      /the config is no JSON object/,
    );
    await rejects(
      createTokenizer({ tokenizer: {}, config: CONFIG }),
      'invalid_argument',
      /^the tokenizer: /,
    );
  });
});
