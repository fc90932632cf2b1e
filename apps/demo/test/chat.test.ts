// What the chat page decides, apart from the page itself.
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { SluiceError } from 'sluice';

import { Conversation } from '../page/chat/conversation.js';
import { chooseBuild, contextSizes } from '../page/chat/model.js';
import { answerWords, startWords } from '../page/chat/words.js';
import type { ChatBuild } from '../server.js';

describe('the choice of a build', () => {
  const build = (dtype: ChatBuild['dtype'], software = false): ChatBuild => {
    const wasm = software ? 'model-software.wasm' : 'model.wasm';
    return { dtype, software, wasm, folder: `${dtype}/`, wasmBytes: 1, weightBytes: 2 };
  };
  const all = [build('float16'), build('float32'), build('float32', true)];

  it('is float16 where the adapter has it, the one for software there, else float32', () => {
    const cases: [boolean, boolean, ChatBuild | undefined][] = [
      [false, true, all[0]],
      [false, false, all[1]],
      [true, true, all[2]],
      [true, false, all[2]],
    ];
    for (const [software, float16, expected] of cases) {
      assert.deepEqual(chooseBuild(all, { software, float16 }), expected);
    }
  });

  it('takes what there is, and nothing that cannot run', () => {
    const [half, single] = all as [ChatBuild, ChatBuild];
    assert.equal(chooseBuild([single], { software: true, float16: true }), single);
    assert.equal(chooseBuild([half], { software: false, float16: false }), undefined);
    assert.equal(chooseBuild([], { software: false, float16: true }), undefined);
  });
});

it('offers context windows up to what the model knows', () => {
  assert.deepEqual(contextSizes(256), [256]);
  assert.deepEqual(contextSizes(2048), [512, 1024, 2048]);
  assert.deepEqual(contextSizes(3000), [512, 1024, 2048, 3000]);
});

describe('a conversation', () => {
  function talk(...texts: string[]): Conversation {
    const conversation = new Conversation();
    texts.forEach((text, i) => conversation.add(i % 2 === 0 ? 'user' : 'assistant', text));
    return conversation;
  }
  const said = (conversation: Conversation): unknown[] =>
    conversation.messages('').map(({ content }) => content);

  it('is given with its system prompt, and without answers that never began', () => {
    const conversation = talk('hello', '', 'again');
    assert.deepEqual(conversation.messages(' \n'), [
      { role: 'user', content: 'hello' },
      { role: 'user', content: 'again' },
    ]);
    assert.deepEqual(conversation.messages('Be brief.')[0], {
      role: 'system',
      content: 'Be brief.',
    });
  });

  it('leaves out the oldest exchanges, and never the last question', () => {
    const conversation = talk('q1', 'a1', 'q2', 'a2', 'q3', 'a3', 'q4');
    conversation.forget();
    assert.deepEqual(said(conversation), ['q3', 'a3', 'q4']);
    conversation.forget();
    assert.deepEqual(said(conversation), ['q4']);
    assert.ok(!conversation.canForget);
    assert.equal(conversation.turns.length, 7);
  });

  it('drops its last turn only where it is an answer', () => {
    const conversation = talk('q1', 'a1');
    conversation.dropAnswer();
    conversation.dropAnswer();
    assert.deepEqual(said(conversation), ['q1']);
  });
});

describe('errors of a chat, in words', () => {
  it('of the context window: the numbers, and leaving out the oldest messages', () => {
    const error = new SluiceError('invalid_argument', 'the conversation is 300 tokens long', {
      expected: 255,
      actual: 300,
      hint: 'leave out the oldest messages',
    });
    const words = answerWords(error, 256);
    assert.equal(words.remedy, 'shorten');
    assert.equal(words.title, 'The conversation is longer than the context window');
    assert.deepEqual(words.advice[0], 'Leave out the oldest messages.');
    assert.match(words.advice[1] ?? '', /new chat.*larger context window/);
    assert.equal(answerWords(error, 512).remedy, 'ask');
  });

  it('of the GPU: a new device, and in time of little memory a smaller window', () => {
    const lost = answerWords(new SluiceError('device_lost', 'gone'), 256);
    assert.equal(lost.remedy, 'restart');
    assert.match(lost.advice.join(), /Start the model again.*new device.*conversation stays/);
    const full = answerWords(new SluiceError('out_of_device_memory', 'full'), 256);
    assert.equal(full.remedy, 'restart');
    assert.equal(full.title, 'The GPU’s memory is full');
    assert.match(full.advice.join(), /Close other pages.*smaller context window/);
  });

  it('of the start: what to do about the files, and no word of the other page', () => {
    for (const [code, advice] of [
      ['not_found', /make smollm2/],
      ['invalid_argument', /make smollm2/],
      ['http_status', /make demo/],
      ['network', /make demo/],
      ['device_limit', /smaller model/],
    ] as const) {
      const words = startWords(new SluiceError(code, 'it failed'));
      assert.match(words.advice.join(), advice, code);
      assert.doesNotMatch(words.advice.join(), /CPU memory|address/, code);
    }
  });
});
