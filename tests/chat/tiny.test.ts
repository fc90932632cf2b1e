// sluice/chat with a compiled model from files: the smallest llama that compile_tiny.py compiles, with random weights, on
// the CPU. What it says is what a plain reference says.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  createChat,
  SluiceError,
  type Chat,
  type ChatMessage,
  type ChatProgress,
} from 'sluice/chat';
import { createTokenizer, type ChatTokenizer } from '../../packages/sluice/dist/chat/tokenizer.js';
import { CONFIG, TOKENIZER } from '../../packages/sluice/test/chat/small_tokenizer.js';
import { safetensors, type TestTensor } from '../../packages/sluice/test/support/models.js';
import { linkObjects } from '../vm/support.js';
import { logitsOf, type Sizes } from './reference.js';

/** Those of compile_tiny.py. */
const SIZES: Sizes = {
  layers: 2,
  hidden: 32,
  intermediate: 64,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  vocabulary: 263,
};
const CHUNK = 16;

const folder = mkdtempSync(join(tmpdir(), 'sluice-tiny-'));
after(() => {
  rmSync(folder, { recursive: true });
});

function shapes(): [string, number[]][] {
  const { hidden, intermediate, kvHeads, headDim, vocabulary } = SIZES;
  const layers = Array.from({ length: SIZES.layers }, (_, i): [string, number[]][] => [
    [`blk.${i}.attn_norm.weight`, [hidden]],
    [`blk.${i}.attn_q.weight`, [hidden, hidden]],
    [`blk.${i}.attn_k.weight`, [kvHeads * headDim, hidden]],
    [`blk.${i}.attn_v.weight`, [kvHeads * headDim, hidden]],
    [`blk.${i}.attn_output.weight`, [hidden, hidden]],
    [`blk.${i}.ffn_norm.weight`, [hidden]],
    [`blk.${i}.ffn_gate.weight`, [intermediate, hidden]],
    [`blk.${i}.ffn_up.weight`, [intermediate, hidden]],
    [`blk.${i}.ffn_down.weight`, [hidden, intermediate]],
  ]);
  return [
    ['token_embd.weight', [vocabulary, hidden]],
    ...layers.flat(),
    ['output_norm.weight', [hidden]],
  ];
}

/** Weights that are always the same. */
function makeWeights(): Map<string, { shape: number[]; values: Float32Array<ArrayBuffer> }> {
  let state = 12345;
  const random = (): number => (state = (state * 48271) % 0x7fffffff) / 0x7fffffff - 0.5;
  return new Map(
    shapes().map(([name, shape]) => {
      const count = shape.reduce((a, b) => a * b);
      const values = Float32Array.from({ length: count }, () =>
        shape.length === 1 ? 1 + random() : random(),
      );
      return [name, { shape, values }];
    }),
  );
}

const weights = makeWeights();
const weightFile = (name: string, all = weights): string => {
  const tensors = [...all].map(([tensor, { shape, values }]): TestTensor => {
    return { name: tensor, dtype: 'F32', shape, bytes: new Uint8Array(values.buffer) };
  });
  const path = join(folder, `${name}.safetensors`);
  writeFileSync(path, safetensors(tensors));
  return path;
};

const ask = (content: string): ChatMessage[] => [{ role: 'user', content }];

describe('a compiled model', () => {
  let wasm: string;
  let chat: Chat;
  let tokenizer: ChatTokenizer;
  const progress: ChatProgress[] = [];
  before(async () => {
    const fixture = (name: string): string =>
      fileURLToPath(new URL(`./fixtures/${name}`, import.meta.url));
    wasm = await linkObjects('tiny', [fixture('tiny.o'), fixture('tiny.lib.o')], '--no-optimize');
    tokenizer = await createTokenizer({ tokenizer: TOKENIZER, config: CONFIG });
    chat = await createChat({
      model: { wasm, weights: weightFile('tiny'), tokenizer: TOKENIZER, config: CONFIG },
      device: 'cpu',
      onProgress: (each) => progress.push(each),
    });
  });
  after(() => chat.dispose());

  /** What the reference says, a token at a time. */
  function reference(messages: ChatMessage[], count: number): string {
    const tokens = tokenizer.encodeChat(messages);
    const answer: number[] = [];
    while (answer.length < count) {
      const logits = logitsOf(SIZES, (name) => weights.get(name)?.values ?? assert.fail(name), [
        ...tokens,
        ...answer,
      ]);
      const token = logits.indexOf(Math.max(...logits));
      if (tokenizer.endTokens.has(token)) break;
      answer.push(token);
    }
    return tokenizer.decode(answer).replace(/\uFFFD$/, '');
  }

  test('says what the reference says: short, in pieces, and after what was said before', async () => {
    const begun = ask('hello');
    for (const messages of [
      begun,
      ask('hello, '.repeat(9)),
      begun,
      [...begun, { role: 'assistant' as const, content: 'hell' }, ...ask('o')],
      ask('help'),
    ]) {
      const answer = await chat.completions.create({ messages, temperature: 0, max_tokens: 12 });
      assert.equal(answer.choices[0].message.content, reference(messages, 12));
      assert.equal(answer.usage.prompt_tokens, tokenizer.encodeChat(messages).length);
      assert.equal(answer.model, 'llama');
    }
    assert.ok(tokenizer.encodeChat(ask('hello, '.repeat(9))).length > 2 * CHUNK);
  });

  test('keeps in the KV cache what two conversations have in common', async () => {
    await chat.completions.create({ messages: ask('hello a'), max_tokens: 3 });
    const { usage } = await chat.completions.create({ messages: ask('hello b'), max_tokens: 3 });
    // Up to the last letter, and what the template writes before
    const common = tokenizer
      .encodeChat(ask('hello a'))
      .findIndex((token, i) => token !== tokenizer.encodeChat(ask('hello b'))[i]);
    assert.equal(common, 8);
    assert.equal(usage.prompt_tokens_details.cached_tokens, common);
  });

  test('tells what the making took', () => {
    const { milliseconds, pipelines, weights: loaded } = chat.report;
    assert.equal(pipelines, 0);
    assert.equal(loaded.tensors, weights.size);
    for (const phase of ['wasm', 'start', 'tokenizer', 'weights', 'cache', 'total'] as const)
      assert.ok(milliseconds[phase] > 0 && milliseconds[phase] <= milliseconds.total, phase);
    assert.equal(progress.at(-1)?.weights?.tensorsDone, weights.size);
  });

  test('with other weights than it was compiled for', async () => {
    const make = (name: string, all: typeof weights): Promise<Chat> =>
      createChat({
        model: { wasm, weights: weightFile(name, all), tokenizer: TOKENIZER, config: CONFIG },
        device: 'cpu',
      });
    const message = (error: unknown): string =>
      error instanceof SluiceError ? error.message : assert.fail(String(error));
    const fewer = new Map(weights);
    fewer.delete('output_norm.weight');
    assert.match(
      message(await make('fewer', fewer).catch((error: unknown) => error)),
      /the weights have no tensor 'output_norm\.weight'/,
    );
    const other = new Map(weights);
    other.set('output_norm.weight', { shape: [16], values: new Float32Array(16) });
    assert.match(
      message(await make('other', other).catch((error: unknown) => error)),
      /'output_norm\.weight' is float32\[16\], and the compiled model takes float32\[32\]/,
    );
  });
});
