// sluice/tvmjs in Chromium, on a page and in a worker. Its own tests, in test/tvmjs, run in Node.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import type * as Theirs from '@mlc-ai/web-runtime';
import type * as Page from './page_tvmjs.js';
import type { CacheOutcome, CacheRequest, ValuesOutcome } from './page_tvmjs.js';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import { largeRecord, randomTensor, served, tensorCacheFiles } from '../support/models.js';
import { patternBytes, startServer, type TestServer } from '../support/server.js';

const tensors = [
  randomTensor('param_0', 'float32', [33, 65], 1),
  randomTensor('param_1', 'uint32', [300], 2),
  randomTensor('param_2', 'float16', [7], 3),
];
const packed = {
  name: 'param_3',
  dtype: 'float32',
  shape: [2],
  format: 'f32-to-bf16',
  bytes: Uint8Array.of(0x80, 0x3f, 0x40, 0xc0),
};
const FILES = {
  ...served(tensorCacheFiles([tensors.slice(0, 1), [...tensors.slice(1), packed]]), '/model/'),
  '/model/mlc-chat-config.json': '{"model_type": "test"}',
  '/model/bytes.bin': new Uint8Array(1000),
};
const TYPES = ['cache', 'indexeddb', 'opfs', 'cross-origin'] as const;

