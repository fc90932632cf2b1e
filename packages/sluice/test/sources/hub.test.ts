// A model hub: files at /owner/name/resolve/<revision>/…, which redirects to signed URLs of another origin.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { loadModel, type LoadOptions } from 'sluice';
import { HttpSource, fetchTransport, type HttpSourceOptions } from '../../src/sources/http.js';
import { httpModel } from '../../src/sources/http_model.js';
import { nodeHttpTransport } from '../../src/sources/node_http.js';
import { asStored, expectModel, rejects } from '../load/support.js';
import { gguf, randomTensor, safetensorsIndexFiles, type Files } from '../support/models.js';
import { patternBytes, startServer, type TestServer } from '../support/server.js';
import { readAll, rejects as rejectsHere, sameBytes } from './support.js';

const AUTHORIZATION = 'Bearer short-lived';
const REPO = '/owner/model';
const FILES = `${REPO}/resolve/main/`;
const SIZE = 300_000;

const plain = [0, 1].map((i) => randomTensor(`t${i}`, 'F32', [700, 200 + i], i)); // 560 kB each
const index = safetensorsIndexFiles(plain.map((tensor) => [tensor]));
const parts = plain.map(({ name, shape, bytes }, no) =>
  gguf([{ name, dtype: 'f32', shape, bytes }], {
    ...{ 'split.no': no, 'split.count': 2, 'split.tensors.count': 2 },
  }),
);
const model: Files = {
  ...index,
  'm-00001-of-00002.gguf': parts[0] ?? '',
  'm-00002-of-00002.gguf': parts[1] ?? '',
};
const expected = plain.map(asStored);

