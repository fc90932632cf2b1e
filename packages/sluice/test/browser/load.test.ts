// loadModel() in Chromium: on a page with and without the loading worker, and in a worker of the page's own.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type * as PageLoad from './page_load.js';
import type { LoadOutcome, LoadRequest } from './page_load.js';
import { until } from '../sources/support.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import {
  gguf,
  randomBytes,
  randomTensor,
  safetensors,
  served,
  tensorCacheFiles,
  type CacheRecord,
  type TestTensor,
} from '../support/models.js';
import { patternBytes, startServer, type TestServer } from '../support/server.js';

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

const layers = Array.from({ length: 20 }, (_, i) =>
  randomTensor(`layer.${i}`, i % 2 ? 'float32' : 'float16', [40 + i, 1025], i),
);
const odd = [1, 2, 3, 5, 257].map((n) => randomTensor(`odd.${n}`, 'int8', [n], n));
const none = randomTensor('none', 'float32', [0], 1);
const cache = [...layers, ...odd, none];
const plain = [
  randomTensor('a.weight', 'F32', [513, 257], 11),
  randomTensor('b.mask', 'U8', [70_001], 12),
  randomTensor('c.scalar', 'I64', [], 13),
];
const blocks: TestTensor[] = [
  { name: 'q', dtype: 'q4_1', shape: [257, 1024], bytes: randomBytes(257 * 32 * 20, 3) },
  { name: 'norm', dtype: 'f32', shape: [1024], bytes: randomBytes(4096, 4) },
];

const FILES = {
  ...served(tensorCacheFiles([cache.slice(0, 9), cache.slice(9)]), '/model/cache/'),
  '/model/plain.safetensors': safetensors(plain),
  '/model/blocks.gguf': gguf(blocks),
};
const MODELS = [
  ['/model/cache/', cache],
  ['/model/plain.safetensors', plain],
  ['/model/blocks.gguf', blocks],
] as const;
const CACHE = '/model/cache/';

const digests = (tensors: readonly TestTensor[]): Record<string, string[]> =>
  Object.fromEntries(tensors.map(({ name, bytes }) => [name, [sha256(bytes)]]));

function checkTensors(outcome: LoadOutcome, tensors: readonly TestTensor[]): void {
  assert.equal(outcome.error, undefined);
  const loaded = Object.entries(outcome.tensors);
  assert.deepEqual(
    Object.fromEntries(loaded.map(([name, tensor]) => [name, tensor.digests])),
    digests(tensors),
  );
  assert.deepEqual(
    loaded.map(([name, { shape }]) => [name, shape]),
    tensors.map(({ name, shape }) => [name, shape]),
  );
  assert.deepEqual(outcome.ready.sort(), tensors.map(({ name }) => name).sort());
  assert.ok(outcome.progress > 0);
  assert.equal(outcome.report?.budgetUsed, 0);
  assert.equal(outcome.report.tensorsDone, tensors.length);
  assert.deepEqual(outcome.liveAfterDestroy, [0, 0]);
}

function checkFailure(outcome: LoadOutcome, code: string, ...parts: (string | number)[]): void {
  assert.equal(outcome.error?.code, code, outcome.error?.message);
  assert.equal(outcome.error.name, 'SluiceError');
  for (const part of parts) {
    assert.ok(outcome.error.message.includes(String(part)), outcome.error.message);
  }
  assert.deepEqual(outcome.live, [0, 0], 'buffers stay');
}

/** Where the load runs, and what the report calls the thread that fetched. */
const PLACES = [
  { place: 'on a page, with the loading worker', own: false, options: {}, thread: 'worker' },
  { place: 'on a page alone', own: false, options: { worker: false }, thread: 'caller' },
  { place: "in a worker of the page's own", own: true, options: {}, thread: 'caller' },
] as const;

