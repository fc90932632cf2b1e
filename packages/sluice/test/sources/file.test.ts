import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  appendFile,
  chmod,
  mkdir,
  mkdtemp,
  open,
  rm,
  symlink,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { FileSource } from '../../src/sources/file.js';
import { patternBytes } from '../support/server.js';
import { readAll, rejects, sameBytes, until } from './support.js';

const SIZE = 100_003;
const bytes = (begin: number, end: number) => patternBytes(2, begin, end);

describe('FileSource', () => {
  let top: string;
  let folder: string;

  before(async () => {
    top = await mkdtemp(join(tmpdir(), 'sluice-file-'));
    folder = join(top, 'm');
    await mkdir(join(folder, 'sub'), { recursive: true });
    await writeFile(join(folder, 'a.bin'), bytes(0, SIZE));
    await writeFile(join(folder, 'sub', 'b ü.bin'), bytes(0, 10));
    await writeFile(join(folder, 'empty'), '');
    await writeFile(join(top, 'outside'), 'x');
    await writeFile(join(top, 'mm'), 'x');
  });
  after(() => rm(top, { recursive: true }));

  const copy = async (name: string) => {
    await writeFile(join(folder, name), bytes(0, SIZE));
    return name;
  };

  for (const blockBytes of [1, 4096, 50_000, SIZE, 1024 * 1024]) {
    test(`blocks of ${blockBytes}`, async () => {
      const source = new FileSource(folder, { blockBytes });
      for (const [begin, end] of [
        [0, undefined],
        [0, SIZE],
        [99_000, SIZE],
        [SIZE - 1, undefined],
        [99_990, SIZE + 100],
        [5, 6],
      ] as [number, number | undefined][]) {
        if (blockBytes === 1 && begin === 0) continue;
        const stream = await source.open('a.bin', begin, end);
        assert.equal(stream.begin, begin);
        assert.equal(stream.fileBytes, SIZE);
        sameBytes(await readAll(stream), bytes(begin, Math.min(end ?? SIZE, SIZE)));
        assert.equal(await stream.read(), null);
      }
      source.close();
    });
  }

  test('a block stays until the next read()', async () => {
    const source = new FileSource(folder, { blockBytes: 1000 });
    const stream = await source.open('a.bin', 0, undefined);
    for (let at = 0; at < SIZE;) {
      const block = await stream.read();
      assert.ok(block);
      await new Promise((next) => setImmediate(next));
      sameBytes(block, bytes(at, at + block.length));
      at += block.length;
    }
    assert.equal(await stream.read(), null);
  });

  test('empty files and ranges, folders below, a file URL', async () => {
    const source = new FileSource(pathToFileURL(folder));
    assert.equal(await (await source.open('empty', 0, undefined)).read(), null);
    assert.equal(await (await source.open('a.bin', 50, 50)).read(), null);
    sameBytes(await readAll(await source.open('sub/b ü.bin', 2, 5)), bytes(2, 5));
    assert.equal(source.describe('sub/x'), join(folder, 'sub', 'x'));
  });

  test('links are followed', async () => {
    await symlink(join(top, 'outside'), join(folder, 'link'));
    assert.equal(
      Buffer.from(
        await readAll(await new FileSource(folder).open('link', 0, undefined)),
      ).toString(),
      'x',
    );
  });

  for (const path of [
    '',
    '.',
    '..',
    '../outside',
    'sub/../../outside',
    '../mm',
    '/etc/hostname',
    'a\0b',
  ]) {
    test(`refused: ${JSON.stringify(path)}`, async () => {
      await rejects(new FileSource(folder).open(path, 0, 1), 'invalid_argument', path, folder);
    });
  }

  test('arguments that are no range', async () => {
    for (const [begin, end] of [
      [-1, 5],
      [5, 4],
      [0.5, 2],
      [NaN, 1],
      [0, Infinity],
    ] as const) {
      await rejects(
        new FileSource(folder).open('a.bin', begin, end),
        'invalid_argument',
        'a.bin',
        String(begin),
      );
    }
    assert.throws(() => new FileSource(folder, { blockBytes: 0 }), { code: 'invalid_argument' });
  });

  test('no such file, a file as a folder, a folder, a pipe', async () => {
    const source = new FileSource(folder);
    assert.ok(
      (await rejects(source.open('nothing', 0, 1), 'not_found', join(folder, 'nothing'))).hint,
    );
    await rejects(source.open('a.bin/x', 0, 1), 'not_found', 'a.bin');
    await rejects(source.open('sub', 0, 1), 'io', 'sub', 'not a regular file');
    execFileSync('mkfifo', [join(folder, 'pipe')]);
    await rejects(source.open('pipe', 0, 1), 'io', 'not a regular file');
  });

  test('no permission', async (context) => {
    const locked = join(folder, await copy('locked'));
    await chmod(locked, 0);
    if (process.geteuid?.() === 0) {
      // Root may read everything, nobody may not.
      process.seteuid?.(65534);
      context.after(() => process.seteuid?.(0));
    }
    assert.ok((await rejects(new FileSource(folder).open('locked', 0, 1), 'io', 'EACCES')).hint);
  });

  test('an error of the system keeps its text', async () => {
    await rejects(new FileSource(folder).open('x'.repeat(300), 0, 1), 'io', 'ENAMETOOLONG');
  });

  test('past the end', async () => {
    for (const [begin, end] of [
      [SIZE, undefined],
      [SIZE, SIZE + 1],
      [2 ** 50, 2 ** 50 + 1],
    ] as const) {
      const error = await rejects(
        new FileSource(folder).open('a.bin', begin, end),
        'range_out_of_bounds',
        String(begin),
        String(SIZE),
      );
      assert.equal(error.actual, SIZE);
    }
  });

  test('a file that grows, is touched or shrinks', async () => {
    const source = new FileSource(folder, { blockBytes: 1000 });
    const grown = await copy('grown');
    await readAll(await source.open(grown, 0, 10));
    await appendFile(join(folder, grown), 'x');
    const error = await rejects(
      source.open(grown, 0, 10),
      'source_changed',
      String(SIZE),
      String(SIZE + 1),
    );
    assert.equal(error.retryable, false);

    const touched = await copy('touched');
    await readAll(await source.open(touched, 0, 10));
    await utimes(join(folder, touched), 1, 1);
    await rejects(source.open(touched, 0, 10), 'source_changed');

    const shrunk = await copy('shrunk');
    const stream = await source.open(shrunk, 0, undefined);
    await stream.read();
    await truncate(join(folder, shrunk), 5000);
    await rejects(readAll(stream), 'source_changed', String(SIZE), '5000');
    await rejects(stream.read(), 'source_changed');
  });

  test('cancel() and close() give the file back', async () => {
    const descriptors = async () => {
      const handle = await open(folder);
      const { fd } = handle;
      await handle.close();
      return fd;
    };
    const lowest = await descriptors();
    const source = new FileSource(folder, { blockBytes: 1000 });
    const streams = await Promise.all([0, 1, 2, 3].map((i) => source.open('a.bin', i, undefined)));
    const [first, second] = streams;
    await first?.read();
    first?.cancel();
    first?.cancel();
    await rejects(first!.read(), 'aborted', 'a.bin');
    const reading = second!.read();
    source.close();
    source.close();
    await rejects(reading, 'aborted');
    await rejects(source.open('a.bin', 0, 1), 'aborted');
    let now = -1;
    const poll = setInterval(() => void descriptors().then((fd) => (now = fd)), 5);
    await until(() => now === lowest, 'all descriptors are closed').finally(() =>
      clearInterval(poll),
    );
  });
});
