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
}

const FILE = fileURLToPath(new URL('../../models/smollm2/expected.json', import.meta.url));

export function expectedAnswers(): Answer[] {
  return (JSON.parse(readFileSync(FILE, 'utf8')) as { answers: Answer[] }).answers;
}

/** How many tokens are equal before the first that is not. */
export function equalTokens(actual: readonly number[], expected: readonly number[]): number {
  const different = actual.findIndex((token, i) => token !== expected[i]);
  return different < 0 ? actual.length : different;
}
