// Tensors on disk, pins, and the store in Node.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import {
  loadModel,
  openStore,
  SluiceError,
  type DiskTensor,
  type LoadOptions,
  type Model,
  type ModelStore,
} from 'sluice';
import { asStored, expectModel } from '../load/support.js';
import { nodeDevice, readBack } from '../sinks/node_gpu.js';
import {
  randomTensor,
  safetensors,
  served,
  tensorCacheFiles,
  type CacheManifest,
  type Files,
} from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';

const table = randomTensor('table', 'float16', [3001, 700], 1);
const rest = [
  randomTensor('norm', 'float32', [1025], 2),
  randomTensor('layer.0', 'float16', [512, 1025], 3),
  randomTensor('layer.1', 'float32', [77, 33], 4),
];
const tensors = [rest[0], table, rest[1], rest[2]].filter((tensor) => tensor !== undefined);
const single = safetensors([randomTensor('w', 'F32', [300, 1000], 5)]);
const ROW = 1400;

const sha256 = (bytes: Uint8Array | string): string =>
  `sha256-${createHash('sha256').update(bytes).digest('base64')}`;
const digestHeader = (bytes: Uint8Array | string): string =>
  `sha-256=:${createHash('sha256').update(bytes).digest('base64')}:`;
const row = (index: number): Uint8Array => table.bytes.subarray(index * ROW, (index + 1) * ROW);

/** A tensor cache's files, the manifest with the md5 of each shard. */
function withDigests(files: Files): Files {
  const path = '/m/tensor-cache.json';
  const manifest = JSON.parse(String(files[path])) as CacheManifest;
  for (const shard of manifest.records) {
    const bytes = files[`/m/${shard.dataPath}`] ?? '';
    shard.md5sum = createHash('md5').update(bytes).digest('hex');
  }
  return { ...files, [path]: JSON.stringify(manifest) };
}

async function fails(work: Promise<unknown>, code: string, ...parts: string[]): Promise<void> {
  await assert.rejects(work, (error: unknown) => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.equal(error.code, code, error.message);
    for (const part of parts) assert.ok(error.message.includes(part), error.message);
    return true;
  });
}

