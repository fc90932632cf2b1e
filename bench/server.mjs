// One process of the benchmark's server. Several share a port (node:cluster), so that generating bytes is
// not what limits a measurement. Serves the model's files, the benchmark's page and the built package, and
// hands POST /ask on to the main process, whose answer may take as long as it likes. Below /model-no-store/ files come
// with Cache-Control: no-store; of a response without, Chromium's fetch buffers what nobody has read yet.
import cluster from 'node:cluster';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize, sep } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { fileURLToPath } from 'node:url';
import { fileBytes, openFolder } from './llm_model.mjs';
import { pattern, syntheticModel, tensorCache } from './model.mjs';

const WRITE_BYTES = 512 * 1024;
const TYPES = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
};

const { dist, llm } = JSON.parse(process.argv[2]);
const folders = {
  '/bench/': fileURLToPath(new URL('.', import.meta.url)),
  '/dist/': dist + sep,
  '/tvmjs/': fileURLToPath(new URL('../node_modules/@mlc-ai/web-runtime/lib/', import.meta.url)),
};

const asking = new Map();
let asked = 0;
process.on('message', ({ id, answer }) => {
  asking.get(id)?.(answer);
  asking.delete(id);
});

const models = new Map();

/** Answers for `/model/BYTES/NAME`: a file of the synthetic model of so many bytes. */
function sendModel(request, response, nbytes, name, noStore) {
  if (noStore) response.setHeader('Cache-Control', 'no-store');
  if (!models.has(nbytes)) models.set(nbytes, syntheticModel(nbytes));
  const model = models.get(nbytes);
  if (name === 'tensor-cache.json') {
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(tensorCache(model));
    return undefined;
  }
  const index = model.files.findIndex((file) => file.path === name);
  if (index >= 0) return sendModelFile(request, response, model.files[index], index);
  response.writeHead(404).end();
  return undefined;
}

/** The bytes that a request is for, after the answer's head; undefined where it was answered already. */
function rangeOf(request, response, nbytes, etag) {
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const begin = range ? Number(range[1]) : 0;
  const end = range?.[2] ? Math.min(Number(range[2]) + 1, nbytes) : nbytes;
  if (begin >= end) {
    response.writeHead(416, { 'Content-Range': `bytes */${nbytes}` }).end();
    return undefined;
  }
  response.writeHead(range ? 206 : 200, {
    'Content-Type': 'application/octet-stream',
    'Content-Length': end - begin,
    'Accept-Ranges': 'bytes',
    ETag: etag,
    ...(range ? { 'Content-Range': `bytes ${begin}-${end - 1}/${nbytes}` } : {}),
  });
  return { begin, end };
}

async function sendModelFile(request, response, file, index) {
  const bounds = rangeOf(request, response, file.nbytes, `"${index}-${file.nbytes}"`);
  if (!bounds) return;
  const { begin, end } = bounds;
  for (let at = begin; at < end && !response.destroyed;) {
    const slice = pattern(index, at, Math.min(WRITE_BYTES, end - at));
    at += slice.length;
    if (!response.write(slice)) await drained(response);
  }
  response.end();
}

function drained(response) {
  return new Promise((resolve) => {
    const done = () => {
      response.off('drain', done).off('close', done);
      resolve();
    };
    response.on('drain', done).on('close', done);
  });
}

const compiled = new Map();

/** Answers for `/llm/FOLDER/NAME`: a file of a compiled model. */
async function sendCompiled(request, response, folder, name) {
  if (!compiled.has(folder)) compiled.set(folder, openFolder(join(llm, folder)));
  const model = await compiled.get(folder);
  if (name === 'tensor-cache.json') {
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(model.text);
    return;
  }
  const file = model.manifest.records.find(({ dataPath }) => dataPath === name);
  if (!file) return sendFile(response, join(llm, folder) + sep, name);
  const bounds = rangeOf(request, response, file.nbytes, `"${name}-${model.made}"`);
  if (!bounds) return;
  const bytes = fileBytes(model, name, bounds.begin, bounds.end);
  if (bytes instanceof Uint8Array) response.end(bytes);
  else await pipeline(bytes, response).catch(() => undefined); // it was left early
}

async function sendFile(response, folder, path) {
  const name = normalize(join(folder, path));
  const body = name.startsWith(folder) ? await readFile(name).catch(() => undefined) : undefined;
  if (body === undefined) {
    response.writeHead(404).end();
    return;
  }
  const type = TYPES[extname(name)] ?? 'application/octet-stream';
  // As most sites serve their scripts: workers that start later find them in the browser's cache
  const headers = { 'Content-Type': type, 'Cache-Control': 'max-age=3600' };
  response.writeHead(200, headers).end(body);
}

async function ask(request, response) {
  let body = '';
  for await (const chunk of request) body += chunk;
  const id = asked++;
  const answer = await new Promise((resolve) => {
    asking.set(id, resolve);
    process.send({ id, body: JSON.parse(body) });
  });
  response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
}

async function answer(request, response) {
  const { pathname } = new URL(request.url, 'http://127.0.0.1');
  const [, noStore, nbytes, name] =
    /^\/model(-no-store)?\/(\d{1,12})\/([\w.-]+)$/.exec(pathname) ?? [];
  if (name !== undefined) return sendModel(request, response, Number(nbytes), name, noStore);
  if (pathname === '/ask') return ask(request, response);
  const [, folder, file] = /^\/llm\/([\w-]+)\/([\w.-]+)$/.exec(pathname) ?? [];
  if (file !== undefined) return sendCompiled(request, response, folder, file);
  for (const [prefix, folder] of Object.entries(folders)) {
    if (pathname.startsWith(prefix)) {
      return sendFile(response, folder, decodeURIComponent(pathname.slice(prefix.length)));
    }
  }
  response.writeHead(404).end();
}

pattern(0, 0, 1); // computed before anybody waits for it
const server = createServer((request, response) => {
  response.on('error', () => undefined);
  answer(request, response).catch((error) => {
    console.error(error);
    response.destroy();
  });
});
server.requestTimeout = 0;
if (cluster.isWorker) {
  server.listen(0, '127.0.0.1', () => process.send({ port: server.address().port }));
}
