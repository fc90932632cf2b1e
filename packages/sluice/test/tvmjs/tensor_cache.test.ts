// fetchTensorCache(), hasTensorInCache() and deleteTensorCache() in Node: the package's loader and store behind them.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import {
  deleteTensorCache,
  hasTensorInCache,
  type ArtifactCacheTemplate,
  type DLDevice,
  type InitProgressReport,
  type Instance,
  type Tensor,
} from 'sluice/tvmjs';
import { nodeDevice } from '../sinks/node_gpu.js';
import {
  largeRecord,
  randomBytes,
  randomTensor,
  served,
  tensorCache,
  type TestTensor,
} from '../support/models.js';
import { patternBytes, startServer, type TestServer } from '../support/server.js';
import { memoryBytes, newInstance } from './support.js';

/** bfloat16 halves of 1, 2 and -3, which become float32; then tensors that stay as they are. */
const packed: TestTensor = {
  name: 'param_0',
  dtype: 'float32',
  shape: [3],
  format: 'f32-to-bf16',
  bytes: Uint8Array.of(0x80, 0x3f, 0x00, 0x40, 0x40, 0xc0),
};
const native: TestTensor = {
  name: 'param_1',
  dtype: 'float32',
  shape: [2],
  format: 'f32-to-bf16',
  bytes: new Uint8Array(Float32Array.of(4, 5).buffer),
};
const plain = [
  randomTensor('param_2', 'uint32', [257, 65], 1),
  randomTensor('param_3', 'float16', [1030], 2),
  randomTensor('param_4', 'int8', [3], 3),
  { name: 'param_5', dtype: 'float32', shape: [], bytes: randomBytes(4, 4) },
];
const shards = [[packed, native], plain.slice(0, 1), plain.slice(1)];
const { manifest, data } = tensorCache(shards);
manifest.metadata = { ParamSize: 6, note: 'of the test' };
const files = { 'tensor-cache.json': JSON.stringify(manifest), ...data };

let server: TestServer;
let url: string;
let folder: string;
const cacheHome = process.env['XDG_CACHE_HOME'];
before(async () => {
  server = await startServer({ files: served(files, '/model/') });
  url = `${server.origin}/model/`;
  folder = await mkdtemp(join(tmpdir(), 'sluice-tvmjs-'));
  process.env['XDG_CACHE_HOME'] = folder;
});
after(async () => {
  if (cacheHome === undefined) delete process.env['XDG_CACHE_HOME'];
  else process.env['XDG_CACHE_HOME'] = cacheHome;
  await server.close();
  await rm(folder, { recursive: true });
});

let tvm: Instance;
let reports: InitProgressReport[] = [];
before(async () => {
  tvm = newInstance();
  tvm.initWebGPU(await nodeDevice());
  tvm.registerInitProgressCallback((report) => reports.push(report));
});
after(() => tvm.dispose());
beforeEach(() => {
  tvm.beginScope();
  reports = [];
});
afterEach(() => {
  tvm.tensorCacheClear();
  tvm.endScope();
});

async function bytesOf(tensor: Tensor | undefined): Promise<Uint8Array> {
  assert.ok(tensor);
  if (String(tensor.device) === 'cpu:0') return tensor.toRawBytes();
  const copy = tvm.empty(tensor.shape, tensor.dtype).copyFrom(tensor);
  await tensor.device.sync();
  return copy.toRawBytes();
}

async function check(device: DLDevice): Promise<void> {
  for (const [name, values] of [
    ['param_0', [1, 2, -3]],
    ['param_1', [4, 5]],
  ] as const) {
    const tensor = tvm.tensorCacheGet(name);
    assert.equal(tensor?.dtype, 'float32');
    const bytes = await bytesOf(tensor);
    assert.deepEqual([...new Float32Array(bytes.slice().buffer)], values);
  }
  for (const { name, dtype, shape, bytes } of plain) {
    const tensor = tvm.tensorCacheGet(name);
    assert.deepEqual([tensor?.dtype, tensor?.shape], [dtype, shape]);
    assert.equal(String(tensor?.device), String(device));
    assert.deepEqual(await bytesOf(tensor), new Uint8Array(bytes), name);
  }
}

const DATA = Object.keys(data).map((path) => `/model/${path}`);
const dataRequests = (): string[] =>
  server.requests.splice(0).flatMap(({ path }) => (DATA.includes(path) ? [path] : []));

