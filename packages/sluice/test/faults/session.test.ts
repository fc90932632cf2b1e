// What several sessions of one stored model may do to each other, and what is left of one that was closed.
import assert from 'node:assert/strict';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { loadModel, openStore, SluiceError } from 'sluice';
import { StoreModule } from '../../src/store/store_module.js';
import { randomBytes } from '../support/models.js';
import { startServer } from '../support/server.js';
import { checkNoLocks, withFolder, within } from './support.js';

const KEY = 'https://example.org/model/';
const POOL = { poolBytes: 2 ** 20 };
const version = (etag: string): { etag: string; lastModified: string } => ({
  etag,
  lastModified: '',
});

type Store = Awaited<ReturnType<typeof openStore>>;
type Session = Awaited<ReturnType<Store['session']>>;

/** Stores bytes as the file `path`, all of it. */
async function put(session: Session, path: string, bytes: Uint8Array, etag: string): Promise<void> {
  assert.equal(await session.writable(), true);
  session.learn(path, bytes.length, version(etag));
  const writer = await session.writer(path);
  assert.ok(writer, session.report.problem);
  await writer.write(bytes, 0);
  session.ended(writer);
  await session.finish();
}

async function read(session: Session, path: string): Promise<Uint8Array> {
  const run = session.find(path, 0);
  assert.ok(run.stored && (await session.verify(path, run)));
  const bytes = await session.bytes(path, run, 0, run.end);
  assert.ok(bytes);
  if (bytes instanceof Uint8Array) return bytes;
  const copy = new Uint8Array(bytes.byteLength);
  bytes.readInto(copy, 0);
  return copy;
}

const fails = (code: string) => (error: unknown) =>
  error instanceof SluiceError && error.code === code;

