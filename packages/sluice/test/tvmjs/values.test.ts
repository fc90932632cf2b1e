// What functions of sluice/tvmjs take and give, callbacks, and errors either way.
import assert from 'node:assert/strict';
import { afterEach, before, beforeEach, describe, test } from 'node:test';
import * as tvmjs from 'sluice/tvmjs';
import type { Instance, PackedFunc, Tensor } from 'sluice/tvmjs';
import { memoryBytes, newInstance, wasm } from './support.js';

let tvm: Instance;
const packed = (name: string): PackedFunc => tvm.getGlobalFunc(name);
const messageOf = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof Error);
    return error.message;
  }
  return 'no error';
};

before(() => {
  tvm = newInstance();
});
beforeEach(() => tvm.beginScope());
afterEach(() => tvm.endScope());

describe('an instance', () => {
  test('starts with providers of every kind, and with none', async () => {
    const wasi = tvmjs.createPolyfillWASI();
    const wasiImport = wasi.imports['wasi_snapshot_preview1'] as object;
    const start = (instance: WebAssembly.Instance): void => wasi.start(instance);
    for (const given of [
      undefined,
      {},
      wasi,
      { wasmLibraryProvider: wasi },
      { wasiImport, start },
      { env: { other: () => 0 } },
    ]) {
      const instance = new tvmjs.Instance(wasm, given as Record<string, unknown>);
      assert.ok(instance.listGlobalFuncNames().includes('tvmjs.testing.add_one'));
      instance.dispose();
    }
    const lines: string[] = [];
    const { buffer } = new Uint8Array(await wasmBytes());
    const instance = await tvmjs.instantiate(buffer, {}, (line) => lines.push(line));
    instance.withNewScope(() => {
      instance.getGlobalFunc('tvmjs.testing.log_info_str')('what it says');
    });
    assert.ok(
      lines.some((line) => line.includes('what it says')),
      String(lines),
    );
    assert.equal(instance.asyncifyEnabled(), false);
    assert.equal(instance.runtimeStatsText(), '');
  });

  test('says what is no runtime', () => {
    const empty = new WebAssembly.Module(Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0));
    assert.throws(
      () => new tvmjs.Instance(empty),
      /Cannot find TVMWasmAllocSpace,TVMWasmFreeSpace in exports/,
    );
    assert.throws(
      () => new tvmjs.Instance(wasm, {}, new WebAssembly.Instance(empty)),
      /AssertError:env must be provided/,
    );
  });

  test('ends: nothing of it works, and objects can still be let go of', () => {
    const instance = newInstance();
    instance.beginScope();
    const tensor = instance.empty([1]);
    const echo = instance.getGlobalFunc('testing.echo');
    instance.dispose();
    instance.dispose();
    assert.match(
      messageOf(() => echo(1) as unknown),
      /^ValueError: the runtime was disposed/,
    );
    tensor.dispose();
    echo.dispose();
  });
});

async function wasmBytes(): Promise<Buffer> {
  const { readFile } = await import('node:fs/promises');
  return readFile(`${tvmjs.wasmPath()}/sluice_runtime.wasm`);
}

