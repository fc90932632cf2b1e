// Files that others have written, against the formats' own libraries: published models, and files of
// every element type that the libraries write. Every tensor, bit by bit, by the package and by `sluice`.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { loadModel, type LoadOptions } from 'sluice';
import { startServer } from '../../packages/sluice/test/support/server.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const COMMAND = join(ROOT, 'build/native/hosts/native/sluice');
/** Out of Python packages, by tools/fetch_model.sh. */
const PUBLISHED = ['silero_vad_16k.safetensors', 'SmolLM2-135M-Instruct.Q4_1.gguf'];
/** Of the reference writers: each element type that they know. */
const WRITTEN = ['types.safetensors', 'types.gguf', 'blocks.gguf'];

interface Tensor {
  dtype: string;
  shape: readonly number[];
  nbytes: number;
  sha256: string;
}
type Tensors = Record<string, Tensor>;
type Reading = Record<'stored' | 'float32', Tensors | null>;

const run = promisify(execFile);

async function reference(...given: string[]): Promise<string> {
  const script = join(ROOT, 'tests/reference/reference.py');
  const env = {
    ...process.env,
    PYTHONPATH: join(ROOT, 'build/reference'),
    PYTHONDONTWRITEBYTECODE: '1',
  };
  const { stdout } = await run('python3', [script, ...given], { env, maxBuffer: 2 ** 24 });
  return stdout;
}

async function byPackage(from: string, options: LoadOptions): Promise<Tensors> {
  const model = await loadModel(from, { device: 'cpu', ...options });
  const tensors: Tensors = {};
  for (const [name, tensor] of model.tensors) {
    assert.ok(tensor.location === 'cpu');
    const { dtype, nbytes, data } = tensor;
    const sha256 = createHash('sha256').update(data).digest('hex');
    tensors[name] = { dtype, shape: tensor.shape, nbytes, sha256 };
  }
  model.destroy();
  return tensors;
}

async function byCommand(path: string, dtype: string, folder: string): Promise<Tensors> {
  const out = join(folder, 'digests.json');
  await run(COMMAND, ['load', '--quiet', '--discard', '--dtype', dtype, '--digests', out, path]);
  return (JSON.parse(readFileSync(out, 'utf8')) as { tensors: Tensors }).tensors;
}

describe('files written by others', { timeout: 120_000 }, () => {
  let folder: string;
  let readings: Map<string, { path: string; reading: Reading }>;

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'sluice-reference-'));
    await reference('write', folder);
    const paths = [
      ...PUBLISHED.map((name) => join(ROOT, 'build/models', name)),
      ...WRITTEN.map((name) => join(folder, name)),
    ];
    const found = JSON.parse(await reference('read', ...paths)) as Record<string, Reading>;
    readings = new Map(
      Object.entries(found).map(([path, reading]) => [basename(path), { path, reading }]),
    );
  });
  after(() => {
    rmSync(folder, { recursive: true });
  });

  /** What the library has read; as many tensors, of as many types, as there must be. */
  function expected(
    name: string,
    dtype: 'stored' | 'float32',
    tensors: number,
    types: number,
  ): { path: string; read: Tensors } {
    const { path, reading } = readings.get(name) ?? assert.fail(name);
    const read = reading[dtype] ?? assert.fail(`the library converts nothing of ${name}`);
    assert.equal(Object.keys(read).length, tensors);
    assert.equal(new Set(Object.values(read).map((tensor) => tensor.dtype)).size, types);
    return { path, read };
  }

  for (const [name, dtype, tensors, types] of [
    ['silero_vad_16k.safetensors', 'stored', 15, 1],
    ['SmolLM2-135M-Instruct.Q4_1.gguf', 'stored', 272, 3],
    ['SmolLM2-135M-Instruct.Q4_1.gguf', 'float32', 272, 1],
    // Of twenty types, five tensors each; none of one element where two make a byte
    ['types.safetensors', 'stored', 99, 20],
    ['types.safetensors', 'float32', 99, 18],
    ['types.gguf', 'stored', 48, 16],
    ['types.gguf', 'float32', 48, 6],
    ['blocks.gguf', 'stored', 51, 17],
  ] as const) {
    test(`${name}, ${dtype}, by the package from disk`, async () => {
      const { path, read } = expected(name, dtype, tensors, types);
      assert.deepEqual(await byPackage(path, { dtype }), read);
    });

    test(`${name}, ${dtype}, by the package from a server`, async () => {
      const { path, read } = expected(name, dtype, tensors, types);
      const server = await startServer({ root: dirname(path) });
      try {
        // Cut into many pieces, so that blocks are divided
        const options = { dtype, budgetBytes: 2 ** 20, connections: 7 };
        assert.deepEqual(await byPackage(`${server.origin}/${name}`, options), read);
      } finally {
        await server.close();
      }
    });

    test(`${name}, ${dtype}, by the command`, async () => {
      const { path, read } = expected(name, dtype, tensors, types);
      assert.deepEqual(await byCommand(path, dtype, folder), read);
    });
  }
});
