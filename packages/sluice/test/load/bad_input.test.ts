// Models that are wrong, each with its code and a message that names the file, the tensor and the numbers.
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { loadModel, type ErrorCode, type LoadOptions } from 'sluice';
import { nodeDevice } from '../sinks/node_gpu.js';
import {
  gguf,
  randomTensor,
  safetensors,
  safetensorsFile,
  safetensorsIndexFiles,
  served,
  tensorCache,
  type CacheManifest,
  type CacheRecord,
  type CacheShard,
  type Files,
} from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';
import { rejects, trackBuffers } from './support.js';

interface Bad {
  what: string;
  files: Files;
  code: ErrorCode;
  /** What the message must name. */
  says: (string | number)[];
  file?: string | undefined;
  tensor?: string;
  expected?: number;
  actual?: number;
  /** The model's name below its folder; the folder itself unless given. */
  name?: string;
}

const tensors = [
  randomTensor('embed', 'float32', [4, 4], 1), // bytes 0 to 64
  randomTensor('norm', 'float16', [8], 2), // bytes 64 to 80
];
const MANIFEST = 'tensor-cache.json';
const SHARD = 'params_shard_0.bin';

/** A tensor cache, changed. `text` may change what no object can hold. */
function cache(
  change: (parts: {
    manifest: CacheManifest;
    shard: CacheShard;
    embed: CacheRecord;
    norm: CacheRecord;
    data: Record<string, Uint8Array>;
  }) => void,
  text: (json: string) => string = (json) => json,
): Files {
  const { manifest, data } = tensorCache([tensors]);
  const [shard] = manifest.records;
  const [embed, norm] = shard?.records ?? [];
  assert.ok(shard && embed && norm);
  change({ manifest, shard, embed, norm, data });
  return { [MANIFEST]: text(JSON.stringify(manifest)), ...data };
}
const same = (): void => undefined;

function ggufWith(change: (view: DataView) => void): Files {
  const bytes = gguf([{ ...tensors[0]!, dtype: 'f32' }]);
  change(new DataView(bytes.buffer));
  return { 'model.gguf': bytes };
}

const header = (text: string, bytes = 64): Files => ({
  'm.safetensors': safetensorsFile(text, new Uint8Array(bytes)),
});

