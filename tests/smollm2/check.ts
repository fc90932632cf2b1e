// SmolLM2 as `make smollm2` made it: the files, and in Node, on whichever adapter there is, its answers.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { createTokenizer } from '../../packages/sluice/dist/chat/tokenizer.js';
import { expectedAnswers, logitsDeviation } from './expected.js';
import { modelDevice } from './gpu.js';
import { Sequence } from './sequence.js';

const FOLDER = fileURLToPath(new URL('../../build/smollm2/web/float32', import.meta.url));
/** "The capital of France is Paris": more take long on a software adapter. */
const TOKENS = 6;

const file = (name: string) => readFileSync(join(FOLDER, name));
const json = (name: string): unknown => JSON.parse(file(name).toString());

test('the modules import two functions', async () => {
  for (const name of ['model.wasm', 'model-software.wasm']) {
    const module = await WebAssembly.compile(file(name));
    assert.deepEqual(
      WebAssembly.Module.imports(module).map((each) => each.name),
      ['TVMFFIWasmSafeCall', 'TVMFFIWasmFunctionDeleter'],
      name,
    );
  }
});

test('chat template and tokenizer give the tokens and the text of the reference', async () => {
  const tokenizer = await createTokenizer({
    tokenizer: json('tokenizer.json'),
    config: json('tokenizer_config.json'),
  });
  for (const { prompt, tokens, answer, text } of expectedAnswers()) {
    assert.deepEqual(tokenizer.encodeChat([{ role: 'user', content: prompt }]), tokens, prompt);
    assert.equal(tokenizer.decode(answer), text.replaceAll(/<\|\w+\|>/g, ''), prompt);
  }
  assert.deepEqual([...tokenizer.endTokens], [2]);
});

describe('under sluice/runtime', () => {
  let device: GPUDevice;
  let sequence: Sequence;
  before(async () => {
    device = await modelDevice();
    sequence = await Sequence.open(FOLDER, device, { wasm: 'model-software.wasm' });
  });
  after(() => {
    sequence.dispose();
    device.destroy();
  });

  test('embed gives rows of the table', async () => {
    const { records } = json('tensor-cache.json') as {
      records: { dataPath: string; records: { name: string; byteOffset: number }[] }[];
    };
    const shard = records.find((each) =>
      each.records.some((one) => one.name === 'token_embd.weight'),
    );
    const start = shard?.records.find((one) => one.name === 'token_embd.weight')?.byteOffset;
    assert.ok(shard && start !== undefined);
    const table = file(shard.dataPath).subarray(start);
    const tokens = [1, 504, 49_151];
    const embedded = sequence.embed(tokens);
    assert.deepEqual([embedded.dtype, embedded.shape], ['float32', [3, 576]]);
    const row = 4 * 576;
    assert.deepEqual(
      Buffer.from(await embedded.read()),
      Buffer.concat(tokens.map((token) => table.subarray(token * row, (token + 1) * row))),
    );
    embedded.dispose();
  });

  test(`the first ${TOKENS} tokens of an answer, and the logits before, are those of the reference`, async () => {
    const [first] = expectedAnswers();
    assert.ok(first);
    let deviation: number | undefined;
    const answer = await sequence.greedy(first.tokens, TOKENS, (_, logits) => {
      deviation ??= logitsDeviation(logits, first);
    });
    assert.deepEqual(answer, first.answer.slice(0, TOKENS));
    assert.ok(deviation !== undefined && deviation < 1e-3, `logits off by ${deviation}`);
  });

  test('a prompt in pieces gives the logits of the whole', async () => {
    const [first] = expectedAnswers();
    assert.ok(first);
    const tokens = first.tokens.slice(0, 6);
    sequence.clear();
    const whole = await sequence.append(tokens);
    sequence.clear();
    await sequence.append(tokens.slice(0, 5));
    const last = await sequence.append(tokens.slice(5));
    for (const [i, logit] of whole.entries())
      assert.ok(Math.abs(logit - (last[i] ?? NaN)) <= 1e-3, `logit ${i}: ${logit}, ${last[i]}`);
  });
});
