// Stored models out to a folder and in from one.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import {
  filesForImport,
  loadModel,
  openStore,
  SluiceError,
  type FileTarget,
  type ModelStore,
} from 'sluice';
import { gguf, randomTensor, safetensors, served, tensorCacheFiles } from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';

const CACHE = tensorCacheFiles([
  [randomTensor('x', 'float32', [640, 1000], 1)],
  [randomTensor('y', 'float16', [33, 21], 2)],
]);
const SINGLE = safetensors([randomTensor('w', 'F32', [30, 10], 3)]);
const BLOCKS = gguf([{ name: 'g', dtype: 'q8_0', shape: [32], bytes: new Uint8Array(34) }]);

const file = (path: string, body: Uint8Array | string): [string, Blob] => [
  path,
  new Blob([typeof body === 'string' ? body : new Uint8Array(body)]),
];
const cacheFiles = (): Map<string, Blob> =>
  new Map(Object.entries(CACHE).map(([path, body]) => file(path, Buffer.from(body))));

/** Keeps what is written; `fail` is thrown at the first byte. */
class MemoryTarget implements FileTarget {
  readonly files = new Map<string, Buffer>();
  readonly ended: string[] = [];
  readonly #fail: Error | undefined;

  constructor(fail?: Error) {
    this.#fail = fail;
  }

  create(path: string): ReturnType<FileTarget['create']> {
    return Promise.resolve({
      write: (bytes: Uint8Array) => {
        if (this.#fail) return Promise.reject(this.#fail);
        const before = this.files.get(path) ?? Buffer.alloc(0);
        this.files.set(path, Buffer.concat([before, bytes]));
        return Promise.resolve();
      },
      close: () => Promise.resolve(void this.ended.push(`closed ${path}`)),
      abort: () => Promise.resolve(void this.ended.push(`aborted ${path}`)),
    });
  }
}

async function fails(work: Promise<unknown>, code: string, ...parts: string[]): Promise<void> {
  await assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.equal(error.code, code, error.message);
    const words = `${error.message}; ${error.hint ?? ''}`;
    for (const part of parts) assert.ok(words.includes(part), words);
    return true;
  });
}

async function namesOf(url: string, from: Parameters<typeof filesForImport>[1]): Promise<string[]> {
  const names: string[] = [];
  for await (const { path } of await filesForImport(url, from)) names.push(path);
  return names.sort();
}

describe('what is imported for an address', () => {
  const folder = 'https://example.org/m/';

  test("a manifest's folder, without hidden files", async () => {
    const files = new Map([...cacheFiles(), file('.DS_Store', 'x')]);
    assert.deepEqual(await namesOf(folder, files), Object.keys(CACHE).sort());
    const inside = new Map([...files].map(([path, body]) => [`sub/${path}`, body] as const));
    assert.deepEqual(await namesOf(folder, inside), Object.keys(CACHE).sort());
  });

  test('one file takes the name of the address', async () => {
    const files = new Map([file('mine.gguf', BLOCKS), file('notes.txt', 'x')]);
    assert.deepEqual(await namesOf(`${folder}a%20b.gguf?download=1`, files), ['a b.gguf']);
  });

  test('files that a load of the address would not ask for are refused', async () => {
    const one = new Map([file('mine.gguf', BLOCKS)]);
    await fails(filesForImport(folder, one), 'invalid_argument', 'tensor-cache.json', 'mine.gguf');
    const other = `${folder}a.safetensors`;
    await fails(filesForImport(other, one), 'invalid_argument', 'a.safetensors', 'mine.gguf');
    await fails(filesForImport(other, cacheFiles()), 'invalid_argument', 'a.safetensors');
    await fails(
      filesForImport(folder, new Map([file('a.txt', ''), file('b.txt', '')])),
      'not_found',
    );
  });
});

describe('export and import', () => {
  let directory: string;
  let store: ModelStore;
  let server: TestServer;
  let url: string;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'sluice-store-'));
    store = await openStore(directory);
    server = await startServer({
      files: { '/w.safetensors': SINGLE, ...served(CACHE, '/m/') },
    });
    url = `${server.origin}/m/`;
  });
  afterEach(async () => {
    await server.close();
    await rm(directory, { recursive: true, force: true });
  });

  test('what is exported can be imported, and then loads without a request', async () => {
    (await loadModel(url, { device: 'cpu', store })).destroy();
    const target = new MemoryTarget();
    let copied = 0;
    await store.exportTo(url, target, { onBytes: (nbytes) => (copied += nbytes) });
    assert.deepEqual([...target.files.keys()].sort(), Object.keys(CACHE).sort());
    for (const [path, body] of Object.entries(CACHE)) {
      assert.ok(target.files.get(path)?.equals(Buffer.from(body)), path);
    }
    assert.equal(
      copied,
      Object.values(CACHE).reduce((sum, body) => sum + Buffer.from(body).length, 0),
    );

    assert.equal(await store.delete(url), true);
    const files = new Map([...target.files].map(([path, body]) => file(path, body)));
    let imported = 0;
    await store.importFrom(url, await filesForImport(url, files), {
      onBytes: (nbytes) => (imported += nbytes),
    });
    assert.equal(imported, copied);
    const asked = server.requests.length;
    const model = await loadModel(url, { device: 'cpu', store });
    assert.equal(server.requests.length, asked);
    assert.equal(model.report.store?.storedBytes, 0);
    assert.deepEqual([...model.tensors.keys()], ['x', 'y']);
    model.destroy();
  });

  test('an export that fails leaves no file that looks whole', async () => {
    (await loadModel(url, { device: 'cpu', store })).destroy();
    const target = new MemoryTarget(new SluiceError('io', 'the disk is full'));
    await fails(store.exportTo(url, target), 'io', 'the disk is full');
    assert.equal(target.ended.length, 1);
    assert.match(target.ended[0] ?? '', /^aborted /);
  });

  test('both stop when they are told to', async () => {
    (await loadModel(url, { device: 'cpu', store })).destroy();
    const aborter = new AbortController();
    const onBytes = (): void => {
      aborter.abort();
    };
    const { signal } = aborter;
    await fails(store.exportTo(url, new MemoryTarget(), { signal, onBytes }), 'aborted');
    const key = `${url}other/`;
    const again = new AbortController();
    const files = await filesForImport(key, cacheFiles());
    const stopped = store.importFrom(key, files, {
      signal: again.signal,
      onBytes: () => {
        again.abort();
      },
    });
    await fails(stopped, 'aborted');
    const entry = (await store.models()).find((model) => model.key === key);
    assert.equal(entry?.complete ?? false, false);
  });

  test('a model of which nothing can be read is deleted by the name it is listed under', async () => {
    (await loadModel(`${server.origin}/w.safetensors`, { device: 'cpu', store })).destroy();
    const models = await (await store.platform.openRoot()).folder('models', false);
    const name = (await models.entries())[0]?.name ?? '';
    await (await models.folder(name, false)).remove('journal');
    const [entry] = await store.models();
    assert.equal(entry?.createdAt.getTime(), 0);
    assert.equal(await store.delete(entry.key), true);
    assert.deepEqual(await models.entries(), []);
  });
});