describe('sessions of a stored model', { timeout: 60_000 }, () => {
  test('a load that stores nothing leaves no entry, and takes none of another away', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const server = await startServer();
      try {
        const url = `${server.origin}/nothing/`;
        const load = (): Promise<unknown> => loadModel(url, { store, device: 'cpu' });
        await assert.rejects(load(), fails('not_found'));
        assert.deepEqual(await store.models(), []);
        assert.deepEqual(await readdir(join(path, 'models')), []);
        // One that somebody uses stays, and so does one of which a byte is stored
        const session = await store.session(url, POOL);
        await assert.rejects(load(), fails('not_found'));
        assert.equal((await readdir(join(path, 'models'))).length, 1);
        await put(session, 'other', randomBytes(100, 1), '"1"');
        session.drop('other');
        await put(session, 'part', randomBytes(100, 1), '"1"');
        await session.close();
        await store.removeEmpty(url);
        assert.equal((await store.models())[0]?.storedBytes, 100);
      } finally {
        await server.close();
      }
      await checkNoLocks(path);
    }));

  test('bytes that come again while the first of them are on their way are stored to the end', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const session = await store.session(KEY, POOL);
      await session.writable();
      const bytes = randomBytes(300_000, 1);
      session.learn('file', bytes.length, version('"1"'));
      // A connection that is cut in the middle, and a server that sends the file from its start again
      for (const end of [100_000, bytes.length]) {
        const writer = await session.writer('file');
        assert.ok(writer, session.report.problem);
        await writer.write(bytes.subarray(0, end), 0);
        session.ended(writer);
      }
      await session.finish();
      assert.equal(session.isComplete('file'), true);
      assert.equal(session.report.storedBytes, bytes.length);
      assert.deepEqual(await read(session, 'file'), bytes.subarray(0, 100_000));
      await session.close();
      await checkNoLocks(path);
    }));

  test('writers that hold every block hand them on', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const session = await store.session(KEY, { poolBytes: 0 }); // two blocks of 4 KiB
      await session.writable();
      const files = ['a', 'b', 'c', 'd', 'e'].map(
        (name, i) => [name, randomBytes(5000, i)] as const,
      );
      const writers = [];
      for (const [name, bytes] of files) {
        session.learn(name, bytes.length, version('"1"'));
        const writer = (await session.writer(name)) ?? assert.fail(session.report.problem);
        await within(5000, `a block for ${name}`, writer.write(bytes.subarray(0, 100), 0));
        writers.push({ writer, bytes });
      }
      for (const { writer, bytes } of writers) {
        await within(5000, 'a block for the rest', writer.write(bytes.subarray(100), 100));
        session.ended(writer);
      }
      await session.finish();
      for (const [name, bytes] of files) assert.deepEqual(await read(session, name), bytes);
      await session.close();
      await checkNoLocks(path);
    }));

  test('a long journal that compacts to little less goes on as it is', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const module = await StoreModule.create(await store.platform.module());
      const model = module.fresh(KEY);
      const { index } = model.file('large', 40_000 * 100, version('"1"'));
      for (let i = 0; i < 40_000; i++) {
        model.add(index, i * 100, (i + 1) * 100, { low: i, high: 0 });
      }
      const journal = model.journal();
      assert.ok(journal.length > 2 ** 20);
      const folder = join(path, 'models', module.folderName(KEY));
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, 'journal'), journal);
      const bytes = randomBytes(3000, 1);
      const first = await store.session(KEY, POOL);
      await put(first, 'small', bytes, '"2"');
      await first.close();
      const second = await store.session(KEY, POOL);
      assert.equal(second.find('large', 39_999 * 100).stored, true);
      assert.deepEqual(await read(second, 'small'), bytes);
      await second.close();
    }));

  test('a session that is closed while it waits for the lock gives up', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const holder = await store.session(KEY, POOL);
      assert.equal(await holder.writable(), true);
      const waiting = await store.session(KEY, POOL);
      const refused = assert.rejects(waiting.writable(), fails('aborted'));
      await within(2000, 'close()', waiting.close());
      await within(2000, 'the wait', refused);
      await holder.close();
      await checkNoLocks(path);
    }));

  test('nothing is asked of a session that is closed', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const session = await store.session(KEY, POOL);
      await put(session, 'a', randomBytes(3000, 1), '"1"');
      const run = session.find('a', 0);
      await session.close();
      assert.throws(() => session.find('a', 0), fails('aborted'));
      assert.equal(await session.bytes('a', run, run.begin, run.end), undefined);
      assert.equal(await session.writer('a'), undefined);
    }));

  test('bytes that somebody reads are not written over by those of another version', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const [old, next] = [randomBytes(9000, 1), randomBytes(9000, 2)];
      const first = await store.session(KEY, POOL);
      await put(first, 'a', old, '"old"');
      await first.close();
      const reader = await store.session(KEY, POOL);
      assert.deepEqual(await read(reader, 'a'), old);
      const writer = await store.session(KEY, POOL);
      await writer.writable();
      writer.drop('a');
      writer.learn('a', next.length, version('"next"'));
      assert.equal(await writer.writer('a'), undefined);
      assert.match(writer.report.problem ?? '', /another load reads/);
      await writer.close();
      assert.deepEqual(await read(reader, 'a'), old);
      await reader.close();
      // Nobody reads any more
      const last = await store.session(KEY, POOL);
      await last.writable();
      last.drop('a');
      await put(last, 'a', next, '"next"');
      assert.deepEqual(await read(last, 'a'), next);
      await last.close();
    }));

  test('parts of a file whose versions have no common name are not put together', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const first = await store.session(KEY, POOL);
      await first.writable();
      first.learn('a', 9000, version(''));
      const writer = (await first.writer('a')) ?? assert.fail();
      await writer.write(randomBytes(4000, 1), 0);
      first.ended(writer);
      await first.close();
      const second = await store.session(KEY, POOL);
      assert.equal(second.find('a', 0).stored, true);
      second.learn('a', 9000, version('"named"'));
      assert.equal(second.find('a', 0).stored, false);
      await second.close();
    }));

  test('a lock whose process is gone is nobody’s, though its number was given to another', () =>
    withFolder(async (path) => {
      const store = await openStore(path);
      const session = await store.session(KEY, POOL);
      await session.writable();
      const names = await readdir(join(path, 'locks'));
      await session.close();
      // This process's number, from a time when another had it
      for (const name of names) {
        const [lock = '', mode = '', pid = ''] = name.split('.');
        await writeFile(join(path, 'locks', `${lock}.${mode}.${pid}.1-gone`), '');
      }
      const next = await store.session(KEY, POOL);
      assert.equal(await within(5000, 'the lock', next.writable()), true);
      await next.close();
      await checkNoLocks(path);
    }));
});
