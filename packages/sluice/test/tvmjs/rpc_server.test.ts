// RPCServer in Node, against a proxy and a client of our own; tests/tvm_rpc does the same with those of TVM.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import type * as Theirs from '@mlc-ai/web-runtime';
import { RPCServer, wasmPath, type InitProgressReport, type Instance } from 'sluice/tvmjs';
import { nodeAdapter } from '../sinks/node_gpu.js';
import { served, tensorCacheFiles, randomTensor } from '../support/models.js';
import { startServer } from '../support/server.js';
import { linkedBytes } from '../../../../tests/vm/support.js';
import { Code, CPU, MAGIC, Packet, Proxy, readAnswer, WEBGPU, type Client } from './rpc_proxy.js';

const wasm = readFileSync(join(wasmPath(), 'sluice_runtime.wasm'));

interface Recording {
  init: string;
  exchange: [string, string][];
}
const recording = JSON.parse(
  readFileSync(new URL('rpc_recording.json', import.meta.url), 'utf8'),
) as Recording;

const framed = (packet: Uint8Array): Uint8Array =>
  Buffer.concat([Buffer.from(BigUint64Array.of(BigInt(packet.length)).buffer), packet]);

describe('RPCServer', { timeout: 120_000 }, () => {
  let proxy: Proxy;
  let servers: RPCServer[];
  let log: string[];
  beforeEach(async () => {
    proxy = await Proxy.start();
    servers = [];
    log = [];
  });
  afterEach(async () => {
    for (const server of servers) await server.close().catch(() => undefined);
    await proxy.close();
  });

  function serve(...more: unknown[]): RPCServer {
    const [load, cacheUrl, progress] = more as [
      ((inst: Instance) => Promise<void>)?,
      string?,
      ((report: InitProgressReport) => void)?,
    ];
    const server = new RPCServer(
      proxy.url,
      'key',
      () => ({}),
      (message) => log.push(message),
      cacheUrl,
      'cpu',
      progress,
      load,
    );
    servers.push(server);
    return server;
  }
  async function started(): Promise<Client> {
    serve();
    return (await proxy.accept()).start(wasm);
  }

  test('serves functions of the module that a client brings', async () => {
    serve();
    const client = await proxy.accept();
    assert.equal(await client.greet(), 'server:key');
    const { code } = await client.init('rpc.WasmSession', wasm);
    assert.equal(code, Code.returned);
    assert.equal(await client.call('tvmjs.testing.add_one', 41), 42);
    assert.equal(await client.function('no.such.function'), 0n);
    const addOne = await client.function('tvmjs.testing.add_one');
    const failed = await client.ask(new Packet(Code.call).u64(addOne).values('x'));
    assert.match(failed.error, /^TypeError: tvmjs\.testing\.add_one: argument 0 must be int/);
    // Bytes come back as bytes, of any value
    const bytes = Uint8Array.from({ length: 300 }, (_, i) => i);
    assert.deepEqual(await client.call('ffi.Bytes', bytes), bytes);
    assert.equal(await client.call('ffi.String', 'größer'), 'größer');
    assert.match(log.join('\n'), /^WebSocketRPCServer\[key\]: connected\.\.\.\n/);
  });

  test('keeps tensors of the client on the CPU', async () => {
    const client = await started();
    const tensor = await client.upload(Float32Array.of(1, 2, 3, 4), CPU);
    assert.deepEqual(await client.download(tensor), [1, 2, 3, 4]);
    assert.deepEqual(await client.download({ ...tensor, shape: [2], offset: 4 }), [2, 3]);
    const beyond = new Packet(Code.copyFromRemote).description(tensor).u64(17);
    assert.match((await client.ask(beyond)).error, /17 bytes at byte 0 .*which has 16/);
    // More than a socket sends at once
    const many = Float32Array.from({ length: 1 << 20 }, (_, i) => i);
    const large = await client.upload(many, CPU);
    assert.deepEqual(await client.download(large), [...many]);
    const [exists] = await client.values(
      new Packet(Code.getAttribute).i32(2).i32(6, CPU, 0).i32(1).u64(0),
    );
    assert.equal(exists, 1);
  });

  test('has functions of the page that take their time, and times others', async () => {
    serve((inst: Instance) => {
      inst.registerAsyncServerFunc('test.join', (...parts: string[]) =>
        Promise.resolve(parts.join('-')),
      );
      inst.registerAsyncServerFunc('test.fail', () => Promise.reject(new RangeError('too far')));
      return Promise.resolve();
    });
    const client = await (await proxy.accept()).start(wasm);
    assert.equal(await client.call('test.join', 'a', 'b'), 'a-b');
    const fail = await client.function('test.fail');
    const failed = await client.ask(new Packet(Code.call).u64(fail).values());
    assert.equal(failed.error, 'RangeError: too far');
    const numbers = [CPU, 0, 10, 3, 1, 100, 0, 1, 0];
    const name = 'tvmjs.testing.add_one';
    const evaluator = await client.call('runtime.RPCTimeEvaluator', null, name, ...numbers, '');
    const seconds = await client.call(evaluator as bigint, 1);
    assert.ok(seconds instanceof Uint8Array);
    const measured = [...new Float64Array(seconds.slice().buffer)];
    assert.equal(measured.length, 3);
    assert.ok(
      measured.every((each) => each > 0 && each < 1),
      String(measured),
    );
    // What is timed may fail
    assert.match(
      (await client.ask(new Packet(Code.call).u64(evaluator as bigint).values('x'))).error,
      /TypeError: tvmjs\.testing\.add_one/,
    );
  });

  test('loads a tensor cache before the client works', async () => {
    const tensors = [randomTensor('param_0', 'float32', [3, 5], 1)];
    const files = await startServer({ files: served(tensorCacheFiles([tensors]), '/model/') });
    try {
      const reports: InitProgressReport[] = [];
      const progress = (report: InitProgressReport): void => {
        reports.push(report);
      };
      const names: string[] = [];
      const load = (inst: Instance): Promise<void> => {
        const param = inst.tensorCacheGet('param_0');
        names.push(`${param?.dtype} ${param?.shape.toString()}`);
        return Promise.resolve();
      };
      serve(load, `${files.origin}/model/`, progress);
      const client = await (await proxy.accept()).start(wasm);
      assert.deepEqual(names, ['float32 3,5']);
      assert.equal(reports.at(-1)?.progress, 1);
      assert.notEqual(await client.call('vm.builtin.tensor_cache.get', 'param_0'), null);
    } finally {
      await files.close();
    }
  });

  test('runs a compiled model on WebGPU', async () => {
    const before = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
    const gpu = { requestAdapter: nodeAdapter };
    Object.defineProperty(globalThis, 'navigator', { value: { gpu }, configurable: true });
    try {
      serve();
      const client = await (await proxy.accept()).start(await linkedBytes('basic_webgpu'));
      const [exists] = await client.values(
        new Packet(Code.getAttribute).i32(2).i32(6, WEBGPU, 0).i32(1).u64(0),
      );
      assert.equal(exists, 1);
      const tensor = await client.upload(Float32Array.of(5, 6, 7), WEBGPU);
      assert.deepEqual(await client.download(tensor), [5, 6, 7]);
      const library = (await client.call('ffi.SystemLib')) as bigint;
      const get = await client.function('tvm.rpc.server.ModuleGetFunction');
      const packet = new Packet(Code.call).u64(get).i32(3, 73).u64(library).i32(8);
      const [type, found] = await client.values(packet.bytes('vm_load_executable').i32(2).u64(1));
      assert.equal(type, 68);
      const [machine] = await client.values(new Packet(Code.call).u64(found as bigint).values());
      assert.equal(machine, 73);
    } finally {
      if (before) Object.defineProperty(globalThis, 'navigator', before);
      else Reflect.deleteProperty(globalThis, 'navigator');
    }
  });

  test("answers TVM's own client as it did when that was recorded", async () => {
    serve((inst: Instance) => {
      inst.registerAsyncServerFunc('tvm_rpc.concatenate', (...parts: string[]) =>
        Promise.resolve(parts.join('')),
      );
      return Promise.resolve();
    });
    const client = await proxy.accept();
    await client.greet();
    const length = Buffer.from(BigUint64Array.of(BigInt(wasm.length)).buffer);
    client.send(framed(Buffer.concat([Buffer.from(recording.init, 'hex'), length, wasm])));
    assert.deepEqual((await client.answer()).values, [null]);
    assert.ok(recording.exchange.length > 50);
    for (const [i, [request, answer]] of recording.exchange.entries()) {
      client.send(framed(Buffer.from(request, 'hex')));
      if (answer === '') continue; // the end
      const expected = readAnswer(new Uint8Array(Buffer.from(answer, 'hex')));
      const actual = await client.answer();
      if (expected.code === Code.exception) assert.equal(actual.code, expected.code);
      else assert.deepEqual(actual, expected, `request ${i}: ${request}`);
    }
    await client.closed;
  });

  test('tells a client what is wrong with its module, and goes on', async () => {
    serve();
    const client = await proxy.accept();
    await client.greet();
    const early = await client.ask(new Packet(Code.getGlobalFunction).values('f'));
    assert.match(early.error, /WebSocketRPCServer\[key\]: a packet of code 9 came first/);
    assert.match((await client.init()).error, /takes session_constructor_args=\[.*\], not \[\]/);
    assert.match(
      (await client.init('rpc.Connect', 'host')).error,
      /not \['rpc\.Connect', 'host'\]/,
    );
    const broken = await client.init('rpc.WasmSession', wasm.subarray(0, 1000));
    assert.match(broken.error, /WebSocketRPCServer\[key\]: .*WebAssembly/);
    const cut = new Packet(Code.init).u64(100);
    assert.match((await client.ask(cut)).error, /is cut at the client's version, 100 bytes/);
    const { code } = await client.init('rpc.WasmSession', wasm);
    assert.equal(code, Code.returned);
    assert.match((await client.init('rpc.LocalSession')).error, /is initialized already/);
  });

  test('takes what comes in any pieces', async () => {
    serve();
    const client = await proxy.accept();
    client.pieceBytes = 7;
    await client.greet();
    client.pieceBytes = 70_001;
    assert.equal((await client.init('rpc.WasmSession', wasm)).code, Code.returned);
    client.pieceBytes = 1;
    assert.equal(await client.call('tvmjs.testing.add_one', 1), 2);
  });

  test('serves one client after the other', async () => {
    const server = serve();
    for (let i = 0; i < 3; i++) {
      const client = await (await proxy.accept()).start(wasm);
      assert.equal(await client.call('tvmjs.testing.add_one', i), i + 1);
      if (i === 0) client.shutdown();
      else client.close();
      await client.closed;
    }
    // In the middle of a packet, and of a call
    const cut = await (await proxy.accept()).start(wasm);
    cut.send(new Packet(Code.getGlobalFunction).values('f').framed().subarray(0, 20));
    cut.close();
    const busy = await (await proxy.accept()).start(wasm);
    const slow = await busy.function('testing.asyncAddOne');
    busy.send(new Packet(Code.call).u64(slow).values(1).framed());
    await new Promise((resolve) => setTimeout(resolve, 20));
    busy.close();
    const last = await (await proxy.accept()).start(wasm);
    // Longer than that call takes
    await new Promise((resolve) => setTimeout(resolve, 200));
    assert.equal(await last.call('tvmjs.testing.add_one', 1), 2);
    await server.close();
    await last.closed;
    assert.equal(proxy.connections, 6);
  });

  test('ends the connection at what is no protocol, and serves the next client', async () => {
    const client = await started();
    client.send(Buffer.from(BigUint64Array.of(2n ** 63n).buffer));
    await client.closed;
    assert.match(
      log.join('\n'),
      /a packet of 9223372036854776000 bytes is announced, and it may have/,
    );
    const next = await (await proxy.accept()).start(wasm);
    assert.equal(await next.call('tvmjs.testing.add_one', 1), 2);
  });

  test('says why it is not served by a proxy', async () => {
    for (const [code, why] of [
      [MAGIC + 1, /key: key has already been used in proxy/],
      [MAGIC + 2, /RPCProxy do not have matching client key key/],
      [7, /ws:.* is not an RPC Proxy/],
    ] as const) {
      const server = serve();
      const client = await proxy.accept();
      await client.greet(code);
      await assert.rejects(server.closed, why);
      await client.closed;
    }
    const server = serve();
    (await proxy.accept()).close();
    await assert.rejects(server.closed, /has closed the connection/);
    await proxy.close();
    const alone = serve();
    await assert.rejects(alone.closed, /the connection to ws:.* failed.*ECONNREFUSED/);
    assert.equal(proxy.connections, 4);
    proxy = await Proxy.start();
  });

  test("tvmjs's own serves the same module", async () => {
    const require = createRequire(import.meta.url);
    const theirs = require('@mlc-ai/web-runtime') as typeof Theirs;
    const logger = (message: string): void => {
      log.push(message);
    };
    new theirs.RPCServer(proxy.url, 'key', () => ({}), logger);
    const client = await (await proxy.accept()).start(wasm);
    assert.equal(await client.call('tvmjs.testing.add_one', 41), 42);
    assert.equal(await client.call('testing.asyncAddOne', 1), 2);
    const tensor = await client.upload(Float32Array.of(1, 2), CPU);
    assert.deepEqual(await client.download(tensor), [1, 2]);
    client.shutdown();
    await client.closed;
    // It connects again, and ends where nobody wants it
    (await proxy.accept()).close();
  });
});
