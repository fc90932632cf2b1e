// Answers the prompts of models/smollm2/expected.json with sluice/chat in Node, and holds the texts to the reference's:
//
//   node --import tsx tests/smollm2/chat.ts [--model FOLDER] [--wasm FILE] [--prompts 10] [--tokens 64]
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { createChat } from 'sluice/chat';
import { createTokenizer } from '../../packages/sluice/dist/chat/tokenizer.js';
import { expectedAnswers } from './expected.js';
import { modelDevice } from './gpu.js';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: 'build/smollm2/web/float32' },
    wasm: { type: 'string', default: 'build/smollm2/web/float32/model-software.wasm' },
    prompts: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '64' },
  },
});

const [tokenizer, config] = ['tokenizer.json', 'tokenizer_config.json'].map(
  (name) => JSON.parse(readFileSync(join(values.model, name), 'utf8')) as object,
) as [object, object];
const reference = await createTokenizer({ tokenizer, config });
const device = await modelDevice(values.model.includes('float16') ? ['shader-f16'] : []);
const chat = await createChat({
  model: { wasm: values.wasm, weights: values.model, tokenizer, config },
  device,
  contextWindowSize: 1024,
});
console.log(chat.report.milliseconds);
let differing = 0;
for (const { prompt, answer } of expectedAnswers().slice(0, Number(values.prompts))) {
  const tokens = answer.slice(0, Number(values.tokens));
  const end = tokens.findIndex((token) => reference.endTokens.has(token));
  const expected = reference.decode(end < 0 ? tokens : tokens.slice(0, end)).replace(/\uFFFD$/, '');
  const { choices, usage } = await chat.completions.create({
    messages: [{ role: 'user', content: prompt }],
    temperature: 0,
    max_tokens: tokens.length,
  });
  const { content } = choices[0].message;
  const { prefill_tokens_per_s: prefill, decode_tokens_per_s: rate } = usage.extra;
  if (content !== expected) differing++;
  console.log(
    `${content === expected ? 'equal' : `differs from '${expected}'`}: ${prompt} ${content} ` +
      `(prefill ${prefill.toFixed(2)} tokens/s, decode ${rate.toFixed(2)} tokens/s)`,
  );
}
await chat.dispose();
device.destroy();
process.exit(differing > 0 ? 1 : 0);
