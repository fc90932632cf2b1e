// Compiled models in tests: the fixtures that tools/compile_fixtures.py made, linked by
// tools/link_model.py and driven by tvmjs's published JS.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import {
  Instance,
  Scalar,
  Tensor,
  TVMArray,
  type DLDevice,
  type TVMObject,
} from '@mlc-ai/web-runtime';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const FIXTURES = join(ROOT, 'tests/vm/fixtures');
const run = promisify(execFile);

const folder = mkdtempSync(join(tmpdir(), 'sluice-vm-'));
after(() => {
  rmSync(folder, { recursive: true });
});

export interface TensorValue {
  dtype: string;
  shape: number[];
  data: number[];
}

/** A value as it stands in the fixtures' JSON. */
export type Value = TensorValue | { shape: number[] } | Value[];

export interface Call {
  function: string;
  arguments: Value[];
  result: Value;
}

export function calls(name: string): Call[] {
  const text = readFileSync(join(FIXTURES, `${name}.json`), 'utf8');
  return (JSON.parse(text) as { calls: Call[] }).calls;
}

/** What a linked model exports, sorted: the reviewed list of the runtime's module. */
export function exportNames(): string[] {
  const text = readFileSync(join(ROOT, 'hosts/wasm/runtime_exports.txt'), 'utf8');
  const listed = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return [...listed, '_initialize', 'memory'].sort();
}

/** Runs tools/link_model.py; rejects with what it printed. */
export async function linkObjects(
  name: string,
  objects: string[],
  ...options: string[]
): Promise<string> {
  const output = join(folder, `${name}.wasm`);
  await run('python3', [join(ROOT, 'tools/link_model.py'), ...options, '-o', output, ...objects], {
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1' },
  });
  return output;
}

/** The fixture, linked; without wasm-opt, which takes the most time, unless it is to be `optimized`. */
export async function linkedBytes(name: string, optimized = false): Promise<Buffer<ArrayBuffer>> {
  const objects = [join(FIXTURES, `${name}.o`), join(FIXTURES, `${name}.lib.o`)];
  return readFileSync(await linkObjects(name, objects, ...(optimized ? [] : ['--no-optimize'])));
}

export async function link(name: string): Promise<WebAssembly.Module> {
  return WebAssembly.compile(await linkedBytes(name));
}

export function instantiate(module: WebAssembly.Module): Instance {
  return new Instance(module, {});
}

const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  int8: Int8Array,
  uint8: Uint8Array,
  bool: Uint8Array,
  int32: Int32Array,
} as const;

function bytesOf(dtype: string, data: readonly number[]): Uint8Array {
  if (dtype === 'int64') return new Uint8Array(BigInt64Array.from(data.map(BigInt)).buffer);
  if (dtype === 'float16') return new Uint8Array(Uint16Array.from(data, numberToHalf).buffer);
  return new Uint8Array(ARRAYS[dtype as keyof typeof ARRAYS].from(data.map(Number)).buffer);
}

/** The value as an argument, its tensors on `device`; in the scope that is open. */
export function toArgument(tvm: Instance, value: Value, device: DLDevice): unknown {
  if (Array.isArray(value))
    return tvm.makeTVMArray(value.map((each) => toArgument(tvm, each, device)));
  if (!('dtype' in value)) return tvm.makeShapeTuple(value.shape);
  return tvm
    .empty(value.shape, value.dtype, device)
    .copyFromRawBytes(bytesOf(value.dtype, value.data));
}

/** The extents of a shape, which tvmjs's JS cannot read: those of a tensor that is given it. */
function extentsOf(tvm: Instance, shape: unknown, elements: number): number[] {
  const reshape = tvm.getGlobalFunc('vm.builtin.reshape');
  return (reshape(tvm.empty([elements], 'uint8'), shape) as Tensor).shape;
}

function halfToNumber(half: number): number {
  const exponent = (half >> 10) & 31;
  const fraction = (half & 1023) / 1024;
  const size = exponent === 0 ? fraction * 2 ** -14 : (1 + fraction) * 2 ** (exponent - 15);
  return half & 0x8000 ? -size : size;
}

