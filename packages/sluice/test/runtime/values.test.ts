// What passes between JavaScript and C++: every kind of value, in both directions, and what is refused.
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import {
  DataType,
  Device,
  float,
  Pointer,
  RuntimeArray,
  RuntimeModule,
  Tensor,
  type Argument,
  type Runtime,
  type RuntimeFunction,
  type Value,
} from 'sluice/runtime';
import { newRuntime, throws } from './support.js';

let runtime: Runtime;
let echo: RuntimeFunction;
let callback: RuntimeFunction;

before(async () => {
  runtime = await newRuntime();
  echo = runtime.getFunction('testing.echo');
  callback = runtime.makeFunction((value: Value) => value);
});

/** By way of a C++ function that gives back what it is given, and by way of a callback. */
function roundTrip(value: Argument): Value {
  const result = echo(value);
  assert.deepEqual(callback(value), result);
  return result;
}

describe('values that come back as they were', () => {
  const same: [string, Argument][] = [
    ['none', undefined],
    ['true', true],
    ['false', false],
    ['zero', 0],
    ['a small integer', -7],
    ['the least of 32 bits', -(2 ** 31)],
    ['the greatest of 32 bits', 2 ** 31 - 1],
    ['one more', 2 ** 31],
    ['above 32 bits', 2 ** 40 + 3],
    ['below', -(2 ** 40) - 3],
    ['the greatest safe integer', Number.MAX_SAFE_INTEGER],
    ['the least safe integer', Number.MIN_SAFE_INTEGER],
    ['a fraction', 1.25],
    ['infinity', -Infinity],
    ['NaN', NaN],
    ['minus zero', -0],
    ['the greatest of 64 bits', 2n ** 63n - 1n],
    ['the least of 64 bits', -(2n ** 63n)],
    ['just beyond the safe integers', 2n ** 53n],
    ['an empty string', ''],
    ['a small string', 'seven b'],
    ['a string', 'eight by'],
    ['a string beyond ASCII', 'Größe 🦥 — 大'],
    ['a long string', 'sluice '.repeat(3000)],
    ['a very long string beyond ASCII', '閘'.repeat(200_000)],
    ['a string with a zero', 'a\0b'],
    ['a long string with a zero', `${'a'.repeat(100)}\0${'b'.repeat(100)}`],
    ['a byte order mark', '\ufeffa'.repeat(20)],
    ['no bytes', new Uint8Array()],
    ['few bytes', Uint8Array.of(1, 0, 255)],
    ['many bytes', new Uint8Array(100_000).map((_, i) => i * 7)],
    ['a part of an array', new Uint8Array(100).map((_, i) => i).subarray(30, 60)],
    ['a shape', [2, 3, 4]],
    ['a shape of one', [7]],
    ['no dimensions', []],
    ['a dimension above 32 bits', [2 ** 40, 1, -1]],
  ];
  for (const [name, value] of same) {
    test(name, () => assert.deepEqual(roundTrip(value), value));
  }

  test('null is none', () => assert.equal(roundTrip(null), undefined));
  test('a bigint comes back as a number where that is safe', () => {
    assert.equal(roundTrip(12n), 12);
    assert.equal(roundTrip(-(2n ** 53n) + 1n), Number.MIN_SAFE_INTEGER);
  });
  test('float() of an integer is a float', () => {
    assert.equal(roundTrip(float(3)), 3);
    // What takes an int refuses a float
    const addOne = runtime.getFunction('testing.add_one');
    assert.equal(addOne(3), 4);
    throws(() => addOne(float(3)), 'TypeError', 'testing.add_one', 'int', 'float');
    assert.equal(echo(float(2 ** 60)), 2 ** 60);
  });
  test('a device', () => {
    const device = roundTrip(runtime.webgpu(3));
    assert.ok(device instanceof Device);
    assert.equal(String(device), 'webgpu:3');
    assert.deepEqual([device.type, device.id, device.name], [15, 3, 'webgpu']);
  });
  test('an element type', () => {
    for (const name of ['float32', 'int4', 'bfloat16', 'float8_e4m3fn', 'bool', 'uint8x4']) {
      const dtype = roundTrip(runtime.dtype(name));
      assert.ok(dtype instanceof DataType);
      assert.equal(dtype.name, name);
      assert.equal(dtype, runtime.dtype(name));
    }
  });
  test('a pointer', () => {
    const pointer = roundTrip(new Pointer(0xffff_fff0));
    assert.ok(pointer instanceof Pointer);
    assert.equal(pointer.address, 0xffff_fff0);
  });
  test('objects', () => {
    using scope = runtime.scope();
    const tensor = runtime.tensor([1, 2], [2], 'int32');
    const back = echo(tensor);
    assert.ok(back instanceof Tensor);
    assert.notEqual(back, tensor);
    assert.equal(back.handle, tensor.handle);
    const array = echo(['a', 1, [2, 3], ['b', 0.5], undefined, tensor]);
    assert.ok(array instanceof RuntimeArray);
    assert.equal(array.typeKey, 'ffi.Array');
    assert.equal(array.length, 6);
    assert.deepEqual(array.toArray().slice(0, 3), ['a', 1, [2, 3]]);
    const inner = array.get(3);
    assert.ok(inner instanceof RuntimeArray);
    assert.deepEqual(inner.toArray(), ['b', 0.5]);
    const element = array.get(5);
    assert.ok(element instanceof Tensor);
    assert.deepEqual([...element.toArray()], [1, 2]);
    assert.ok(scope.size > 0);
  });
  test('functions', () => {
    using _scope = runtime.scope();
    const twice = echo((value: number) => 2 * value);
    assert.equal(typeof twice, 'function');
    assert.equal((twice as RuntimeFunction)(21), 42);
    const again = echo(twice) as RuntimeFunction;
    assert.equal(again.handle, (twice as RuntimeFunction).handle);
    assert.equal(again(4), 8);
  });
});