describe('values', () => {
  test('numbers pass as float, scalars as what they say', () => {
    const echo = packed('testing.echo');
    for (const value of [0, -1, 0.1, 1e300, -0, Infinity, NaN, 2 ** 53, 2 ** 60, true, false]) {
      assert.ok(Object.is(echo(value), value), String(value));
    }
    const addOne = packed('tvmjs.testing.add_one');
    assert.match(
      messageOf(() => addOne(1) as unknown),
      /^TypeError: tvmjs\.testing\.add_one: argument 0 must be int/,
    );
    for (const dtype of ['int', 'int32', 'int64', 'uint8']) {
      for (const value of [0, 1, -1, 2 ** 31, -(2 ** 40), 2 ** 53 - 1]) {
        assert.equal(echo(tvm.scalar(value, dtype)), value);
      }
    }
    assert.equal(echo(tvm.scalar(7.9, 'int')), 7);
    assert.equal(echo(tvm.scalar(7.5, 'float32')), 7.5);
    assert.equal(echo(tvm.scalar(2 ** 32 - 8, 'handle')), 2 ** 32 - 8);
    assert.throws(() => echo(tvm.scalar(2 ** 53, 'int')) as unknown, /at most 2\^53 - 1/);
    assert.throws(() => echo(tvm.scalar(NaN, 'int')) as unknown, /NaN is no integer/);
    assert.throws(() => echo(tvm.scalar(1, 'bool')) as unknown, /AssertError:Expect handle/);
    assert.equal(echo(null), undefined);
    assert.equal(echo(undefined), undefined);
    // Beyond 2^53 what an int is only a bigint says
    assert.equal(echo(2n ** 60n), 2n ** 60n);
  });

  test('strings and bytes of every length around the small ones', () => {
    const echo = packed('testing.echo');
    for (let length = 0; length <= 20; length++) {
      const text = 'abcdefghijklmnopqrstuvwxyz'.slice(0, length);
      assert.equal(echo(text), text);
      const bytes = Uint8Array.from({ length }, (_, i) => 255 - i);
      assert.deepEqual(echo(bytes), bytes);
    }
    assert.equal(echo('Größe 🦥, and a 0: \0.'), 'Größe 🦥, and a 0: \0.');
    const long = Uint8Array.from({ length: 100_000 }, (_, i) => i * 7);
    assert.deepEqual(echo(long), long);
  });

  test('objects come back as they are', () => {
    const echo = packed('testing.echo');
    const tensor = tvm.empty([2, 2]).copyFrom([1, 2, 3, 4]);
    const same = echo(tensor) as Tensor;
    assert.ok(same instanceof tvmjs.Tensor);
    assert.equal(same.getHandle(), tensor.getHandle());
    assert.deepEqual(same.toArray(), Float32Array.of(1, 2, 3, 4));
    assert.equal(same.typeKey(), 'ffi.Tensor');
    assert.equal(same.typeIndex(), tvm.typeKey2Index('ffi.Tensor'));
    const module = tvm.systemLib();
    const back = echo(module) as tvmjs.Module;
    assert.ok(back instanceof tvmjs.Module);
    assert.equal(back.getHandle(), module.getHandle());
    assert.equal(module.getFunction('no_such_function'), undefined);
    const device = echo(tvm.cpu()) as tvmjs.DLDevice;
    assert.ok(device instanceof tvmjs.DLDevice);
    assert.equal(String(device), 'cpu:0');
    assert.equal(echo(new tvmjs.DLDataType(2, 16, 4)), 'float16x4');
    assert.ok(tvm.isPackedFunc(echo(echo)));
    assert.ok(!tvm.isPackedFunc(() => 1) && !tvm.isPackedFunc({}));
  });

  test('shapes come back as arrays of numbers, which pass as shapes again', () => {
    const echo = packed('testing.echo');
    const tuple = tvm.makeShapeTuple([3, 4]);
    assert.ok(tuple instanceof tvmjs.TVMObject);
    assert.equal(tuple.typeKey(), 'ffi.Shape');
    assert.equal(tuple, tvm.makeShapeTuple([3, 4]));
    assert.deepEqual(echo(tuple), [3, 4]);
    assert.deepEqual(echo(echo(tuple)), [3, 4]);
    const call = packed('tvmjs.testing.call');
    const seen: unknown[] = [];
    call((shape: number[]) => {
      seen.push(shape, echo(shape));
    }, tvm.makeShapeTuple([]));
    assert.deepEqual(seen, [[], []]);
    const alloc = packed('runtime.TVMTensorAllocWithScope');
    const empty = alloc(echo(tvm.makeShapeTuple([])), 'int8', tvm.cpu(), null) as Tensor;
    assert.deepEqual(empty.shape, []);
    // Never disposed of, so that everyone's repeated shape stays valid
    tuple.dispose();
    assert.notEqual(tuple.getHandle(), 0);
    assert.equal((alloc(tuple, 'int8', tvm.cpu(), null) as Tensor).shape.join(), '3,4');
  });

  test('arrays hold objects and values; arrays of strings pass as arrays', () => {
    const tensor = tvm.empty([1]);
    const inner = tvm.makeTVMArray([]);
    const array = tvm.makeTVMArray([tensor, inner, 'a string of many letters', 'short', 1.5]);
    assert.ok(array instanceof tvmjs.TVMArray);
    assert.equal(array.size(), 5);
    assert.equal((array.get(0) as Tensor).getHandle(), tensor.getHandle());
    assert.equal((array.get(1) as tvmjs.TVMArray).getHandle(), inner.getHandle());
    assert.equal(array.get(2) as unknown, 'a string of many letters');
    assert.equal(array.get(4) as unknown, 1.5);
    assert.match(
      messageOf(() => array.get(5)),
      /^IndexError: .*index 5 of 5/,
    );
    const echo = packed('testing.echo');
    const strings = echo(['a', 'b']) as tvmjs.TVMArray;
    assert.ok(strings instanceof tvmjs.TVMArray);
    assert.deepEqual([strings.get(0), strings.get(1)], ['a', 'b']);
    assert.equal((echo([]) as tvmjs.TVMArray).size(), 0);
    const many = tvm.makeTVMArray(Array.from({ length: 70_000 }, (_, i) => i));
    assert.equal(many.size(), 70_000);
    assert.equal(many.get(69_999) as unknown, 69_999);
  });

  test('what is no value is refused, and named', () => {
    const echo = packed('testing.echo');
    for (const value of [{}, [1, 'a'], [{}], Symbol('s'), new Map(), Float32Array.of(1)]) {
      assert.match(
        messageOf(() => echo(value) as unknown),
        /^Unsupported argument type (object|symbol) value=`.*`$/,
      );
    }
    const other = newInstance();
    other.beginScope();
    assert.match(
      messageOf(() => echo(other.empty([1])) as unknown),
      /^TypeError: .*belongs to another runtime/,
    );
    const tensor = tvm.empty([1]);
    tensor.dispose();
    assert.equal(
      messageOf(() => echo(tensor) as unknown),
      'Object has already been disposed',
    );
    assert.equal(
      messageOf(() => tensor.typeIndex()),
      'The current Object has already been disposed',
    );
  });

  test('types of objects have constructors that callers can replace', () => {
    const instance = newInstance();
    class Mine extends tvmjs.TVMArray {}
    assert.throws(
      () => instance.registerObjectConstructor('ffi.Array', (...args) => new Mine(...args)),
      /Type ffi\.Array already registered/,
    );
    instance.registerObjectConstructor('ffi.Array', (...args) => new Mine(...args), true);
    instance.withNewScope(() => {
      const array = instance.makeTVMArray(['a']);
      assert.ok(array instanceof Mine);
      assert.equal(array.size(), 1);
    });
    assert.match(
      messageOf(() => instance.typeKey2Index('no.such.type')),
      /no\.such\.type/,
    );
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
    });
    const count: unknown = callback(
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
      [1],
      'ffi.Array',
      'ffi.Tensor',
    ]);
  });

  test('give back objects that they make, get, and keep', () => {
    const made = tvm.toPackedFunc((n: number) => tvm.empty([2]).copyFrom([n, n]));
    assert.deepEqual((made(3) as Tensor).toArray(), Float32Array.of(3, 3));
    const same = tvm.toPackedFunc((tensor: Tensor) => tensor);
    const tensor = tvm.empty([1]);
    assert.equal((same(tensor) as Tensor).getHandle(), tensor.getHandle());
    const uses = packed('testing.object_use_count');
    assert.equal(uses(tensor), 2);
    assert.deepEqual((tvm.toPackedFunc(() => [2, 3])() as number[]).join(), '2,3');
    const adder = tvm.toPackedFunc(
      (y: number) => (x: unknown, z: unknown) => `${String(x)}${y}${String(z)}`,
    );
    assert.equal(tvm.toPackedFunc(adder), adder);
    const add = adder(10) as PackedFunc;
    assert.equal(add('x', 'z'), 'x10z');
    add.dispose();
    add.dispose();
    assert.throws(() => add(1, 2) as unknown, /Object has already been disposed/);
  });

  test('keep an argument only where they detach it', () => {
    const uses = packed('testing.object_use_count');
    const kept: Tensor[] = [];
    const callback = tvm.toPackedFunc((tensor: Tensor, keep: boolean) => {
      assert.equal(uses(tensor), 2);
      kept.push(tensor);
      if (keep) tvm.detachFromCurrentScope(tensor);
    });
    const tensor = tvm.empty([2]).copyFrom([1, 2]);
    callback(tensor, false);
    assert.equal(kept[0]?.getHandle(false), 0);
    assert.equal(uses(tensor), 1);
    callback(tensor, true);
    assert.equal(uses(tensor), 2);
    kept[1]?.dispose();
    assert.equal(uses(tensor), 1);
  });

  test('are found by name, and replaced only where that is said', () => {
    tvm.registerFunc('test.join', (a: string, b: string) => a + b);
    assert.equal(packed('test.join')('a', 'b'), 'ab');
    assert.match(
      messageOf(() => tvm.registerFunc('test.join', () => 1)),
      /^\w+Error: .*test\.join.*already/,
    );
    tvm.registerFunc('test.join', packed('testing.echo'), true);
    assert.equal(packed('test.join')('b'), 'b');
    assert.equal(packed('ffi.FunctionRemoveGlobal')('test.join'), true);
    assert.equal(
      messageOf(() => packed('test.join')),
      'Cannot find global function test.join',
    );
    assert.throws(() => tvm.registerFunc('test.none', 1 as never), /takes a function, not 1/);
  });

  test('call C++ that calls JS, many levels deep', () => {
    const call = packed('tvmjs.testing.call');
    const down = tvm.toPackedFunc((n: number): unknown =>
      n === 0 ? 'bottom' : (call(down, n - 1) as unknown),
    );
    assert.equal(down(60), 'bottom');
  });

  test('that are disposed of while they run', () => {
    const callback = tvm.toPackedFunc(() => {
      callback.dispose();
      return tvm.empty([3]).shape;
    });
    assert.equal((callback() as number[]).join(), '3');
  });

  test('asynchronous ones answer a callback', async () => {
    tvm.registerAsyncServerFunc('test.later', async (x: number) => {
      await new Promise((resolve) => setTimeout(resolve, 1));
      if (x < 0) throw new RangeError('below 0');
      return x + 1;
    });
    const later = packed('__async.test.later');
    const answer = (x: number): Promise<unknown[]> =>
      new Promise((resolve) => {
        tvm.withNewScope(() => {
          later(x, (...values: unknown[]) => resolve(values));
        });
      });
    assert.deepEqual(await answer(1), [4, 2]);
    assert.deepEqual(await answer(-1), [5, 'RangeError: below 0']);
    const time = packed('__async.wasm.TimeExecution');
    // Each step takes some 10 microseconds
    const work = tvm.toPackedFunc((steps: number) => {
      for (const end = performance.now() + steps / 100; performance.now() < end;);
    });
    const bytes = await new Promise<Uint8Array>((resolve) => {
      const int = (value: number): tvmjs.Scalar => tvm.scalar(value, 'int');
      const done = (_code: number, value: Uint8Array): void => resolve(value);
      time(work, tvm.cpu(), int(10), int(3), int(1), int(100), int(0), int(1), done);
    });
    const seconds = new Float64Array(bytes.buffer);
    assert.equal(seconds.length, 3);
    assert.ok(
      seconds.every((value) => value >= 1e-5 && value < 1e-2),
      String(seconds),
    );
    const wrapped = tvm.wrapAsyncifyPackedFunc(packed('testing.echo'));
    assert.equal(await wrapped('value'), 'value');
    tvm.registerAsyncifyFunc('test.waits', async () => 1);
    assert.match(
      messageOf(() => packed('test.waits')() as unknown),
      /'test\.waits' gave a promise, and C\+\+ cannot wait/,
    );
  });
});

