// Compiled models on the CPU, linked with the runtime and driven by tvmjs's published JS: what comes
// out is what numpy says.
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { type Tensor } from '@mlc-ai/web-runtime';
import {
  calls,
  expectValue,
  exportNames,
  instantiate,
  link,
  linkedBytes,
  linkObjects,
  messageOf,
  Scalar,
  toArgument,
  type Instance,
  type Value,
} from './support.js';

const F32 = (shape: number[], data: number[]): Value => ({ dtype: 'float32', shape, data });

/** A VM of the module on the CPU; JS's function that the fixture `control` calls is registered. */
function start(module: WebAssembly.Module) {
  const tvm = instantiate(module);
  tvm.beginScope();
  // What JS gives back must not end with the scope of its call
  tvm.registerFunc('sluice.test.twice', (x: Tensor) =>
    tvm.detachFromCurrentScope(
      tvm.empty(x.shape, 'float32').copyFrom(Array.from(x.toArray(), (value) => 2 * value)),
    ),
  );
  const vm = tvm.createVirtualMachine(tvm.cpu());
  const call = (name: string, ...values: Value[]): unknown =>
    vm.getFunction(name)(...values.map((each) => toArgument(tvm, each, tvm.cpu()))) as unknown;
  return { tvm, vm, call };
}

async function expectCalls(
  tvm: Instance,
  name: string,
  call: (name: string, ...values: Value[]) => unknown,
) {
  for (const [i, each] of calls(name).entries()) {
    tvm.beginScope();
    const result = call(each.function, ...each.arguments);
    await expectValue(tvm, result, each.result, `call ${i}, ${each.function}`);
    tvm.endScope();
  }
}

describe('elementwise functions, matmul with dynamic shapes, a branch', () => {
  for (const name of ['basic_cpu', 'basic_compiled'])
    test(name, async () => {
      const { tvm, call } = start(await link(name));
      // Twice: the second time in storage of the first
      await expectCalls(tvm, 'basic', call);
      await expectCalls(tvm, 'basic', call);
    });
});

test('half_cpu, optimized: it has the exports of the runtime, and no other imports', async () => {
  const module = await WebAssembly.compile(await linkedBytes('half_cpu', true));
  const imports = WebAssembly.Module.imports(module).map((each) => `${each.module}.${each.name}`);
  assert.deepEqual(imports, ['env.TVMFFIWasmSafeCall', 'env.TVMFFIWasmFunctionDeleter']);
  const exports = WebAssembly.Module.exports(module).map(({ name }) => name);
  assert.deepEqual(exports.sort(), exportNames());
  const { tvm, call } = start(module);
  await expectCalls(tvm, 'half', call);
});