describe('arrays', () => {
  test('array() makes an array where a shape would pass', () => {
    using _scope = runtime.scope();
    const array = runtime.array([1, 2, 3]);
    assert.equal(array.typeKey, 'ffi.Array');
    assert.deepEqual(array.toArray(), [1, 2, 3]);
    assert.equal(runtime.array([]).length, 0);
    throws(() => array.get(3), 'IndexError', 3);
    throws(() => array.get(-1), 'IndexError', -1);
    throws(() => array.get(0.5), 'IndexError', 0.5);
  });
  test('one that holds itself is refused', () => {
    const loop: Argument[] = ['a'];
    loop.push(loop);
    throws(() => echo(loop), 'TypeError', 'argument 0', '64 deep');
  });
  test('of many different shapes, more than are kept', () => {
    using _scope = runtime.scope();
    const shapes = Array.from({ length: 3000 }, (_, i) => [i, i + 1]);
    const array = echo([...shapes, 'not a shape']) as RuntimeArray;
    assert.deepEqual(array.toArray(), [...shapes, 'not a shape']);
    assert.ok(runtime.core.shapes.size <= 1024);
  });
  test('as arguments, more than are kept', () => {
    using _scope = runtime.scope();
    const make = runtime.getFunction('ffi.Array');
    const shapes = Array.from({ length: 3000 }, (_, i) => [i, 3, i]);
    assert.deepEqual((make(...shapes) as RuntimeArray).toArray(), shapes);
  });
});

describe('what is refused', () => {
  const bad: [string, unknown, string, ...string[]][] = [
    ['an integer beyond 2^53', 2 ** 53, 'RangeError', 'argument 0', '9007199254740992', '2^53 - 1'],
    ['one far beyond', -1e300, 'RangeError', '-1e+300'],
    ['a bigint beyond 64 bits', 2n ** 63n, 'RangeError', '9223372036854775808n', '64 bits'],
    ['a bigint below them', -(2n ** 63n) - 1n, 'RangeError', '64 bits'],
    ['a dimension beyond 2^53', [1, 2 ** 53], 'RangeError', 'dimension 1'],
    ['a symbol', Symbol('s'), 'TypeError', 'a symbol'],
    ['a plain object', { a: 1 }, 'TypeError', 'argument 0', 'a plain object'],
    ['a date', new Date(), 'TypeError', 'a Date'],
    ['another typed array', new Float32Array(2), 'TypeError', 'Float32Array'],
    ['a promise', Promise.resolve(1), 'TypeError', 'a Promise'],
    ['an object in an array', ['a', {}], 'TypeError', '[1] of argument 0'],
  ];
  for (const [name, value, kind, ...parts] of bad) {
    test(name, () => {
      throws(() => echo(value as Argument), kind, ...parts);
      // And by a callback
      const give = runtime.makeFunction(() => value);
      throws(() => give(), kind, ...parts.filter((part) => !part.includes('argument 0')));
      give.dispose();
    });
  }
  test('says what helps', () => {
    assert.match(throws(() => echo(2 ** 53), 'RangeError').hint ?? '', /bigint.*float\(value\)/);
    assert.match(
      throws(() => echo(Promise.resolve() as never), 'TypeError').hint ?? '',
      /await it/,
    );
    assert.match(
      throws(() => echo(new Int32Array(1) as never), 'TypeError').hint ?? '',
      /runtime\.tensor/,
    );
  });
  test('names the argument', () => {
    throws(() => echo(1, 'a', {} as never), 'TypeError', 'argument 2');
  });
  test('a pointer that is none', () => {
    throws(() => new Pointer(-1), 'ValueError', '-1');
    throws(() => new Pointer(2 ** 32), 'ValueError', 2 ** 32);
    throws(() => new Pointer(0.5), 'ValueError');
  });
  test('a device that is none', () => {
    throws(() => runtime.device('cuda' as 'cpu'), 'ValueError', 'cuda');
    throws(() => runtime.device('cpu', -1), 'ValueError', '-1');
    throws(() => runtime.device(2 ** 40), 'ValueError');
  });
  test('an element type that is none', () => {
    throws(() => runtime.dtype('float33x'), 'ValueError', 'float33x');
    throws(() => runtime.dtype(32 as unknown as string), 'TypeError', '32');
  });
  test('objects of another runtime', async () => {
    const other = await newRuntime();
    throws(() => echo(other.empty([1])), 'TypeError', 'another runtime');
    throws(() => echo(other.getFunction('testing.nop')), 'TypeError', 'another runtime');
    other.dispose();
  });
});

describe('modules', () => {
  test('the system library', () => {
    using _scope = runtime.scope();
    const module = runtime.systemLibrary();
    assert.ok(module instanceof RuntimeModule);
    assert.equal(module.typeKey, 'ffi.Module');
    throws(() => module.getFunction('no such'), 'AttributeError', 'no such');
    assert.equal(module.hasFunction('no such'), false);
  });
});
