// Servers whose answers to Range requests are wrong: the error says what was asked and what was answered.
import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { loadModel, type LoadOptions } from 'sluice';
import { randomTensor, safetensors } from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';
import { asStored, expectModel, rejects } from './support.js';

const tensors = [0, 1, 2].map((i) => randomTensor(`t${i}`, 'F32', [400, 256 + i], i));
const FILE = safetensors(tensors);
const SIZE = FILE.length;
const HEADER = 'bytes 0-262143';
/** Of the last tensor alone. */
const DATA = `bytes ${SIZE - (tensors[2]?.bytes.length ?? 0)}-${SIZE - 1}`;

/** What is wrong with the answer, and the header that says so; null for none. */
const WRONG: [string, string | null][] = [
  ['no Content-Range', null],
  ['the range before', `bytes 0-99/${SIZE}`],
  ['a range past what was asked', `bytes 262144-${SIZE}/${SIZE + 1}`],
  ['the whole file', `bytes 0-${SIZE - 1}/${SIZE}`],
  ['a size that the range exceeds', `bytes 0-262143/1000`],
  ['text', 'from the middle on'],
];

describe('wrong answers to Range requests', { timeout: 60_000 }, () => {
  let server: TestServer;
  before(async () => {
    server = await startServer();
  });
  after(() => server.close());
  let path: string;
  let count = 0;
  beforeEach(() => {
    path = `/${++count}/model.safetensors`;
    server.files[path] = FILE;
  });

  for (const [how, options] of [
    ['node:http', {}],
    ['fetch', { fetch }],
  ] satisfies [string, LoadOptions][]) {
    for (const [what, header] of WRONG) {
      for (const [where, asked, after] of [
        ['the header', HEADER, 0],
        ['the tensors', DATA, 1],
      ] as const) {
        if (header?.startsWith('bytes 0-99') && where === 'the header') continue; // fewer are right
        test(`${what}, for ${where}, by ${how}`, async () => {
          server.addFault({ path, after, headers: { 'Content-Range': header } });
          const error = await rejects(
            loadModel(server.origin + path, { ...options, tensors: ['t2'] }),
            'http_status',
            ...[server.origin + path, `asked for ${asked},`],
            header === null ? 'status 206 and no Content-Range' : `Content-Range '${header}'`,
          );
          assert.equal(error.status, 206);
          assert.match(error.hint ?? '', /Range/);
          const [last] = server.requests.slice(-1);
          assert.equal(`${last?.path}: ${last?.range}`, `${path}: ${asked.replace(' ', '=')}`);
        });
      }
    }
  }

  test('a shorter range than was asked for is no fault: the rest is asked for', async () => {
    const end = SIZE - 1000;
    const begin = Number(/\d+/.exec(DATA)?.[0]);
    server.addFault({
      ...{ path, after: 1, times: 1, endAfter: end - begin },
      headers: { 'Content-Range': `bytes ${begin}-${end - 1}/${SIZE}` },
    });
    const model = await loadModel(server.origin + path, { tensors: ['t2'] });
    await expectModel(model, tensors.slice(2).map(asStored));
    assert.equal(server.requests.at(-1)?.range, `bytes=${end}-${SIZE - 1}`);
  });
});
