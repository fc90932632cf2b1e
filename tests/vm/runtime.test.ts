// Compiled models, linked with the runtime and driven by sluice/runtime, in Node.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { createRuntime, type RuntimeModule } from 'sluice/runtime';
import { nodeDevice } from '../../packages/sluice/test/sinks/node_gpu.js';
import { startServer, type TestServer } from '../../packages/sluice/test/support/server.js';
import { drive } from './drive.js';
import { calls, expectSame, linkedBytes } from './support.js';

describe('compiled models under sluice/runtime', () => {
  let server: TestServer;
  before(async () => {
    const names = ['basic_cpu', 'basic_compiled', 'control_cpu', 'basic_webgpu'];
    const files = await Promise.all(
      names.map(async (name) => [`/${name}.wasm`, await linkedBytes(name)] as const),
    );
    server = await startServer({ files: Object.fromEntries(files) });
  });
  after(() => server.close());

  for (const [name, given] of [
    ['basic_cpu', 'basic'],
    ['basic_compiled', 'basic'],
    ['basic_webgpu', 'basic'],
    ['control_cpu', 'control'],
  ] as const)
    test(name, async () => {
      const gpu = name.endsWith('webgpu');
      const request = {
        entry: 'sluice/runtime',
        wasm: `${server.origin}/${name}.wasm`,
        calls: calls(given),
        gpu,
      };
      const results = await drive(request, gpu ? await nodeDevice() : undefined);
      for (const [i, { result }] of request.calls.entries())
        expectSame(results[i], result, `call ${i}, ${request.calls[i]?.function}`);
    });

  test('memory does not grow from call to call', async () => {
    const runtime = await createRuntime({ wasm: `${server.origin}/basic_cpu.wasm` });
    const scope = runtime.scope({ detached: true });
    const chain = scope.run(() => {
      const vm = runtime.systemLibrary().getFunction('vm_load_executable')() as RuntimeModule;
      vm.getFunction('vm_initialization')(1, 0, 2);
      return vm.getFunction('chain');
    });
    const [x, w] = scope.run(() => [runtime.empty([64, 8]), runtime.empty([8, 8])]);
    const repeat = (count: number): void => {
      for (let i = 0; i < count; i++) runtime.withScope(() => void chain(x, w));
    };
    repeat(10);
    const before = runtime.memoryBytes;
    repeat(5000);
    assert.equal(runtime.memoryBytes, before);
    runtime.dispose();
  });
});
