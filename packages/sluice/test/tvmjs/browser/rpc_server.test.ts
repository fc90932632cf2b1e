// RPCServer in Chromium, on a page and in a worker: what a client does on the CPU and on WebGPU.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type * as Tvmjs from 'sluice/tvmjs';
import { wasmPath } from 'sluice/tvmjs';
import { startChromium, type Chromium } from '../../support/chromium.js';
import { Code, CPU, Packet, Proxy, WEBGPU } from '../rpc_proxy.js';

const wasm = readFileSync(join(wasmPath(), 'sluice_runtime.wasm'));

describe('RPCServer in Chromium', { timeout: 120_000 }, () => {
  let browser: Chromium;
  let proxy: Proxy;
  before(async () => {
    browser = await startChromium();
    proxy = await Proxy.start();
  });
  after(async () => {
    await proxy.close();
    await browser.close();
  });

  for (const where of ['page', 'worker'] as const) {
    test(`in a ${where}: functions, tensors, the GPU, time`, async () => {
      const page = await browser.newPage();
      // Until nobody wants the server
      const serve = async ({ origin, url }: { origin: string; url: string }): Promise<string[]> => {
        const entry = `${origin}/dist/tvmjs/index.js`;
        const { RPCServer } = (await import(entry)) as typeof Tvmjs;
        const log: string[] = [];
        const server = new RPCServer(
          url,
          'key',
          () => ({}),
          (message) => log.push(message),
        );
        await server.closed.catch((error: unknown) => log.push(String(error)));
        return log;
      };
      const argument = { origin: browser.origin, url: proxy.url };
      const served =
        where === 'page' ? page.evaluate(serve, argument) : page.evaluateInWorker(serve, argument);
      const client = await (await proxy.accept()).start(wasm);
      assert.equal(await client.call('tvmjs.testing.add_one', 41), 42);
      assert.equal(await client.call('testing.asyncAddOne', 1), 2);
      for (const device of [CPU, WEBGPU]) {
        const exists = new Packet(Code.getAttribute).i32(2, 6, device, 0, 1).u64(0);
        assert.deepEqual(await client.values(exists), [1]);
        const many = Float32Array.from({ length: 100_001 }, (_, i) => i);
        const tensor = await client.upload(many, device);
        assert.deepEqual(await client.download(tensor), [...many]);
      }
      const numbers = [WEBGPU, 0, 10, 2, 0, 100, 0, 1, 0];
      const name = 'tvmjs.testing.add_one';
      const evaluator = await client.call('runtime.RPCTimeEvaluator', null, name, ...numbers, '');
      const seconds = await client.call(evaluator as bigint, 1);
      assert.ok(seconds instanceof Uint8Array);
      assert.equal(seconds.length, 16);
      client.shutdown();
      await client.closed;
      (await proxy.accept()).close();
      const log = (await served).join('\n');
      assert.match(log, /Initialize GPU device: WebGPU: /);
      assert.match(log, /Automatic reconnecting\.\./);
      assert.match(log, /Error: WebSocketRPCServer\[key\]: ws:.* has closed the connection/);
      assert.deepEqual(page.errors, []);
      await page.close();
    });
  }
});
