import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { startDemo } from '../server.js';
import type { ChatModel, Demo, Example } from '../server.js';
import { sampleModel } from '../sample_model.js';

describe('the server of the demo', () => {
  let demo: Demo;
  before(async () => {
    demo = await startDemo();
  });
  after(() => demo.close());

  it('serves the page, its scripts compiled, and the package', async () => {
    for (const [path, type] of [
      ['/', 'text/html'],
      ['/style.css', 'text/css'],
      ['/main.js', 'text/javascript'],
      ['/chat.html', 'text/html'],
      ['/chat/main.js', 'text/javascript'],
      ['/sluice/index.js', 'text/javascript'],
      ['/sluice/sluice_loader.wasm', 'application/wasm'],
    ] as const) {
      const response = await fetch(demo.origin + path);
      assert.equal(response.status, 200, path);
      assert.ok(response.headers.get('content-type')?.startsWith(type), path);
      assert.ok((await response.arrayBuffer()).byteLength > 0, path);
    }
  });

  it('serves ranges as they are asked', async () => {
    const url = `${demo.origin}/examples/sample.safetensors`;
    const bytes = sampleModel();
    const cases: [string, number, number][] = [
      ['bytes=0-7', 0, 8],
      ['bytes=100-', 100, bytes.length],
      ['bytes=-5', bytes.length - 5, bytes.length],
      [`bytes=10-${bytes.length + 10}`, 10, bytes.length],
    ];
    for (const [range, begin, end] of cases) {
      const response = await fetch(url, { headers: { range } });
      assert.equal(response.status, 206, range);
      assert.equal(
        response.headers.get('content-range'),
        `bytes ${begin}-${end - 1}/${bytes.length}`,
      );
      const body = Buffer.from(await response.arrayBuffer());
      assert.ok(body.equals(bytes.subarray(begin, end)), range);
    }
    const beyond = await fetch(url, { headers: { range: `bytes=${bytes.length}-` } });
    assert.equal(beyond.status, 416);
    assert.equal(beyond.headers.get('content-range'), `bytes */${bytes.length}`);
  });

  it('lists examples that are there', async () => {
    const response = await fetch(`${demo.origin}/examples.json`);
    const examples = (await response.json()) as Example[];
    assert.equal(examples[0]?.nbytes, sampleModel().length);
    assert.equal((await fetch(new URL(examples[0].url, demo.origin))).status, 200);
  });

  it('tells which builds of the chat model are complete', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sluice-server-'));
    const model = { name: 'One', contextWindowSize: 64, command: 'make one' };
    const own = await startDemo({ chatModel: { ...model, folder } });
    const told = async (): Promise<ChatModel> =>
      (await (await fetch(`${own.origin}/chat-model.json`)).json()) as ChatModel;
    assert.deepEqual(await told(), { ...model, builds: [] });

    const write = (name: string, nbytes: number): void => {
      mkdirSync(join(folder, 'float32'), { recursive: true });
      writeFileSync(join(folder, 'float32', name), new Uint8Array(nbytes));
    };
    for (const name of ['tensor-cache.json', 'tokenizer.json', 'params_shard_0.bin'])
      write(name, 5);
    write('model.wasm', 7);
    assert.deepEqual((await told()).builds, [], 'there is no tokenizer_config.json');
    write('tokenizer_config.json', 1);
    write('model-software.wasm', 8);
    const build = { dtype: 'float32', folder: 'chat-model/float32/', weightBytes: 5 };
    assert.deepEqual((await told()).builds, [
      { ...build, software: false, wasm: 'chat-model/float32/model.wasm', wasmBytes: 7 },
      { ...build, software: true, wasm: 'chat-model/float32/model-software.wasm', wasmBytes: 8 },
    ]);
    const wasm = await fetch(`${own.origin}/chat-model/float32/model.wasm`);
    assert.equal((await wasm.arrayBuffer()).byteLength, 7);
    await own.close();
    rmSync(folder, { recursive: true });
  });

  it('serves nothing outside its folders, and reads only', async () => {
    for (const path of [
      '/..%2fserver.ts',
      '/%2e%2e/%2e%2e/package.json',
      '/sluice/..%2fpackage.json',
      '/examples/downloaded/..%2f..%2fsetup.stamp',
      '/examples/packed/',
      '/chat-model/..%2f..%2fsetup.stamp',
      '/nothing.js',
      '/%',
    ]) {
      const { status } = await fetch(demo.origin + path);
      assert.ok(status === 404 || status === 400, `${path}: ${status}`);
    }
    assert.equal((await fetch(demo.origin, { method: 'POST' })).status, 405);
  });

  it('says that a port is taken', async () => {
    await assert.rejects(startDemo({ port: Number(new URL(demo.origin).port) }), {
      code: 'EADDRINUSE',
    });
  });
});