describe('control_cpu', async () => {
  const module = await link('control_cpu');

  test('recursion, closures, tuples, shapes, constants of every dtype', async () => {
    const { tvm, call } = start(module);
    await expectCalls(tvm, 'control', call);
  });

  test('a closure is a value that can be called later', async () => {
    const { tvm, vm, call } = start(module);
    const adder = call('make_adder', F32([2, 3], [1, 2, 3, 4, 5, 6]));
    const sum: unknown = vm.getFunction('invoke_closure')(
      adder,
      toArgument(tvm, F32([2, 3], [10, 20, 30, 40, 50, 60]), tvm.cpu()),
    );
    await expectValue(tvm, sum, F32([2, 3], [11, 22, 33, 44, 55, 66]), 'adder');
  });

  test('a function of JS is called, and its error comes through with the place', async () => {
    const { tvm, call } = start(module);
    await expectValue(tvm, call('missing', F32([2], [1, 2])), F32([2], [2, 4]), 'twice');
    tvm.registerFunc(
      'sluice.test.twice',
      () => {
        throw new Error('no such luck');
      },
      true,
    );
    const vm = tvm.createVirtualMachine(tvm.cpu());
    const message = messageOf(() =>
      vm.getFunction('missing')(toArgument(tvm, F32([2], [1, 2]), tvm.cpu())),
    );
    assert.match(message, /no such luck.*in 'missing', instruction 2: call sluice\.test\.twice/s);
  });

  test('recursion that is too deep is an error, and the VM works on', async () => {
    const { tvm, call } = start(module);
    const deep: Value = { dtype: 'int32', shape: [], data: [100_000] };
    assert.match(
      messageOf(() => call('countdown', deep, F32([3], [0, 0, 0]))),
      /RecursionError: countdown: 4096 calls .*\(in 'countdown', instruction 19: call countdown .*called by 4093 more/s,
    );
    await expectCalls(tvm, 'control', call);
  });

  test('JS and the VM that call each other without end are an error, and the VM works on', async () => {
    const { tvm, call } = start(module);
    const x = toArgument(tvm, F32([2], [1, 2]), tvm.cpu());
    let depth = 0;
    const again = (): unknown => {
      depth += 1;
      return vm.getFunction('missing')(x) as unknown;
    };
    tvm.registerFunc('sluice.test.twice', again, true);
    const vm = tvm.createVirtualMachine(tvm.cpu());
    assert.match(
      messageOf(() => vm.getFunction('missing')(x) as unknown),
      /RecursionError: missing: more than 128 calls through closures or the host stand in each other/,
    );
    assert.equal(depth, 128);
    await expectCalls(tvm, 'control', call);
  });

  test('stateful calls', async () => {
    const { tvm, vm } = start(module);
    const call = (name: string, ...values: unknown[]): unknown => vm.getFunction(name)(...values);
    const x = toArgument(tvm, F32([2, 2], [1, 2, 3, 4]), tvm.cpu());
    call('set_input', 'flatten', x);
    call('invoke_stateful', 'flatten');
    await expectValue(tvm, call('get_output', 'flatten'), F32([4], [1, 2, 3, 4]), 'flatten');
    assert.equal(call('get_output_arity', 'flatten'), -1);
    assert.equal(call('get_function_arity', 'countdown'), 2);
    assert.equal(call('get_function_param_name', 'countdown', new Scalar(1, 'int')), 'x');
    assert.match(
      messageOf(() => call('invoke_stateful', 'tuples')),
      /ValueError: invoke_stateful: no inputs of 'tuples'; call set_input first/,
    );
    assert.match(
      messageOf(() => call('set_input', 'flatten')),
      /TypeError: set_input: 'flatten' takes 1 arguments, not 0/,
    );
  });

  test('what a function is given wrongly is said with the place', () => {
    const { call } = start(module);
    assert.match(
      messageOf(() => call('shapes', F32([4], [1, 2, 3, 4]))),
      /ValueError: vm\.builtin\.check_tensor_info: ErrorContext\(fn=shapes, loc=param\[0\], param=x.*it has 1 dimensions, and must have 2 \(in 'shapes', instruction 1: call/s,
    );
    assert.match(
      messageOf(() => call('shapes', { dtype: 'int32', shape: [1, 1], data: [1] })),
      /it is of int32, and must be of float32/,
    );
    assert.match(
      messageOf(() =>
        call('captured', F32([2, 3], [1, 2, 3, 4, 5, 6]), F32([3, 2], [1, 2, 3, 4, 5, 6])),
      ),
      /vm\.builtin\.match_shape: ErrorContext\(fn=captured, loc=param\[1\].*shape\[0\] is 3, and must be 2/s,
    );
    assert.match(
      messageOf(() => call('shapes')),
      /TypeError: shapes\(x\) takes 1 arguments, not 0/,
    );
  });

  test('a function that is missing is said at the start', () => {
    const tvm = instantiate(module);
    tvm.beginScope();
    assert.match(
      messageOf(() => tvm.createVirtualMachine(tvm.cpu())),
      /vm_initialization: the executable calls functions that are neither in its library nor registered: sluice\.test\.twice/,
    );
  });
});

test('objects that cannot be linked are said', async () => {
  const text = join(tmpdir(), `sluice-no-object-${process.pid}.o`);
  writeFileSync(text, 'not an object');
  await assert.rejects(linkObjects('none', [text]), /clang\+\+-19 failed:.*sluice-no-object/s);
  await assert.rejects(
    linkObjects('none', [text], '--archive', '/nowhere/libsluice_model.a'),
    /\/nowhere\/libsluice_model\.a is missing; build it: cmake/,
  );
});