describe('loadModel() in Chromium', { timeout: 180_000 }, () => {
  let browser: Chromium;
  let server: TestServer;
  let page: ChromiumPage;
  /** Paths of the package that the page does not get. */
  const hidden = new Set<string>();

  before(async () => {
    const handler = (request: IncomingMessage, response: ServerResponse): boolean => {
      if (!hidden.has(request.url ?? '')) return false;
      response.writeHead(404).end();
      return true;
    };
    browser = await startChromium({ handler });
  });
  after(() => browser.close());
  beforeEach(async () => {
    server = await startServer({ files: FILES });
    page = await browser.newPage();
  });
  afterEach(async () => {
    await page.close();
    await server.close();
  });

  function run(own: boolean, request: Omit<LoadRequest, 'dist'>): Promise<LoadOutcome> {
    const argument = { ...request, dist: `${browser.origin}/dist/`, origin: browser.origin };
    const act = async (given: LoadRequest & { origin: string }): Promise<LoadOutcome> => {
      const path = `${given.origin}/test/browser/page_load.js`;
      const { load } = (await import(path)) as typeof PageLoad;
      return load(given);
    };
    return own ? page.evaluateInWorker(act, argument) : page.evaluate(act, argument);
  }

  test('one loading worker serves a page, one model after the other', async () => {
    const workers: string[] = [];
    page.page.on('worker', (worker) => workers.push(worker.url()));
    for (const [path, tensors] of [...MODELS, ...MODELS]) {
      const outcome = await run(false, { url: server.origin + path, device: 'own', options: {} });
      checkTensors(outcome, tensors);
      assert.equal(outcome.report?.thread, 'worker');
      await new Promise((resume) => setTimeout(resume, 200)); // it closes its files meanwhile
    }
    assert.equal(workers.filter((url) => url.endsWith('/worker.js')).length, 1, workers.join());
    assert.deepEqual(page.errors, []);
  });

  for (const { place, own, options, thread } of PLACES) {
    for (const [path, tensors] of MODELS) {
      test(`${place}: ${path}`, async () => {
        const url = server.origin + path;
        for (const upload of ['ring', 'writeBuffer'] as const) {
          const outcome = await run(own, { url, device: 'own', options: { ...options, upload } });
          checkTensors(outcome, tensors);
          assert.equal(outcome.report?.upload, upload);
          assert.equal(outcome.report.thread, thread);
        }
        assert.deepEqual(page.errors, []);
      });
    }

    test(`${place}: a device made by loadModel(), the upload path measured`, async () => {
      const url = server.origin + CACHE;
      for (const device of ['gpu', 'auto'] as const) {
        const outcome = await run(own, { url, device, options });
        checkTensors(outcome, cache);
        assert.match(outcome.report?.upload ?? '', /^(ring|writeBuffer)$/);
      }
      assert.deepEqual(page.errors, []);
    });

    test(`${place}: a small budget, one connection and many`, async () => {
      const url = server.origin + CACHE;
      for (const connections of [1, 16]) {
        const given = { ...options, connections, budgetBytes: 2 ** 20 };
        checkTensors(await run(own, { url, device: 'own', options: given }), cache);
      }
    });

    test(`${place}: to the CPU`, async () => {
      const outcome = await run(own, { url: server.origin + CACHE, device: 'cpu', options });
      checkTensors(outcome, cache);
      assert.equal(outcome.report?.upload, undefined);
    });

    test(`${place}: abort before, while opening, and at some tensors`, async () => {
      const url = server.origin + CACHE;
      for (const abortAt of [-1, 1, 7, 20]) {
        const outcome = await run(own, { url, device: 'own', options, abortAt });
        checkFailure(outcome, 'aborted');
      }
      server.addFault({ path: `${CACHE}tensor-cache.json`, stallHeaders: true });
      const outcome = await run(own, { url, device: 'own', options, abortAfterMs: 100 });
      checkFailure(outcome, 'aborted');
      assert.ok(outcome.milliseconds < 3000, `${outcome.milliseconds} ms`);
      await until(() => server.openResponses === 0, 'no response is open');
    });

    test(`${place}: abort at any time`, async () => {
      const url = server.origin + CACHE;
      for (const abortAfterMs of [5, 20, 40, 60, 90, 130]) {
        const outcome = await run(own, { url, device: 'gpu', options, abortAfterMs });
        if (outcome.error) checkFailure(outcome, 'aborted');
        else checkTensors(outcome, cache);
      }
    });

    test(`${place}: the device is lost`, async () => {
      const url = server.origin + CACHE;
      for (const upload of ['ring', 'writeBuffer'] as const) {
        for (const loseAt of [1, 9, 20]) {
          const outcome = await run(own, {
            url,
            device: 'own',
            options: { ...options, upload, budgetBytes: 2 ** 20 },
            loseAt,
          });
          checkFailure(outcome, 'device_lost', 'lost');
        }
      }
    });

    test(`${place}: a callback that throws ends the load`, async () => {
      const outcome = await run(own, {
        url: server.origin + CACHE,
        device: 'own',
        options,
        throwInCallback: 'no more',
      });
      checkFailure(outcome, 'internal', 'no more');
    });

    test(`${place}: errors keep their code, file and tensor`, async () => {
      const url = server.origin + CACHE;
      server.addFault({ path: `${CACHE}params_shard_1.bin`, status: 404 });
      const missing = await run(own, { url, device: 'own', options });
      checkFailure(missing, 'not_found', 'params_shard_1.bin', 404);
      server.files['/bad.gguf'] = gguf(blocks).slice(0, 5000);
      const short = await run(own, { url: `${server.origin}/bad.gguf`, device: 'own', options });
      checkFailure(short, 'truncated', 'bad.gguf', 'q', 5000);
      assert.equal(short.error?.tensor, 'q');
    });

    test(`${place}: CORS`, async () => {
      const url = '/model/plain.safetensors';
      // The second shows no header but the few that every page may see
      for (const headers of [
        { 'Access-Control-Allow-Origin': '*', 'Access-Control-Expose-Headers': '*' },
        { 'Access-Control-Allow-Origin': browser.origin },
      ] as Record<string, string>[]) {
        const other = await startServer({ files: FILES, cors: false, headers });
        try {
          checkTensors(await run(own, { url: other.origin + url, device: 'own', options }), plain);
          other.addFault({ path: url, after: 1, times: 1, cutAfter: 100_000 });
          checkTensors(await run(own, { url: other.origin + url, device: 'own', options }), plain);
          other.addFault({ path: url, noRange: true, noLength: true });
          checkTensors(await run(own, { url: other.origin + url, device: 'own', options }), plain);
          const gone = await run(own, { url: `${other.origin}/no.gguf`, device: 'own', options });
          checkFailure(gone, 'not_found', 'no.gguf');
        } finally {
          await other.close();
        }
      }
      const closed = await startServer({ files: FILES, cors: false });
      try {
        const outcome = await run(own, { url: closed.origin + url, device: 'own', options });
        checkFailure(outcome, 'network', closed.origin + url);
        assert.match(outcome.error?.hint ?? '', /CORS/);
      } finally {
        await closed.close();
      }
    });
  }

  test('a worker script that is not there is an error where it is required; else loading goes on', async () => {
    const url = server.origin + CACHE;
    hidden.add('/dist/worker.js');
    try {
      const outcome = await run(false, { url, device: 'own', options: { worker: true } });
      checkFailure(outcome, 'internal', 'worker');
      assert.match(outcome.error?.hint ?? '', /worker\.js/);
      assert.ok(outcome.milliseconds < 5000);
      const without = await run(false, { url, device: 'own' });
      checkTensors(without, cache);
      assert.equal(without.report?.thread, 'caller');
    } finally {
      hidden.clear();
    }
  });

  test('a loader.wasm that is not there is an error that names it, and the next load tries again', async () => {
    const url = server.origin + CACHE;
    hidden.add('/dist/sluice_loader.wasm');
    try {
      const outcome = await run(false, { url, device: 'own' });
      checkFailure(outcome, 'internal', `${browser.origin}/dist/sluice_loader.wasm`);
      assert.match(outcome.error?.hint ?? '', /application\/wasm/);
    } finally {
      hidden.clear();
    }
    checkTensors(await run(false, { url, device: 'own' }), cache);
  });

  describe('records as large as the adapter', () => {
    const MIB = 2 ** 20;
    const SOFTWARE = process.env['SLUICE_CHROMIUM_FLAGS'] === undefined;

    function serveRecords(sizes: Record<string, number>): string {
      let at = 0;
      const records = Object.entries(sizes).map(([name, nbytes]): CacheRecord => {
        const shape = [nbytes / 4];
        const record = { name, shape, dtype: 'uint32', format: 'raw', nbytes, byteOffset: at };
        at += nbytes;
        return record;
      });
      const shard = { dataPath: 'shard.bin', format: 'raw-shard', nbytes: at, records };
      server.files['/large/tensor-cache.json'] = JSON.stringify({ metadata: {}, records: [shard] });
      server.files['/large/shard.bin'] = { nbytes: at, seed: 3 };
      return `${server.origin}/large/`;
    }

    test('the largest that the software adapter holds is loaded', async () => {
      const nbytes = 1020 * MIB;
      const url = serveRecords({ large: nbytes });
      const pieceBytes = 60 * MIB;
      const outcome = await run(false, { url, device: 'gpu', pieceBytes });
      assert.equal(outcome.error, undefined);
      assert.equal(outcome.report?.outputBytesDone, nbytes);
      const expected: string[] = [];
      for (let at = 0; at < nbytes; at += pieceBytes) {
        expected.push(sha256(patternBytes(3, at, Math.min(at + pieceBytes, nbytes))));
      }
      assert.deepEqual(outcome.tensors['large']?.digests, expected);
      assert.deepEqual(outcome.liveAfterDestroy, [0, 0]);
      console.log(
        `${nbytes / MIB} MiB in ${(outcome.report.milliseconds / 1000).toFixed(1)} s by ` +
          `${outcome.report.upload}, budget peak ${(outcome.report.budgetPeak / MIB).toFixed(1)} MiB`,
      );
    });

    for (const { place, own, options } of PLACES) {
      test(`${place}: the next size is refused, and what was allocated is released`, async () => {
        const most = await page.evaluate(
          async () => (await navigator.gpu.requestAdapter())?.limits.maxBufferSize ?? 0,
          undefined,
        );
        const nbytes = SOFTWARE ? 1024 * MIB : most + 4;
        const url = serveRecords({ before: 100_000, large: nbytes, after: 200_000 });
        const outcome = await run(own, { url, device: 'gpu', options });
        const code = nbytes > most ? 'device_limit' : 'out_of_device_memory';
        checkFailure(outcome, code, 'large', nbytes);
        assert.equal(outcome.error?.tensor, 'large');
        const beyond = serveRecords({ before: 100_000, large: most + 4 });
        const limit = await run(own, { url: beyond, device: 'gpu', options });
        checkFailure(limit, 'device_limit', 'large', most + 4, most);
        // The device itself still serves the next load
        checkTensors(await run(own, { url: server.origin + CACHE, device: 'gpu', options }), cache);
      });
    }
  });
});
