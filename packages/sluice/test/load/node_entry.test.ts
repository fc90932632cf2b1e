// Node's entry beside a loader.wasm that is not there, or broken, for a while.
import assert from 'node:assert/strict';
import { cp, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type * as Sluice from 'sluice';
import { randomTensor, safetensors } from '../support/models.js';

const DIST = fileURLToPath(new URL('../../dist', import.meta.url));

describe("Node's entry", () => {
  test('a loader.wasm that fails is an error that names it, and the next load tries again', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'sluice-dist-'));
    try {
      await cp(DIST, folder, { recursive: true });
      await writeFile(join(folder, 'package.json'), '{"type": "module"}');
      const wasm = join(folder, 'sluice_loader.wasm');
      const entry = pathToFileURL(join(folder, 'node.js')).href;
      const { loadModel } = (await import(entry)) as typeof Sluice;
      const model = new Blob([new Uint8Array(safetensors([randomTensor('a', 'U8', [10], 1)]))]);
      const expectFailure = (): Promise<void> =>
        assert.rejects(loadModel(model), (error: Sluice.SluiceError) => {
          assert.equal(error.code, 'internal');
          assert.ok(error.message.includes(wasm), error.message);
          assert.equal(error.file, wasm);
          assert.ok(error.hint);
          return true;
        });

      await rename(wasm, `${wasm}.away`);
      await expectFailure();
      await writeFile(wasm, 'not wasm');
      await expectFailure();
      await rename(`${wasm}.away`, wasm);
      const { tensors } = await loadModel(model);
      assert.deepEqual([...tensors.keys()], ['a']);
    } finally {
      await rm(folder, { recursive: true });
    }
  });
});