describe('sluice/tvmjs in Chromium', { timeout: 180_000 }, () => {
  let browser: Chromium;
  let server: TestServer;
  let page: ChromiumPage;
  before(async () => {
    browser = await startChromium();
  });
  after(() => browser.close());
  beforeEach(async () => {
    server = await startServer({ files: FILES, cors: true });
    page = await browser.newPage();
  });
  afterEach(async () => {
    await page.close();
    await server.close();
  });

  const request = (change: Partial<CacheRequest> = {}): CacheRequest => ({
    origin: browser.origin,
    url: `${server.origin}/model/`,
    device: 'cpu',
    cacheType: 'cache',
    cacheScope: 'webllm/model',
    names: [...tensors, packed].map(({ name }) => name),
    ...change,
  });

  function run<R>(
    where: string,
    name: 'driveCache' | 'driveDelete' | 'driveFiles',
    given: CacheRequest,
  ): Promise<R> {
    type Argument = CacheRequest & { name: string };
    const act = async (argument: Argument): Promise<R> => {
      const path = `${argument.origin}/test/browser/page_tvmjs.js`;
      const module = (await import(path)) as Record<string, (given: CacheRequest) => Promise<R>>;
      const drive = module[argument.name];
      if (!drive) throw new Error(argument.name);
      return drive(argument);
    };
    const argument = { ...given, name };
    return where === 'page' ? page.evaluate(act, argument) : page.evaluateInWorker(act, argument);
  }

  const dataRequests = (): string[] =>
    server.requests.splice(0).flatMap(({ path }) => (path.endsWith('.bin') ? [path] : []));

  function check({ tensors: loaded, metadata }: CacheOutcome, device: string): void {
    assert.deepEqual(loaded, [
      ...tensors.map(({ dtype, shape, bytes }) => [dtype, shape, `${device}:0`, [...bytes]]),
      ['float32', [2], `${device}:0`, [...new Uint8Array(Float32Array.of(1, -3).buffer)]],
    ]);
    assert.deepEqual(metadata, { ParamSize: 0, ParamBytes: 0 });
  }

  for (const where of ['page', 'worker'] as const) {
    test(`in a ${where}: values, errors, the GPU`, async () => {
      const act = async (origin: string): Promise<ValuesOutcome> => {
        const path = `${origin}/test/browser/page_tvmjs.js`;
        const { driveValues } = (await import(path)) as typeof Page;
        return driveValues(origin);
      };
      const outcome = await (where === 'page'
        ? page.evaluate(act, browser.origin)
        : page.evaluateInWorker(act, browser.origin));
      assert.deepEqual(outcome.values, [
        3,
        'Größe 🦥, longer than a small string',
        42,
        [1, 2, 3, 4],
        true,
        true,
      ]);
      const [mine, unknown, wrong] = outcome.errors;
      assert.equal(mine, 'Error: mine');
      assert.equal(unknown, 'Error: Cannot find global function no.such');
      assert.match(wrong ?? '', /^Error: TypeError: tvmjs\.testing\.add_one: argument 0/);
      assert.deepEqual(page.errors, []);
    });

    for (const device of ['cpu', 'webgpu'] as const) {
      test(`in a ${where}: a tensor cache to ${device}, once from the server`, async () => {
        const given = request({ device, cacheType: 'opfs' });
        const cold = await run<CacheOutcome>(where, 'driveCache', given);
        check(cold, device);
        assert.deepEqual([cold.before, cold.after], [false, true]);
        assert.equal(cold.reports[0], 'Start to fetch params');
        assert.ok(cold.reports.some((text) => text.startsWith('Fetching param cache[')));
        assert.match(
          cold.reports.at(-1) ?? '',
          /^Loading model from cache\[2\/2\]: 1MB loaded\. 100%/,
        );
        assert.ok(dataRequests().length > 0);
        const warm = await run<CacheOutcome>(where, 'driveCache', given);
        check(warm, device);
        assert.deepEqual([warm.before, dataRequests()], [true, []]);
        // Another scope, and another type, are other places
        const other = await run<boolean>(where, 'driveDelete', { ...given, cacheScope: 'other' });
        assert.equal(other, false);
        assert.equal(await run<boolean>(where, 'driveDelete', given), false);
        assert.deepEqual(page.errors, []);
      });
    }

    for (const cacheType of TYPES) {
      test(`in a ${where}: files kept in a cache of type ${cacheType}`, async () => {
        const answers = await run<unknown[]>(where, 'driveFiles', request({ cacheType }));
        assert.deepEqual(answers, [
          false,
          { model_type: 'test' },
          1000,
          ...[true, false, false, true, true],
          'AbortError',
        ]);
      });
    }
  }

  for (const cacheType of ['cache', 'indexeddb', 'opfs'] as const) {
    test(`what tvmjs has kept in ${cacheType} is found, and deleted`, async () => {
      const path = createRequire(import.meta.url).resolve('@mlc-ai/web-runtime');
      await page.page.addScriptTag({ path });
      const given = request({ cacheType, device: 'webgpu' });
      await page.evaluate(async ({ url, cacheScope, ...options }: CacheRequest) => {
        const { tvmjs } = globalThis as unknown as { tvmjs: typeof Theirs };
        const cache = tvmjs.createArtifactCache(cacheScope, options);
        const list = (await cache.fetchWithCache(`${url}tensor-cache.json`, 'json')) as {
          records: { dataPath: string }[];
        };
        for (const { dataPath } of list.records) {
          await cache.addToCache(url + dataPath, 'arraybuffer');
        }
      }, given);
      assert.equal(dataRequests().length, 2);
      const outcome = await run<CacheOutcome>('page', 'driveCache', given);
      check(outcome, 'webgpu');
      assert.deepEqual([outcome.before, outcome.after, dataRequests()], [true, true, []]);
      assert.equal(await run<boolean>('page', 'driveDelete', given), false);
      const left = await page.evaluate(
        async ({ url, cacheScope, cacheType: type }: CacheRequest) => {
          const { tvmjs } = globalThis as unknown as { tvmjs: typeof Theirs };
          return tvmjs.hasTensorInCache(url, cacheScope, type);
        },
        given,
      );
      assert.equal(left, false);
    });
  }

  test('a record of 1,120 MiB to the CPU, into as much wasm memory', async () => {
    const { name, nbytes, seed } = largeRecord;
    const step = 16 * 2 ** 20;
    Object.assign(server.files, largeRecord.files('/large/'));
    const { digests, memoryBytes } = await page.evaluate(
      async ({ origin, url, name, step }) => {
        const path = `${origin}/test/browser/page_tvmjs.js`;
        const { driveLarge } = (await import(path)) as typeof Page;
        return driveLarge(origin, url, name, step);
      },
      { origin: browser.origin, url: `${server.origin}/large/`, name, step },
    );
    const expected = Array.from({ length: nbytes / step }, (_, i) =>
      createHash('sha256')
        .update(patternBytes(seed, i * step, (i + 1) * step))
        .digest('hex'),
    );
    assert.deepEqual(digests, expected);
    assert.ok(memoryBytes < 1.02 * nbytes, `${memoryBytes} bytes`);
    assert.deepEqual(page.errors, []);
  });
});