describe('from a server, and then from the store', () => {
  for (const name of ['cpu', 'webgpu'] as const) {
    test(`to ${name}`, async () => {
      const device = tvm.device(name);
      const options = { cacheScope: `test/${name}`, cacheType: 'opfs' } as const;
      assert.equal(await hasTensorInCache(url, options), false);
      server.requests.splice(0);
      await tvm.fetchTensorCache(url, device, options);
      assert.deepEqual([...new Set(dataRequests())].sort(), DATA);
      await check(device);
      assert.deepEqual(tvm.cacheMetadata, { ParamSize: 6, note: 'of the test' });
      const [first, ...others] = reports;
      assert.deepEqual(first, { progress: 0, timeElapsed: 0, text: 'Start to fetch params' });
      const last = others.pop();
      assert.ok(others.length > 0);
      for (const { text } of others) {
        assert.match(
          text,
          /^Fetching param cache\[[0-3]\/3\]: \dMB fetched\. \d+% completed, \d+ secs elapsed\. It can take a while/,
        );
      }
      assert.equal(last?.progress, 1);
      assert.match(
        last.text,
        /^Loading model from cache\[3\/3\]: 1MB loaded\. 100% completed, \d+ secs elapsed\.$/,
      );

      // Again: of the same scope and type without the network
      assert.equal(await hasTensorInCache(url, `test/${name}`, 'OPFS'), true);
      assert.equal(await hasTensorInCache(url, `test/${name}`, 'cache'), false);
      assert.equal(await hasTensorInCache(url, 'other', 'opfs'), false);
      tvm.tensorCacheClear();
      reports = [];
      await tvm.fetchTensorCache(url, device, `test/${name}`, 'opfs');
      assert.deepEqual(dataRequests(), []);
      await check(device);
      assert.ok(reports.slice(1).every(({ text }) => text.startsWith('Loading model from cache[')));

      await deleteTensorCache(url, options);
      await deleteTensorCache(url, options);
      assert.equal(await hasTensorInCache(url, options), false);
    });
  }

  test("to webgpu, with a module that has TVM's own functions alone", async () => {
    const instance = newInstance();
    instance.initWebGPU(await nodeDevice());
    instance.beginScope();
    instance.getGlobalFunc('ffi.FunctionRemoveGlobal')('sluice.runtime.TensorFromHandle');
    await instance.fetchTensorCache(url, instance.webgpu(), 'copies');
    const mine = tvm;
    try {
      tvm = instance;
      await check(instance.webgpu());
    } finally {
      tvm = mine;
    }
    instance.endScope();
    instance.dispose();
    await deleteTensorCache(url, 'copies');
  });

  test('parameters of models are found in it', async () => {
    await tvm.fetchTensorCache(url, tvm.cpu());
    const params = tvm.getParamsFromCache('param', 6) as unknown as { size(): number };
    assert.equal(params.size(), 6);
    assert.throws(() => tvm.getParamsFromCache('param', 7), /param_6/);
    assert.throws(() => tvm.getParamsFromCacheByName(['gone']), /gone/);
    // What is there already stays, as in tvmjs
    await assert.rejects(
      tvm.fetchTensorCache(url, tvm.cpu()),
      /'param_0' already|already.*param_0/,
    );
    await check(tvm.cpu());
    await deleteTensorCache(url);
  });

  test('is aborted by its signal, with its reason', async () => {
    const reason = new Error('enough');
    const at = (signal: AbortSignal): Promise<unknown> =>
      tvm.fetchTensorCache(url, tvm.cpu(), { signal, cacheScope: 'aborted' }) as Promise<unknown>;
    await assert.rejects(at(AbortSignal.abort(reason)), (error) => error === reason);
    server.addFault({ path: '/model/params_shard_1.bin', stallAfter: 10, times: 1 });
    const controller = new AbortController();
    const stopped = at(controller.signal);
    setTimeout(() => controller.abort(), 300);
    await assert.rejects(stopped, { name: 'AbortError' });
    assert.equal(tvm.tensorCacheGet('param_0'), undefined);
    assert.equal(await hasTensorInCache(url, 'aborted'), false);
    await tvm.fetchTensorCache(url, tvm.cpu(), 'aborted', 'cache', new AbortController().signal);
    await check(tvm.cpu());
    await deleteTensorCache(url, 'aborted');
  });

  test('says what is not there', async () => {
    await assert.rejects(
      tvm.fetchTensorCache(`${server.origin}/nothing/`, tvm.cpu()),
      /no model at this place; .*\/nothing\/tensor-cache\.json/,
    );
    await assert.rejects(tvm.fetchTensorCache('no URL', tvm.cpu()), /Invalid URL/);
    await assert.rejects(hasTensorInCache('no URL'), /Invalid URL/);
  });
});