describe('a model hub', () => {
  let hub: TestServer;
  let store: TestServer;

  before(async () => {
    hub = await startServer();
    store = await startServer();
    for (const [path, body] of Object.entries(model)) {
      if (path.endsWith('.json')) {
        hub.files[FILES + path] = body; // small files are the hub's own
        continue;
      }
      store.files[`/blobs/${path}`] = body;
      hub.addFault({
        path: FILES + path,
        redirect: `${store.origin}/blobs/${path}?signature=a%2Fb`,
        headers: { ETag: '"of the hub"', 'X-Linked-Etag': '"of the file"' },
      });
    }
    hub.files[`${REPO}/blob/main/m.gguf`] = '<!doctype html><title>m.gguf</title>';
    hub.addFault({ path: '/private/model/resolve/main/m.gguf', status: 401 });
  });
  after(async () => {
    await hub.close();
    await store.close();
  });
  beforeEach(() => {
    hub.requests.length = 0;
    store.requests.length = 0;
  });

  function checkRequests(redirected: number): void {
    assert.ok(hub.requests.every(({ headers }) => headers.authorization === AUTHORIZATION));
    assert.ok(hub.requests.every(({ headers }) => headers['x-mine'] === 'yes'));
    assert.ok(store.requests.length >= redirected, `${store.requests.length} requests`);
    for (const { url, headers } of store.requests) {
      assert.ok(url.endsWith('?signature=a%2Fb'), url);
      assert.equal(headers.authorization, undefined);
      assert.equal(headers['x-mine'], undefined);
      assert.equal(headers.cookie, undefined);
    }
    assert.ok(store.requests.some(({ range }) => range === 'bytes=0-262143'));
    const asked = hub.requests.filter(({ path }) => !path.endsWith('.json'));
    assert.equal(asked.length, store.requests.length, 'each request follows its own redirect');
  }

  const given: LoadOptions = {
    device: 'cpu',
    headers: { Authorization: AUTHORIZATION, 'X-Mine': 'yes' },
  };
  const missing = 2; // tensor-cache.json and ndarray-cache.json are not there

  test('a folder: the index, then ranges of every file by its redirect', async () => {
    await expectModel(await loadModel(hub.origin + FILES, given), expected);
    checkRequests(4);
    const manifests = hub.requests.filter(({ path }) => path.endsWith('.json'));
    assert.equal(manifests.length, missing + 1);
  });

  for (const name of ['m-00001-of-00002.gguf', 'm-00002-of-00002.gguf']) {
    test(`a file: every part of the split GGUF, from ${name}`, async () => {
      await expectModel(await loadModel(hub.origin + FILES + name, given), expected);
      checkRequests(4);
    });
  }

  test('headers of a function, called for each request to the hub and for no other', async () => {
    const urls: string[] = [];
    const headers = async (url: string): Promise<Record<string, string>> => {
      urls.push(url);
      await new Promise((resolve) => setTimeout(resolve, 1));
      return { Authorization: AUTHORIZATION, 'X-Mine': 'yes' };
    };
    await expectModel(await loadModel(hub.origin + FILES, { ...given, headers }), expected);
    checkRequests(4);
    assert.deepEqual(urls.sort(), hub.requests.map(({ url }) => hub.origin + url).sort());
  });

  test('a function for headers that fails, or gives what it must not', async () => {
    const open = (headers: () => Record<string, string>) =>
      new HttpSource(hub.origin + FILES, { headers, transport: nodeHttpTransport() }).open(
        'x',
        0,
        1,
      );
    const cause = new Error('no token today');
    const error = await rejectsHere(
      open(() => {
        throw cause;
      }),
      'invalid_argument',
      'resolve/main/x',
      'no token today',
    );
    assert.equal(error.cause, cause);
    assert.equal(error.retryable, false);
    await rejectsHere(
      open(() => ({ Range: 'bytes=0-' })),
      'invalid_argument',
      "'range'",
    );
    assert.equal(hub.requests.length, 0);
  });

  for (const [name, transport] of [
    ['fetch', fetchTransport],
    ['node', nodeHttpTransport],
  ] as const) {
    describe(`ranges and ETags, over ${name}`, () => {
      const spec = { nbytes: SIZE, seed: 8 };
      const open = (options: HttpSourceOptions = {}) =>
        new HttpSource(hub.origin + FILES, { transport: transport(), ...options });
      const at = (path: string) => FILES + path;

      test('eight ranges held open together, each by a redirect of its own', async () => {
        const path = `parallel-${name}.bin`;
        store.files[`/blobs/${path}`] = { nbytes: 8_000_000, seed: 8 };
        hub.addFault({ path: at(path), redirect: `${store.origin}/blobs/${path}` });
        const source = open({ headers: { Authorization: AUTHORIZATION } });
        const streams = await Promise.all(
          [0, 1, 2, 3, 4, 5, 6, 7].map((i) => source.open(path, i * 1e6, (i + 1) * 1e6)),
        );
        sameBytes(
          Buffer.concat(await Promise.all(streams.map(readAll))),
          patternBytes(8, 0, 8_000_000),
        );
        const ranges = (server: TestServer) => server.requests.map(({ range }) => range).sort();
        assert.equal(new Set(ranges(store)).size, 8);
        assert.deepEqual(ranges(hub), ranges(store));
        assert.ok(store.requests.every(({ headers }) => headers.authorization === undefined));
        source.close();
      });

      test('ETags of two servers that hold the same file are not held against each other', async () => {
        const path = `either-${name}.bin`;
        hub.files[at(path)] = spec;
        store.files[`/blobs/${path}`] = spec;
        hub.addFault({ path: at(path), times: 1, headers: { ETag: '"of the hub"' } });
        hub.addFault({ path: at(path), after: 1, redirect: `${store.origin}/blobs/${path}` });
        const source = open();
        sameBytes(await readAll(await source.open(path, 0, 100)), patternBytes(8, 0, 100));
        sameBytes(await readAll(await source.open(path, 100, 200)), patternBytes(8, 100, 200));
        assert.equal(store.requests.length, 1);
      });

      test('an ETag of the server redirected to tells that the file was replaced', async () => {
        const path = `replaced-${name}.bin`;
        for (const [i, seed] of [8, 9].entries()) {
          store.files[`/blobs/${i}-${path}`] = { nbytes: SIZE, seed };
          hub.addFault({
            ...{ path: at(path), after: i, times: 1 },
            redirect: `${store.origin}/blobs/${i}-${path}`,
          });
        }
        const source = open();
        await readAll(await source.open(path, 0, 100));
        await rejectsHere(source.open(path, 100, 200), 'source_changed', path, 'ETag');
      });

      test('so does the size, wherever the bytes come from', async () => {
        const path = `longer-${name}.bin`;
        hub.files[at(path)] = spec;
        store.files[`/blobs/${path}`] = { nbytes: SIZE + 1, seed: 8 };
        hub.addFault({ path: at(path), after: 1, redirect: `${store.origin}/blobs/${path}` });
        const source = open();
        await readAll(await source.open(path, 0, 100));
        await rejectsHere(source.open(path, 100, 200), 'source_changed', '300000', '300001');
      });
    });
  }

  describe('the address of a page instead of a file', () => {
    const cases: [string, 'not_found' | 'manifest_invalid' | 'http_status', string][] = [
      [REPO, 'not_found', `${REPO}/resolve/main/`],
      [`${REPO}/`, 'not_found', `${REPO}/resolve/main/`],
      [`${REPO}/tree/main`, 'not_found', `${REPO}/resolve/main/`],
      [`${REPO}/tree/v1/q4`, 'not_found', `${REPO}/resolve/v1/q4/`],
      [`${REPO}/blob/main/m.gguf?x=1`, 'manifest_invalid', `${REPO}/resolve/main/m.gguf`],
      [`${REPO}/blob/main/n.gguf`, 'not_found', `${REPO}/resolve/main/n.gguf`],
    ];
    for (const [path, code, hinted] of cases) {
      test(path, async () => {
        const error = await rejects(loadModel(hub.origin + path, { device: 'cpu' }), code);
        assert.ok(error.hint?.endsWith(` ${hub.origin}${hinted}`), error.hint);
        assert.ok(!error.hint?.startsWith('If'), 'the hint of the error itself comes first');
      });
    }
    test('other addresses are not doubted', async () => {
      for (const path of ['/', '/a/', '/a/b/c/', '/m.gguf', '/a/m.gguf', `${FILES}none.gguf`]) {
        const error = await rejects(loadModel(hub.origin + path, { device: 'cpu' }), 'not_found');
        assert.ok(!/page about/.test(error.hint ?? ''), error.hint);
      }
      const denied = await rejects(
        loadModel(`${hub.origin}/private/model/resolve/main/m.gguf`, { device: 'cpu' }),
        'http_status',
        '401',
      );
      assert.equal(denied.status, 401);
      assert.match(denied.hint ?? '', /credentials/);
    });
    test('nothing else is asked for than what was given', async () => {
      const { source } = httpModel(`${hub.origin}${REPO}/blob/main/x.gguf`, {
        transport: nodeHttpTransport(),
      });
      await rejectsHere(source.open('x.gguf', 0, 1), 'not_found');
      assert.deepEqual(
        hub.requests.map(({ path }) => path),
        [`${REPO}/blob/main/x.gguf`],
      );
    });
  });
});
