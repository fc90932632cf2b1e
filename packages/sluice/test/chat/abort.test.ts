// Answers that are ended before their time, and several at once.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ChatCompletionChunk } from 'sluice/chat';
import { END, says, tokenizer } from './fake_model.js';
import { ask, chunksOf, newFake, rejects, textOf } from './support.js';

const LONG = 'x'.repeat(60);

describe('abort', () => {
  test('at every forward pass: the text so far, and the next answer is right', async () => {
    // Four passes of the prompt, and one for each letter after the first
    const total = 4 + 7;
    for (let at = 0; at <= total; at++) {
      const abort = new AbortController();
      let passes = 0;
      const fake = await newFake({
        rule: says('answers'),
        onForward: () => {
          if (++passes === at) abort.abort();
        },
      });
      if (at === 0) abort.abort();
      const { signal } = abort;
      const answer = await fake.chat.completions.create({ messages: ask(LONG), signal });
      const [{ message, finish_reason: reason }] = answer.choices;
      assert.equal(reason, 'abort', `pass ${at}`);
      assert.equal(message.content, 'answers'.slice(0, Math.max(0, at - 4)));
      assert.equal(passes, at);
      assert.equal(answer.usage.completion_tokens, message.content.length);

      const next = await fake.chat.completions.create({ messages: ask(LONG) });
      assert.equal(next.choices[0].message.content, 'answers');
      const expected = tokenizer.encodeChat([
        ...ask(LONG),
        { role: 'assistant', content: 'answers' },
      ]);
      assert.deepEqual(fake.cache, expected);
      // What was computed before is used
      const { prompt_tokens: prompt, prompt_tokens_details: details } = next.usage;
      assert.equal(details.cached_tokens, Math.min(at * 16, prompt - 1));
    }
  });

  test('by a timer, while the CPU is at work', async () => {
    const fake = await newFake({ rule: () => ({ 97: 1 }), contextWindowSize: 4096 });
    const begin = performance.now();
    const answer = await fake.chat.completions.create({
      messages: ask('x'),
      signal: AbortSignal.timeout(50),
    });
    assert.equal(answer.choices[0].finish_reason, 'abort');
    assert.ok(performance.now() - begin < 2000);
  });

  test('leaving the loop over chunks ends the answer', async () => {
    const fake = await newFake({ rule: () => ({ 97: 1 }) });
    const stream = await fake.chat.completions.create({ messages: ask('x'), stream: true });
    const seen: ChatCompletionChunk[] = [];
    for await (const chunk of stream) if (seen.push(chunk) === 5) break;
    const after = await fake.chat.completions.create({ messages: ask('x'), max_tokens: 1 });
    assert.equal(after.choices[0].message.content, 'a');
    assert.ok(fake.passes.length < 4000, `${fake.passes.length} passes`);
    assert.deepEqual(await stream.next(), { value: undefined, done: true });
  });
});

describe('several answers', () => {
  test('come one after the other, and each is right', async () => {
    const fake = await newFake({
      rule: (history) => {
        // Says back the letter that it was told
        const said = history.length - 1 - history.lastIndexOf(259);
        return { [said < 8 ? (history[1] ?? 0) : END]: 1 };
      },
    });
    const answers = await Promise.all(
      ['a', 'b', 'c', 'd'].map((it) => textOf(fake, { messages: ask(it) })),
    );
    assert.deepEqual(answers, ['aaaaaaaa', 'bbbbbbbb', 'cccccccc', 'dddddddd']);
  });

  test('one that nobody reads does not keep others waiting, and can be read later', async () => {
    const fake = await newFake({ rule: says('hello') });
    const stream = await fake.chat.completions.create({ messages: ask('x'), stream: true });
    assert.equal(await textOf(fake, { messages: ask('y') }), 'hello');
    const chunks = await chunksOf(stream);
    const said = chunks.map(({ choices }) => choices[0]?.delta.content ?? '').join('');
    assert.equal(said, 'hello');
  });

  test('one that waits can be aborted at once', async () => {
    const first = new AbortController();
    const fake = await newFake({ rule: () => ({ 97: 1 }) });
    const running = fake.chat.completions.create({ messages: ask('x'), signal: first.signal });
    const waiting = await fake.chat.completions.create({
      messages: ask('y'),
      signal: AbortSignal.timeout(30),
    });
    assert.equal(waiting.choices[0].finish_reason, 'abort');
    assert.equal(waiting.usage.completion_tokens, 0);
    first.abort();
    assert.equal((await running).choices[0].finish_reason, 'abort');
  });
});

describe('dispose', () => {
  test('ends answers, gives everything back, and says so afterwards', async () => {
    const fake = await newFake({ rule: () => ({ 97: 1 }) });
    const stream = await fake.chat.completions.create({ messages: ask('x'), stream: true });
    const waiting = fake.chat.completions.create({ messages: ask('y') });
    const seen: ChatCompletionChunk[] = [];
    const reading = (async () => {
      for await (const chunk of stream) seen.push(chunk);
    })();
    await sleep(30);
    await fake.chat.dispose();
    assert.ok(fake.released());
    await reading;
    assert.equal(seen.at(-1)?.choices[0]?.finish_reason, 'abort');
    assert.equal((await waiting).choices[0].finish_reason, 'abort');
    await fake.chat.dispose();
    await rejects(
      fake.chat.completions.create({ messages: ask('z') }),
      'invalid_argument',
      /the chat was disposed/,
    );
  });

  test('memory does not grow from answer to answer', async () => {
    const fake = await newFake({ rule: says('hello, and some more words') });
    const repeat = async (count: number): Promise<void> => {
      for (let i = 0; i < count; i++) {
        const penalty = { presence_penalty: 0.1, repetition_penalty: 1.1 };
        await textOf(fake, { messages: ask(`${i}`), temperature: 0, ...penalty });
      }
    };
    await repeat(5);
    const before = fake.runtime.memoryBytes;
    await repeat(200);
    assert.equal(fake.runtime.memoryBytes, before);
  });
});
