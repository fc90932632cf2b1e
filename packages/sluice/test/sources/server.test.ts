import assert from 'node:assert/strict';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { PATTERN_PERIOD, patternBytes, startServer } from '../support/server.js';
import { sameBytes } from './support.js';

test('pattern bytes are the same however they are cut, and differ by seed and by place', () => {
  const size = 3 * PATTERN_PERIOD + 1000;
  const whole = patternBytes(7, 0, size);
  for (const [begin, end] of [
    [0, 1],
    [1, 4],
    [PATTERN_PERIOD - 3, PATTERN_PERIOD + 5],
    [2 * PATTERN_PERIOD + 11, size],
    [5, size - 5],
  ] as const) {
    sameBytes(patternBytes(7, begin, end), whole.subarray(begin, end));
  }
  assert.notEqual(Buffer.compare(whole.subarray(0, 64), patternBytes(8, 0, 64)), 0);
  const mib4 = 4 * 1024 * 1024;
  assert.notEqual(Buffer.compare(whole.subarray(0, 64), whole.subarray(mib4, mib4 + 64)), 0);
});

test('the first pattern bytes are those of the documented formula', () => {
  // mix(0), mix(1), mix(2) with MurmurHash3's finaliser, worked out apart from the server's code.
  const words = [0n, 1n, 2n].map((k) => {
    const mask = 0xffffffffn;
    let h = (k * 0x9e3779b9n) & mask;
    h = ((h ^ (h >> 16n)) * 0x85ebca6bn) & mask;
    h = ((h ^ (h >> 13n)) * 0xc2b2ae35n) & mask;
    return Number(h ^ (h >> 16n));
  });
  const bytes = patternBytes(0, 0, 12);
  const view = new DataView(bytes.buffer);
  assert.deepEqual(
    [0, 4, 8].map((at) => view.getUint32(at, true)),
    words,
  );
});

test('ranges, HEAD, CORS and a folder', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'sluice-server-'));
  await writeFile(join(folder, 'a.bin'), patternBytes(3, 0, 5000));
  await writeFile(join(folder, 'empty'), '');
  const server = await startServer({
    root: folder,
    files: { '/p': { nbytes: 5000, seed: 3 }, '/t.json': '{"a":1}' },
  });
  try {
    for (const path of ['/p', '/a.bin']) {
      for (const [range, begin, end, status] of [
        [undefined, 0, 5000, 200],
        ['bytes=0-0', 0, 1, 206],
        ['bytes=10-4000', 10, 4001, 206],
        ['bytes=4990-9999', 4990, 5000, 206],
        ['bytes=4000-', 4000, 5000, 206],
        ['bytes=-7', 4993, 5000, 206],
      ] as const) {
        const response = await fetch(
          server.origin + path,
          range === undefined ? {} : { headers: { range } },
        );
        assert.equal(response.status, status);
        assert.equal(response.headers.get('access-control-allow-origin'), '*');
        if (status === 206)
          assert.equal(response.headers.get('content-range'), `bytes ${begin}-${end - 1}/5000`);
        sameBytes(new Uint8Array(await response.arrayBuffer()), patternBytes(3, begin, end));
      }
      assert.equal(
        (await fetch(server.origin + path, { headers: { range: 'bytes=5000-' } })).status,
        416,
      );
      const head = await fetch(server.origin + path, { method: 'HEAD' });
      assert.equal(head.headers.get('content-length'), '5000');
    }
    assert.deepEqual(await (await fetch(server.origin + '/t.json')).json(), { a: 1 });
    assert.equal((await (await fetch(server.origin + '/empty')).arrayBuffer()).byteLength, 0);
    assert.equal((await fetch(server.origin + '/nothing')).status, 404);
    assert.equal((await fetch(server.origin + '/..%2f..%2fetc/hostname')).status, 404);
    assert.equal(server.requests[1]?.range, 'bytes=0-0');
  } finally {
    await server.close();
    await rm(folder, { recursive: true });
  }
});

test('a fault hits the requests it is meant for', async () => {
  const server = await startServer({
    files: { '/p': { nbytes: 10, seed: 1 } },
    faults: [
      { path: '/p', after: 1, times: 2, status: 500 },
      { path: '/p', after: 3, times: 1, status: 404 },
    ],
  });
  try {
    const statuses: number[] = [];
    for (let i = 0; i < 7; i++) {
      const response = await fetch(server.origin + '/p');
      await response.arrayBuffer();
      statuses.push(response.status);
    }
    assert.deepEqual(statuses, [200, 500, 500, 404, 200, 200, 200]);
  } finally {
    await server.close();
  }
});

test('a cut at a byte of the file hits the requests that ask for it, and there alone', async () => {
  const server = await startServer({
    files: { '/p': { nbytes: 10, seed: 1 } },
    faults: [{ path: '/p', cutAt: 6, times: 3 }],
  });
  const ask = async (range?: string): Promise<number> => {
    const headers: Record<string, string> = range === undefined ? {} : { range };
    const { body } = await fetch(server.origin + '/p', { headers });
    let received = 0;
    try {
      for await (const chunk of body ?? []) received += (chunk as Uint8Array).length;
    } catch {
      return received;
    }
    return received + 100;
  };
  try {
    assert.equal(await ask('bytes=0-5'), 106);
    assert.equal(await ask('bytes=7-9'), 103);
    assert.equal(await ask('bytes=0-6'), 6);
    assert.equal(await ask('bytes=6-'), 0);
    assert.equal(await ask(), 6);
    assert.equal(await ask(), 110);
  } finally {
    await server.close();
  }
});
