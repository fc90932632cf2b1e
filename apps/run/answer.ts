// A prompt for the compiled model, in a page of its own.
import type { Chromium } from '../../packages/sluice/test/support/chromium.js';
import { expectedAnswers } from '../../tests/smollm2/expected.js';
import { answerInPage } from './page.js';

/** Prints the answer as it comes, and what it took. Whether it is the reference's, where that knows the prompt. */
export async function answerPrompt(
  chromium: Chromium,
  origin: string,
  request: { prompt: string; tokens: number; budgetBytes: number },
): Promise<boolean> {
  const page = await chromium.newPage();
  try {
    console.log(`\nuser         ${request.prompt}`);
    process.stdout.write('model        ');
    await page.page.exposeFunction('say', (text: string) => {
      process.stdout.write(text);
    });
    const { text, usage, milliseconds } = await page.evaluate(answerInPage, {
      ...request,
      url: `${origin}/`,
    });
    const { prompt_tokens, completion_tokens, extra } = usage;
    const seconds = (value: number): string => `${(value / 1000).toFixed(1)} s`;
    console.log(
      `\n${'start'.padEnd(12)} ${seconds(milliseconds.total)}, of it weights ${seconds(milliseconds.weights)}, ` +
        `pipelines ${seconds(milliseconds.pipelines)}`,
    );
    console.log(
      `${'answer'.padEnd(12)} ${prompt_tokens} tokens read at ${extra.prefill_tokens_per_s.toFixed(2)} a second, ` +
        `${completion_tokens} written at ${extra.decode_tokens_per_s.toFixed(2)} a second`,
    );
    const known = expectedAnswers().find(({ prompt }) => prompt === request.prompt);
    if (!known) return true;
    const [whole = ''] = known.text.split('<|im_end|>');
    const equal = completion_tokens < request.tokens ? text === whole : whole.startsWith(text);
    console.log(
      `${'reference'.padEnd(12)} ${equal ? 'the same answer' : `another answer: ${whole}`} (models/smollm2/expected.json)`,
    );
    return equal;
  } finally {
    await page.close();
  }
}
