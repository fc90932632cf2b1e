// tvmjs's published JS, unchanged, on our wasm: what a page that keeps that JS may rely on.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';

import type * as Tvmjs from '@mlc-ai/web-runtime';

import { nodeDevice } from '../sinks/node_gpu.js';

const tvmjs = createRequire(import.meta.url)('@mlc-ai/web-runtime') as typeof Tvmjs;

const wasm = new WebAssembly.Module(
  readFileSync(new URL('../../dist/sluice_runtime.wasm', import.meta.url)),
);

/** A function of the runtime as their JS gives it, with what tests need of its types. */
type Packed = ((...args: unknown[]) => unknown) & { dispose(): void };

let tvm: Tvmjs.Instance;
const packed = (name: string): Packed => tvm.getGlobalFunc(name);

before(() => {
  tvm = new tvmjs.Instance(wasm, {});
});
beforeEach(() => tvm.beginScope());
afterEach(() => tvm.endScope());

function memoryBytes(): number {
  return (tvm as unknown as { memory: { memory: WebAssembly.Memory } }).memory.memory.buffer
    .byteLength;
}

describe('their JS starts', () => {
  test('with its WASI provider, and without', () => {
    for (const imports of [{}, tvmjs.createPolyfillWASI()]) {
      const instance = new tvmjs.Instance(wasm, imports as Record<string, unknown>);
      instance.withNewScope(() => {
        assert.ok(instance.listGlobalFuncNames().includes('tvmjs.testing.add_one'));
      });
    }
  });

  test('and finds the functions that it looks up by name', () => {
    const names = new Set(tvm.listGlobalFuncNames());
    const source = readFileSync(
      createRequire(import.meta.url).resolve('@mlc-ai/web-runtime'),
      'utf8',
    );
    const wanted = [...source.matchAll(/ = getGlobalFunc\("([\w.]+)"\)/g)].map(
      (match) => match[1]!,
    );
    assert.ok(wanted.length >= 25, `${wanted.length} names`);
    assert.deepEqual(
      wanted.filter((name) => !names.has(name)),
      [],
    );
  });
});

describe('values', () => {
  test('numbers, booleans and nothing', () => {
    const echo = packed('testing.echo');
    for (const value of [0, -1, 0.1, 1e300, -0, Infinity, NaN, 2 ** 53, true, false]) {
      assert.ok(Object.is(echo(value), value), `${value}`);
    }
    // Their JS writes no more than 32 bits of an int
    for (const value of [0, 1, -1, 2 ** 31 - 1, -(2 ** 31)]) {
      assert.equal(echo(tvm.scalar(value, 'int')), value);
    }
    assert.equal(echo(null), undefined);
    assert.equal(echo(undefined), undefined);
    assert.equal(packed('tvmjs.testing.add_one')(tvm.scalar(-1, 'int')), 0);
  });

  test('strings and bytes of every length around the small ones', () => {
    const echo = packed('testing.echo');
    for (let length = 0; length <= 20; length++) {
      const text = 'abcdefghijklmnopqrstuvwxyz'.slice(0, length);
      assert.equal(echo(text), text);
      const bytes = Uint8Array.from({ length }, (_, i) => 255 - i);
      assert.deepEqual(echo(bytes), bytes);
    }
    const long = Uint8Array.from({ length: 100_000 }, (_, i) => i * 7);
    assert.deepEqual(echo(long), long);
    const longText = 'x'.repeat(100_000);
    assert.equal(echo(longText), longText);
  });

  test('objects come back as they are', () => {
    const echo = packed('testing.echo');
    const tensor = tvm.empty([2, 2]).copyFrom([1, 2, 3, 4]);
    const same = echo(tensor) as Tvmjs.Tensor;
    assert.equal(same.getHandle(), tensor.getHandle());
    assert.deepEqual(same.toArray(), Float32Array.of(1, 2, 3, 4));
    const module = tvm.systemLib();
    const back = echo(module);
    assert.ok(back instanceof tvmjs.Module);
    assert.equal(back.getHandle(), module.getHandle());
    assert.equal(String(echo(tvm.cpu())), 'cpu:0');
    assert.equal((echo(tvm.makeShapeTuple([3, 4])) as Tvmjs.TVMObject).typeKey(), 'ffi.Shape');
    assert.ok(tvm.isPackedFunc(echo(echo)));
  });

  test('arrays hold objects and strings', () => {
    const tensor = tvm.empty([1]);
    const inner = tvm.makeTVMArray([]);
    const array = tvm.makeTVMArray([tensor, inner, 'a string of many letters', 'short']);
    assert.ok(array instanceof tvmjs.TVMArray);
    assert.equal(array.size(), 4);
    assert.equal((array.get(0) as unknown as Tvmjs.Tensor).getHandle(), tensor.getHandle());
    assert.equal((array.get(1) as unknown as Tvmjs.TVMArray).getHandle(), inner.getHandle());
    assert.equal(array.get(2) as unknown, 'a string of many letters');
    assert.equal(array.get(3) as unknown, 'short');
    assert.throws(() => array.get(4), /IndexError.*index 4 of 4/s);
  });

  test('a shape of many extents', () => {
    const shape = Array.from({ length: 40 }, (_, i) => (i % 3) + 1);
    const tuple = tvm.makeShapeTuple(shape);
    const echo = packed('testing.echo');
    assert.equal((echo(tuple) as Tvmjs.TVMObject).getHandle(), tuple.getHandle());
  });
});

