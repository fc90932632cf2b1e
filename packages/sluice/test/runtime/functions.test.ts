// Calls in both directions: functions by name, callbacks, errors that cross, and what happens when either is misused.
import assert from 'node:assert/strict';
import { afterEach, before, describe, test } from 'node:test';
import {
  Pointer,
  RuntimeError,
  SluiceError,
  Tensor,
  type Argument,
  type Runtime,
  type RuntimeFunction,
  type Value,
} from 'sluice/runtime';
import { newRuntime, throws, useCount } from './support.js';

let runtime: Runtime;
let nop: RuntimeFunction;
/** Calls its first argument with the others. */
let call: RuntimeFunction;

before(async () => {
  runtime = await newRuntime();
  nop = runtime.getFunction('testing.nop');
  call = runtime.getFunction('tvmjs.testing.call');
  resting = state();
});

/** Nothing of a call stays: no function of JavaScript, no memory of the calls'. */
let resting: unknown;
const state = (): unknown => [
  runtime.core.arena.top,
  runtime.core.arena.blocks,
  runtime.core.temporaries,
];
afterEach(() => assert.deepEqual(state(), resting));

describe('global functions', () => {
  test('are found by name', () => {
    using addOne = runtime.getFunction<[number], number>('testing.add_one');
    assert.equal(addOne(41), 42);
    assert.ok(runtime.hasFunction('testing.add_one'));
    assert.ok(!runtime.hasFunction('testing.add_two'));
    assert.ok(runtime.functionNames().includes('testing.add_one'));
  });
  test('that are not there', () => {
    const error = throws(() => runtime.getFunction('no.such'), 'AttributeError', "'no.such'");
    assert.equal(error.code, 'not_found');
    assert.ok(error instanceof SluiceError);
    throws(() => runtime.getFunction(7 as never), 'TypeError', 'a name is a string, not 7');
  });
  test('of JavaScript are registered, overridden and removed', () => {
    const before = runtime.core.hostFunctions;
    runtime.registerFunction('test.sum', (...values: number[]) =>
      values.reduce((a, b) => a + b, 0),
    );
    assert.equal(runtime.getFunction('test.sum')(1, 2, 3.5), 6.5);
    throws(() => runtime.registerFunction('test.sum', () => 1), 'RuntimeError', "'test.sum'");
    assert.equal(runtime.getFunction('test.sum')(1, 2), 3);
    runtime.registerFunction('test.sum', () => 1, { override: true });
    const held = runtime.getFunction('test.sum');
    assert.equal(held(1, 2), 1);
    assert.ok(runtime.removeFunction('test.sum'));
    assert.ok(!runtime.removeFunction('test.sum'));
    assert.ok(!runtime.hasFunction('test.sum'));
    assert.equal(held(5), 1);
    held.dispose();
    // `sum` was held above, by functions that were not disposed
    assert.ok(runtime.core.hostFunctions <= before + 1);
    throws(() => runtime.registerFunction('', () => 1), 'ValueError', 'empty');
    throws(() => runtime.registerFunction('x', 5 as never), 'TypeError', "'x'", '5');
  });
  test('with names beyond ASCII', () => {
    runtime.registerFunction('test.größe.🦥', () => 'ja');
    assert.equal(runtime.getFunction('test.größe.🦥')(), 'ja');
    assert.ok(runtime.functionNames().includes('test.größe.🦥'));
  });
});

describe('calls', () => {
  test('take any number of arguments', () => {
    for (const count of [0, 1, 17, 1000, 20_000]) {
      const args = Array.from({ length: count }, (_, i) => i);
      assert.equal(nop(...args), undefined);
    }
  });
  test('with a wrong count or kind are errors of the function', () => {
    const size = runtime.getFunction('ffi.ArraySize');
    throws(() => size(), 'TypeError', 'ffi.ArraySize', '1 argument', '0');
    throws(() => size('a', 'b'), 'TypeError', 'ffi.ArraySize', '2');
    throws(() => size('a'), 'TypeError', 'ffi.ArraySize', 'ffi.Array');
  });
  test('of a function that was disposed', () => {
    const echo = runtime.getFunction('testing.echo');
    assert.equal(echo.disposed, false);
    echo.dispose();
    echo.dispose();
    assert.equal(echo.disposed, true);
    throws(() => echo(1), 'ValueError', "function 'testing.echo' was disposed");
    throws(() => nop(echo), 'ValueError', "function 'testing.echo' was disposed");
    throws(() => echo.handle, 'ValueError', 'was disposed');
  });
  test('with an object that was disposed', () => {
    const tensor = runtime.empty([2, 3], 'int8');
    tensor.dispose();
    throws(() => nop(1, tensor), 'ValueError', 'tensor int8[2,3] was disposed');
    const array = runtime.array([1]);
    array.dispose();
    throws(() => nop(array), 'ValueError', 'array was disposed');
  });
});

