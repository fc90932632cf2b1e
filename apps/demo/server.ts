// Serves the pages, compiled as they are asked for, the built package, example models, and the model of the chat page, on
// 127.0.0.1.
import { createReadStream, existsSync } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basename, extname, join, normalize, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';

import ts from 'typescript';

import { sampleModel } from './sample_model.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const PAGE = join(ROOT, 'apps/demo/page');
const PACKAGE = join(ROOT, 'packages/sluice/dist');
/** What `make run` packs: a folder for each model. */
const PACKED = join(ROOT, 'build/run');
/** What `make run` downloads. */
const DOWNLOADED = join(ROOT, 'build/models');
/** What `make smollm2` makes. */
const SMOLLM2: ChatModelFolder = {
  name: 'SmolLM2-135M-Instruct',
  folder: join(ROOT, 'build/smollm2/web'),
  contextWindowSize: 8192,
  command: 'make smollm2',
};

const TYPES: Record<string, string> = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.map': 'application/json',
  '.wasm': 'application/wasm',
};

/** A model that the page offers by a button. */
export interface Example {
  name: string;
  /** Relative to the page. */
  url: string;
  nbytes: number;
}

/** A model to chat with, in the folders of models/smollm2/build.sh: `float16` and `float32`. */
export interface ChatModelFolder {
  name: string;
  folder: string;
  /** Tokens of a conversation that it knows. */
  contextWindowSize: number;
  /** What makes the folder. */
  command: string;
}

/** What the chat page is told of it. */
export interface ChatModel extends Omit<ChatModelFolder, 'folder'> {
  /** None before the command ran. */
  builds: ChatBuild[];
}

export interface ChatBuild {
  dtype: 'float16' | 'float32';
  /** For adapters that run on the CPU. */
  software: boolean;
  /** The compiled model, relative to the page. */
  wasm: string;
  /** The weights, tokenizer.json and tokenizer_config.json, relative to the page. */
  folder: string;
  wasmBytes: number;
  weightBytes: number;
}

export interface Demo {
  /** `http://127.0.0.1:<port>`, a secure context. */
  readonly origin: string;
  close(): Promise<void>;
}

export interface DemoOptions {
  /** Any free one unless given. */
  port?: number;
  /** SmolLM2 unless given. */
  chatModel?: ChatModelFolder;
}

export async function startDemo({
  port = 0,
  chatModel = SMOLLM2,
}: DemoOptions = {}): Promise<Demo> {
  if (!existsSync(PACKAGE)) {
    throw new Error('packages/sluice/dist is missing: run `make package` first');
  }
  const server = createServer((request, response) => {
    answer(request, response, chatModel).catch((error: unknown) => {
      // The visitor has gone, or a file went while it was sent: the connection is all there is to end
      if (response.headersSent) response.destroy();
      else sendText(response, 500, String(error));
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, '127.0.0.1', resolve);
  });
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve();
        });
        server.closeAllConnections();
      }),
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  chatModel: ChatModelFolder,
): Promise<void> {
  if (request.method !== 'GET' && request.method !== 'HEAD') {
    sendText(response, 405, 'only GET and HEAD are served here');
    return;
  }
  let path: string;
  try {
    path = decodeURIComponent(new URL(request.url ?? '/', 'http://127.0.0.1').pathname);
  } catch {
    sendText(response, 400, 'the path is not well-formed');
    return;
  }
  if (path === '/') return sendFile(request, response, join(PAGE, 'index.html'));
  if (path === '/examples.json') return sendJson(response, await examples());
  if (path === '/chat-model.json') return sendJson(response, await readChatModel(chatModel));
  if (path === '/examples/sample.safetensors') {
    return sendBytes(request, response, sampleModel());
  }
  for (const [prefix, folder] of [
    ['/sluice/', PACKAGE],
    ['/examples/packed/', PACKED],
    ['/examples/downloaded/', DOWNLOADED],
    ['/chat-model/', chatModel.folder],
    ['/', PAGE],
  ] as const) {
    if (!path.startsWith(prefix)) continue;
    const file = normalize(join(folder, path.slice(prefix.length)));
    if (!file.startsWith(folder + sep)) break;
    if (folder === PAGE && file.endsWith('.js')) {
      return sendCompiled(response, file.replace(/\.js$/, '.ts'));
    }
    return sendFile(request, response, file);
  }
  sendText(response, 404, 'not found');
}

/** The generated sample, what `make run` packed, and what it downloaded. */
async function examples(): Promise<Example[]> {
  const found: Example[] = [
    { name: 'Generated sample', url: 'examples/sample.safetensors', nbytes: sampleModel().length },
  ];
  for (const entry of await list(PACKED)) {
    const folder = join(PACKED, entry);
    const names = await list(folder);
    if (!names.some((name) => /(-cache|\.index)\.json$|\.safetensors$/.test(name))) continue;
    const sizes = await Promise.all(names.map(async (name) => sizeOf(join(folder, name))));
    const nbytes = sizes.reduce((sum, size) => sum + size, 0);
    found.push({ name: entry, url: `examples/packed/${encodeURIComponent(entry)}/`, nbytes });
  }
  for (const entry of await list(DOWNLOADED)) {
    if (!/\.(gguf|safetensors)$/.test(entry)) continue;
    const url = `examples/downloaded/${encodeURIComponent(entry)}`;
    found.push({ name: entry, url, nbytes: await sizeOf(join(DOWNLOADED, entry)) });
  }
  return found;
}