describe('callbacks', () => {
  test('get arguments of every kind and return as much', () => {
    const seen: unknown[] = [];
    const callback = tvm.toPackedFunc((...args: unknown[]) => {
      seen.push(
        ...args.map((value) => (value instanceof tvmjs.TVMObject ? value.typeKey() : value)),
      );
      return args.length;
    }) as unknown as Packed;
    const count = callback(
      1.5,
      tvm.scalar(7, 'int'),
      true,
      null,
      'text',
      'a longer text',
      Uint8Array.of(1, 2),
      tvm.makeShapeTuple([1]),
      tvm.makeTVMArray([]),
      tvm.empty([1]),
    );
    assert.equal(count, 10);
    assert.deepEqual(seen, [
      1.5,
      7,
      true,
      undefined,
      'text',
      'a longer text',
      Uint8Array.of(1, 2),
      'ffi.Shape',
      'ffi.Array',
      'ffi.Tensor',
    ]);
  });

  test('return functions, and are called by C++', () => {
    const adder = tvm.toPackedFunc(
      (y: number) => (x: string | number, z: string | number) => `${x}${y}${z}`,
    ) as unknown as Packed;
    assert.ok(tvm.isPackedFunc(adder));
    const add = adder(10) as Packed;
    assert.equal(add('x', 'z'), 'x10z');
    add.dispose();
    add.dispose();
    assert.throws(() => add(1, 2), /disposed/);

    const call = packed('tvmjs.testing.call');
    const double = tvm.toPackedFunc((x: number) => 2 * x) as unknown as Packed;
    assert.equal(call(double, 21), 42);
    let called = 0;
    const wrapped = packed('tvmjs.testing.wrap_callback')(() => {
      called++;
    }) as Packed;
    assert.equal(wrapped(1, 2, 3), undefined);
    assert.equal(called, 1);
  });

  test('are found by name, and replaced only where that is said', () => {
    tvm.registerFunc('test.join', (a: string, b: string) => a + b);
    assert.equal(packed('test.join')('a', 'b'), 'ab');
    assert.throws(() => tvm.registerFunc('test.join', () => 1), /test\.join.*registered already/s);
    tvm.registerFunc('test.join', () => 'other', true);
    assert.equal(packed('test.join')('a', 'b'), 'other');
    assert.equal(packed('ffi.FunctionRemoveGlobal')('test.join'), true);
    assert.throws(() => packed('test.join'), /test\.join/);
  });

  test('call C++ that calls JS, many levels deep', () => {
    const call = packed('tvmjs.testing.call');
    const down = tvm.toPackedFunc((n: number): unknown =>
      n === 0 ? 'bottom' : call(down, n - 1),
    ) as unknown as Packed;
    assert.equal(down(60), 'bottom');
  });

  test('keep a tensor only where it is detached from their scope', () => {
    const uses = packed('testing.object_use_count');
    const kept: Tvmjs.Tensor[] = [];
    const callback = tvm.toPackedFunc((tensor: Tvmjs.Tensor, keep: boolean) => {
      assert.equal(uses(tensor), 2);
      kept.push(tensor);
      if (keep) tvm.detachFromCurrentScope(tensor);
    }) as unknown as Packed;
    const tensor = tvm.empty([2]).copyFrom([1, 2]);
    callback(tensor, false);
    assert.equal(kept[0]!.getHandle(false), 0);
    assert.equal(uses(tensor), 1);
    callback(tensor, true);
    assert.equal(uses(tensor), 2);
    kept[1]!.dispose();
    assert.equal(uses(tensor), 1);
  });
});

