import assert from 'node:assert/strict';
import { openAsBlob } from 'node:fs';
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { BlobSource } from '../../src/sources/blob.js';
import { patternBytes } from '../support/server.js';
import { readAll, rejects, sameBytes } from './support.js';

const SIZE = 300_007;
const bytes = (begin: number, end: number) => new Uint8Array(patternBytes(3, begin, end));

/** A handle as the browser has it, as far as it is used. */
function handle(name: string, getFile: () => Promise<File>): FileSystemFileHandle {
  return { kind: 'file', name, getFile } as FileSystemFileHandle;
}

describe('BlobSource', () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sluice-blob-'));
  });
  after(() => rm(folder, { recursive: true }));

  const onDisk = async (name: string): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, bytes(0, SIZE));
    return path;
  };

  for (const [what, make] of [
    ['a File', () => new File([bytes(0, SIZE)], 'a.bin')],
    ['a Blob of parts', () => new Blob([bytes(0, 1000), bytes(1000, SIZE)])],
    ['a Blob on disk', async () => openAsBlob(await onDisk('ranges'))],
    ['a handle', () => handle('x', () => Promise.resolve(new File([bytes(0, SIZE)], 'x')))],
  ] as const) {
    for (const [begin, end] of [
      [0, undefined],
      [0, SIZE],
      [0, 1],
      [1, 200_000],
      [SIZE - 1, undefined],
      [SIZE - 10, SIZE + 100],
    ] as [number, number | undefined][]) {
      test(`${what}: [${begin}, ${end ?? 'end'})`, async () => {
        const source = new BlobSource(new Map([['sub/a.bin', await make()]]));
        const stream = await source.open('sub/a.bin', begin, end);
        assert.equal(stream.begin, begin);
        assert.equal(stream.ranged, true);
        assert.equal(stream.fileBytes, SIZE);
        sameBytes(await readAll(stream), bytes(begin, Math.min(end ?? SIZE, SIZE)));
        assert.equal(await stream.read(), null);
        source.close();
      });
    }
  }

  test('several streams at once', async () => {
    const source = new BlobSource(new Map([['a', await openAsBlob(await onDisk('several'))]]));
    const parts = await Promise.all(
      [0, 1, 2, 3].map((i) => source.open('a', i * 75_000, Math.min((i + 1) * 75_000, SIZE))),
    );
    const all = await Promise.all(parts.map(readAll));
    sameBytes(Buffer.concat(all), bytes(0, 300_000));
  });

  test('empty files and ranges, and what is no range', async () => {
    const source = new BlobSource(
      new Map([
        ['empty', new File([], 'empty')],
        ['a', new File([bytes(0, 100)], 'a')],
      ]),
    );
    assert.equal(await (await source.open('empty', 0, undefined)).read(), null);
    assert.equal(await (await source.open('a', 50, 50)).read(), null);
    assert.equal(await (await source.open('a', 100, 100)).read(), null);
    for (const [begin, end] of [
      [-1, 5],
      [5, 4],
      [0.5, 2],
      [NaN, 1],
      [0, Infinity],
    ] as const) {
      await rejects(source.open('a', begin, end), 'invalid_argument', 'a', String(begin));
    }
    for (const [begin, end] of [
      [100, undefined],
      [2 ** 50, 2 ** 50 + 1],
    ] as const) {
      const error = await rejects(
        source.open('a', begin, end),
        'range_out_of_bounds',
        String(begin),
        '100',
      );
      assert.equal(error.actual, 100);
    }
  });

  test('a path that is not there', async () => {
    const source = new BlobSource(new Map([['a', new File([], 'a')]]));
    const error = await rejects(source.open('sub/b', 0, 1), 'not_found', 'sub/b', '1 files');
    assert.equal(error.file, 'sub/b');
    assert.ok(error.hint);
    assert.equal(source.describe('sub/b'), 'sub/b');
  });

  test('a file that was changed since it was chosen', async () => {
    const path = await onDisk('changed');
    const source = new BlobSource(new Map([['m.gguf', await openAsBlob(path)]]));
    sameBytes(await readAll(await source.open('m.gguf', 0, 10)), bytes(0, 10));
    await appendFile(path, 'x');
    const stream = await source.open('m.gguf', 10, 20);
    const error = await rejects(stream.read(), 'source_changed', 'm.gguf');
    assert.equal(error.retryable, false);
    assert.ok(error.hint);
    await rejects(stream.read(), 'source_changed');
  });

  test('a file that ends early', async () => {
    const short = new Blob([bytes(0, 40)]);
    const lying = {
      size: 100,
      slice: () => short,
      stream: () => short.stream(),
    } as unknown as Blob;
    const stream = await new BlobSource(new Map([['a', lying]])).open('a', 20, 90);
    sameBytes((await stream.read()) ?? new Uint8Array(), bytes(0, 40));
    const error = await rejects(stream.read(), 'source_changed', 'byte 60', '100 bytes');
    assert.equal(error.expected, 90);
    assert.equal(error.actual, 60);
  });

  for (const [name, code] of [
    ['NotFoundError', 'not_found'],
    ['NotReadableError', 'source_changed'],
    ['NotAllowedError', 'io'],
    ['SecurityError', 'io'],
    ['AbortError', 'io'],
  ] as const) {
    test(`the browser's ${name} is ${code}`, async () => {
      const cause = new DOMException('it says why', name);
      const source = new BlobSource(new Map([['a', handle('a', () => Promise.reject(cause))]]));
      const error = await rejects(source.open('a', 0, 1), code, 'a: ');
      assert.equal(error.cause, cause);
      assert.equal(error.hint === undefined, name === 'AbortError');
    });
  }

  test('a handle is asked once: a later state of its file is another file', async () => {
    let asked = 0;
    const source = new BlobSource(
      new Map([
        ['a', handle('a', () => Promise.resolve(new File([bytes(asked++ * 10, 100)], 'a')))],
      ]),
    );
    const streams = await Promise.all([source.open('a', 0, 5), source.open('a', 5, 10)]);
    sameBytes(Buffer.concat(await Promise.all(streams.map(readAll))), bytes(0, 10));
    assert.equal(asked, 1);
  });

  test('cancel() and close() end what is being read', async () => {
    let cancelled = 0;
    const never = {
      size: 10,
      slice: () => never,
      stream: () =>
        new ReadableStream({
          cancel() {
            cancelled++;
          },
        }),
    } as unknown as Blob;
    const source = new BlobSource(new Map([['a', never]]));
    const first = await source.open('a', 0, 5);
    const reading = first.read();
    first.cancel();
    first.cancel();
    await rejects(reading, 'aborted', 'a');
    await rejects(first.read(), 'aborted', 'a');
    const second = (await source.open('a', 0, 5)).read();
    source.close();
    source.close();
    await rejects(second, 'aborted');
    assert.equal(cancelled, 2);
    await rejects(source.open('a', 0, 1), 'aborted', 'closed');
  });
});
