// What models/smollm2/reference.py answered.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export interface Answer {
  prompt: string;
  /** The prompt's, with the chat template around it. */
  tokens: number[];
  /** The 64 likeliest tokens, one after the other. */
  answer: number[];
  text: string;
  /** By how much the closest choice among them was made. */
  margin: number;
  /** Of the logits after the prompt those of tokens 0, 512, 1024, … */
  logits: number[];
}

const FILE = fileURLToPath(new URL('../../models/smollm2/expected.json', import.meta.url));

export function expectedAnswers(): Answer[] {
  return (JSON.parse(readFileSync(FILE, 'utf8')) as { answers: Answer[] }).answers;
}

const LOGITS_STRIDE = 512;

/** By how much logits after a prompt are off at most, as a share of the reference's largest. */
export function logitsDeviation(actual: Float32Array, { logits }: Answer): number {
  const largest = Math.max(...logits.map(Math.abs));
  const off = logits.map((logit, i) => Math.abs(logit - (actual[i * LOGITS_STRIDE] ?? NaN)));
  return Math.max(...off) / largest;
}

/** How many tokens are equal before the first that is not. */
export function equalTokens(actual: readonly number[], expected: readonly number[]): number {
  const different = actual.findIndex((token, i) => token !== expected[i]);
  return different < 0 ? actual.length : different;
}
