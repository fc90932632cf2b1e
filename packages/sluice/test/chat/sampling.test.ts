// Which tokens are drawn: by temperature, seed and penalties.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { randomNumbers } from '../../dist/chat/random.js';
import type { Rule } from './fake_model.js';
import { ask, newFake, rejects, textOf } from './support.js';

const [A, B, C] = [97, 98, 99];
/** Always the same logits. */
const always =
  (logits: Record<number, number>): Rule =>
  () =>
    logits;

describe('sampling', () => {
  test('temperature 0 takes the likeliest, whatever the seed', async () => {
    const fake = await newFake({ rule: always({ [A]: 1, [B]: 1.01, [C]: 1 }) });
    for (const seed of [1, 2, 3]) {
      const text = await textOf(fake, { messages: ask('x'), temperature: 0, seed, max_tokens: 20 });
      assert.equal(text, 'b'.repeat(20));
    }
  });

  test('the same seed gives the same answer, another one another', async () => {
    const fake = await newFake({ rule: always({ [A]: 1, [B]: 1, [C]: 1 }) });
    const say = (seed?: number): Promise<string> =>
      textOf(fake, {
        messages: ask('x'),
        max_tokens: 60,
        ...(seed === undefined ? {} : { seed }),
      });
    const first = await say(7);
    assert.match(first, /^[abc]{60}$/);
    assert.equal(await say(7), first);
    assert.notEqual(await say(8), first);
    assert.notEqual(await say(7 + 2 ** 32), first);
    assert.notEqual(await say(-7), first);
    assert.notEqual(await say(), await say());
  });

  test('as often as is likely', async () => {
    // e^0 : e^ln 3 at temperature 1, and to the power of 2 at 0.5
    const fake = await newFake({ rule: always({ [A]: 0, [B]: Math.log(3) }) });
    for (const [temperature, share] of [
      [1, 3 / 4],
      [0.5, 9 / 10],
    ] as const) {
      const request = { messages: ask('x'), temperature, max_tokens: 2000, seed: 1 };
      const text = await textOf(fake, request);
      const actual = text.replaceAll('a', '').length / text.length;
      assert.ok(Math.abs(actual - share) < 0.03, `${actual} of ${share}`);
    }
  });

  test('top_p leaves out the unlikely', async () => {
    const fake = await newFake({ rule: always({ [A]: 0, [B]: 2, [C]: 2 }) });
    const text = await textOf(fake, { messages: ask('x'), top_p: 0.9, max_tokens: 300, seed: 1 });
    assert.deepEqual([...new Set(text)].sort(), ['b', 'c']);
  });

  test('random numbers are spread evenly, and known', () => {
    const random = randomNumbers(1);
    const counts = new Array<number>(10).fill(0);
    for (let i = 0; i < 10_000; i++) {
      const at = Math.floor(random() * 10);
      counts[at] = (counts[at] ?? 0) + 1;
    }
    assert.ok(counts.every((count) => count > 900 && count < 1100));
  });
});

describe('penalties', () => {
  // Logits 3, 2, 1: what is said at temperature 0 is counted by hand
  const rule = always({ [A]: 3, [B]: 2, [C]: 1 });
  const say = async (fields: object, max_tokens = 6): Promise<string> =>
    textOf(await newFake({ rule }), {
      messages: ask('aaaa'),
      temperature: 0,
      max_tokens,
      ...fields,
    });

  test('frequency: for each time that a token was said', async () => {
    // a 3, then 3-1.5=1.5 < b 2, then b 0.5 < a 1.5, then a 0 < c 1, then b 0.5, then a 0
    assert.equal(await say({ frequency_penalty: 1.5 }), 'abacba');
  });

  test('presence: once', async () => {
    // a 3, then 1.5 < b 2, then b 0.5 < a 1.5 for good
    assert.equal(await say({ presence_penalty: 1.5 }), 'abaaaa');
    assert.equal(await say({ presence_penalty: -1.5 }), 'aaaaaa');
  });

  test('both', async () => {
    // a 3, then 0 < b 2, then b -1 < c 1, then c -2: a 0, then -1 and b is as likely, the first wins
    assert.equal(await say({ presence_penalty: 2, frequency_penalty: 1 }, 4), 'abca');
  });

  test('repetition: divides', async () => {
    // a 3, then 1.2 < b 2, then b 0.8 < a 1.2
    assert.equal(await say({ repetition_penalty: 2.5 }), 'abaaaa');
    // a 0.75, b 0.5, then c 1, then c 0.25: a
    assert.equal(await say({ repetition_penalty: 4 }), 'abcaaa');
  });
});

test('logits that are no numbers are an error that says which', async () => {
  const fake = await newFake({ rule: always({ [A]: NaN }) });
  await rejects(
    fake.chat.completions.create({ messages: ask('x') }),
    'invalid_argument',
    /logit 97 of 300 is NaN/,
  );
});
