// A whole compiled model by sluice/runtime and by tvmjs's JavaScript: prefill and decode in tokens per second, the part of a
// decode step that is not the GPU's, and the way to the first token.
import { readFile } from 'node:fs/promises';
import { table, verdict } from './rounds.mjs';
import { median } from './size.mjs';

const SIDES = ['sluice', 'tvmjs'];
const EXPECTED = new URL('../models/smollm2/expected.json', import.meta.url);
const TARGET = 1.3;

/**
 * Interleaved rounds on one host: prompts of `prefill` tokens, answers of `decode`. Both sides must give the same tokens, and
 * in float32, where the weights are the model's own, those that the reference gives.
 */
export async function llmFigures({ host, origin, dtype, rounds, prefill, decode }) {
  const url = `${origin}/llm/${dtype}`;
  const each = { url, thread: 'main' };
  const { adapter } = await host.run({ ...each, contestant: 'prepare' });
  const { metadata } = await (await fetch(`${url}/tensor-cache.json`)).json();
  const { answers } = JSON.parse(await readFile(EXPECTED, 'utf8'));
  const run = async (contestant, task) =>
    (await host.run({ ...each, contestant, ...task })).figures;

  const [expected] = answers;
  const count = Math.min(decode, expected.answer.length);
  const checked = {};
  for (const side of SIDES) {
    const { tokens } = await run('llm answer', { side, prompt: expected.tokens, count });
    checked[side] = tokens;
    say(`${side}: ${tokens.slice(0, 8).join(' ')} …`);
  }
  checkEqual(checked.sluice, checked.tvmjs, 'the two give other tokens');
  const reference = !metadata.made && dtype.startsWith('float32');
  if (reference) {
    checkEqual(checked.sluice, expected.answer.slice(0, count), 'the reference gives other tokens');
  }

  const text = answers.flatMap(({ tokens, answer }) => [...tokens, ...answer]);
  const task = { prompt: text.slice(0, prefill), count: decode };
  const results = Object.fromEntries(SIDES.map((side) => [side, []]));
  for (let round = 0; round <= rounds; round++) {
    const tokens = {};
    for (let i = 0; i < SIDES.length; i++) {
      const side = SIDES[(i + round) % SIDES.length];
      const result = await run('llm answer', { side, ...task });
      tokens[side] = result.tokens;
      say(`round ${round}: ${side}: ${result.decode.total.toFixed(2)} ms a token`);
      if (round > 0) results[side].push(result); // the first warms up
    }
    checkEqual(tokens.sluice, tokens.tvmjs, 'the two give other tokens');
  }
  const sides = {};
  for (const side of SIDES) {
    const middle = (of) => median(results[side].map(of));
    const total = middle((result) => result.decode.total);
    const { gpu } = await run('llm busy', { side, ...task });
    sides[side] = {
      prefillTokensPerSecond: prefill / (middle((result) => result.prefill) / 1000),
      decodeTokensPerSecond: 1000 / total,
      decode: {
        total,
        call: middle((result) => result.decode.call),
        outside: middle((result) => result.decode.outside),
        ...(gpu === undefined ? {} : { gpu }),
      },
    };
  }
  await run('llm unload', {});
  const ratios = {};
  for (const name of ['prefillTokensPerSecond', 'decodeTokensPerSecond']) {
    ratios[name] = sides.sluice[name] / sides.tvmjs[name];
  }
  const own = { adapter, dtype, made: metadata.made ?? false, prefill, decode, checked: count };
  return { ...own, reference, sides, ratios };
}

/** Milliseconds from nothing to the first token, by phases, of either side: medians of some, the weights kept before. */
export async function llmStart({ host, origin, dtype, starts, prefill }) {
  const each = { url: `${origin}/llm/${dtype}`, thread: 'main' };
  const { answers } = JSON.parse(await readFile(EXPECTED, 'utf8'));
  const prompt = answers.flatMap(({ tokens }) => tokens).slice(0, prefill);
  const figures = Object.fromEntries(SIDES.map((side) => [side, []]));
  for (let i = 0; i <= starts; i++) {
    for (const side of SIDES) {
      const task = { contestant: 'llm start', side, prompt, store: true };
      const { milliseconds } = (await host.run({ ...each, ...task })).figures;
      say(`start ${i}: ${side}: ${Math.round(milliseconds.total)} ms`);
      if (i > 0) figures[side].push(milliseconds); // the first fills the store
    }
  }
  return Object.fromEntries(
    SIDES.map((side) => [
      side,
      Object.fromEntries(
        Object.keys(figures[side][0]).map((phase) => [
          phase,
          median(figures[side].map((milliseconds) => milliseconds[phase])),
        ]),
      ),
    ]),
  );
}

const say = (text) => process.stderr.write(`  llm: ${text}\n`);

function checkEqual(tokens, others, what) {
  const at = tokens.findIndex((token, i) => token !== others[i]);
  if (at < 0 && tokens.length === others.length) return;
  throw new Error(`${what}: at ${at}, ${tokens.slice(at, at + 4)} and ${others.slice(at, at + 4)}`);
}

export function llmText(title, figures, start) {
  const { adapter, dtype, made, prefill, decode, checked, reference, sides, ratios } = figures;
  const head = [
    `${title} (${adapter}), ${dtype}`,
    `prefill of ${prefill}: tokens/s`,
    `decode of ${decode}: tokens/s`,
    'ms a token',
    'of these JS and wasm',
    'GPU busy',
    'not the GPU',
  ];
  const body = SIDES.map((side) => {
    const { prefillTokensPerSecond, decodeTokensPerSecond, decode: step } = sides[side];
    const { total, outside, gpu } = step;
    return [
      side,
      prefillTokensPerSecond.toFixed(1),
      decodeTokensPerSecond.toFixed(1),
      total.toFixed(2),
      `${outside.toFixed(2)} (${percent(outside / total)})`,
      gpu === undefined ? '' : gpu.toFixed(2),
      gpu === undefined ? '' : percent(Math.max(0, 1 - gpu / total)),
    ];
  });
  const { prefillTokensPerSecond, decodeTokensPerSecond } = ratios;
  body.push([
    'ratio',
    prefillTokensPerSecond.toFixed(2),
    decodeTokensPerSecond.toFixed(2),
    '',
    '',
    '',
    '',
  ]);
  const same = reference ? ', which are the reference’s' : made ? '; the weights are made up' : '';
  const said =
    `Both give the same ${checked} and ${decode} tokens${same}. ` +
    `Aim ${TARGET} in decode: ${verdict(decodeTokensPerSecond >= TARGET)}.`;
  return [table(head, body), said, ...(start ? [startText(title, start)] : [])].join('\n\n');
}

const percent = (share) => `${Math.round(100 * share)} %`;

function startText(title, start) {
  const phases = ['device', 'wasm', 'weights', 'pipelines', 'prefill', 'total'];
  const head = [`${title}: ms to the first token, weights stored`, ...phases];
  const body = Object.entries(start).map(([side, milliseconds]) => [
    side,
    ...phases.map((phase) => milliseconds[phase].toFixed(0)),
  ]);
  return table(head, body);
}
