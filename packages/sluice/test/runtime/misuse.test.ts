// Every function that the runtime has, with arguments that have nothing to do with it: a value or an error, and never a trap.
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import { float, Pointer, RuntimeError, type Argument, type Runtime } from 'sluice/runtime';
import { newRuntime, throws } from './support.js';

const CALLS = 20_000;
/** Would take the others away. */
const REMOVES = 'ffi.FunctionRemoveGlobal';

/** Reproducible numbers below `end`. */
function numbers(seed: number): (end: number) => number {
  let state = seed;
  return (end) => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return (state >>> 8) % end;
  };
}

class Mine extends Error {}

function someArguments(runtime: Runtime): Argument[] {
  const fail = (): never => {
    throw new Mine();
  };
  return [
    ...[undefined, true, 0, 1, -1, 2 ** 31, 2 ** 53 - 1, 1.5, float(2), 10n ** 18n, -(2n ** 63n)],
    ...['', 'cpu', 'float32', 'raw', 'f32-to-bf16', 'a'.repeat(300), new Uint8Array(5)],
    ...[[], [2, 3], [-1], [2 ** 40, 2 ** 40], ['a', 'b'], [1.5, [2, 'c']]],
    ...[runtime.cpu(), runtime.webgpu(), runtime.dtype('float32'), runtime.dtype('int4')],
    ...[() => 1, (value: Argument) => value, fail, new Pointer(0)],
    ...[runtime.empty([4]), runtime.empty([2, 3], 'int32'), runtime.empty([1, 8])],
    ...[runtime.empty([], 'int64'), runtime.empty([0, 2], 'uint8'), runtime.empty([5], 'int4')],
    ...[runtime.getFunction('testing.nop'), runtime.array([1, 2]), runtime.systemLibrary()],
    runtime.array([runtime.empty([2])]),
  ];
}

describe('misuse', () => {
  let runtime: Runtime;
  before(async () => {
    runtime = await newRuntime();
  });

  for (const seed of [1, 2, 3]) {
    test(`any arguments to any function (${seed})`, () => {
      const below = numbers(seed);
      const names = runtime.functionNames().filter((name) => name !== REMOVES);
      const before = runtime.memoryBytes;
      let succeeded = 0;
      for (let i = 0; i < CALLS; i++) {
        using _scope = runtime.scope();
        const name = names[below(names.length)] ?? '';
        const all = someArguments(runtime);
        const args = Array.from({ length: below(7) }, () => all[below(all.length)]);
        try {
          runtime.getFunction(name)(...args);
          succeeded++;
        } catch (error) {
          if (error instanceof Mine) continue;
          assert.ok(error instanceof RuntimeError, `${name}: ${String(error)}`);
          assert.notEqual(error.kind, 'InternalError', `${name}: ${error.message}`);
          // Which raises what it is told to
          if (name !== 'testing.test_raise_error') assert.ok(error.message.length > 0, name);
        }
      }
      assert.ok(succeeded > CALLS / 20, `only ${succeeded} calls succeeded`);
      assert.ok(succeeded < CALLS / 2, `${succeeded} calls succeeded`);
      assert.equal(runtime.getFunction('testing.add_one')(1), 2);
      assert.ok(runtime.memoryBytes - before < 2 ** 20);
    });
  }

  test('a null handle', () => {
    throws(() => runtime.core.call(0, []), 'ValueError', 'TVMFFIFunctionCall', 'null');
    throws(
      () => runtime.getFunction('ffi.ArraySize')(new Pointer(0)),
      'TypeError',
      'ffi.ArraySize',
    );
  });
});