describe('direct functions', () => {
  /** Registers a function of plain values. */
  const direct = (
    act: (...args: (undefined | boolean | number | bigint)[]) => number | undefined,
  ): void => {
    const { core } = runtime;
    const handle = core.makeDirectFunction(act);
    core.withName('test.direct', (span) =>
      core.checkStatus(core.exports.TVMFFIFunctionSetGlobal(span, handle, 1)),
    );
    core.release(handle, core.calls);
  };
  const called = (...args: Argument[]): Value => runtime.getFunction('test.direct')(...args);

  test('get numbers, and addresses for pointers', () => {
    const seen: unknown[] = [];
    direct((...values) => {
      seen.push(...values);
      return 2 ** 40;
    });
    const pointer = new Pointer(0xffff_fff0);
    assert.equal(called(pointer, -7, 2 ** 53 - 1, -(2n ** 60n), 0.5, true, undefined), 2 ** 40);
    assert.deepEqual(seen, [0xffff_fff0, -7, 2 ** 53 - 1, -(2n ** 60n), 0.5, true, undefined]);
    direct(() => undefined);
    assert.equal(called(1), undefined);
  });
  test('are given no objects', () => {
    direct(() => 0);
    throws(
      () => called(1, [2, 3]),
      'TypeError',
      'a function of plain values was given one of type 69',
    );
    throws(() => called('text'), 'TypeError', 'a function of plain values was given one of type 8');
  });
  test('throw what they throw', () => {
    const thrown = new RangeError('out of it');
    direct(() => {
      throw thrown;
    });
    assert.throws(called, (error) => error === thrown);
  });
  test('are released when they are removed', () => {
    runtime.removeFunction('test.direct');
    const before = runtime.core.hostFunctions;
    direct(() => 0);
    assert.equal(runtime.core.hostFunctions, before + 1);
    runtime.removeFunction('test.direct');
    assert.equal(runtime.core.hostFunctions, before);
  });
});

