// sluice_runtime.wasm with nothing but its two imports: how it starts, fails and uses memory.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';

const wasm = new WebAssembly.Module(
  readFileSync(new URL('../../dist/sluice_runtime.wasm', import.meta.url)),
);

interface Exports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  TVMWasmAllocSpace(size: number): number;
  TVMWasmFreeSpace(space: number): void;
  TVMFFIWasmFunctionCreate(self: number, out: number): number;
  TVMFFIWasmGetLastError(): number;
  TVMFFIFunctionGetGlobal(name: number, out: number): number;
  TVMFFIFunctionCall(func: number, args: number, count: number, result: number): number;
  TVMFFIObjectDecRef(object: number): number;
  TVMFFIErrorSetRaisedFromCStr(kind: number, message: number): void;
  sluice_panic_message(): number;
}

type SafeCall = (self: number, args: number, count: number, result: number) => number;

const INT = 1;
const FLOAT = 3;
const RAW_STR = 8;

class Module {
  readonly exports: Exports;
  readonly deleted: number[] = [];

  constructor(safeCall: SafeCall = () => 0) {
    const { exports } = new WebAssembly.Instance(wasm, {
      env: {
        TVMFFIWasmSafeCall: safeCall,
        TVMFFIWasmFunctionDeleter: (self: number) => void this.deleted.push(self),
      },
    });
    this.exports = exports as unknown as Exports;
  }

  view(): DataView {
    return new DataView(this.exports.memory.buffer);
  }
  allocate(size: number): number {
    return this.exports.TVMWasmAllocSpace(size) >>> 0;
  }
  /** A string with a 0 behind it. */
  text(content: string): number {
    const bytes = Buffer.from(`${content}\0`);
    const at = this.allocate(bytes.length);
    new Uint8Array(this.exports.memory.buffer).set(bytes, at);
    return at;
  }
  read(at: number): string {
    const bytes = Buffer.from(this.exports.memory.buffer, at);
    return bytes.toString('utf8', 0, bytes.indexOf(0));
  }
  lastError(): string {
    return this.read(this.exports.TVMFFIWasmGetLastError() >>> 0);
  }
  /** The function of a name; 0 where there is none. */
  global(name: string): number {
    const text = this.text(name);
    const slot = this.allocate(12);
    this.view().setUint32(slot, text, true);
    this.view().setUint32(slot + 4, Buffer.byteLength(name), true);
    assert.equal(this.exports.TVMFFIFunctionGetGlobal(slot, slot + 8), 0);
    const found = this.view().getUint32(slot + 8, true);
    this.exports.TVMWasmFreeSpace(text);
    this.exports.TVMWasmFreeSpace(slot);
    return found;
  }
}

describe('the runtime as a module', () => {
  test('starts at its first use, and does not mind to be started before, once or often', () => {
    for (const starts of [0, 1, 3]) {
      const module = new Module();
      for (let i = 0; i < starts; i++) module.exports._initialize();
      assert.notEqual(module.global('runtime.TVMTensorAllocWithScope'), 0);
      assert.equal(module.global('no.such.function'), 0);
    }
  });

  test('starts also where the table of functions is what is used first', () => {
    const module = new Module();
    // Space in the memory that nobody asked for: behind everything
    const at = module.exports.memory.grow(1) * 65536;
    const name = 'testing.echo';
    new Uint8Array(module.exports.memory.buffer).set(Buffer.from(name), at + 16);
    module.view().setUint32(at, at + 16, true);
    module.view().setUint32(at + 4, name.length, true);
    assert.equal(module.exports.TVMFFIFunctionGetGlobal(at, at + 8), 0);
    assert.notEqual(module.view().getUint32(at + 8, true), 0);
  });

  test('tells errors as "Kind: message", once', () => {
    const module = new Module();
    assert.equal(module.lastError(), '');
    module.exports.TVMFFIErrorSetRaisedFromCStr(module.text('KeyError'), module.text('no ünit'));
    assert.equal(module.lastError(), 'KeyError: no ünit');
    assert.equal(module.lastError(), '');
  });

  test('gives space aligned to 8, also of no bytes', () => {
    const module = new Module();
    for (let size = 0; size < 40; size++) {
      const at = module.allocate(size);
      assert.ok(at !== 0 && at % 8 === 0);
      module.exports.TVMWasmFreeSpace(at);
    }
    module.exports.TVMWasmFreeSpace(0);
  });

  test('gives up to 4 GiB, above 2 GiB as well, and then null', () => {
    const module = new Module();
    const spaces: number[] = [];
    for (;;) {
      const at = module.allocate(512 << 20);
      if (at === 0) break;
      module.view().setUint32(at + (512 << 20) - 4, 0xc0ffee, true);
      spaces.push(at);
    }
    assert.equal(spaces.length, 7);
    assert.ok(Math.max(...spaces) > 3 * 2 ** 30);
    assert.equal(module.exports.sluice_panic_message(), 0);
  });

  test('calls functions of the host, and says when they are gone', () => {
    const calls: number[][] = [];
    const module: Module = new Module((self, args, count, result) => {
      calls.push([self, count, module.view().getFloat64((args >>> 0) + 8, true)]);
      module.view().setInt32(result >>> 0, INT, true);
      module.view().setBigInt64((result >>> 0) + 8, 99n, true);
      return 0;
    });
    const slots = module.allocate(64);
    assert.equal(module.exports.TVMFFIWasmFunctionCreate(1234, slots), 0);
    const created = module.view().getUint32(slots, true);
    module.view().setInt32(slots + 16, FLOAT, true);
    module.view().setFloat64(slots + 24, 0.25, true);
    module.view().setInt32(slots + 32, 0, true);
    assert.equal(module.exports.TVMFFIFunctionCall(created, slots + 16, 1, slots + 32), 0);
    assert.deepEqual(calls, [[1234, 1, 0.25]]);
    assert.equal(module.view().getBigInt64(slots + 40, true), 99n);
    module.exports.TVMFFIObjectDecRef(created);
    assert.deepEqual(module.deleted, [1234]);
  });

  test('stays flat in memory over a million calls that fail, and as many that do not', () => {
    const module = new Module();
    const echo = module.global('testing.echo');
    const slots = module.allocate(64);
    const view = module.view();
    const text = module.text('a string that is no small one');
    let wrong = 0;
    const round = (): void => {
      const { exports } = module;
      if (exports.TVMFFIFunctionCall(echo, slots, 0, slots + 16) !== -1) wrong++;
      if (exports.TVMFFIWasmGetLastError() === 0) wrong++;
      view.setInt32(slots, RAW_STR, true);
      view.setUint32(slots + 8, text, true);
      if (exports.TVMFFIFunctionCall(echo, slots, 1, slots + 16) !== 0) wrong++;
      exports.TVMFFIObjectDecRef(view.getUint32(slots + 24, true));
    };
    round();
    const before = module.exports.memory.buffer.byteLength;
    for (let i = 0; i < 1_000_000; i++) round();
    assert.equal(wrong, 0);
    assert.equal(module.exports.memory.buffer.byteLength, before);
  });
});
