// Runs in a page and in a worker of a browser: the main paths of sluice/chat.
import type * as SluiceChat from 'sluice/chat';
import type { ChatCompletionChunk } from 'sluice/chat';
import type * as SluiceRuntime from 'sluice/runtime';
import type * as FakeModel from '../fake_model.js';
import type { Fake } from '../fake_model.js';

export interface Given {
  origin: string;
  tokenizer: object;
  config: object;
}

interface Answer {
  pieces: string[];
  reason: string | null | undefined;
}

export interface Outcome {
  cpu: Answer;
  gpu: Answer;
  aborted: string;
  /** The code of the error after the device was destroyed. */
  lost: string;
  /** What createChat() says of a module without a model. */
  noModel: string;
}

const messages = [{ role: 'user' as const, content: 'Hi' }];

async function answerOf(fake: Fake): Promise<Answer> {
  const chunks: ChatCompletionChunk[] = [];
  for await (const chunk of await fake.chat.completions.create({ messages, stream: true })) {
    chunks.push(chunk);
  }
  return {
    pieces: chunks.slice(1, -1).map(({ choices }) => choices[0]?.delta.content ?? '?'),
    reason: chunks.at(-1)?.choices[0]?.finish_reason,
  };
}

export async function driveChat({ origin, tokenizer, config }: Given): Promise<Outcome> {
  const runtimeEntry = `${origin}/dist/runtime/index.js`;
  const { createRuntime } = (await import(runtimeEntry)) as typeof SluiceRuntime;
  const chatEntry = `${origin}/dist/chat/index.js`;
  const { createChat, SluiceError } = (await import(chatEntry)) as typeof SluiceChat;
  const path = `${origin}/test/chat/fake_model.js`;
  const { END, fakeChat, says } = (await import(path)) as typeof FakeModel;

  const onCpu = fakeChat(await createRuntime(), { rule: says('hey ß') });
  const cpu = await answerOf(onCpu);
  await onCpu.chat.dispose();

  const endless = fakeChat(await createRuntime(), { rule: () => ({ 97: 1 }) });
  const { choices } = await endless.chat.completions.create({
    messages,
    signal: AbortSignal.timeout(50),
  });
  await endless.chat.dispose();

  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter?.requestDevice();
  if (!device) throw new Error('there is no WebGPU here');
  const text = [...new TextEncoder().encode('hey ß'), END];
  let prompt: number | undefined;
  const onGpu = fakeChat(await createRuntime({ device }), {
    gpu: true,
    rule: (history) => ({ [text[history.length - (prompt ??= history.length)] ?? END]: 1 }),
  });
  const gpu = await answerOf(onGpu);
  device.destroy();
  const codeOf = (error: unknown): string =>
    error instanceof SluiceError ? `${error.code}: ${error.message}` : String(error);
  const lost = await onGpu.chat.completions
    .create({ messages })
    .then(() => 'no error', codeOf)
    .then((said) => said.replace(/:.*/s, ''));
  await onGpu.chat.dispose();

  const noModel = await createChat({
    model: { wasm: `${origin}/dist/sluice_runtime.wasm`, weights: origin, tokenizer, config },
    device: 'cpu',
  }).then(() => 'no error', codeOf);
  return { cpu, gpu, aborted: choices[0].finish_reason, lost, noModel };
}