describe('errors', () => {
  test('of C++ say kind, function, argument and numbers', () => {
    const addOne = packed('tvmjs.testing.add_one');
    assert.throws(() => addOne('x'), /TypeError: tvmjs\.testing\.add_one: argument 0 must be int/);
    assert.throws(() => addOne(), /takes 1 arguments, not 0/);
    assert.throws(() => packed('no.such.function'), /no\.such\.function/);
    assert.throws(
      () => packed('testing.test_raise_error')('KeyError', 'what was said'),
      /KeyError: what was said/,
    );
  });

  test('of JS go through C++ to the caller', () => {
    const fails = tvm.toPackedFunc(() => {
      throw new RangeError('out of the callback');
    }) as unknown as Packed;
    assert.throws(() => fails(), /out of the callback/);
    assert.throws(() => packed('tvmjs.testing.call')(fails), /out of the callback/);
    // and leave nothing behind
    assert.equal(packed('testing.echo')('fine'), 'fine');
  });

  test('of C++ can be caught in a callback', () => {
    const call = packed('tvmjs.testing.call');
    const addOne = packed('tvmjs.testing.add_one');
    const careful = tvm.toPackedFunc(() => {
      try {
        return addOne('x');
      } catch (error) {
        return `caught ${(error as Error).message}`;
      }
    }) as unknown as Packed;
    assert.match(String(call(careful)), /^caught TypeError: tvmjs\.testing\.add_one/);
  });

  test('of tensors name what does not fit', () => {
    assert.throws(() => tvm.empty([2, -1]), /ValueError.*extent 1 of the shape is -1/);
    assert.throws(
      () => tvm.empty([2]).copyFrom(tvm.empty([3])),
      /float32\[3\] on cpu:0, 12 bytes, does not fit float32\[2\] on cpu:0, 8 bytes/,
    );
    assert.throws(() => tvm.empty([2 ** 20, 2 ** 20]), /MemoryError.*4398046511104 bytes/);
    assert.throws(() => tvm.empty([1], 'float32', tvm.device('cuda', 0)), /no device cuda:0/);
    assert.throws(() => tvm.empty([1], 'float32', tvm.webgpu()), /webgpu:0 is not there/);
  });
});