describe('callbacks', () => {
  test('get values and give one', () => {
    const seen: Value[] = [];
    const result = call(
      (...values: Value[]) => {
        seen.push(...values);
        return [7, 8];
      },
      1,
      'two',
      [3, 4],
      undefined,
      2n ** 60n,
    );
    assert.deepEqual(seen, [1, 'two', [3, 4], undefined, 2n ** 60n]);
    assert.deepEqual(result, [7, 8]);
  });
  test('are released when nobody holds them any more', () => {
    const before = runtime.core.hostFunctions;
    for (let i = 0; i < 100; i++) call(() => i);
    assert.equal(runtime.core.hostFunctions, before);
    const kept = runtime.getFunction('tvmjs.testing.wrap_callback')(() => 5) as RuntimeFunction;
    assert.equal(runtime.core.hostFunctions, before + 1);
    kept();
    kept.dispose();
    assert.equal(runtime.core.hostFunctions, before);
  });
  test('own their objects only until they return', () => {
    using tensor = runtime.tensor([1, 2, 3], [3], 'int32');
    let given: Tensor | undefined;
    let made: Tensor | undefined;
    call((value: Tensor) => {
      given = value;
      made = runtime.empty([1]);
      assert.equal(useCount(runtime, tensor), 2);
      assert.deepEqual([...value.toArray()], [1, 2, 3]);
    }, tensor);
    assert.ok(given?.disposed && made?.disposed);
    assert.equal(useCount(runtime, tensor), 1);
    throws(() => given?.shape, 'ValueError', 'was disposed');
  });
  test('keep what they detach', () => {
    using tensor = runtime.tensor([1, 2, 3], [3], 'int32');
    let kept: Tensor | undefined;
    call((value: Tensor) => {
      kept = runtime.detach(value);
    }, tensor);
    assert.equal(useCount(runtime, tensor), 2);
    kept?.dispose();
    assert.equal(useCount(runtime, tensor), 1);
  });
  test('give objects that they made', () => {
    const result = call(() => runtime.tensor([1, 2], [2], 'uint8'));
    assert.ok(result instanceof Tensor);
    assert.equal(useCount(runtime, result), 1);
    assert.deepEqual([...result.bytes()], [1, 2]);
    result.dispose();
  });
  test('are given a DLTensor, which is valid only while they run', () => {
    using tensor = runtime.tensor([1, 2, 3, 4], [2, 2], 'int32');
    // As compiled code passes tensors
    const borrowed = new Tensor(runtime.core, tensor.handle + 24, { borrowed: true });
    let given: Tensor | undefined;
    call((value: Tensor) => {
      given = value;
      assert.deepEqual([value.shape, value.dtype], [[2, 2], 'int32']);
      assert.deepEqual([...value.toArray()], [1, 2, 3, 4]);
      value.set([5, 6, 7, 8]);
      throws(() => runtime.detach(value), 'ValueError', 'only while the callback runs');
      using scope = runtime.scope();
      throws(() => scope.add(value), 'ValueError', 'only while the callback runs');
      // And passed on as what it is
      call((again: Tensor) => assert.deepEqual([...again.toArray()], [5, 6, 7, 8]), value);
    }, borrowed);
    assert.deepEqual([...tensor.toArray()], [5, 6, 7, 8]);
    throws(() => given?.shape, 'ValueError', 'was disposed');
    borrowed.dispose();
    assert.equal(useCount(runtime, tensor), 1);
  });
  test('that give a promise, or nothing that is a value', () => {
    const error = throws(() => call(async () => 1), 'TypeError', 'what a callback gave', 'Promise');
    assert.match(error.hint ?? '', /asynchronous/);
    throws(() => call(() => ({})), 'TypeError', 'a plain object');
  });
  test('call back into C++, which makes its memory larger', () => {
    const before = runtime.memoryBytes;
    const result = call(
      (text: string, bytes: Uint8Array) => {
        const large = runtime.empty([runtime.memoryBytes], 'uint8');
        large.inPlace()[5] = 7;
        const inner = call((x: number) => x + 1, 41);
        assert.equal(large.inPlace()[5], 7);
        return [text, bytes, inner as number];
      },
      'a text of more than seven bytes',
      Uint8Array.of(1, 2, 3),
    );
    assert.ok(runtime.memoryBytes > before);
    assert.deepEqual((result as { toArray(): Value[] }).toArray(), [
      'a text of more than seven bytes',
      Uint8Array.of(1, 2, 3),
      42,
    ]);
  });
  test('that are disposed while they run', () => {
    const held: { f?: RuntimeFunction } = {};
    const before = runtime.core.hostFunctions;
    held.f = runtime.makeFunction((depth: number): Argument => {
      held.f?.dispose();
      throws(() => held.f?.(depth), 'ValueError', 'was disposed');
      // Whatever takes its place in the tables meanwhile
      for (let i = 0; i < 10; i++) runtime.makeFunction(() => -1).dispose();
      return `ran ${depth}`;
    });
    assert.equal(held.f(1), 'ran 1');
    assert.equal(runtime.core.hostFunctions, before);
  });
  test('that dispose the arguments of the call that called them', () => {
    const tensor = runtime.tensor([5, 6], [2], 'int32');
    const result = call(
      (f: Argument, value: Tensor) => {
        tensor.dispose();
        for (let i = 0; i < 100; i++) runtime.tensor([i, i], [2], 'int32').dispose();
        return [...value.toArray()] as number[];
      },
      'x',
      tensor,
    );
    assert.deepEqual(result, [5, 6]);
  });
  test('whose arguments are disposed before C++ looks at them', () => {
    // C++ passes on what it was given, after the first callback has disposed it
    const first = runtime.makeFunction(() => tensor.dispose());
    const tensor = runtime.tensor([9], [1], 'int32');
    runtime.registerFunction('test.second', (_first: Value, value: Tensor) => {
      first();
      return value.toArray()[0];
    });
    assert.equal(runtime.getFunction('test.second')(0, tensor), 9);
    assert.ok(tensor.disposed);
    first.dispose();
  });
  test('that never end are an error', () => {
    let depth = 0;
    runtime.registerFunction('test.forever', (): unknown => {
      depth++;
      return runtime.getFunction('test.forever')();
    });
    throws(() => runtime.getFunction('test.forever')(), 'RecursionError', '200 deep');
    assert.equal(depth, 200);
    assert.equal(runtime.getFunction('testing.add_one')(1), 2);
  });
});

