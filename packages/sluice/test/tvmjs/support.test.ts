// The parts of sluice/tvmjs that stand by themselves.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as tvmjs from 'sluice/tvmjs';
import { Memory } from '../../src/tvmjs/memory.js';
import { getTensorCacheRecordBytes } from '../../src/tvmjs/artifact_cache.js';

describe('LinearCongruentialGenerator', () => {
  test('is minstd_rand', () => {
    const generator = new tvmjs.LinearCongruentialGenerator();
    generator.setSeed(1);
    let last = 0;
    for (let i = 0; i < 10_000; i++) last = generator.nextInt();
    // What C++ says of the 10,000th number of std::minstd_rand
    assert.equal(last, 399268537);
  });

  test('repeats itself from a seed and a state', () => {
    const [a, b] = [
      new tvmjs.LinearCongruentialGenerator(),
      new tvmjs.LinearCongruentialGenerator(),
    ];
    a.setSeed(42);
    b.setSeed(42 + a.modulus);
    assert.equal(a.nextInt(), b.nextInt());
    b.setState(a.getState());
    for (let i = 0; i < 100; i++) {
      const drawn = a.randomFloat();
      assert.ok(drawn > 0 && drawn < 1);
      assert.equal(drawn, b.randomFloat());
    }
    a.setSeed(0);
    assert.equal(a.getState(), 1);
    assert.throws(() => a.setSeed(42.5), /Seed should be an integer\./);
    assert.throws(() => a.setSeed(-5), /not strictly positive/);
    for (const state of [undefined, {}, 1.5]) {
      assert.throws(() => a.setState(state as number), /RNG state should be an integer\./);
    }
    for (const state of [0, a.modulus]) {
      assert.throws(() => a.setState(state), /RNG state should be an integer in \(0, 2147483647\)/);
    }
  });
});

describe('LRUCache', () => {
  test('evicts what was not used for the longest time', () => {
    const evicted: [string, number][] = [];
    const cache = new tvmjs.LRUCache<string, number>(2, (key, value) => evicted.push([key, value]));
    const make = (value: number) => (): number => value;
    assert.equal(cache.get('a', make(1)), 1);
    assert.equal(cache.get('b', make(2)), 2);
    assert.equal(cache.get('a', make(9)), 1);
    assert.deepEqual([cache.needEviction('a'), cache.needEviction('c')], [false, true]);
    assert.equal(cache.get('c', make(3)), 3);
    assert.deepEqual(evicted, [['b', 2]]);
    assert.deepEqual([...cache.values()], [1, 3]);
    cache.invalidate();
    assert.equal(cache.size, 0);
    const disposed: string[] = [];
    const state = new tvmjs.CacheState(1);
    for (const shape of [[1, 2], [3]]) {
      const key = tvmjs.CacheState.computeShapeKey(shape);
      state.shapeCache.get(key, () => ({ dispose: () => disposed.push(key) }));
    }
    assert.deepEqual(disposed, ['1,2']);
    state.dispose();
    assert.deepEqual(disposed, ['1,2', '3']);
  });
});