describe('tensors', () => {
  test('copy arrays of the types that their JS knows', () => {
    const content = [1, 2, 3, 4, 5, 6];
    for (const [dtype, type] of [
      ['float32', Float32Array],
      ['float64', Float64Array],
      ['int', Int32Array],
      ['int32', Int32Array],
      ['int8', Int8Array],
      ['uint8', Uint8Array],
    ] as const) {
      const tensor = tvm.empty([2, 3], dtype).copyFrom(content);
      assert.deepEqual(tensor.shape, [2, 3]);
      assert.equal(String(tensor.device), 'cpu:0');
      assert.deepEqual(tensor.toArray(), type.from(content));
      assert.deepEqual(tvm.empty([6], dtype).copyFrom(tensor).toArray(), type.from(content));
    }
  });

  test('hold bytes of every other type, packed', () => {
    const kinds: [dtype: string, nbytes: number][] = [
      ['float16', 10],
      ['bfloat16', 10],
      ['uint32', 20],
      ['int16', 10],
      ['uint16', 10],
      ['int64', 40],
      ['uint64', 40],
      ['bool', 5],
      ['float8_e4m3fn', 5],
      ['float8_e5m2', 5],
      ['float8_e8m0fnu', 5],
      ['float4_e2m1fn', 3],
      ['int4', 3],
      ['uint4', 3],
      ['float32x4', 80],
    ];
    for (const [dtype, nbytes] of kinds) {
      const tensor = tvm.empty([5], dtype);
      const bytes = Uint8Array.from({ length: nbytes }, (_, i) => i + 1);
      tensor.copyFromRawBytes(bytes);
      assert.deepEqual(tensor.toRawBytes(), bytes, dtype);
    }
  });

  test('of no dimension and of no element', () => {
    const scalar = tvm.empty([], 'float32').copyFrom([4]);
    assert.deepEqual(scalar.shape, []);
    assert.deepEqual(scalar.toArray(), Float32Array.of(4));
    const none = tvm.empty([0, 7], 'int32').copyFrom([]);
    assert.equal(none.toArray().length, 0);
  });

  test('have views that share their memory', () => {
    const tensor = tvm.empty([2, 3], 'int32').copyFrom([1, 2, 3, 4, 5, 6]);
    const view = tensor.view([3, 2]);
    view.copyFrom([6, 5, 4, 3, 2, 1]);
    assert.deepEqual(tensor.toArray(), Int32Array.of(6, 5, 4, 3, 2, 1));
    assert.equal(view.getDataPtr(), tensor.getDataPtr());
    const part = packed('runtime.TVMTensorCreateView')(
      tensor,
      tvm.makeShapeTuple([2]),
      'int32',
      tvm.scalar(8, 'int'),
    ) as Tvmjs.Tensor;
    assert.equal(part.toRawBytes().length, 8);
    part.copyFrom([0, 0]);
    assert.deepEqual(tensor.toArray(), Int32Array.of(6, 5, 0, 0, 2, 1));
    tensor.dispose();
    assert.deepEqual(part.toArray(), Int32Array.of(0, 0));
  });

  test('are aligned, and their memory is given back', () => {
    const before = memoryBytes();
    for (let round = 0; round < 40; round++) {
      tvm.withNewScope(() => {
        const tensor = tvm.empty([1 << 20], 'float32');
        assert.equal(tensor.getDataPtr() % 64, 0);
        tensor.view([1 << 10, 1 << 10]);
      });
    }
    assert.ok(memoryBytes() <= before + 2 * 4 * (1 << 20), `${memoryBytes() - before} bytes more`);
  });

  test('stay flat in memory over many calls of every kind', () => {
    const echo = packed('testing.echo');
    const callback = tvm.toPackedFunc((...args: unknown[]) => args.length) as unknown as Packed;
    // Calls that fail are not among them: their JS keeps its argument space of each, for good
    const round = (): void => {
      tvm.withNewScope(() => {
        const tensor = tvm.empty([2, 2]);
        echo(tensor);
        echo('a string that is no small one');
        callback(tensor, tvm.makeShapeTuple([1, 2, 3]), 'text that is no small one', 1);
        tvm.makeTVMArray([tensor, 'text that is no small one']);
      });
    };
    for (let i = 0; i < 1000; i++) round();
    const before = memoryBytes();
    for (let i = 0; i < 20_000; i++) round();
    assert.equal(memoryBytes(), before);
  });
});

describe('scopes', () => {
  test('free what they hold, and not what moved out', () => {
    tvm.beginScope();
    const inner = tvm.empty([1]);
    const outer = tvm.empty([1]);
    tvm.moveToParentScope(outer);
    tvm.endScope();
    assert.equal(inner.getHandle(false), 0);
    assert.notEqual(outer.getHandle(false), 0);
    assert.throws(() => inner.getHandle(), /dispose/);
    const detached = tvm.withNewScope(() => tvm.detachFromCurrentScope(tvm.empty([1])));
    assert.notEqual(detached.getHandle(false), 0);
    detached.dispose();
    detached.dispose();
    assert.equal(detached.getHandle(false), 0);
  });
});

