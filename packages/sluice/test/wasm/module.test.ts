// What the built modules contain: their interface, what runs before it, and their codecs.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { CALL_RESULT } from '../../src/generated/abi.js';

const ROOT = fileURLToPath(new URL('../../../../', import.meta.url));
const built = (name: string): string => join(ROOT, `build/wasm/hosts/wasm/${name}.wasm`);
const shipped = (name: string): string => join(ROOT, `packages/sluice/dist/${name}.wasm`);
/** Each module, the reviewed list of its exports, and the file that declares its imports. */
const MODULES = [
  { name: 'sluice_loader', list: 'hosts/wasm/exports.txt', imports: 'hosts/wasm/imports.h' },
  { name: 'sluice_store', list: 'hosts/wasm/store_exports.txt', imports: 'hosts/wasm/imports.h' },
  {
    name: 'sluice_runtime',
    list: 'hosts/wasm/runtime_exports.txt',
    imports: 'hosts/wasm/runtime_exports.cc',
  },
];
const CODEC_CHECK = join(ROOT, 'build/wasm/core/load/codec_check.wasm');

const source = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

async function compile(path: string): Promise<WebAssembly.Module> {
  return WebAssembly.compile(readFileSync(path));
}

/** Constructors of wasi-libc and libc++ that may run before sluice_initialize(). The modules link none. */
const LIBRARY_CONSTRUCTORS: readonly string[] = [];

/**
 * The body of __wasm_call_ctors, which the linker writes and _initialize calls: the name of each function it
 * calls, and any other instruction as text. Throws where the module's names are stripped.
 */
function constructors(path: string): string[] {
  const text = execFileSync('wasm-dis', ['--all-features', path], {
    encoding: 'utf8',
    maxBuffer: 2 ** 28,
  });
  assert.doesNotMatch(text, /^ \(start /m, `${path} has a start function`);
  const body = /^ \(func \$__wasm_call_ctors\b[^\n]*\n(.*?)^ \)$/ms.exec(text)?.[1];
  assert.ok(body !== undefined, `${path} holds no function named __wasm_call_ctors`);
  return body
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && line !== ')')
    .map((line) => /^\(call \$(\S+?)\)?$/.exec(line)?.[1] ?? line);
}

const ours = (calls: string[]): string[] =>
  calls.filter((name) => !LIBRARY_CONSTRUCTORS.includes(name));

describe('the interface of the modules', () => {
  for (const { path, list, imports } of MODULES.flatMap(({ name, ...files }) =>
    [built(name), shipped(name)].map((path) => ({ path, ...files })),
  )) {
    const name = path.slice(ROOT.length);

    test(`${name}: exports are those of ${list}, memory and _initialize`, async () => {
      const listed = source(list)
        .split('\n')
        .filter((line) => /^[A-Za-z]/.test(line));
      assert.ok(listed.length > 20);
      const exported = WebAssembly.Module.exports(await compile(path));
      const named = (kind: string): string[] =>
        exported.filter((entry) => entry.kind === kind).map((entry) => entry.name);
      assert.deepEqual(named('function').sort(), [...listed, '_initialize'].sort());
      assert.deepEqual(named('memory'), ['memory']);
      assert.equal(exported.length, listed.length + 2);
    });

    test(`${name}: imports are those of ${imports}`, async () => {
      const declared = [
        ...source(imports).matchAll(/^(?!#).*\bSLUICE_(ENV_)?IMPORT\((\w+)\)\s/gm),
      ].map((match) => `${match[1] === undefined ? 'sluice' : 'env'}.${match[2] ?? ''}`);
      assert.ok(declared.length > 0);
      const imported = WebAssembly.Module.imports(await compile(path)).map((entry) => {
        assert.equal(entry.kind, 'function');
        return `${entry.module}.${entry.name}`;
      });
      assert.deepEqual(imported.sort(), declared.sort());
    });
  }
});

describe('what runs before sluice_initialize()', () => {
  let folder: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'sluice-wasm-'));
  });
  after(() => {
    rmSync(folder, { recursive: true });
  });

  /** A reactor of one file, linked as the loader is. */
  function build(name: string, text: string): string {
    const file = join(folder, `${name}.cc`);
    const out = join(folder, `${name}.wasm`);
    writeFileSync(file, text);
    const flags =
      '--target=wasm32-wasi -mexec-model=reactor -std=c++23 -O0 -fno-exceptions -fno-rtti';
    execFileSync('clang++-19', [...flags.split(' '), file, '-o', out, '-Wl,--export=value']);
    return out;
  }

  for (const { name } of MODULES) {
    test(`${name}: no constructor`, () => {
      assert.deepEqual(ours(constructors(built(name))), []);
    });
  }

  test('the check sees a static constructor', () => {
    const found = ours(
      constructors(
        build(
          'dynamic',
          'int seed(); int at = seed(); __attribute__((noinline)) int seed() { return at + 7; }\n' +
            'extern "C" int value() { return at; }\n',
        ),
      ),
    );
    assert.deepEqual(found, ['_GLOBAL__sub_I_dynamic.cc']);
  });

  test('the check passes a module with constants alone', () => {
    const path = build('constant', 'constinit int at = 7; extern "C" int value() { return at; }\n');
    assert.deepEqual(ours(constructors(path)), []);
  });

  test('the check refuses a module without names instead of passing it', () => {
    assert.throws(
      () => constructors(shipped('sluice_loader')),
      /holds no function named __wasm_call_ctors/,
    );
  });
});