describe('the memory of an instance', () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 3 });
  const reader = new Memory(memory);
  test('is read and written by address', () => {
    new Uint8Array(memory.buffer).set([0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], 8);
    assert.deepEqual(
      [reader.loadU8(8), reader.loadU16(8), reader.loadU32(8), reader.loadI32(8)],
      [0xfe, 0xfffe, 0xfffffffe, -2],
    );
    assert.deepEqual([reader.loadI64(8), reader.loadPointer(8)], [-2, 0xfffffffe]);
    reader.storeRawBytes(16, new TextEncoder().encode('Größe\0rest'));
    assert.equal(reader.loadCString(16), 'Größe');
    reader.storeRawBytes(32, new Uint8Array(Float64Array.of(0.5).buffer));
    assert.equal(reader.loadF64(32), 0.5);
    reader.storeRawBytes(40, new Uint8Array(Uint32Array.of(16, 3).buffer));
    assert.equal(reader.loadByteArrayAsString(40), 'Gr\ufffd');
    assert.deepEqual(reader.loadByteArrayAsBytes(40), Uint8Array.of(71, 114, 195));
    assert.deepEqual([reader.sizeofPtr(), reader.wasm32], [4, true]);
    const copy = reader.loadRawBytes(16, 2);
    copy[0] = 0;
    assert.equal(reader.loadU8(16), 71);
    assert.deepEqual(reader.loadRawBytes(65535, 3), Uint8Array.of(0, 0, 0));
  });

  test('is found again when it has grown', () => {
    memory.grow(1);
    new Uint8Array(memory.buffer).set([5, 6], 65536);
    assert.deepEqual(reader.viewRawBytes(65536, 2), Uint8Array.of(5, 6));
    assert.equal(reader.viewRawBytes(65536, 2).buffer, memory.buffer);
    assert.equal(reader.loadU16(65536), 0x605);
    const shared = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    new Uint8Array(shared.buffer).set([65, 0], 4);
    assert.equal(new Memory(shared).loadCString(4), 'A');
  });

  test('has an end', () => {
    const small = new Memory(new WebAssembly.Memory({ initial: 1 }));
    for (const [pointer, nbytes, message] of [
      [-1, 1, /pointer: -1/],
      [0.5, 1, /pointer: 0\.5/],
      [0, -1, /byte length: -1/],
      [0, 0.5, /byte length: 0\.5/],
      [65536, 1, /range \[65536, 65537\) exceeds memory size 65536/],
      [Number.MAX_SAFE_INTEGER, 1, /exceeds memory size/],
    ] as const) {
      assert.throws(() => small.viewRawBytes(pointer, nbytes), message);
    }
  });
});

describe('records of shards', () => {
  test('are views, of shards that are views as well', () => {
    const shard = Uint8Array.of(90, 91, 1, 2, 3, 4, 92).subarray(2, 6);
    const record = getTensorCacheRecordBytes(shard, { byteOffset: 1, nbytes: 2 });
    assert.deepEqual(record, Uint8Array.of(2, 3));
    assert.equal(record.buffer, shard.buffer);
    assert.equal(getTensorCacheRecordBytes(shard, { byteOffset: 4, nbytes: 0 }).length, 0);
    assert.throws(
      () => getTensorCacheRecordBytes(shard.slice().buffer, { byteOffset: 3, nbytes: 2 }),
      /record range \[3, 5\) exceeds shard size 4/,
    );
    assert.throws(
      () => getTensorCacheRecordBytes(shard, { byteOffset: Number.MAX_SAFE_INTEGER, nbytes: 1 }),
      /exceeds shard size/,
    );
  });
});

describe('caches of files', () => {
  test('are chosen by type', () => {
    const made = (cacheType?: string): object =>
      tvmjs.createArtifactCache(
        'scope',
        cacheType === undefined ? {} : { cacheType: cacheType as tvmjs.ArtifactCacheType },
      );
    assert.ok(made() instanceof tvmjs.ArtifactCache);
    assert.ok(made('indexeddb') instanceof tvmjs.ArtifactIndexedDBCache);
    assert.ok(made('OPFS') instanceof tvmjs.ArtifactOPFSCache);
    const { error, warn } = console;
    const said: string[] = [];
    console.error = console.warn = (text: string) => said.push(text);
    try {
      assert.ok(made('floppy') instanceof tvmjs.ArtifactCache);
      assert.ok(made('cross-origin') instanceof tvmjs.ArtifactCache);
      assert.ok(made('cross-origin') instanceof tvmjs.ArtifactCache);
    } finally {
      Object.assign(console, { error, warn });
    }
    assert.deepEqual(said, [
      'Unsupported cacheType: floppy, using default ArtifactCache.',
      'Cross-origin storage is unavailable; falling back to ArtifactCache.',
    ]);
    const artifactCache = tvmjs.createArtifactCache('a');
    assert.equal(tvmjs.createArtifactCache('b', { artifactCache }), artifactCache);
  });

  test('say what is not there', async () => {
    await assert.rejects(new tvmjs.ArtifactCache('a').hasAllKeys([]), /there is no Cache API here/);
    await assert.rejects(new tvmjs.ArtifactIndexedDBCache('a').hasAllKeys(['b']), /no IndexedDB/);
    await assert.rejects(
      new tvmjs.ArtifactOPFSCache('a').hasAllKeys(['b']),
      /OPFS API unavailable/,
    );
    assert.equal(tvmjs.ArtifactOPFSCache.isAvailable(), false);
  });

  test('over a storage of the caller', async () => {
    const held = new Map<string, string>([['https://a/b', '{"c": 1}']]);
    const cache = new tvmjs.ArtifactCrossOriginStorageCache('a', {
      match: async (url) => (held.has(url) ? new Response(held.get(url)) : undefined),
      put: async (url, response) => void held.set(url, await response.text()),
      delete: async (url) => void held.delete(url),
    });
    assert.deepEqual(await cache.fetchWithCache('https://a/b', 'json'), { c: 1 });
    assert.equal(
      ((await cache.fetchWithCache('https://a/b', 'arraybuffer')) as ArrayBuffer).byteLength,
      8,
    );
    const added = 'data:text/plain,xyz';
    assert.equal(await ((await cache.fetchWithCache(added)) as Response).text(), 'xyz');
    assert.equal(held.get(added), 'xyz');
    assert.deepEqual(
      [await cache.hasAllKeys([added]), await cache.hasAllKeys(['d'])],
      [true, false],
    );
    await cache.deleteInCache(added);
    assert.equal(held.has(added), false);
    const { signal } = new AbortController();
    await assert.rejects(cache.addToCache('data:', undefined, AbortSignal.abort()), /abort/i);
    await cache.addToCache(added, undefined, signal);
  });
});

