// loadModel() against servers as they are: without ranges, without lengths, slow, failing for a while.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { loadModel, type LoadOptions, type Model } from 'sluice';
import {
  gguf,
  randomTensor,
  safetensorsIndexFiles,
  served,
  tensorCacheFiles,
} from '../support/models.js';
import { startServer, type Fault, type TestServer } from '../support/server.js';
import { until } from '../sources/support.js';
import { asStored, expectModel, rejects } from './support.js';

const tensors = [
  randomTensor('first', 'float32', [1000, 1013], 1),
  randomTensor('second', 'int8', [4_000_001], 2),
  randomTensor('third', 'float16', [33], 3),
];
const expected = tensors.map(asStored);
const MANIFEST = '/tensor-cache.json';
const SHARD = '/params_shard_0.bin';
const SHARD_BYTES = tensors.reduce((sum, { bytes }) => sum + bytes.length, 0);

describe('loadModel() and its server', { timeout: 60_000 }, () => {
  let server: TestServer;
  let elsewhere: TestServer;

  before(async () => {
    elsewhere = await startServer({ files: served(tensorCacheFiles([tensors]), '/moved/') });
  });
  after(() => elsewhere.close());

  afterEach(() => server.close());

  beforeEach(async () => {
    server = await startServer({ files: served(tensorCacheFiles([tensors])) });
  });

  /** Loads with these faults; afterwards nothing is open at the server. */
  async function load(faults: Omit<Fault, 'path'>[], options: LoadOptions = {}): Promise<Model> {
    return loadWith(
      faults.map((fault) => ({ ...fault, path: SHARD })),
      options,
    );
  }
  async function loadWith(faults: Fault[], options: LoadOptions = {}): Promise<Model> {
    for (const fault of faults) server.addFault(fault);
    const model = await loadModel(server.origin + MANIFEST, options);
    await expectModel(model, expected);
    await until(() => server.openResponses === 0, 'no response is open');
    return model;
  }

  test('without Range', async () => {
    const { report } = await load([{ noRange: true }]);
    assert.equal(report.retries, 0);
  });

  test('without Range, cut in parts for a small budget', async () => {
    await load([{ noRange: true }], { budgetBytes: 2 ** 20, connections: 8 });
  });

  test('without Content-Length', async () => {
    await load([{ noLength: true }]);
  });

  test('without Range and Content-Length', async () => {
    await load([{ noRange: true, noLength: true }]);
  });

  for (const encoding of ['gzip', 'br', 'deflate'] as const) {
    test(`compressed on the way (${encoding}), the manifest too`, async () => {
      await loadWith([
        { path: SHARD, encoding },
        { path: MANIFEST, encoding },
      ]);
    });
  }

  test('a redirect of the shard, and of the manifest', async () => {
    await load([{ redirect: `${elsewhere.origin}/moved${SHARD}` }]);
    await loadWith([
      { path: MANIFEST, redirect: `${elsewhere.origin}/moved${MANIFEST}`, status: 307 },
    ]);
  });

  test('status 500 and 503 twice, then success', async () => {
    const { report } = await load([
      { status: 500, times: 1 },
      { status: 503, times: 2 },
    ]);
    assert.ok(report.retries >= 2, `${report.retries} retries`);
  });

  test('status 500 for the manifest, then success', async () => {
    await loadWith([{ path: MANIFEST, status: 500, times: 2 }]);
    assert.equal(server.requests.filter(({ path }) => path === MANIFEST).length, 3);
  });

  test('status 429: waits as long as Retry-After says', async () => {
    const begin = performance.now();
    const { report } = await load([{ status: 429, headers: { 'Retry-After': '1' }, times: 1 }], {
      connections: 1,
    });
    assert.equal(report.retries, 1);
    assert.ok(performance.now() - begin >= 1000);
  });

  for (const [what, fault] of [
    ['ranges', {}],
    ['no ranges', { noRange: true }],
    ['no length', { noLength: true }],
  ] as const) {
    test(`a connection cut twice in the middle goes on from there (${what})`, async () => {
      const { report } = await load([{ ...fault, cutAfter: 1_500_003, times: 2 }, fault]);
      assert.ok(report.retries >= 1 && report.retries <= 2, `${report.retries} retries`);
      const sent = server.requests.filter(({ path }) => path === SHARD);
      if (what === 'ranges') {
        // What had arrived was not asked for again
        assert.match(sent.at(-1)?.range ?? '', /^bytes=[1-9]\d*-/);
      }
    });
  }

  test('a connection cut at every request still gets there', async () => {
    const { report } = await load([{ cutAfter: 700_001 }], { connections: 2 });
    assert.ok(report.retries >= Math.floor(SHARD_BYTES / 700_001) - 1, `${report.retries} retries`);
  });

  test('a body without length that ends early goes on from there', async () => {
    const { report } = await load([{ endAfter: 1_000_000, noLength: true, times: 1 }]);
    assert.equal(report.retries, 1);
  });

  test('a stalled transfer is given up and opened again', async () => {
    const { report } = await load([{ stallAfter: 500_000, times: 1 }], { stallTimeoutMs: 300 });
    assert.equal(report.retries, 1);
  });

  test('headers that never come are given up and asked again', async () => {
    const { report } = await load([{ stallHeaders: true, times: 1 }], { stallTimeoutMs: 300 });
    assert.equal(report.retries, 1);
    await loadWith([{ path: MANIFEST, stallHeaders: true, times: 1 }], { stallTimeoutMs: 300 });
  });

  test('as many transfers at a time as asked, and no more', async () => {
    const shards = tensors.map(({ name, bytes }) => [
      { name, dtype: 'U8', shape: [bytes.length], bytes },
    ]);
    Object.assign(server.files, served(safetensorsIndexFiles(shards), '/three/'));
    let opening = 0;
    let most = 0;
    let whole = false;
    const model = await loadModel(`${server.origin}/three/`, {
      connections: 2,
      tensors: () => {
        opening = server.requests.length;
        return true;
      },
      consume: ({ nbytes }, offset, bytes) => {
        if (!whole) most = Math.max(most, server.requests.length - opening);
        whole ||= offset + bytes.length === nbytes;
      },
    });
    assert.equal(model.report.tensorsDone, 3);
    assert.equal(most, 2);
  });

  test('without Range and cut every 300 kB: given up before the traffic is quadratic', async () => {
    const CUT = 300_000;
    for (let at = CUT; at < SHARD_BYTES; at += CUT) {
      server.addFault({
        ...{ path: SHARD, noRange: true, cutAfter: at },
        ...{ after: at / CUT - 1, times: 1 },
      });
    }
    let sent = 0;
    const error = await rejects(
      loadModel(server.origin + MANIFEST, {
        fetch: async (...request) => {
          const response = await fetch(...request);
          const counted = response.body?.pipeThrough(
            new TransformStream<Uint8Array, Uint8Array>({
              transform(chunk, controller) {
                sent += chunk.length;
                controller.enqueue(chunk);
              },
            }),
          );
          return new Response(counted, response);
        },
      }),
      'network',
      ...[SHARD, 'bytes were received again', 64 * 2 ** 20],
    );
    assert.match(error.hint ?? '', /Range/);
    assert.ok(sent > 64 * 2 ** 20, `${sent} bytes`);
    assert.ok(sent < 64 * 2 ** 20 + 3 * SHARD_BYTES, `${sent} bytes`);
  });

  test("an index's headers are read four at a time", async () => {
    const shards = Array.from({ length: 9 }, (_, i) => [randomTensor(`t${i}`, 'U8', [100 + i], i)]);
    const index = safetensorsIndexFiles(shards);
    Object.assign(server.files, served(index, '/nine/'));
    const model = await loadModel(`${server.origin}/nine/`);
    await expectModel(model, shards.flat().map(asStored));

    const shardPaths = Object.keys(index).filter((path) => path.endsWith('.safetensors'));
    for (const path of shardPaths) server.addFault({ path: `/nine/${path}`, stallHeaders: true });
    server.requests.length = 0;
    const abort = new AbortController();
    const load = loadModel(`${server.origin}/nine/`, { signal: abort.signal });
    load.catch(() => undefined);
    const asked = (): string[] =>
      server.requests.map(({ url }) => url.slice(6)).filter((path) => shardPaths.includes(path));
    await until(() => asked().length >= 4, 'four headers are asked for');
    assert.deepEqual(asked().sort(), shardPaths.slice(0, 4));
    abort.abort();
    await rejects(load, 'aborted');
    await until(() => server.openResponses === 0, 'no response is open');
  });

  test("an error of an index's shard ends what is read ahead of it", async () => {
    const shards = Array.from({ length: 4 }, (_, i) => [randomTensor(`t${i}`, 'U8', [100 + i], i)]);
    const index = safetensorsIndexFiles(shards);
    Object.assign(server.files, served(index, '/four/'));
    const [first, ...others] = Object.keys(index).filter((path) => path.endsWith('.safetensors'));
    server.addFault({ path: `/four/${first}`, status: 403 });
    for (const path of others) server.addFault({ path: `/four/${path}`, status: 503 });
    await rejects(loadModel(`${server.origin}/four/`), 'http_status', 403, first ?? '');
    await new Promise((next) => setTimeout(next, 500)); // longer than the pause before a second try
    const paths = server.requests.map(({ path }) => path);
    assert.deepEqual(paths, [...new Set(paths)]);
  });

  test('headers and the query reach the model', async () => {
    server.files['/m.gguf'] = gguf([{ ...tensors[0]!, dtype: 'f32' }]);
    const model = await loadModel(`${server.origin}/m.gguf?token=1`, {
      headers: { 'X-Key': 'k' },
    });
    assert.equal(model.tensors.size, 1);
    assert.ok(server.requests.length > 0);
    for (const { url, headers } of server.requests) {
      assert.equal(url, '/m.gguf?token=1');
      assert.equal(headers['x-key'], 'k');
    }
  });

  test('the query of a manifest goes to the files beside it, as it does to those of a folder', async () => {
    const index = safetensorsIndexFiles(
      tensors.map((tensor, i) => [{ ...tensor, dtype: ['F32', 'I8', 'F16'][i] ?? '' }]),
    );
    Object.assign(server.files, served(index, '/q/'));
    for (const at of [MANIFEST, '/', '/q/model.safetensors.index.json', '/q/']) {
      server.requests.length = 0;
      const model = await loadModel(`${server.origin}${at}?download=true&token=x%20y`);
      await expectModel(model, expected);
      assert.ok(server.requests.length >= 2);
      for (const { url } of server.requests) assert.match(url, /\?download=true&token=x%20y$/);
    }
  });

  test("a fetch of the caller's own is used", async () => {
    let calls = 0;
    const model = await loadModel(server.origin + MANIFEST, {
      fetch: (...request) => {
        calls++;
        return fetch(...request);
      },
    });
    await expectModel(model, expected);
    assert.ok(calls >= 2);
  });
});
