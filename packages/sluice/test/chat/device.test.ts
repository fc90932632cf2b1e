// A fake model whose logits are on the GPU, in Node on the software adapter: a device that is lost in mid-answer.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { createRuntime } from 'sluice/runtime';
import { nodeDevice } from '../sinks/node_gpu.js';
import { END, fakeChat } from './fake_model.js';
import { ask, rejects } from './support.js';

const PROMPT = 4;

test('a lost device is device_lost, and a new chat on a new device answers', async () => {
  const device = await nodeDevice();
  let passes = 0;
  const first = fakeChat(await createRuntime({ device }), {
    gpu: true,
    rule: () => ({ 97: 1 }),
    onForward: () => {
      if (++passes === 4) device.destroy();
    },
  });
  const stream = await first.chat.completions.create({ messages: ask('x'), stream: true });
  let text = '';
  const read = async (): Promise<void> => {
    for await (const { choices } of stream) text += choices[0]?.delta.content ?? '';
  };
  await rejects(read(), 'device_lost', /lost|destroyed/);
  assert.equal(text, 'aaa');
  await rejects(
    first.chat.completions.create({ messages: ask('x') }),
    'device_lost',
    /lost|destroyed/,
  );
  await first.chat.dispose();
  assert.ok(first.released());

  const other = await nodeDevice();
  const second = fakeChat(await createRuntime({ device: other }), {
    gpu: true,
    rule: (history) => ({ [history.length < PROMPT + 5 ? 98 : END]: 1 }),
  });
  const answer = await second.chat.completions.create({ messages: ask('x') });
  assert.equal(answer.choices[0].message.content, 'bbbbb');
  await second.chat.dispose();
  other.destroy();
});
