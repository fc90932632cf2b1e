// Compiled models, linked with the runtime and driven by sluice/runtime, in Node.
import { after, before, describe, test } from 'node:test';
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
});