describe('what is left', () => {
  test('assert() and types', () => {
    tvmjs.assert(true);
    assert.throws(() => tvmjs.assert(false), /^Error: AssertError:$/);
    assert.throws(() => tvmjs.assert(false, 'said'), /^Error: AssertError:said$/);
    assert.equal(String(new tvmjs.DLDataType(2, 16, 4)), 'float16x4');
    assert.equal(new tvmjs.DLDataType(0, 4, 1).numStorageBytes(), 1);
    assert.equal(new tvmjs.DLDataType(1, 8, 1).toString(), 'uint8');
  });

  test('WASI for modules that want it', () => {
    // (module (import "wasi_snapshot_preview1" "fd_write" …) (memory (export "memory") 1) (export "f" (func 0)))
    const provider = tvmjs.createPolyfillWASI();
    const wasi = provider.imports['wasi_snapshot_preview1'] as Record<
      string,
      (...args: unknown[]) => number
    >;
    const call = (name: string, ...args: unknown[]): number => wasi[name]!(...args);
    assert.throws(() => call('args_sizes_get', 0, 4), /before it was started/);
    const memory = new WebAssembly.Memory({ initial: 1 });
    let initialized = 0;
    provider.start({
      exports: { memory, _initialize: () => initialized++ },
    });
    assert.equal(initialized, 1);
    const view = new DataView(memory.buffer);
    assert.equal(call('args_sizes_get', 0, 4), 0);
    const text = new TextEncoder().encode('first line\nsecond');
    new Uint8Array(memory.buffer).set(text, 100);
    view.setUint32(16, 100, true);
    view.setUint32(20, text.length, true);
    const lines: string[] = [];
    const { log } = console;
    console.log = (line: string) => lines.push(line);
    try {
      assert.equal(call('fd_write', 1, 16, 1, 0), 0);
      view.setUint32(20, 0, true);
      new Uint8Array(memory.buffer).set([10], 200);
      view.setUint32(16, 200, true);
      view.setUint32(20, 1, true);
      call('fd_write', 1, 16, 1, 4);
    } finally {
      console.log = log;
    }
    assert.deepEqual(lines, ['first line', 'second']);
    assert.deepEqual([view.getUint32(0, true), view.getUint32(4, true)], [text.length, 1]);
    assert.equal(call('fd_write', 5, 16, 1, 0), 8);
    assert.equal(call('random_get', 300, 100_000 - 40_000), 0);
    assert.ok(new Uint8Array(memory.buffer, 300, 60_000).some((byte) => byte !== 0));
    call('clock_time_get', 0, 0n, 8);
    const ms = Number(view.getBigUint64(8, true) / 1_000_000n);
    assert.ok(Math.abs(ms - Date.now()) < 10_000);
    assert.equal(call('path_open'), 52);
    assert.throws(() => call('proc_exit', 3), /status 3/);
  });
});