describe('errors', () => {
  test('of C++ have kind, message and code', () => {
    const raise = runtime.getFunction('testing.test_raise_error');
    const error = throws(() => raise('ValueError', 'no good'), 'ValueError', 'no good');
    assert.equal(error.code, 'invalid_argument');
    assert.equal(error.message, 'no good');
    assert.ok(error.stack?.includes('functions.test'), error.stack);
    assert.equal(typeof error.wasmBacktrace, 'string');
    assert.equal(throws(() => raise('KeyError', 'x'), 'KeyError').code, 'not_found');
    assert.equal(throws(() => raise('Strange', 'größe'), 'Strange', 'größe').code, 'internal');
    assert.equal(throws(() => raise('device_lost', 'x'), 'device_lost').code, 'device_lost');
  });
  test('of JavaScript come back as the same object, through as much C++ as there is', () => {
    class Special extends Error {
      readonly extra = 7;
    }
    const special = new Special('mine', { cause: 'why' });
    const fail = (): never => {
      throw special;
    };
    for (const act of [
      () => call(fail),
      () => call(() => call(fail)),
      () => call(call, call, fail),
      () =>
        call(() => {
          try {
            call(fail);
          } catch (error) {
            assert.equal(error, special);
            throw error;
          }
        }),
    ]) {
      assert.throws(act, (error) => error === special);
    }
    assert.equal(special.cause, 'why');
    assert.ok(special.stack?.includes('functions.test'));
  });
  test('of JavaScript are errors that C++ can read', () => {
    const before = runtime.core.hostFunctions;
    // C++ raises another, which names it
    let text = '';
    const error = throws(
      () =>
        call(() => {
          try {
            call(() => {
              throw new RangeError('deep');
            });
          } catch (inner) {
            text = String(inner);
            throw new RuntimeError('ValueError', 'outer', { cause: inner });
          }
        }),
      'ValueError',
      'outer',
    );
    assert.equal(text, 'RangeError: deep');
    assert.ok(error.cause instanceof RangeError);
    assert.equal(runtime.core.hostFunctions, before, 'a thrown error stays');
  });
  test('that are no errors are the cause of one', () => {
    for (const value of ['text', 5, undefined, null, { a: 1 }]) {
      const error = throws(
        () =>
          call(() => {
            // eslint-disable-next-line @typescript-eslint/only-throw-error -- what people do
            throw value;
          }),
        'Error',
        'a callback threw',
      );
      if (value !== undefined && value !== null) assert.equal(error.cause, value);
    }
  });
  test('leave the runtime as it was', () => {
    const before = runtime.core.hostFunctions;
    for (let i = 0; i < 1000; i++) {
      assert.throws(() =>
        call(
          () => {
            runtime.empty([3]);
            runtime.scope();
            throw new Error('again');
          },
          runtime.withScope(() => 'a'),
          new Uint8Array(40_000),
        ),
      );
    }
    assert.equal(runtime.core.hostFunctions, before);
    assert.equal(runtime.core.scopes.current, undefined);
  });
  test('while arguments are written release what was written', () => {
    const before = runtime.core.hostFunctions;
    throws(
      () =>
        nop(
          () => 1,
          ['a', ['b', () => 2]],
          new Uint8Array(100_000),
          'a\0b'.repeat(100),
          {} as never,
        ),
      'TypeError',
      'argument 4',
    );
    assert.equal(runtime.core.hostFunctions, before);
  });
});

describe('a runtime that has ended', () => {
  test('after dispose() everything is an error', async () => {
    const other = await newRuntime();
    const echo = other.getFunction('testing.echo');
    const tensor = other.empty([1]);
    other.dispose();
    other.dispose();
    throws(() => echo(1), 'ValueError', 'the runtime was disposed');
    throws(() => other.getFunction('testing.echo'), 'ValueError', 'the runtime was disposed');
    throws(() => other.empty([1]), 'ValueError', 'the runtime was disposed');
    tensor.dispose();
    echo.dispose();
  });
  test('after a trap, which says why', async () => {
    const other = await newRuntime();
    const tensor = other.empty([1]);
    const addOne = other.getFunction('testing.add_one');
    // An address that no JavaScript of users can pass
    const error = throws(() => other.core.call(0xffff_ff00, []), 'InternalError', 'stopped');
    assert.ok(error.cause instanceof WebAssembly.RuntimeError);
    assert.match(error.hint ?? '', /createRuntime/);
    throws(() => addOne(1), 'InternalError', 'stopped');
    throws(() => other.empty([1]), 'InternalError', 'stopped');
    tensor.dispose();
  });
});