describe('errors', () => {
  test('of C++ say kind, function, argument and numbers', () => {
    const addOne = packed('tvmjs.testing.add_one');
    assert.match(
      messageOf(() => addOne('x') as unknown),
      /^TypeError: tvmjs\.testing\.add_one: argument 0 must be int/,
    );
    assert.match(
      messageOf(() => addOne() as unknown),
      /takes 1 arguments, not 0/,
    );
    assert.equal(
      messageOf(() => packed('testing.test_raise_error')('KeyError', 'what was said') as unknown),
      'KeyError: what was said',
    );
  });

  test('of JS go through C++ to the caller, as themselves', () => {
    const mine = new RangeError('out of the callback');
    const fails = tvm.toPackedFunc(() => {
      throw mine;
    });
    for (const act of [
      () => fails() as unknown,
      () => packed('tvmjs.testing.call')(fails) as unknown,
    ]) {
      try {
        act();
        assert.fail();
      } catch (error) {
        assert.equal(error, mine);
      }
    }
    // and leave nothing behind, also where scopes were left open
    const careless = tvm.toPackedFunc(() => {
      tvm.beginScope();
      tvm.beginScope();
      throw mine;
    });
    assert.throws(() => careless() as unknown, /out of the callback/);
    tvm.beginScope();
    const tensor = tvm.empty([1]);
    tvm.endScope();
    assert.equal(tensor.getHandle(false), 0);
    assert.equal(packed('testing.echo')('fine'), 'fine');
  });

  test('of results that are no values', () => {
    for (const result of [Promise.resolve(1), {}, new Map()]) {
      assert.match(
        messageOf(() => tvm.toPackedFunc(() => result)() as unknown),
        /^Unsupported argument type object value=/,
      );
    }
  });

  test('of C++ can be caught in a callback', () => {
    const addOne = packed('tvmjs.testing.add_one');
    const careful = tvm.toPackedFunc(() => messageOf(() => addOne('x') as unknown));
    assert.match(
      String(packed('tvmjs.testing.call')(careful)),
      /^TypeError: tvmjs\.testing\.add_one/,
    );
  });
});

