// Making a chat fails with what is wrong.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { createChat, type ChatModel, type ChatOptions } from 'sluice/chat';
import { startServer } from '../support/server.js';
import { CONFIG, TOKENIZER } from './small_tokenizer.js';
import { rejects } from './support.js';

const folder = mkdtempSync(join(tmpdir(), 'sluice-chat-'));
after(() => {
  rmSync(folder, { recursive: true });
});
const file = (name: string, content: string): string => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};

const OWN_WASM = fileURLToPath(import.meta.resolve('sluice/sluice_runtime.wasm'));
const model: ChatModel = {
  wasm: OWN_WASM,
  weights: folder,
  tokenizer: file('tokenizer.json', JSON.stringify(TOKENIZER)),
  config: file('tokenizer_config.json', JSON.stringify(CONFIG)),
};
const make = (parts: Partial<ChatModel>, options: Partial<ChatOptions> = {}) =>
  createChat({ model: { ...model, ...parts }, device: 'cpu', ...options });

test('what is missing is named', async () => {
  const { tokenizer } = model;
  await rejects(
    createChat({ model: { tokenizer } } as ChatOptions),
    'invalid_argument',
    /option model lacks wasm, weights, config; it needs wasm, weights, tokenizer, config/,
  );
  await rejects(createChat({} as ChatOptions), 'invalid_argument', /option model lacks wasm/);
  await rejects(make({}, { device: 'tpu' as 'cpu' }), 'invalid_argument', /device is 'tpu'/);
});

test('files that are not there', async () => {
  const wasm = join(folder, 'none.wasm');
  const error = await rejects(make({ wasm }), 'not_found', /none\.wasm is not there/);
  assert.equal(error.file, wasm);
  const server = await startServer({ files: {} });
  const url = `${server.origin}/none.json`;
  await rejects(make({ tokenizer: url }), 'http_status', /none\.json: HTTP status 404/);
  await server.close();
  await rejects(make({ config: url }), 'network', /none\.json could not be fetched: /);
});

test('files that are something else', async () => {
  const text = file('text', 'no JSON');
  await rejects(make({ config: text }), 'invalid_argument', /text is no JSON: /);
  await rejects(make({ wasm: text }), 'invalid_argument', /text does not compile: /);
  await rejects(
    make({ wasm: new Uint8Array([0, 97]) }),
    'invalid_argument',
    /option model\.wasm does not compile/,
  );
});

test('a module without a model', async () => {
  const error = await rejects(
    make({}),
    'invalid_argument',
    /option model\.wasm holds no compiled model/,
  );
  assert.match(error.hint ?? '', /tools\/link_model\.py/);
});

test('aborted by its caller', async () => {
  const signal = AbortSignal.abort();
  await rejects(make({}, { signal }), 'aborted', /aborted by its caller/);
});
