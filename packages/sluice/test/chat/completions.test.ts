// Chat completions of a fake model, whose logits are known: what is said, how it ends, what it cost.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import type { CompletionRequest } from 'sluice/chat';
import { END, says, saysTokens, tokenizer } from './fake_model.js';
import { ask, chunksOf, newFake, piecesOf, rejects, textOf } from './support.js';

describe('answers', () => {
  test('whole: the shape of a chat completion', async () => {
    const { chat } = await newFake({ rule: says('Hello!') });
    const answer = await chat.completions.create({ messages: ask('Hi'), temperature: 0 });
    assert.match(answer.id, /^chatcmpl-[0-9a-f]{24}$/);
    assert.ok(Math.abs(answer.created - Date.now() / 1000) < 5);
    const { id, created, usage } = answer;
    assert.deepEqual(answer, {
      id,
      created,
      usage,
      model: 'fake',
      object: 'chat.completion',
      choices: [
        {
          index: 0,
          message: { role: 'assistant', content: 'Hello!' },
          logprobs: null,
          finish_reason: 'stop',
        },
      ],
    });
    const { extra, ...counts } = usage;
    // Role, two bytes, END, role
    assert.deepEqual(counts, {
      prompt_tokens: 5,
      completion_tokens: 6,
      total_tokens: 11,
      prompt_tokens_details: { cached_tokens: 0 },
    });
    for (const [name, value] of Object.entries(extra)) assert.ok(value > 0, name);
    assert.ok(extra.time_to_first_token_s <= extra.e2e_latency_s);
    assert.ok(Math.abs(extra.time_per_output_token_s * extra.decode_tokens_per_s - 1) < 1e-9);
  });

  test('streamed: a chunk for each token, the role first, the reason last, then the usage', async () => {
    const { chat } = await newFake({ rule: says('Hey') });
    const stream = await chat.completions.create({
      messages: ask('Hi'),
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = await chunksOf(stream);
    assert.equal(new Set(chunks.map(({ id }) => id)).size, 1);
    assert.ok(chunks.every(({ object }: { object: string }) => object === 'chat.completion.chunk'));
    const usage = chunks.pop();
    assert.deepEqual(usage?.choices, []);
    assert.equal(usage.usage?.completion_tokens, 3);
    assert.ok(chunks.every((chunk) => !('usage' in chunk)));
    assert.deepEqual(
      chunks.map(({ choices }) => [choices[0]?.delta, choices[0]?.finish_reason]),
      [
        [{ role: 'assistant', content: '' }, null],
        [{ content: 'H' }, null],
        [{ content: 'e' }, null],
        [{ content: 'y' }, null],
        [{}, 'stop'],
      ],
    );
  });

  test('an answer of no token', async () => {
    const { chat } = await newFake({ rule: says('') });
    const { choices, usage } = await chat.completions.create({ messages: ask('Hi') });
    assert.equal(choices[0].message.content, '');
    assert.equal(choices[0].finish_reason, 'stop');
    assert.equal(usage.completion_tokens, 0);
    assert.equal(usage.extra.decode_tokens_per_s, 0);
  });

  test('max_tokens', async () => {
    const fake = await newFake({ rule: says('abcdef') });
    for (const [max_tokens, text, reason] of [
      [1, 'a', 'length'],
      [5, 'abcde', 'length'],
      [6, 'abcdef', 'length'],
      [7, 'abcdef', 'stop'],
    ] as const) {
      const { pieces, reason: ended } = await piecesOf(fake, { messages: ask('x'), max_tokens });
      assert.equal(pieces.join(''), text);
      assert.equal(ended, reason, `max_tokens ${max_tokens}`);
    }
  });

  test('the last message of the assistant is gone on with', async () => {
    const fake = await newFake({ rule: says('one two three') });
    const messages: CompletionRequest['messages'] = [
      ...ask('Count'),
      { role: 'assistant', content: [{ type: 'text', text: 'one t' }] },
    ];
    assert.equal(await textOf(fake, { messages }), 'wo three');
  });
});

describe('characters of several tokens', () => {
  test('come when they are whole', async () => {
    const fake = await newFake({ rule: says('aß€🦥b') });
    const { pieces } = await piecesOf(fake, { messages: ask('x') });
    assert.deepEqual(pieces, ['a', 'ß', '€', '🦥', 'b']);
  });

  test('do not come where the answer ends within them', async () => {
    const fake = await newFake({ rule: says('a🦥b') });
    for (const max_tokens of [1, 2, 3, 4]) {
      const { pieces, reason } = await piecesOf(fake, { messages: ask('x'), max_tokens });
      assert.deepEqual([pieces, reason], [['a'], 'length']);
    }
  });

  test('that never become whole are replaced, and what follows comes', async () => {
    // The begin of a character, another one's begin, a byte from within, and letters
    const tokens = [0xe2, 0x82, 0xf0, 0x9f, 0x41, 0x80, 0x42, END];
    const fake = await newFake({ rule: saysTokens(tokens) });
    const { pieces } = await piecesOf(fake, { messages: ask('x') });
    assert.equal(pieces.join(''), '\uFFFD\uFFFDA\uFFFDB');
  });
});

describe('stop', () => {
  const cases: [string, string | string[], string, string][] = [
    ['at the end of a word', ' STOP', 'one', 'stop'],
    ['the earliest of several', ['two', 'STOP', 'ne'], 'o', 'stop'],
    ['at the begin', 'o', '', 'stop'],
    ['begun and not ended', 'STOX', 'one STOP two', 'stop'],
    ['begun at the end', 'twoo', 'one STOP two', 'stop'],
  ];
  for (const [name, stop, expected, reason] of cases)
    test(name, async () => {
      const fake = await newFake({ rule: says('one STOP two') });
      const { pieces, reason: ended } = await piecesOf(fake, { messages: ask('x'), stop });
      assert.equal(pieces.join(''), expected);
      assert.equal(ended, reason);
    });

  test('no part of a stop string is ever shown', async () => {
    const fake = await newFake({ rule: says('aab aaab.') });
    const { pieces } = await piecesOf(fake, { messages: ask('x'), stop: ['aaab'] });
    assert.deepEqual(pieces, ['aab', ' ']);
  });

  test('what was held back comes where the answer ends otherwise', async () => {
    const fake = await newFake({ rule: says('one STOP') });
    const { pieces, reason } = await piecesOf(fake, {
      messages: ask('x'),
      stop: 'STOP',
      max_tokens: 6,
    });
    assert.deepEqual([pieces.join(''), reason], ['one ST', 'length']);
  });

  test('within characters of several tokens', async () => {
    const fake = await newFake({ rule: says('a🦥b€c') });
    assert.equal(await textOf(fake, { messages: ask('x'), stop: '🦥b€' }), 'a');
  });
});

describe('the KV cache', () => {
  test('long prompts go in pieces of prefill_chunk_size', async () => {
    const fake = await newFake({ rule: says('ok') });
    const { usage } = await fake.chat.completions.create({ messages: ask('x'.repeat(37)) });
    assert.equal(usage.prompt_tokens, 40);
    assert.deepEqual(fake.passes, [16, 16, 8, 1, 1]);
    fake.passes.length = 0;
    // A last piece of one token is a decode
    await fake.chat.completions.create({ messages: ask('y'.repeat(30)) });
    assert.deepEqual(fake.passes, [16, 16, 1, 1]);
  });

  test('what the conversation had before is not computed again', async () => {
    const fake = await newFake({ rule: says('fine') });
    const messages = [...ask('How are you?')];
    const first = await fake.chat.completions.create({ messages });
    assert.equal(first.usage.prompt_tokens_details.cached_tokens, 0);
    messages.push(first.choices[0].message, { role: 'user', content: 'Really?' });
    fake.passes.length = 0;
    const second = await fake.chat.completions.create({ messages });
    // All but the END of the first answer, which was never computed
    assert.equal(second.usage.prompt_tokens_details.cached_tokens, first.usage.total_tokens);
    const { usage } = second;
    assert.deepEqual(fake.passes, [usage.prompt_tokens - first.usage.total_tokens, 1, 1, 1, 1]);
    const expected = tokenizer.encodeChat([...messages, { role: 'assistant', content: 'fine' }]);
    assert.deepEqual(fake.cache, expected);
  });

  test('what differs is taken out', async () => {
    const fake = await newFake({ rule: says('yes') });
    await textOf(fake, { messages: ask('Is it warm?') });
    const answer = await fake.chat.completions.create({ messages: ask('Is it cold?') });
    assert.equal(answer.usage.prompt_tokens_details.cached_tokens, 1 + 'Is it '.length);
    assert.deepEqual(
      fake.cache,
      tokenizer.encodeChat([...ask('Is it cold?'), { role: 'assistant', content: 'yes' }]),
    );
    // The same again: its last token is computed, for the logits after it
    const again = await fake.chat.completions.create({ messages: ask('Is it cold?') });
    const { prompt_tokens: prompt, prompt_tokens_details: details } = again.usage;
    assert.equal(details.cached_tokens, prompt - 1);
    assert.equal(again.choices[0].message.content, 'yes');
    // Nothing in common
    const other = await fake.chat.completions.create({
      messages: [{ role: 'system', content: 'Be brief' }, ...ask('?')],
    });
    assert.equal(other.usage.prompt_tokens_details.cached_tokens, 0);
  });

  test('random conversations: the model always sees what it was told', async () => {
    let expected: number[] = [];
    const fake = await newFake({
      rule: (history) => {
        const said = history.length - expected.length;
        if (said < 0) return { 63: 1 }; // within the prompt
        assert.deepEqual(history.slice(0, expected.length), expected);
        return { [said < 5 ? 97 + said : END]: 1 };
      },
    });
    let state = 1;
    const below = (n: number): number => (state = (state * 48271) % 0x7fffffff) % n;
    for (let i = 0; i < 150; i++) {
      const messages = Array.from({ length: 1 + below(3) }, (_, at) => ({
        role: at % 2 === 0 ? ('user' as const) : ('assistant' as const),
        content: 'ab'.repeat(below(12)) + 'cd'.slice(0, below(3)),
      }));
      if (messages.length % 2 === 0) messages.pop();
      expected = tokenizer.encodeChat(messages);
      const max_tokens = 1 + below(7);
      const text = await textOf(fake, { messages, max_tokens });
      assert.equal(text, 'abcde'.slice(0, max_tokens));
    }
  });

  test('an error within a pass: the next answer begins anew', async () => {
    let fails = false;
    const fake = await newFake({
      rule: says('fine'),
      onForward: () => {
        if (fails) throw new Error('a kernel failed');
      },
    });
    await textOf(fake, { messages: ask('one') });
    fails = true;
    await rejects(
      fake.chat.completions.create({ messages: ask('one two') }),
      'internal',
      /a kernel failed/,
    );
    const stream = await fake.chat.completions.create({ messages: ask('one'), stream: true });
    await rejects(chunksOf(stream), 'internal', /a kernel failed/);
    fails = false;
    const answer = await fake.chat.completions.create({ messages: ask('one two') });
    assert.equal(answer.choices[0].message.content, 'fine');
    assert.equal(answer.usage.prompt_tokens_details.cached_tokens, 0);
  });
});

describe('the context window', () => {
  test('an answer ends where it is full', async () => {
    const fake = await newFake({ rule: () => ({ 97: 1 }), contextWindowSize: 64 });
    assert.equal(fake.chat.contextWindowSize, 64);
    const answer = await fake.chat.completions.create({ messages: ask('x'.repeat(10)) });
    assert.equal(answer.choices[0].finish_reason, 'length');
    assert.deepEqual(answer.usage.total_tokens, 64);
  });

  test('a conversation that leaves no room for an answer is an error, with the numbers', async () => {
    const fake = await newFake({ rule: says('a'), contextWindowSize: 20 });
    const one = await fake.chat.completions.create({ messages: ask('x'.repeat(16)) });
    assert.equal(one.usage.prompt_tokens, 19);
    for (const stream of [false, true]) {
      const error = await rejects(
        fake.chat.completions.create({ messages: ask('x'.repeat(17)), stream }),
        'invalid_argument',
        /the conversation is 20 tokens long, and the context window of 20 must hold an answer as well/,
      );
      assert.deepEqual([error.expected, error.actual], [19, 20]);
      assert.equal(error.hint, 'leave out the oldest messages');
    }
  });

  test('a size that the model does not have', async () => {
    for (const [size, message] of [
      [4097, /contextWindowSize is 4097, and the model knows 4096 tokens/],
      [0, /contextWindowSize is 0; it must be an integer above 0/],
      [1.5, /contextWindowSize is 1.5; it must be/],
    ] as const)
      await rejects(
        newFake({ rule: says(''), contextWindowSize: size }),
        'invalid_argument',
        message,
      );
  });
});

describe('wrong requests', async () => {
  const fake = await newFake({ rule: says('a') });
  const cases: [string, object, RegExp][] = [
    ['no messages', { messages: [] }, /messages must be an array .*not an array of 0/],
    ['messages that are none', { messages: 'Hi' }, /messages must be an array .*not 'Hi'/],
    ['a message that is none', { messages: [null] }, /messages\[0\]\.role is undefined/],
    ['a role', { messages: [{ role: 'tool', content: '' }] }, /role is 'tool'; known are system, /],
    ['a content', { messages: [{ role: 'user', content: 1 }] }, /messages\[0\]\.content is 1;/],
    [
      'an image',
      { messages: [{ role: 'user', content: [{ type: 'image_url' }] }] },
      /content is an array of 1; it must be a text, or an array of parts of type text/,
    ],
    ['temperature', { temperature: -1 }, /temperature is -1; it must be a number from 0 to/],
    ['NaN', { temperature: NaN }, /temperature is NaN/],
    ['top_p', { top_p: 0 }, /top_p is 0; it must be a number above 0 to 1/],
    ['frequency_penalty', { frequency_penalty: 3 }, /frequency_penalty is 3; .* from -2 to 2/],
    ['presence_penalty', { presence_penalty: '1' }, /presence_penalty is '1'/],
    ['repetition_penalty', { repetition_penalty: 0 }, /repetition_penalty is 0/],
    ['max_tokens', { max_tokens: 0 }, /max_tokens is 0; it must be an integer from 1 on/],
    ['seed', { seed: 1.5 }, /seed is 1.5; it must be an integer/],
    ['stop', { stop: ['a', ''] }, /stop must be a text or an array of texts, none of them empty/],
  ];
  for (const [name, fields, message] of cases)
    test(name, async () => {
      const request = { messages: ask('x'), ...fields } as CompletionRequest;
      await rejects(fake.chat.completions.create(request), 'invalid_argument', message);
    });
});
