// A published model through sluice/tvmjs's fetchTensorCache() in Node: every tensor reads back as in the original file.
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { digestTensorCache } from '../../packages/sluice/test/browser/page_tvmjs.js';
import { nodeDevice } from '../../packages/sluice/test/sinks/node_gpu.js';
import { newInstance } from '../../packages/sluice/test/tvmjs/support.js';
import { servePackedModel, type PackedModel } from './packed.js';

describe('SmolLM2 by fetchTensorCache() in Node', { timeout: 180_000 }, () => {
  let model: PackedModel;
  let folder: string;
  const cacheHome = process.env['XDG_CACHE_HOME'];
  before(async () => {
    model = await servePackedModel();
    // Not among the models of whoever runs the tests
    folder = await mkdtemp(join(tmpdir(), 'sluice-tensor-cache-'));
    process.env['XDG_CACHE_HOME'] = folder;
  });
  after(async () => {
    if (cacheHome === undefined) delete process.env['XDG_CACHE_HOME'];
    else process.env['XDG_CACHE_HOME'] = cacheHome;
    await model.close();
    await rm(folder, { recursive: true });
  });

  for (const device of ['cpu', 'webgpu'] as const) {
    test(`to ${device}`, async () => {
      const tvm = newInstance();
      if (device === 'webgpu') tvm.initWebGPU(await nodeDevice());
      const digests = await digestTensorCache(tvm, model.url, tvm.device(device));
      assert.equal(Object.keys(digests).length, 272);
      assert.deepEqual(digests, model.expected);
      tvm.dispose();
    });
  }
});
