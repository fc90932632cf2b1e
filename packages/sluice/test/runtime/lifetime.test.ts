// A million objects made and disposed leave memory as it was, in wasm and in JavaScript.
import assert from 'node:assert/strict';
import { before, describe, test } from 'node:test';
import type { Runtime } from 'sluice/runtime';
import { newRuntime } from './support.js';

const CYCLES = 1_000_000;

let runtime: Runtime;
before(async () => {
  runtime = await newRuntime();
});

const collected = (): number => {
  if (!globalThis.gc) throw new Error('run with --expose-gc');
  globalThis.gc();
  globalThis.gc();
  return process.memoryUsage().heapUsed;
};

/** Runs a cycle often, and expects the memory of a few thousand times to do for all. */
function expectFlat(cycle: (i: number) => void, cycles = CYCLES): void {
  const { core } = runtime;
  const warm = Math.min(5000, cycles / 10);
  for (let i = 0; i < warm; i++) cycle(i);
  const wasm = runtime.memoryBytes;
  const heap = collected();
  const { hostFunctions, temporaries } = core;
  for (let i = warm; i < cycles; i++) cycle(i);
  assert.equal(runtime.memoryBytes, wasm, 'the wasm memory has grown');
  const grown = collected() - heap;
  assert.ok(grown < 512 * 1024, `the heap of JavaScript has grown by ${grown} bytes`);
  assert.equal(core.hostFunctions, hostFunctions);
  assert.equal(core.temporaries, temporaries);
}

describe('memory is flat', () => {
  test('tensors, made and disposed', () => {
    expectFlat((i) => runtime.empty([i & 7, 64], 'float32').dispose());
  });
  test('tensors with data and views, in scopes', () => {
    const bytes = new Uint8Array(64);
    expectFlat(() => {
      const scope = runtime.scope();
      runtime.tensor(bytes, [16], 'float32').view([4], { byteOffset: 16 }).toArray();
      scope.dispose();
    }, 200_000);
  });
  test('in one scope that stays open', () => {
    using _scope = runtime.scope();
    expectFlat(() => runtime.empty([8], 'int8').dispose(), 300_000);
  });
  test('shapes that are never the same', () => {
    const nop = runtime.getFunction('testing.nop');
    expectFlat((i) => nop([i, i + 1, 7]));
  });
  test('shapes within one call that calls back all the time', () => {
    const nop = runtime.getFunction('testing.nop');
    runtime.getFunction('tvmjs.testing.call')(() => {
      expectFlat((i) => nop([i, 3]), 200_000);
    });
  });
  test('strings, arrays and bytes', () => {
    const echo = runtime.getFunction('testing.echo');
    const bytes = new Uint8Array(20_000);
    expectFlat((i) => {
      using _scope = runtime.scope();
      echo(`a string of more than seven bytes ${i}`);
      echo([`${i}`, 'b\0c', ['d']]);
      echo(bytes);
    }, 100_000);
  });
  test('callbacks, their arguments and what they throw', () => {
    const call = runtime.getFunction('tvmjs.testing.call');
    const tensor = runtime.empty([2]);
    const error = new Error('mine');
    expectFlat((i) => {
      using _scope = runtime.scope();
      call((value: unknown) => value, tensor, [i, i]);
      try {
        call(() => {
          throw error;
        });
      } catch (caught) {
        assert.equal(caught, error);
      }
    }, 100_000);
  });
  test('functions by name', () => {
    expectFlat(() => runtime.getFunction('testing.nop').dispose(), 300_000);
  });
  test('objects disposed within a call that may use them', () => {
    const call = runtime.getFunction('tvmjs.testing.call');
    expectFlat(() => {
      const tensor = runtime.empty([4]);
      call(() => tensor.dispose(), tensor);
    }, 100_000);
  });
});