describe('the tensor cache', () => {
  /** bfloat16 halves of 1, 2 and -3, then four bytes, in one shard. */
  const shard = Buffer.from([0x80, 0x3f, 0x00, 0x40, 0x40, 0xc0, 9, 8, 7, 6]);
  const manifest = {
    metadata: { ParamSize: 2, note: 'of the test' },
    records: [
      {
        dataPath: 'params_shard_0.bin',
        format: 'raw-shard',
        nbytes: shard.length,
        records: [
          {
            name: 'param_0',
            shape: [3],
            dtype: 'float32',
            format: 'f32-to-bf16',
            byteOffset: 0,
            nbytes: 6,
          },
          {
            name: 'param_1',
            shape: [2, 2],
            dtype: 'uint8',
            format: 'raw',
            byteOffset: 6,
            nbytes: 4,
          },
        ],
      },
    ],
  };
  let server: Server;
  let url: string;
  let requests: string[] = [];
  before(async () => {
    server = createServer((request, response) => {
      requests.push(request.url ?? '');
      if (request.url === '/model/tensor-cache.json') response.end(JSON.stringify(manifest));
      else if (request.url === '/model/params_shard_0.bin') response.end(shard);
      else response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/model/`;
  });
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  afterEach(() => {
    tvm.tensorCacheClear();
    requests = [];
  });

  /** What their JS asks of a cache, over fetch alone. */
  const throughFetch: Tvmjs.ArtifactCacheTemplate = {
    fetchWithCache: async (at: string, type?: string): Promise<unknown> => {
      const response = await fetch(at);
      if (!response.ok) throw new Error(`${response.status} for ${at}`);
      return type === 'json' ? response.json() : response.arrayBuffer();
    },
    addToCache: async () => undefined,
    hasAllKeys: async () => false,
    deleteInCache: async () => undefined,
  };

  test('is filled from a server', async () => {
    const reports: number[] = [];
    tvm.registerInitProgressCallback((report) => reports.push(report.progress));
    await tvm.fetchTensorCache(url, tvm.cpu(), { artifactCache: throughFetch });
    assert.deepEqual(requests, ['/model/tensor-cache.json', '/model/params_shard_0.bin']);
    assert.deepEqual(tvm.tensorCacheGet('param_0')?.toArray(), Float32Array.of(1, 2, -3));
    assert.deepEqual(tvm.tensorCacheGet('param_1')?.shape, [2, 2]);
    assert.deepEqual(tvm.tensorCacheGet('param_1')?.toArray(), Uint8Array.of(9, 8, 7, 6));
    assert.equal(reports.at(-1), 1);
    assert.deepEqual((tvm.cacheMetadata as { note?: string }).note, 'of the test');

    const params = tvm.getParamsFromCache('param', 2);
    assert.ok(params instanceof tvmjs.TVMArray);
    assert.equal(params.size(), 2);
    const named = tvm.getParamsFromCacheByName(['param_1']);
    assert.ok(named instanceof tvmjs.TVMArray);
    assert.deepEqual((named.get(0) as unknown as Tvmjs.Tensor).shape, [2, 2]);
    assert.throws(() => tvm.getParamsFromCache('param', 3), /param_2/);
    assert.throws(() => tvm.getParamsFromCacheByName(['gone']), /gone/);
  });

  test('keeps, replaces and forgets tensors', () => {
    const tensor = tvm.empty([1]).copyFrom([5]);
    assert.equal(tvm.tensorCacheGet('t'), undefined);
    tvm.tensorCacheUpdate('t', tensor);
    tensor.dispose();
    assert.deepEqual(tvm.tensorCacheGet('t')?.toArray(), Float32Array.of(5));
    const other = tvm.empty([1]).copyFrom([6]);
    assert.throws(() => tvm.tensorCacheUpdate('t', other), /'t' already/);
    tvm.tensorCacheUpdate('t', other, true);
    assert.deepEqual(tvm.tensorCacheGet('t')?.toArray(), Float32Array.of(6));
    tvm.tensorCacheRemove('t');
    assert.equal(tvm.tensorCacheGet('t'), undefined);
  });
});

describe('WebGPU', () => {
  let gpu: Tvmjs.Instance;
  before(async () => {
    gpu = new tvmjs.Instance(wasm, {});
    gpu.initWebGPU(await nodeDevice());
  });
  beforeEach(() => gpu.beginScope());
  afterEach(() => gpu.endScope());

  /** The tensor's content, once the device has sent it. */
  async function read(tensor: Tvmjs.Tensor): Promise<ArrayLike<number>> {
    const copy = gpu.empty(tensor.shape, tensor.dtype, gpu.cpu()).copyFrom(tensor);
    await gpu.webgpu().sync();
    return copy.toArray();
  }

  test('tensors are copied both ways, within, and through views', async () => {
    const device = gpu.webgpu();
    const whole = gpu.empty([2, 3], 'float32', device).copyFrom([1, 2, 3, 4, 5, 6]);
    assert.equal(String(whole.device), 'webgpu:0');
    const other = gpu.empty([6], 'float32', device).copyFrom(whole);
    assert.deepEqual(await read(other), Float32Array.of(1, 2, 3, 4, 5, 6));
    const view = gpu.getGlobalFunc('runtime.TVMTensorCreateView') as unknown as Packed;
    const part = (offset: number): Tvmjs.Tensor =>
      view(whole, gpu.makeShapeTuple([2]), 'float32', gpu.scalar(offset, 'int')) as Tvmjs.Tensor;
    assert.deepEqual(await read(part(8)), Float32Array.of(3, 4));
    // Within one buffer, where the ranges overlap
    part(4).copyFrom(part(0));
    assert.deepEqual(await read(whole), Float32Array.of(1, 1, 2, 4, 5, 6));
    const cpu = gpu.empty([2], 'float32').copyFrom([8, 9]);
    part(16).copyFrom(cpu);
    assert.deepEqual(await read(whole), Float32Array.of(1, 1, 2, 4, 8, 9));
  });

  test('sizes that are no multiple of 4 are exact, and what would touch others is refused', async () => {
    const device = gpu.webgpu();
    const cpu = gpu.empty([7], 'uint8').copyFrom([1, 2, 3, 4, 5, 6, 7]);
    const whole = gpu.empty([7], 'uint8', device).copyFrom(cpu);
    assert.deepEqual(await read(whole), Uint8Array.of(1, 2, 3, 4, 5, 6, 7));
    const view = gpu.getGlobalFunc('runtime.TVMTensorCreateView') as unknown as Packed;
    const first = view(
      whole,
      gpu.makeShapeTuple([3]),
      'uint8',
      gpu.scalar(0, 'int'),
    ) as Tvmjs.Tensor;
    const three = gpu.empty([3], 'uint8').copyFrom([9, 9, 9]);
    assert.throws(() => first.copyFrom(three), /3 bytes at byte 0.*multiples of 4/);
    assert.deepEqual(await read(first), Uint8Array.of(1, 2, 3));
  });

  test('embeddings one after the other, and errors that say what is wrong', async () => {
    const device = gpu.webgpu();
    const all = gpu.concatEmbeddings([
      gpu.empty([1, 2], 'float32', device).copyFrom([1, 2]),
      gpu.empty([2, 2], 'float32', device).copyFrom([3, 4, 5, 6]),
    ]);
    assert.deepEqual(await read(all), Float32Array.of(1, 2, 3, 4, 5, 6));
    assert.throws(
      () => gpu.applySoftmaxWithTemperature(all, 1),
      /float32 on the CPU, not float32\[3, 2\] on webgpu:0/,
    );
  });
});

describe('what a language model asks for', () => {
  test('penalties, softmax and samples', () => {
    const logits = tvm.empty([1, 4]).copyFrom([2, -2, 0, 1]);
    tvm.applyRepetitionPenalty(logits, tvm.empty([2], 'int32').copyFrom([0, 1]), 2);
    assert.deepEqual(logits.toArray(), Float32Array.of(1, -4, 0, 1));
    tvm.applyPresenceAndFrequencyPenalty(
      logits,
      tvm.empty([1], 'int32').copyFrom([3]),
      tvm.empty([1], 'int32').copyFrom([2]),
      1,
      0.5,
    );
    assert.deepEqual(logits.toArray(), Float32Array.of(1, -4, 0, -1));
    assert.equal(tvm.sampleTopPFromLogits(logits, 0, 1), 0);
    tvm.applySoftmaxWithTemperature(logits, 0.5);
    const probabilities = logits.toArray();
    const weights = [1, -4, 0, -1].map((logit) => Math.exp(2 * logit));
    const sum = weights.reduce((a, b) => a + b);
    weights.forEach((weight, i) => {
      assert.ok(Math.abs(probabilities[i]! - weight / sum) < 1e-6);
    });
    assert.equal(tvm.sampleTopPFromProb(logits, 0.5), 0);
    tvm.setSeed(7);
    const counts = [0, 0, 0, 0];
    const even = tvm.empty([4]).copyFrom([0.25, 0.25, 0.25, 0.25]);
    for (let i = 0; i < 4000; i++) counts[tvm.sampleTopPFromProb(even, 1)]!++;
    for (const count of counts) assert.ok(count > 850 && count < 1150, counts.join(' '));
  });

  test('embeddings one after the other', () => {
    const all = tvm.concatEmbeddings([
      tvm.empty([1, 2]).copyFrom([1, 2]),
      tvm.empty([2, 2]).copyFrom([3, 4, 5, 6]),
    ]);
    assert.deepEqual(all.shape, [3, 2]);
    assert.deepEqual(all.toArray(), Float32Array.of(1, 2, 3, 4, 5, 6));
  });
});