describe('a record of 1,120 MiB', () => {
  test('to the CPU, into as much wasm memory', { timeout: 120_000 }, async () => {
    const { name, nbytes, seed } = largeRecord;
    Object.assign(server.files, largeRecord.files('/large/'));
    const instance = newInstance();
    const { warn } = console;
    const said: string[] = [];
    console.warn = (text: string) => said.push(text);
    // Not onto the disk of whoever runs the tests
    process.env['XDG_CACHE_HOME'] = '/dev/null';
    try {
      await instance.fetchTensorCache(`${server.origin}/large/`, instance.cpu());
    } finally {
      process.env['XDG_CACHE_HOME'] = folder;
      console.warn = warn;
    }
    assert.match(said.join(), /models are not kept on this device/);
    instance.withNewScope(() => {
      const address = instance.tensorCacheGet(name)?.getCPUDataAddress() ?? 0;
      const step = 4 * 2 ** 20;
      for (let at = 0; at < nbytes; at += step) {
        const found = instance.memory.viewRawBytes(address + at, step);
        assert.equal(
          Buffer.compare(found, patternBytes(seed, at, at + step)),
          0,
          `byte ${at} and on`,
        );
      }
    });
    assert.ok(memoryBytes(instance) < 1.02 * nbytes, `${memoryBytes(instance)} bytes`);
    instance.dispose();
  });
});

describe('through a cache of the caller', () => {
  /** What it holds is given as a view, of a larger buffer. */
  class MapCache implements ArtifactCacheTemplate {
    readonly held = new Map<string, Uint8Array>();
    readonly added: string[] = [];
    async fetchWithCache(at: string, type?: string): Promise<unknown> {
      await this.addToCache(at);
      const bytes = this.held.get(at) ?? new Uint8Array();
      return type === 'json' ? JSON.parse(new TextDecoder().decode(bytes)) : bytes;
    }
    async addToCache(at: string): Promise<void> {
      if (this.held.has(at)) return;
      this.added.push(at);
      const bytes = new Uint8Array(await (await fetch(at)).arrayBuffer());
      const padded = new Uint8Array(bytes.length + 7);
      padded.set(bytes, 3);
      this.held.set(at, padded.subarray(3, -4));
    }
    async hasAllKeys(keys: string[]): Promise<boolean> {
      return keys.every((key) => this.held.has(key));
    }
    async deleteInCache(at: string): Promise<void> {
      this.held.delete(at);
    }
  }

  for (const name of ['cpu', 'webgpu'] as const) {
    test(`to ${name}`, async () => {
      const artifactCache = new MapCache();
      const device = tvm.device(name);
      await tvm.fetchTensorCache(url, device, { artifactCache });
      await check(device);
      assert.equal(artifactCache.added.length, 4);
      assert.ok(reports.some(({ text }) => text.startsWith('Fetching param cache[3/3]: 1MB')));
      assert.equal(reports.at(-1)?.progress, 1);
      assert.ok(await hasTensorInCache(url, { artifactCache }));
      await deleteTensorCache(url, { artifactCache });
      assert.equal(await hasTensorInCache(url, { artifactCache }), false);
      assert.equal(artifactCache.held.size, 1);
    });
  }

  test('that gives what does not fit', async () => {
    const give = (change: (copy: typeof manifest) => void): ArtifactCacheTemplate => {
      const copy = structuredClone(manifest);
      change(copy);
      const cache = new MapCache();
      const list = new TextEncoder().encode(JSON.stringify(copy));
      cache.held.set(`${url}tensor-cache.json`, list);
      return cache;
    };
    const cases: [change: (copy: typeof manifest) => void, message: RegExp][] = [
      [
        (m) => (m.records[1]!.records[0]!.byteOffset = 4),
        /'param_2' in params_shard_1.bin: Tensor-cache record range \[4, 66824\) exceeds/,
      ],
      [(m) => (m.records[1]!.records[0]!.nbytes = -1), /Invalid tensor-cache nbytes: -1/],
      [
        (m) => (m.records[1]!.records[0]!.byteOffset = 0.5),
        /Invalid tensor-cache byteOffset: 0\.5/,
      ],
      [
        (m) => (m.records[1]!.records[0]!.shape = [257, 64]),
        /'param_2'.*66820 bytes were given for 65792/,
      ],
      [
        (m) => (m.records[1]!.records[0]!.shape = ['x']),
        /'param_2'.*dimension 0 of a shape is 'x'/,
      ],
      [(m) => (m.records[0]!.records[0]!.shape = [4]), /'param_0'.*6/],
      [(m) => (m.records[1]!.records[0]!.dtype = 'nothing'), /'param_2'.*nothing/],
      [(m) => (m.records = undefined as never), /tensor-cache\.json has no list of records/],
    ];
    for (const [change, message] of cases) {
      await assert.rejects(
        tvm.fetchTensorCache(url, tvm.cpu(), { artifactCache: give(change) }),
        message,
      );
      tvm.tensorCacheClear();
    }
  });
});