describe('scopes', () => {
  test('free what they hold, and not what moved out', () => {
    tvm.beginScope();
    const inner = tvm.empty([1]);
    const outer = tvm.moveToParentScope(tvm.empty([1]));
    tvm.endScope();
    assert.equal(inner.getHandle(false), 0);
    assert.notEqual(outer.getHandle(false), 0);
    const detached = tvm.withNewScope(() => tvm.detachFromCurrentScope(tvm.empty([1])));
    assert.notEqual(detached.getHandle(false), 0);
    assert.throws(() => tvm.detachFromCurrentScope(detached), /Cannot find obj in the current/);
    tvm.attachToCurrentScope(detached);
    tvm.attachToCurrentScope(detached);
    assert.throws(() => tvm.detachFromCurrentScope(detached), /attached to scope multiple times/);
    detached.dispose();
    detached.dispose();
  });

  test('end also where their action throws', () => {
    let tensor: Tensor | undefined;
    assert.throws(
      () =>
        tvm.withNewScope(() => {
          tensor = tvm.empty([1]);
          throw new Error('of the action');
        }),
      /of the action/,
    );
    assert.equal(tensor?.getHandle(false), 0);
  });

  test('must be there for whoever makes objects', () => {
    const instance = newInstance();
    assert.throws(() => instance.empty([1]), /Must call beginScope/);
    assert.throws(() => instance.getGlobalFunc('testing.echo'), /Must call beginScope/);
    assert.throws(() => instance.endScope(), /endScope called when the stack is empty/);
    instance.beginScope();
    assert.throws(
      () => instance.moveToParentScope(instance.empty([1])),
      /Parent scope do not exist/,
    );
    instance.endScope();
  });

  test('keep memory flat over many calls of every kind', () => {
    const echo = packed('testing.echo');
    const callback = tvm.toPackedFunc((...args: unknown[]) => args.length);
    const fails = tvm.toPackedFunc(() => {
      throw new Error('again');
    });
    const round = (i: number): void => {
      tvm.withNewScope(() => {
        const tensor = tvm.empty([2, 2]);
        echo(tensor);
        echo('a string that is no small one');
        callback(tensor, tvm.makeShapeTuple([1, i, 3]), 'text that is no small one', 1);
        tvm.makeTVMArray([tensor, 'text that is no small one']);
        assert.throws(() => fails() as unknown, /again/);
        assert.throws(() => echo() as unknown, /takes 1/);
      });
    };
    for (let i = 0; i < 2000; i++) round(i);
    const begin = memoryBytes(tvm);
    for (let i = 0; i < 4_000; i++) round(i);
    assert.equal(memoryBytes(tvm), begin);
  });
});
