// How many connections a load uses, of a server that limits each, and of one that bears few.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { loadModel } from 'sluice';
import { randomTensor, safetensorsIndexFiles } from '../support/models.js';
import { startServer, type Fault, type TestServer } from '../support/server.js';
import { asStored, expectModel, rejects } from './support.js';

const tensors = Array.from({ length: 48 }, (_, i) => randomTensor(`t${i}`, 'F32', [512, 1024], i));
const SHARDS = Array.from({ length: 12 }, (_, k) => tensors.slice(4 * k, 4 * k + 4));
const FILES = safetensorsIndexFiles(SHARDS);

const LIMITS: Record<string, Partial<Fault>> = {
  slow: { bytesPerSecond: 6e6 },
  busy: { bytesPerSecond: 20e6, busyAbove: 2 },
  one: { bytesPerSecond: 80e6 },
  never: { bytesPerSecond: 6e6, busyAbove: 0 },
};

describe('connections', { timeout: 120_000 }, () => {
  let server: TestServer;
  before(async () => {
    server = await startServer();
    for (const name of ['slow', 'busy', 'one', 'never']) {
      for (const [path, content] of Object.entries(FILES)) {
        const at = `/${name}/${path}`;
        server.files[at] = content;
        if (path.endsWith('.safetensors')) server.addFault({ path: at, ...LIMITS[name] });
      }
    }
  });
  after(() => server.close());
  const load = (name: string, connections?: number) =>
    loadModel(`${server.origin}/${name}/`, {
      device: 'cpu',
      ...(connections === undefined ? {} : { connections }),
    });

  test('as many as may be, where the server limits each', async () => {
    const model = await load('slow');
    await expectModel(model, tensors.map(asStored));
    assert.equal(model.report.connections, 6);
    assert.equal(model.report.retries, 0);
  });

  test('fewer, where the server answers 503 to more', async () => {
    const model = await load('busy');
    await expectModel(model, tensors.map(asStored));
    assert.ok(model.report.retries >= 1 && model.report.retries <= 8, `${model.report.retries}`);
  });

  test('one, where no more are wanted', async () => {
    const model = await load('one', 1);
    await expectModel(model, tensors.map(asStored));
    assert.equal(model.report.connections, 1);
  });

  test('a server that is always busy ends the load with its answer', async () => {
    const error = await rejects(load('never'), 'http_status', '503');
    assert.equal(error.status, 503);
  });
});
