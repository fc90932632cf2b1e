// Answers the prompts of models/smollm2/expected.json with the compiled model under sluice/runtime in Node, and says how
// many tokens are those of the reference, and how far the logits after the prompt are from its logits:
//
//   node --import tsx tests/smollm2/answers.ts [--model FOLDER] [--wasm FILE] [--prompts 10] [--tokens 64]
import { parseArgs } from 'node:util';
import { equalTokens, expectedAnswers, logitsDeviation } from './expected.js';
import { modelDevice } from './gpu.js';
import { Sequence } from './sequence.js';

const { values } = parseArgs({
  options: {
    model: { type: 'string', default: 'build/smollm2/web/float32' },
    wasm: { type: 'string', default: 'model-software.wasm' },
    prompts: { type: 'string', default: '10' },
    tokens: { type: 'string', default: '64' },
  },
});

const half = values.model.includes('float16');
const device = await modelDevice(half ? ['shader-f16'] : []);
const sequence = await Sequence.open(values.model, device, { wasm: values.wasm });
let differing = 0;
for (const reference of expectedAnswers().slice(0, Number(values.prompts))) {
  const { prompt, tokens, answer } = reference;
  let deviation: number | undefined;
  const expected = answer.slice(0, Number(values.tokens));
  const times = [performance.now()];
  const actual = await sequence.greedy(tokens, expected.length, (_, logits) => {
    deviation ??= logitsDeviation(logits, reference);
    times.push(performance.now());
  });
  const equal = equalTokens(actual, expected);
  if (equal < expected.length) differing++;
  const [start = 0, first = 0] = times;
  const step = (performance.now() - first) / Math.max(1, expected.length - 1);
  console.log(
    `${prompt}: ${equal} of ${expected.length} tokens are equal, logits off by ${(deviation ?? NaN).toExponential(1)}; prefill ${Math.round(first - start)} ms, ` +
      `${Math.round(step)} ms a token`,
  );
}
sequence.dispose();
device.destroy();
process.exit(differing > 0 ? 1 : 0);
