// The wasm memory by address, and the stack on which code packs arguments of its own.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { CachedCallStack, Memory } from '../../src/tvmjs/memory.js';

const PAGE = 65_536;

describe('Memory', () => {
  test('copies and views of raw bytes, also after it has grown', () => {
    const wasm = new WebAssembly.Memory({ initial: 1, maximum: 2 });
    const memory = new Memory(wasm);
    memory.storeRawBytes(8, Uint8Array.of(1, 2, 3, 4));
    const copy = memory.loadRawBytes(8, 4);
    const view = memory.viewRawBytes(8, 4);
    memory.storeRawBytes(8, Uint8Array.of(9));
    assert.deepEqual([copy[0], view[0]], [1, 9]);
    assert.equal(view.buffer, wasm.buffer);
    assert.deepEqual([...memory.loadRawBytes(PAGE - 1, 2)], [0, 0]);
    wasm.grow(1);
    memory.storeRawBytes(PAGE, Uint8Array.of(7));
    assert.equal(memory.viewRawBytes(PAGE, 1)[0], 7);
  });

  test('no view of what is not in it', () => {
    const memory = new Memory(new WebAssembly.Memory({ initial: 1 }));
    for (const pointer of [-1, 0.5, 2 ** 53]) {
      assert.throws(() => memory.viewRawBytes(pointer, 1), /Invalid Wasm memory pointer/);
      assert.throws(() => memory.viewRawBytes(0, pointer), /Invalid Wasm memory byte length/);
    }
    assert.throws(
      () => memory.viewRawBytes(PAGE - 1, 2),
      /\[65535, 65537\) exceeds memory size 65536/,
    );
  });
});

describe('CachedCallStack', () => {
  /** A stack whose space is taken from the front of a memory; what it gives back is noted. */
  function fixture(): { stack: CachedCallStack; memory: Memory; freed: number[] } {
    const memory = new Memory(new WebAssembly.Memory({ initial: 1 }));
    const freed: number[] = [];
    let next = 1024;
    const allocate = (size: number): number => (next += size) - size;
    const stack = new CachedCallStack(memory, allocate, (pointer) => void freed.push(pointer));
    return { stack, memory, freed };
  }

  test('values are where they were stored, once they are committed', () => {
    const { stack, memory } = fixture();
    const at = stack.allocRawBytes(20);
    assert.equal(stack.allocPtrArray(1), 24, 'in units of 8 bytes');
    stack.storeI32(at, -2);
    stack.storeF64(at + 8, 0.5);
    stack.storeI64(at + 16, -(2 ** 40));
    assert.equal(memory.loadI32(stack.ptrFromOffset(at)), 0);
    stack.commitToWasmMemory();
    assert.equal(memory.loadI32(stack.ptrFromOffset(at)), -2);
    assert.equal(memory.loadF64(stack.ptrFromOffset(at + 8)), 0.5);
    assert.equal(memory.loadI64(stack.ptrFromOffset(at + 16)), -(2 ** 40));
  });

  test('texts and bytes are pointed to, also where the stack has moved', () => {
    const { stack, memory, freed } = fixture();
    const pointers = stack.allocPtrArray(2);
    const text = 'ä'.repeat(100);
    stack.allocThenSetArgString(pointers, text);
    stack.allocThenSetArgBytes(pointers + 4, Uint8Array.of(1, 2, 3));
    const name = stack.allocByteArrayForString(text);
    assert.deepEqual(freed, [1024, 1152], 'it has outgrown its space twice');
    stack.commitToWasmMemory();
    const first = stack.ptrFromOffset(pointers);
    assert.equal(memory.loadCString(memory.loadPointer(first)), text);
    assert.deepEqual([...memory.loadByteArrayAsBytes(memory.loadPointer(first + 4))], [1, 2, 3]);
    assert.equal(memory.loadByteArrayAsString(stack.ptrFromOffset(name)), text);
  });

  test('reset() ends temporary arguments, and refuses pointers that were not committed', () => {
    const { stack, freed } = fixture();
    let ended = 0;
    stack.tempArgs.push({
      dispose: () => {
        ended++;
      },
    });
    stack.reset();
    assert.equal(ended, 1);
    stack.allocThenSetArgString(stack.allocPtrArray(1), 'a');
    assert.throws(() => stack.reset(), /1 pointers that were not committed/);
    stack.dispose();
    stack.dispose();
    assert.deepEqual(freed, [1024]);
  });

  test('no space is an error', () => {
    const memory = new Memory(new WebAssembly.Memory({ initial: 1 }));
    assert.throws(
      () =>
        new CachedCallStack(
          memory,
          () => 0,
          () => undefined,
        ),
      /128 bytes of wasm/,
    );
  });
});