const manifestCases: Bad[] = [
  {
    what: 'nbytes of a record does not fit its shape',
    files: cache(({ embed }) => (embed.nbytes = 60)),
    code: 'size_mismatch',
    says: [MANIFEST, 'embed', '[4, 4]', 64, 60],
    tensor: 'embed',
    expected: 64,
    actual: 60,
  },
  {
    what: 'nbytes of a packed record is neither packed nor native',
    files: cache(({ embed }) => Object.assign(embed, { format: 'f32-to-bf16', nbytes: 48 })),
    code: 'size_mismatch',
    says: [MANIFEST, 'embed', 48, 32, 64],
    tensor: 'embed',
  },
  {
    what: 'records overlap',
    files: cache(({ norm }) => (norm.byteOffset = 60)),
    code: 'manifest_invalid',
    says: [SHARD, 'norm', 'embed', 60, 64],
    tensor: 'norm',
    file: SHARD,
  },
  {
    what: 'an offset past the end',
    files: cache(({ norm }) => (norm.byteOffset = 72)),
    code: 'range_out_of_bounds',
    says: [SHARD, 'norm', 16, 72, 80],
    tensor: 'norm',
    expected: 80,
    actual: 88,
  },
  {
    what: 'an offset that overflows',
    files: cache(same, (json) =>
      json.replace('"byteOffset":64', '"byteOffset":18446744073709551610'),
    ),
    code: 'range_out_of_bounds',
    says: ['norm', '18446744073709551610', 'overflow'],
    tensor: 'norm',
  },
  {
    what: 'a shape whose product overflows',
    files: cache(({ embed }) => (embed.shape = [2 ** 32, 2 ** 32, 4])),
    code: 'manifest_invalid',
    says: [MANIFEST, 'embed', '[4294967296, 4294967296, 4]', 'overflow'],
    tensor: 'embed',
  },
  {
    what: 'a shape whose bytes overflow',
    files: cache(same, (json) => json.replace('[4,4]', '[4611686018427387904]')),
    code: 'manifest_invalid',
    says: ['embed', '4611686018427387904', 'overflow'],
    tensor: 'embed',
  },
  ...[
    ['a negative number', '-4'],
    ['a fraction', '4.5'],
    ['a string', '"4"'],
    ['null', 'null'],
    ['a number beyond 64 bits', '1e30'],
  ].flatMap(([what = '', value = '']): Bad[] => [
    {
      what: `${what} in a shape`,
      files: cache(same, (json) => json.replace('[4,4]', `[4,${value}]`)),
      code: 'manifest_invalid',
      says: [MANIFEST, 'embed', 'shape[1]'],
      tensor: 'embed',
      file: MANIFEST,
    },
    {
      what: `${what} as byteOffset`,
      files: cache(same, (json) => json.replace('"byteOffset":64', `"byteOffset":${value}`)),
      code: 'manifest_invalid',
      says: [MANIFEST, 'norm', 'byteOffset'],
      tensor: 'norm',
    },
    {
      what: `${what} as nbytes of the shard`,
      files: cache(same, (json) => json.replace('"nbytes":80', `"nbytes":${value}`)),
      code: 'manifest_invalid',
      says: [MANIFEST, SHARD, 'nbytes'],
    },
  ]),
  {
    what: 'deep nesting',
    files: cache(same, (json) =>
      json.replace('"metadata":{', `"metadata":{"x":${'['.repeat(5000)}${']'.repeat(5000)},`),
    ),
    code: 'manifest_invalid',
    says: [MANIFEST, 'deeper', 64],
    file: MANIFEST,
  },
  {
    what: 'two tensors of one name',
    files: cache(({ norm }) => (norm.name = 'embed')),
    code: 'manifest_invalid',
    says: [MANIFEST, 'embed', 'twice'],
    tensor: 'embed',
  },
  {
    what: 'a key that stands twice',
    files: cache(same, (json) => json.replace('"byteOffset":64', '"byteOffset":64,"byteOffset":0')),
    code: 'manifest_invalid',
    says: [MANIFEST, 'byteOffset', 'twice'],
  },
  {
    what: 'an unknown dtype',
    files: cache(({ embed }) => (embed.dtype = 'float24')),
    code: 'unsupported_dtype',
    says: [MANIFEST, 'embed', 'float24'],
    tensor: 'embed',
  },
  {
    what: 'an unknown record format',
    files: cache(({ embed }) => (embed.format = 'zip')),
    code: 'manifest_invalid',
    says: [MANIFEST, 'embed', 'zip', 'f32-to-bf16'],
    tensor: 'embed',
  },
  ...[
    '../secret.bin',
    '/etc/passwd',
    'a/../../b',
    'http://example.com/a.bin',
    'a\\..\\b',
    '%2e%2e/b',
  ].map((dataPath): Bad => ({
    what: `the path '${dataPath}'`,
    files: cache(({ shard }) => (shard.dataPath = dataPath)),
    code: 'manifest_invalid',
    says: [MANIFEST, dataPath],
    file: MANIFEST,
  })),
  {
    what: 'a path that leaves the folder, in a safetensors index',
    files: {
      'model.safetensors.index.json': JSON.stringify({ weight_map: { a: '../x.safetensors' } }),
    },
    code: 'manifest_invalid',
    says: ['model.safetensors.index.json', '../x.safetensors'],
  },
  {
    what: 'a manifest that ends in the middle',
    files: cache(same, (json) => json.slice(0, -20)),
    code: 'manifest_invalid',
    says: [MANIFEST],
  },
  {
    what: 'a web page instead of a manifest',
    files: { [MANIFEST]: '<!doctype html><title>Sign in</title>' },
    code: 'manifest_invalid',
    says: [MANIFEST],
  },
  {
    what: 'an empty manifest',
    files: { [MANIFEST]: '' },
    code: 'manifest_invalid',
    says: [MANIFEST],
  },
  { what: 'nothing at all', files: { 'other.txt': 'x' }, code: 'not_found', says: [MANIFEST] },
  {
    what: 'safetensors: an unknown dtype',
    files: header('{"a":{"dtype":"F24","shape":[16],"data_offsets":[0,64]}}'),
    name: 'm.safetensors',
    code: 'unsupported_dtype',
    says: ['m.safetensors', "'a'", 'F24'],
    tensor: 'a',
  },
  {
    what: 'safetensors: overlapping tensors',
    files: header(
      '{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"b":{"dtype":"F32","shape":[9],"data_offsets":[28,64]}}',
    ),
    name: 'm.safetensors',
    code: 'manifest_invalid',
    says: ['m.safetensors', "'b'", "'a'", 146, 118, 150],
    tensor: 'b',
  },
  {
    what: 'safetensors: offsets past the end',
    files: header('{"a":{"dtype":"F32","shape":[20],"data_offsets":[0,80]}}'),
    name: 'm.safetensors',
    code: 'truncated',
    says: ['m.safetensors'],
  },
  {
    what: 'safetensors: a header longer than the file',
    files: { 'm.safetensors': new Uint8Array([0, 1, 0, 0, 0, 0, 0, 0, 0x7b]) },
    name: 'm.safetensors',
    code: 'truncated',
    says: ['m.safetensors', 264, 9],
    expected: 264,
    actual: 9,
  },
  {
    what: 'safetensors: an index that places a tensor where it is not',
    files: (() => {
      const files = safetensorsIndexFiles([
        [randomTensor('a', 'F32', [2], 1)],
        [randomTensor('b', 'F32', [2], 2)],
      ]);
      const text = String(files['model.safetensors.index.json']);
      return {
        ...files,
        'model.safetensors.index.json': text
          .replace('"a":"model-1-', '"a":"model-2-')
          .replace('"b":"model-2-', '"b":"model-1-'),
      };
    })(),
    code: 'manifest_invalid',
    says: ['model.safetensors.index.json', "'a'", 'model-2-of-2.safetensors'],
    tensor: 'a',
  },
  {
    what: 'GGUF: version 1',
    files: ggufWith((view) => view.setUint32(4, 1, true)),
    name: 'model.gguf',
    code: 'manifest_invalid',
    says: ['model.gguf', 'version 1'],
    actual: 1,
  },
  {
    what: 'GGUF: more tensors than could fit',
    files: ggufWith((view) => view.setBigUint64(8, 2n ** 60n, true)),
    name: 'model.gguf',
    code: 'manifest_invalid',
    says: ['model.gguf', String(2n ** 60n)],
  },
  {
    what: 'GGUF: an unknown type',
    files: ggufWith((view) => view.setUint32(24 + 8 + 5 + 4 + 16, 999, true)),
    name: 'model.gguf',
    code: 'unsupported_dtype',
    says: ['model.gguf', 'embed', 999],
    tensor: 'embed',
  },
  {
    what: 'GGUF: dimensions whose product overflows',
    files: ggufWith((view) => view.setBigUint64(24 + 8 + 5 + 4, 2n ** 62n, true)),
    name: 'model.gguf',
    code: 'manifest_invalid',
    says: ['model.gguf', 'embed', String(2n ** 62n), 'overflow'],
    tensor: 'embed',
  },
  {
    what: 'GGUF: a file that ends early',
    files: { 'model.gguf': gguf([{ ...tensors[0]!, dtype: 'f32' }]).slice(0, 120) },
    name: 'model.gguf',
    code: 'truncated',
    says: ['model.gguf', 'embed', 120],
    tensor: 'embed',
    actual: 120,
  },
];