/** The bits of a number that float16 holds exactly, as those of the fixtures. */
export function numberToHalf(number: number): number {
  const sign = number < 0 ? 0x8000 : 0;
  const size = Math.abs(number);
  if (size === 0) return sign;
  const exponent = Math.max(Math.floor(Math.log2(size)), -14);
  const fraction = size / 2 ** exponent;
  return (
    sign | (fraction < 1 ? fraction * 1024 : ((exponent + 15) << 10) | ((fraction - 1) * 1024))
  );
}

function elements(tensor: Tensor, dtype: string): number[] {
  const bytes = tensor.toRawBytes().slice().buffer;
  if (dtype === 'int64') return Array.from(new BigInt64Array(bytes), Number);
  if (dtype === 'float16') return Array.from(new Uint16Array(bytes), halfToNumber);
  return Array.from(new ARRAYS[dtype as keyof typeof ARRAYS](bytes));
}

/** Holds what drive() gave to what it must be. */
export function expectSame(actual: Value | undefined, expected: Value, where: string): void {
  if (Array.isArray(expected)) {
    assert.ok(Array.isArray(actual), where);
    assert.equal(actual.length, expected.length, where);
    for (const [i, each] of expected.entries()) expectSame(actual[i], each, `${where}[${i}]`);
    return;
  }
  assert.ok(actual !== undefined && !Array.isArray(actual), where);
  assert.deepEqual(actual.shape, expected.shape, where);
  if (!('dtype' in expected)) return;
  assert.ok('dtype' in actual, where);
  assert.equal(actual.dtype, expected.dtype, where);
  const { data } = actual;
  expectClose(actual.dtype === 'float16' ? data.map(halfToNumber) : data, expected, where);
}

/** Floats to within 1e-5 relative, those of 16 bits to within 2e-2, everything else as it is. */
function expectClose(got: readonly number[], expected: TensorValue, where: string): void {
  assert.equal(got.length, expected.data.length, where);
  const floats = expected.dtype.startsWith('float') ? 1e-5 : 0;
  const close = expected.dtype === 'float16' ? 2e-2 : floats;
  for (const [i, number] of expected.data.map(Number).entries()) {
    const difference = Math.abs((got[i] ?? NaN) - number);
    assert.ok(
      difference <= close * Math.max(1, Math.abs(number)),
      `${where}: element ${i} is ${got[i]}, and must be ${number}`,
    );
  }
}

/** Holds a result of tvmjs's JS to what it must be. */
export async function expectValue(
  tvm: Instance,
  actual: unknown,
  expected: Value,
  where: string,
): Promise<void> {
  if (Array.isArray(expected)) {
    assert.ok(actual instanceof TVMArray, where);
    assert.equal(actual.size(), expected.length, where);
    for (const [i, each] of expected.entries())
      await expectValue(tvm, actual.get(i), each, `${where}[${i}]`);
    return;
  }
  if (!('dtype' in expected)) {
    const count = expected.shape.reduce((a, b) => a * b, 1);
    assert.deepEqual(extentsOf(tvm, actual, count), expected.shape, where);
    return;
  }
  assert.ok(actual instanceof Tensor, where);
  // tvmjs's JS has no name for bool
  const dtype = actual.dtype === 'undefined8' ? 'bool' : actual.dtype;
  assert.equal(dtype, expected.dtype, where);
  assert.deepEqual(actual.shape, expected.shape, where);
  let tensor = actual;
  if (actual.device.deviceType !== tvm.cpu().deviceType) {
    tensor = tvm.empty(actual.shape, actual.dtype, tvm.cpu()).copyFrom(actual);
    await actual.device.sync();
  }
  expectClose(elements(tensor, dtype), expected, where);
}

/** The message of what a function throws; tvmjs throws errors of C++ as Error. */
export function messageOf(call: () => unknown): string {
  try {
    call();
  } catch (error) {
    assert.ok(error instanceof Error);
    return error.message;
  }
  return assert.fail('it did not throw');
}

export { Scalar, type Instance, type TVMObject };
