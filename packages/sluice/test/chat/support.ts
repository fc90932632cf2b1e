// A fake model in Node, and what is read of answers.
import assert from 'node:assert/strict';
import { after } from 'node:test';
import type { ChatCompletionChunk, CompletionRequest } from 'sluice/chat';
import { SluiceError, type ErrorCode } from 'sluice/chat';
import { createRuntime } from 'sluice/runtime';
import { fakeChat, type Fake, type FakeOptions } from './fake_model.js';

export async function newFake(options: FakeOptions): Promise<Fake> {
  const fake = fakeChat(await createRuntime(), options);
  after(() => fake.chat.dispose());
  return fake;
}

export const ask = (text: string): CompletionRequest['messages'] => [
  { role: 'user', content: text },
];

/** Every chunk of a stream. */
export async function chunksOf(
  stream: AsyncIterable<ChatCompletionChunk>,
): Promise<ChatCompletionChunk[]> {
  const chunks: ChatCompletionChunk[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

/** The pieces of text, and why the answer ended. */
export async function piecesOf(
  fake: Fake,
  request: CompletionRequest,
): Promise<{ pieces: string[]; reason: string | null | undefined }> {
  const chunks = await chunksOf(await fake.chat.completions.create({ ...request, stream: true }));
  return {
    pieces: chunks.slice(1, -1).map(({ choices }) => choices[0]?.delta.content ?? '?'),
    reason: chunks.at(-1)?.choices[0]?.finish_reason,
  };
}

export async function textOf(fake: Fake, request: CompletionRequest): Promise<string> {
  const { choices } = await fake.chat.completions.create({ ...request, stream: false });
  return choices[0].message.content;
}

/** Expects a SluiceError of a code whose message is like this. */
export async function rejects(
  work: Promise<unknown>,
  code: ErrorCode,
  message: RegExp,
): Promise<SluiceError> {
  const error: unknown = await work.then(
    () => assert.fail('it did not reject'),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof SluiceError, String(error));
  assert.equal(error.code, code, error.message);
  assert.match(error.message, message);
  return error;
}