describe('bad models', { timeout: 60_000 }, () => {
  let server: TestServer;
  let folder: string;
  let device: GPUDevice;
  before(async () => {
    device = await nodeDevice();
    server = await startServer();
    folder = mkdtempSync(join(tmpdir(), 'sluice-bad-'));
  });
  after(async () => {
    device.destroy();
    rmSync(folder, { recursive: true });
    await server.close();
  });

  /** Loads from the server and from a folder; nothing of the model stays. */
  async function fails(bad: Bad, at: string, options: LoadOptions = {}): Promise<void> {
    Object.assign(server.files, served(bad.files, `/${at}/`));
    for (const [path, body] of Object.entries(bad.files)) {
      const file = join(folder, at, path);
      mkdirSync(dirname(file), { recursive: true });
      writeFileSync(file, body);
    }
    const buffers = trackBuffers(device);
    const name = bad.name ?? '';
    for (const place of [`${server.origin}/${at}/${name}`, join(folder, at, name)]) {
      const error = await rejects(loadModel(place, { device, ...options }), bad.code, ...bad.says);
      for (const key of ['file', 'tensor', 'expected', 'actual'] as const) {
        if (bad[key] !== undefined)
          assert.equal(error[key], bad[key], `${key} of ${error.message}`);
      }
      assert.equal(buffers.count, 0);
    }
    assert.equal(server.openResponses, 0);
  }

  for (const [index, bad] of manifestCases.entries()) {
    test(bad.what, () => fails(bad, `case${index}`));
  }

  test('a shard that is shorter than promised', async () => {
    const files = cache(({ data }) => (data[SHARD] = data[SHARD]!.slice(0, 71)));
    const says = [SHARD, 71, 80];
    await fails(
      { what: '', files, code: 'truncated', says, file: SHARD, expected: 80, actual: 71 },
      'short',
    );
  });

  test('a shard that is longer than promised', async () => {
    const files = cache(({ data }) => {
      data[SHARD] = new Uint8Array(85);
    });
    const says = [SHARD, 85, 80];
    await fails(
      { what: '', files, code: 'size_mismatch', says, file: SHARD, expected: 80, actual: 85 },
      'long',
    );
  });

  for (const [what, length, code] of [
    ['shorter', 71, 'truncated'],
    ['longer', 85, 'size_mismatch'],
  ] as const) {
    test(`a shard that is ${what} than promised, from a server without lengths`, async () => {
      const files = cache(({ data }) => (data[SHARD] = new Uint8Array(length)));
      Object.assign(server.files, served(files, `/${what}/`));
      server.addFault({ path: `/${what}/${SHARD}`, noLength: true, noRange: true });
      const buffers = trackBuffers(device);
      const error = await rejects(
        loadModel(`${server.origin}/${what}/`, { device }),
        code,
        SHARD,
        length,
        80,
      );
      assert.equal(error.file, SHARD);
      assert.equal(buffers.count, 0);
    });
  }

  test('a shard that is not there names it', async () => {
    const files = cache(same);
    Reflect.deleteProperty(files, SHARD);
    Object.assign(server.files, served(files, '/missing/'));
    const buffers = trackBuffers(device);
    const url = `${server.origin}/missing/`;
    const error = await rejects(loadModel(url, { device }), 'not_found', SHARD, 404);
    assert.equal(error.status, 404);
    assert.equal(error.file, url + SHARD);
    assert.equal(buffers.count, 0);
    mkdirSync(join(folder, 'missing'));
    writeFileSync(join(folder, 'missing', MANIFEST), files[MANIFEST] ?? '');
    await rejects(loadModel(join(folder, 'missing')), 'not_found', SHARD);
  });

  test('a manifest that is not there', async () => {
    await rejects(
      loadModel(`${server.origin}/nowhere/tensor-cache.json`),
      'not_found',
      'tensor-cache.json',
    );
    await rejects(loadModel(`${server.origin}/nowhere/`), 'not_found', 'ndarray-cache.json');
    await rejects(loadModel(join(folder, 'nowhere', 'model.gguf')), 'not_found', 'model.gguf');
  });

  test('a safetensors file of an index that is not there', async () => {
    const files = safetensorsIndexFiles([
      [randomTensor('a', 'F32', [2], 1)],
      [randomTensor('b', 'F32', [2], 2)],
    ]);
    delete files['model-2-of-2.safetensors'];
    await fails(
      { what: '', files, code: 'not_found', says: ['model-2-of-2.safetensors'] },
      'half-index',
    );
  });

  test('a server that refuses', async () => {
    const files = cache(same);
    Object.assign(server.files, served(files, '/forbidden/'));
    server.addFault({ path: `/forbidden/${SHARD}`, status: 403 });
    const error = await rejects(
      loadModel(`${server.origin}/forbidden/`),
      'http_status',
      SHARD,
      403,
    );
    assert.equal(error.status, 403);
    assert.match(error.hint ?? '', /credentials/);
  });

  test('a server that fails five times in a row', async () => {
    Object.assign(server.files, served(cache(same), '/failing/'));
    server.addFault({ path: `/failing/${SHARD}`, status: 503 });
    const error = await rejects(
      loadModel(`${server.origin}/failing/`),
      'http_status',
      SHARD,
      503,
      '5 times',
    );
    assert.equal(error.status, 503);
  });

  test('a file that is replaced while it is loaded', async () => {
    const weights = randomTensor('w', 'U8', [3_000_000], 1);
    server.files['/changing.safetensors'] = safetensors([weights]);
    server.addFault({ path: '/changing.safetensors', after: 1, times: 1, cutAfter: 1_000_000 });
    let replaced = false;
    const error = await rejects(
      loadModel(`${server.origin}/changing.safetensors`, {
        consume() {
          if (replaced) return;
          replaced = true;
          server.files['/changing.safetensors'] = safetensors([
            randomTensor('w', 'U8', [3_000_000], 2),
          ]);
        },
      }),
      'source_changed',
      'changing.safetensors',
    );
    assert.match(error.message, /changed|replaced/);
  });

  test('no server', async () => {
    const gone = await startServer();
    await gone.close();
    const error = await rejects(
      loadModel(`${gone.origin}/m.gguf`),
      'network',
      `${gone.origin}/m.gguf`,
    );
    assert.ok(error.hint);
  });

  test('an argument that makes no sense', async () => {
    Object.assign(server.files, served(cache(same), '/good/'));
    const url = `${server.origin}/good/`;
    for (const [options, ...says] of [
      [{ budgetBytes: -1 }, 'budgetBytes', '-1'],
      [{ budgetBytes: 1.5 }, 'budgetBytes', '1.5'],
      [{ budgetBytes: NaN }, 'budgetBytes', 'NaN'],
      [{ budgetBytes: Infinity }, 'budgetBytes', 'Infinity'],
      [{ connections: NaN }, 'connections', 'NaN'],
      [{ device, shareBelowBytes: NaN }, 'shareBelowBytes', 'NaN'],
      [{ connections: 0 }, 'connections'],
      [{ connections: 1000 }, 'connections'],
      [{ dtype: 'float8' as 'float16' }, 'dtype', 'float8'],
      [{ stallTimeoutMs: 0 }, 'stallTimeoutMs', '0'],
      [{ headers: { Range: 'bytes=0-1' } }, 'range'],
      [{ device: 'cuda' as 'gpu' }, 'device', "'cuda'"],
      [{ device: null as unknown as GPUDevice }, 'device', 'object'],
      [{ tensors: 'a' as unknown as string[] }, 'tensors', 'string'],
      [{ tensors: new Set(['a']) as unknown as string[] }, 'tensors', 'object'],
      [{ upload: 'fast' as 'ring' }, 'upload', "'fast'"],
    ] as [LoadOptions, ...string[]][]) {
      await rejects(loadModel(url, options), 'invalid_argument', ...says);
    }
    await rejects(loadModel(''), 'invalid_argument', 'empty');
    await rejects(loadModel('http://'), 'invalid_argument', 'http://');
    await rejects(loadModel('http://user:pw@127.0.0.1/m.gguf'), 'invalid_argument', 'password');
  });

  test('a budget that is too small says what is enough, and that is enough', async () => {
    Object.assign(server.files, served(cache(same), '/budget/'));
    const url = `${server.origin}/budget/`;
    for (const options of [
      { device },
      { device: 'cpu' },
      { device, dtype: 'float32' },
    ] satisfies LoadOptions[]) {
      const buffers = trackBuffers(device);
      const error = await rejects(
        loadModel(url, { ...options, budgetBytes: 1000 }),
        'budget_too_small',
        1000,
      );
      assert.equal(error.actual, 1000);
      const least = error.expected ?? assert.fail();
      assert.ok(error.message.includes(String(least)));
      await rejects(loadModel(url, { ...options, budgetBytes: least - 1 }), 'budget_too_small');
      const model = await loadModel(url, { ...options, budgetBytes: least });
      assert.equal(model.tensors.size, 2);
      model.destroy();
      assert.equal(buffers.count, 0);
    }
  });

  test('a conversion that there is not names the tensor and both types', async () => {
    server.files['/convert.gguf'] = gguf([
      { name: 'q', dtype: 'q4_0', shape: [32], bytes: new Uint8Array(18) },
      { name: 'r', dtype: 'q8_0', shape: [32], bytes: new Uint8Array(34) },
    ]);
    const model = await loadModel(`${server.origin}/convert.gguf`, { dtype: 'float16' });
    assert.deepEqual(
      [...model.tensors.values()].map(({ dtype }) => dtype),
      ['float16', 'float16'],
    );
    const bytes = gguf([{ name: 'q', dtype: 'q4_0', shape: [256], bytes: new Uint8Array(144) }]);
    // q2_k, 84 bytes in 256 elements, is loaded as stored and not converted
    new DataView(bytes.buffer).setUint32(24 + 8 + 1 + 4 + 8, 10, true);
    server.files['/k.gguf'] = bytes;
    const stored = await loadModel(`${server.origin}/k.gguf`);
    assert.equal(stored.get('q')?.dtype, 'q2_k');
    const error = await rejects(
      loadModel(`${server.origin}/k.gguf`, { dtype: 'float16' }),
      'unsupported_dtype',
      "'q'",
      'q2_k',
      'float16',
    );
    assert.equal(error.tensor, 'q');
  });
});
