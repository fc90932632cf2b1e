// What runs in the page. Each function is sent there as text, so it sees nothing of this file but types.
import type * as Sluice from 'sluice';
import type * as SluiceChat from 'sluice/chat';

export interface LoadResult {
  report: Sluice.LoadReport;
  browser: string;
  adapter: string;
}

export interface TensorDigest {
  dtype: string;
  shape: readonly number[];
  sha256: string;
}

type Page = typeof globalThis & {
  model: Sluice.Model;
  report: (done: number, total: number) => Promise<void>;
  say: (text: string) => Promise<void>;
};

/** Loads the model into WebGPU and keeps it in the page. */
export async function loadInPage(options: {
  url: string;
  budgetBytes: number;
}): Promise<LoadResult> {
  const page = globalThis as Page;
  const entry = '/dist/index.js'; // in a variable, so that the compiler does not look for it
  const { loadModel } = (await import(entry)) as typeof Sluice;
  page.model = await loadModel(options.url, {
    device: 'gpu',
    budgetBytes: options.budgetBytes,
    store: true,
    onProgress: ({ outputBytesDone, outputBytes }) => {
      void page.report(outputBytesDone, outputBytes);
    },
  });
  const { device, report } = page.model;
  const { vendor = '', architecture = '' } = device?.adapterInfo ?? {};
  const [browser] = /Chrome\/\S+/.exec(navigator.userAgent) ?? ['?'];
  return { report, browser, adapter: `${vendor} ${architecture}`.trim() };
}

/** Reads every tensor back from the GPU and digests it. */
export async function digestInPage(): Promise<Record<string, TensorDigest>> {
  const { model } = globalThis as Page;
  const { device } = model;
  if (!device) throw new Error('the model is not on a GPU');
  const digests: Record<string, TensorDigest> = {};
  for (const tensor of model.tensors.values()) {
    if (tensor.location !== 'gpu') throw new Error(`${tensor.name} is not on the GPU`);
    const { name, dtype, shape, nbytes, buffer, offset } = tensor;
    const padded = Math.max(4, Math.ceil(nbytes / 4) * 4);
    const readback = device.createBuffer({
      size: padded,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const commands = device.createCommandEncoder();
    commands.copyBufferToBuffer(buffer, offset, readback, 0, padded);
    device.queue.submit([commands.finish()]);
    await readback.mapAsync(GPUMapMode.READ);
    const hash = await crypto.subtle.digest('SHA-256', readback.getMappedRange().slice(0, nbytes));
    readback.destroy();
    const sha256 = [...new Uint8Array(hash)].map((b) => b.toString(16).padStart(2, '0')).join('');
    digests[name] = { dtype, shape, sha256 };
  }
  return digests;
}

export interface AnswerResult {
  text: string;
  usage: SluiceChat.CompletionUsage;
  milliseconds: SluiceChat.ChatReport['milliseconds'];
}

/** Makes a chat of the compiled model and answers the prompt, always with the likeliest token. */
export async function answerInPage(options: {
  url: string;
  budgetBytes: number;
  prompt: string;
  tokens: number;
}): Promise<AnswerResult> {
  const { url, budgetBytes, prompt, tokens } = options;
  const page = globalThis as Page;
  const entry = '/dist/chat/index.js'; // in a variable, so that the compiler does not look for it
  const { createChat } = (await import(entry)) as typeof SluiceChat;
  const adapter = await navigator.gpu.requestAdapter();
  // Made for processors: docs/models.md
  const software = adapter?.info.architecture === 'swiftshader';
  const chat = await createChat({
    model: {
      wasm: `${url}${software ? 'model-software.wasm' : 'model.wasm'}`,
      weights: url,
      tokenizer: `${url}tokenizer.json`,
      config: `${url}tokenizer_config.json`,
    },
    contextWindowSize: 1024,
    load: { budgetBytes, store: true },
  });
  const stream = await chat.completions.create({
    messages: [{ role: 'user', content: prompt }],
    temperature: 0,
    max_tokens: tokens,
    stream: true,
    stream_options: { include_usage: true },
  });
  let text = '';
  let usage: SluiceChat.CompletionUsage | undefined;
  for await (const chunk of stream) {
    const piece = chunk.choices[0]?.delta.content ?? '';
    text += piece;
    usage ??= chunk.usage;
    if (piece) await page.say(piece);
  }
  const { milliseconds } = chat.report;
  await chat.dispose();
  if (!usage) throw new Error('the answer came without its usage');
  return { text, usage, milliseconds };
}