/** The chat model with those of its builds that are complete. */
export async function readChatModel({
  folder,
  ...model
}: ChatModelFolder = SMOLLM2): Promise<ChatModel> {
  const builds: ChatBuild[] = [];
  for (const dtype of ['float16', 'float32'] as const) {
    const names = await list(join(folder, dtype));
    const needed = ['tensor-cache.json', 'tokenizer.json', 'tokenizer_config.json'];
    if (!needed.every((name) => names.includes(name))) continue;
    const bytesOf = (name: string): Promise<number> => sizeOf(join(folder, dtype, name));
    const shards = await Promise.all(names.filter((name) => name.endsWith('.bin')).map(bytesOf));
    for (const wasm of ['model.wasm', 'model-software.wasm']) {
      if (!names.includes(wasm)) continue;
      builds.push({
        dtype,
        software: wasm === 'model-software.wasm',
        wasm: `chat-model/${dtype}/${wasm}`,
        folder: `chat-model/${dtype}/`,
        wasmBytes: await bytesOf(wasm),
        weightBytes: shards.reduce((sum, nbytes) => sum + nbytes, 0),
      });
    }
  }
  return { ...model, builds };
}

const list = (folder: string): Promise<string[]> =>
  readdir(folder).then(
    (names) => names.sort(),
    () => [],
  );

const sizeOf = async (file: string): Promise<number> => (await stat(file)).size;

function sendText(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}

function sendJson(response: ServerResponse, value: unknown): void {
  const headers = { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' };
  response.writeHead(200, headers).end(JSON.stringify(value));
}

async function sendCompiled(response: ServerResponse, file: string): Promise<void> {
  const source = await readFile(file, 'utf8').catch(() => undefined);
  if (source === undefined) return sendText(response, 404, 'not found');
  const { outputText } = ts.transpileModule(source, {
    fileName: basename(file),
    compilerOptions: {
      target: ts.ScriptTarget.ES2022,
      module: ts.ModuleKind.ES2022,
      verbatimModuleSyntax: true,
      inlineSourceMap: true,
      inlineSources: true,
    },
  });
  const headers = { 'Content-Type': TYPES['.js'], 'Cache-Control': 'no-store' };
  response.writeHead(200, headers).end(outputText);
}

async function sendFile(
  request: IncomingMessage,
  response: ServerResponse,
  file: string,
): Promise<void> {
  const info = await stat(file).catch(() => undefined);
  if (!info?.isFile()) return sendText(response, 404, 'not found');
  const range = openRange(request, response, {
    nbytes: info.size,
    type: TYPES[extname(file)] ?? 'application/octet-stream',
    etag: `"${info.size}-${info.mtimeMs}"`,
  });
  if (!range) return;
  if (range.begin === range.end) return void response.end();
  await pipeline(createReadStream(file, { start: range.begin, end: range.end - 1 }), response);
}

function sendBytes(request: IncomingMessage, response: ServerResponse, bytes: Uint8Array): void {
  const type = 'application/octet-stream';
  const range = openRange(request, response, { nbytes: bytes.length, type });
  if (range) response.end(bytes.subarray(range.begin, range.end));
}

/** Sends the headers; gives bytes [begin, end) to send, or undefined when the answer is complete. */
function openRange(
  request: IncomingMessage,
  response: ServerResponse,
  entity: { nbytes: number; type: string; etag?: string },
): { begin: number; end: number } | undefined {
  const { nbytes } = entity;
  const headers: Record<string, string | number> = {
    'Content-Type': entity.type,
    'Accept-Ranges': 'bytes',
    'Cache-Control': 'no-cache',
  };
  if (entity.etag !== undefined) headers['ETag'] = entity.etag;
  // One range of RFC 9110, 14.1.2; several at once are answered with the whole, as is allowed
  const asked = /^bytes=(\d*)-(\d*)$/.exec(request.headers.range ?? '');
  const [, first = '', last = ''] = asked ?? [];
  let begin = 0;
  let end = nbytes;
  if (first !== '') {
    begin = Number(first);
    if (last !== '') end = Math.min(nbytes, Number(last) + 1);
  } else if (last !== '') {
    begin = Math.max(0, nbytes - Number(last));
  }
  const partial = first !== '' || last !== '';
  if (partial && begin >= end) {
    response.writeHead(416, { 'Content-Range': `bytes */${nbytes}` }).end();
    return undefined;
  }
  if (partial) headers['Content-Range'] = `bytes ${begin}-${end - 1}/${nbytes}`;
  headers['Content-Length'] = end - begin;
  response.writeHead(partial ? 206 : 200, headers);
  if (request.method === 'HEAD') {
    response.end();
    return undefined;
  }
  return { begin, end };
}