describe('placement and pins', () => {
  let directory: string;
  let store: ModelStore;
  let server: TestServer;
  let device: GPUDevice;
  const models: Model[] = [];

  before(async () => {
    device = await nodeDevice();
  });
  after(() => {
    device.destroy();
  });
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'sluice-store-'));
    store = await openStore(directory);
    server = await startServer({
      files: {
        ...withDigests(served(tensorCacheFiles([tensors.slice(0, 2), tensors.slice(2)]), '/m/')),
        '/w.safetensors': single,
      },
    });
  });
  afterEach(async () => {
    for (const model of models.splice(0)) model.destroy();
    await server.close();
    await rm(directory, { recursive: true, force: true });
  });

  async function load(path: string, options: LoadOptions): Promise<Model> {
    const model = await loadModel(server.origin + path, { store, device: 'cpu', ...options });
    models.push(model);
    return model;
  }

  const diskTable: LoadOptions = {
    placement: ({ name }) => (name === 'table' ? 'disk' : 'gpu'),
  };

  test('rows of a tensor on disk are those of the model, and nothing is fetched again', async () => {
    for (const visit of ['cold', 'warm']) {
      const asked = server.requests.length;
      const model = await load('/m/', diskTable);
      assert.deepEqual(
        [...model.tensors.keys()],
        tensors.map(({ name }) => name),
      );
      const disk = model.get('table') as DiskTensor;
      assert.equal(disk.location, 'disk');
      assert.equal(disk.rowBytes, ROW);
      assert.deepEqual(disk.shape, [3001, 700]);
      const wanted = [0, 3000, 17, 17, 2999, 0];
      const rows = await disk.gatherRows(wanted);
      assert.deepEqual(rows, new Uint8Array(Buffer.concat(wanted.map(row))), visit);
      assert.deepEqual(await disk.gatherRows(wanted), rows, 'from the row cache');
      assert.equal((await disk.gatherRows([])).byteLength, 0);
      // More than the cache holds, several times, together with what it holds
      const shuffled = Array.from({ length: 3001 }, (_, i) => (i * 1009) % 3001);
      for (let at = 0; at < 3001; at += 500) {
        const some = [...shuffled.slice(at, at + 900), ...wanted, ...shuffled.slice(0, at)];
        const found = Buffer.from(await disk.gatherRows(some));
        assert.ok(found.equals(Buffer.concat(some.map(row))), `from ${at} on`);
      }
      for (const { name, bytes } of rest) {
        const tensor = model.get(name);
        assert.ok(tensor?.location === 'cpu');
        assert.deepEqual(tensor.data, new Uint8Array(bytes));
      }
      assert.equal(model.report.tensorsDone, 4);
      assert.equal(model.report.outputBytesDone, model.report.outputBytes);
      if (visit === 'warm') assert.equal(server.requests.length, asked);
    }
  });

  test('rows go to a GPU buffer; each tensor is where its placement says', async () => {
    const model = await load('/m/', {
      device,
      placement: ({ name }) => (name === 'table' ? 'disk' : name === 'norm' ? 'cpu' : 'gpu'),
    });
    assert.deepEqual(
      [...model.tensors.values()].map(({ location }) => location),
      ['cpu', 'disk', 'gpu', 'gpu'],
    );
    const disk = model.get('table') as DiskTensor;
    const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;
    const buffer = device.createBuffer({ size: 8 + 2 * ROW, usage });
    await disk.gatherRows([5, 2], { device, buffer, offset: 8 });
    await buffer.mapAsync(GPUMapMode.READ);
    const bytes = new Uint8Array(buffer.getMappedRange(8));
    assert.deepEqual(Buffer.from(bytes), Buffer.concat([row(5), row(2)]));
    buffer.unmap();
    // Several at once, each to a place of its own
    const many = device.createBuffer({ size: 64 * ROW, usage });
    for (let round = 0; round < 3; round++) {
      const places = Array.from({ length: 64 }, (_, i) => (i * 37 + round) % 3001);
      await Promise.all(
        places.map((at, i) => disk.gatherRows([at], { device, buffer: many, offset: i * ROW })),
      );
      await many.mapAsync(GPUMapMode.READ);
      const found = Buffer.from(new Uint8Array(many.getMappedRange()));
      assert.ok(found.equals(Buffer.concat(places.map(row))), `round ${round}`);
      many.unmap();
    }
    many.destroy();
    await disk.gatherRows([], { device, buffer });
    await fails(disk.gatherRows([1], { device, buffer, offset: 2 }), 'invalid_argument', 'at 2');
    await fails(
      disk.gatherRows([1, 2, 3], { device, buffer }),
      'invalid_argument',
      '"table"',
      String(3 * ROW),
    );
    buffer.destroy();
    const resident = rest.filter(({ name }) => name !== 'norm');
    for (const { name, bytes } of resident) {
      const tensor = model.get(name);
      assert.ok(tensor?.location === 'gpu');
      const read = await readBack(device, tensor.buffer);
      const { offset, nbytes } = tensor;
      assert.deepEqual(Buffer.from(read.subarray(offset, offset + nbytes)), Buffer.from(bytes));
    }
  });

  test('a row that is not there, a tensor without rows, a model without a store', async () => {
    const model = await load('/m/', diskTable);
    const disk = model.get('table') as DiskTensor;
    for (const bad of [3001, -1, 1.5, NaN]) {
      await fails(disk.gatherRows([0, bad]), 'invalid_argument', '"table"', '3001', String(bad));
    }
    model.destroy();
    await fails(disk.gatherRows([0]), 'aborted', '"table"', 'destroyed');
    await fails(load('/m/', { ...diskTable, store: false }), 'io', '"table"');
    const store = 'yes' as unknown as boolean;
    await fails(load('/m/', { store }), 'invalid_argument', 'option store');
    await fails(
      load('/m/', { placement: 'memory' as 'cpu' }),
      'invalid_argument',
      'placement',
      'memory',
      '"norm"',
    );
  });

  test('damage in a tensor on disk is found when it is loaded again, and mended', async () => {
    (await load('/m/', diskTable)).destroy();
    const [entry] = await store.models();
    assert.equal(entry?.complete, true);
    const { platform } = store;
    const folder = await (await platform.openRoot()).folder('models', false);
    const [model] = await folder.entries();
    const data = join(directory, 'models', model?.name ?? '', '1');
    const file = await open(data, 'r+');
    const { buffer } = await file.read(Buffer.alloc(1), 0, 1, 70_000);
    await file.write(Buffer.of((buffer[0] ?? 0) ^ 1), 0, 1, 70_000);
    await file.close();
    const asked = server.requests.length;
    const again = await load('/m/', diskTable);
    assert.ok((again.report.store?.damagedBytes ?? 0) > 0);
    assert.ok(server.requests.length > asked);
    const disk = again.get('table') as DiskTensor;
    const all = Array.from({ length: 3001 }, (_, i) => i);
    assert.deepEqual(Buffer.from(await disk.gatherRows(all)), Buffer.from(table.bytes));
  });

  test('a model that is pinned loads where it is the one, whole files checked', async () => {
    const manifest = server.files['/m/tensor-cache.json'] as string;
    const good = await load('/m/', { integrity: sha256(manifest) });
    await expectModel(good, tensors.map(asStored));
    // Tensors of one file alone: the rest of the file is fetched, since the digest is of all of it
    const part = await load('/m/', { integrity: sha256(manifest), tensors: ['norm'] });
    assert.deepEqual([...part.tensors.keys()], ['norm']);
    await load('/w.safetensors', { integrity: sha256(single) });
  });

  test('the digest that a server gives of a file is held to, once', async () => {
    const path = '/w.safetensors';
    server.addFault({ path, times: 100, headers: { 'repr-digest': digestHeader(single) } });
    await load(path, {});
    const [entry] = await store.models();
    assert.equal(entry?.complete, true);
    const other = await startServer({ files: { [path]: single } });
    try {
      other.addFault({ path, headers: { 'repr-digest': `md5=:x:, ${digestHeader('other')}` } });
      const url = other.origin + path;
      await fails(
        loadModel(url, { store, device: 'cpu' }),
        'checksum_mismatch',
        'sha256',
        'w.safetensors',
      );
    } finally {
      await other.close();
    }
  });

  test('tensors on disk are held to the digests as well, pinned or not', async () => {
    const manifest = server.files['/m/tensor-cache.json'] as string;
    const name = Object.keys(server.files).find((path) => path.endsWith('.bin')) ?? '';
    const good = server.files[name] as Uint8Array;
    const bad = good.slice();
    bad[5000] = (bad[5000] ?? 0) ^ 1;
    server.files[name] = bad;
    const integrity = sha256(manifest);
    await fails(load('/m/', { ...diskTable, integrity }), 'checksum_mismatch', 'md5');
    await fails(load('/m/', { placement: 'disk' }), 'checksum_mismatch', 'md5');
    server.files[name] = good;
    await load('/m/', { ...diskTable, integrity });

    const wrong = single.slice();
    wrong[1000] = (wrong[1000] ?? 0) ^ 1;
    const path = '/w.safetensors';
    server.files[path] = wrong;
    const pinned: LoadOptions = { placement: 'disk', integrity: sha256(single) };
    await fails(load(path, pinned), 'checksum_mismatch', 'sha256');
  });

  test('what was stored wrong, and complete, is forgotten for good once it is found out', async () => {
    const path = '/w.safetensors';
    const wrong = single.slice();
    wrong[1000] = (wrong[1000] ?? 0) ^ 1;
    server.files[path] = wrong;
    await load(path, {});
    const integrity = sha256(single);
    await fails(load(path, { integrity }), 'checksum_mismatch', 'sha256');
    server.files[path] = single;
    const model = await load(path, { integrity });
    assert.equal(model.report.store?.storedBytes, single.byteLength);
  });

  test('a whole file is held to its digest once, whoever loads first', async () => {
    await load('/m/', diskTable);
    await load('/m/', {});
    const folder = await (await store.platform.openRoot()).folder('models', false);
    const [entry] = await folder.entries();
    const file = join(directory, 'models', entry?.name ?? '', 'journal');
    const journal = (await readFile(file)).toString('latin1');
    assert.equal(journal.split('md5').length - 1, 2, 'two shards, checked once each');
    const before = (await stat(file)).size;
    await load('/m/', {});
    assert.equal((await stat(file)).size, before);
  });

  test('a model that is not what it was pinned to is refused', async () => {
    const manifest = server.files['/m/tensor-cache.json'] as string;
    await fails(load('/m/', { integrity: sha256('x') }), 'checksum_mismatch', 'tensor-cache.json');
    await fails(load('/w.safetensors', { integrity: sha256('x') }), 'checksum_mismatch', 'sha256');
    // A shard that is another than the manifest says
    const name = Object.keys(server.files).find((path) => path.endsWith('.bin')) ?? '';
    const shard = (server.files[name] as Uint8Array).slice();
    shard[100] = (shard[100] ?? 0) ^ 1;
    server.files[name] = shard;
    await fails(load('/m/', { integrity: sha256(manifest) }), 'checksum_mismatch', 'md5');
    await fails(load('/m/', { integrity: 'md5-abc' }), 'invalid_argument', 'sha256-');
    await fails(
      load('/m/', { integrity: sha256(manifest), store: false }),
      'invalid_argument',
      'store',
    );
  });
});