describe('codecs in wasm', () => {
  /** Runs a WASI command that reads nothing: its exit status and what it prints. */
  async function run(path: string): Promise<{ status: number; output: string }> {
    let output = '';
    class Exit extends Error {
      constructor(readonly status: number) {
        super(`exit ${status}`);
      }
    }
    const unsupported = (): number => 52; // errno nosys
    const wasi = {
      fd_close: unsupported,
      fd_seek: unsupported,
      // A character device, so that each line is written when it ends
      fd_fdstat_get(_fd: number, at: number): number {
        const { memory } = exports;
        new Uint8Array(memory.buffer, at, 24).fill(0);
        new DataView(memory.buffer).setUint8(at, 2);
        return 0;
      },
      fd_write(_fd: number, vectors: number, count: number, written: number): number {
        const { memory } = exports;
        const view = new DataView(memory.buffer);
        let total = 0;
        for (let i = 0; i < count; i++) {
          const address = view.getUint32(vectors + 8 * i, true);
          const length = view.getUint32(vectors + 8 * i + 4, true);
          output += Buffer.from(memory.buffer, address, length).toString('latin1');
          total += length;
        }
        view.setUint32(written, total, true);
        return 0;
      },
      proc_exit(status: number): never {
        throw new Exit(status);
      },
    };
    const instance = await WebAssembly.instantiate(await compile(path), {
      wasi_snapshot_preview1: wasi,
    });
    const exports = instance.exports as { memory: WebAssembly.Memory; _start(): void };
    try {
      exports._start();
    } catch (error) {
      if (error instanceof Exit) return { status: error.status, output };
      throw error;
    }
    return { status: 0, output };
  }

  test('every implementation equals the reference in C++, and SIMD128 is taken', async () => {
    const { status, output } = await run(CODEC_CHECK);
    assert.match(
      output,
      /^(\d\d) of \1 codecs equal the reference; find_codec\(\) takes simd128$/m,
    );
    assert.equal(status, 0, output);
  });
});

describe('digests in wasm', () => {
  test('are those of libxxhash', async () => {
    const imports = { sluice: { panic: (): void => assert.fail('panic') } };
    const { exports } = await WebAssembly.instantiate(
      await compile(built('sluice_store')),
      imports,
    );
    const store = exports as unknown as {
      memory: WebAssembly.Memory;
      _initialize(): void;
      sluice_initialize(): void;
      sluice_allocate(nbytes: number): number;
      store_folder_name(key: number, length: number): number;
      store_hash_new(): number;
      store_hash_update(hash: number, address: number, nbytes: number): void;
      store_hash_digest(hash: number): number;
    };
    store._initialize();
    store.sluice_initialize();
    const bytes = Uint8Array.from({ length: 5000 }, (_, i) => Math.imul(i, 2654435761) >>> 13);
    const address = store.sluice_allocate(bytes.length);
    new Uint8Array(store.memory.buffer).set(bytes, address);
    // core/store/journal_test.cc has the same bytes
    for (const piece of [1, 64, 999, 5000]) {
      const hash = store.store_hash_new();
      for (let at = 0; at < bytes.length; at += piece) {
        store.store_hash_update(hash, address + at, Math.min(piece, bytes.length - at));
      }
      const view = new DataView(store.memory.buffer);
      const result = store.store_hash_digest(hash);
      const digest = view.getBigUint64(view.getUint32(result + CALL_RESULT.data, true), true);
      assert.equal(digest, 0x853377ef13cec7bdn, `${piece} bytes at a time`);
    }
    // With a seed, which the library handles apart where the text is long
    new Uint8Array(store.memory.buffer, address, 3000).fill('k'.charCodeAt(0));
    const view = new DataView(store.memory.buffer);
    const result = store.store_folder_name(address, 3000);
    const name = view.getUint32(result + CALL_RESULT.data, true);
    assert.equal(
      Buffer.from(store.memory.buffer, name, 32).toString(),
      '5f7a2ef938740eb6a1ffacc0d0a96e76',
    );
  });
});
