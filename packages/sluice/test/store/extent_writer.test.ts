// How one transfer's bytes get into extents: copied, or read into the blocks that are stored.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { BlockPool } from '../../src/store/block_pool.js';
import { EXTENT_BYTES, ExtentWriter } from '../../src/store/extent_writer.js';
import type { StoreIo } from '../../src/store/io.js';
import type { Digest } from '../../src/store/store_module.js';
import { patternBytes } from '../support/server.js';

const SEED = 3;
const SIZE = 2 * EXTENT_BYTES + 1_000_003;

interface Commit {
  begin: number;
  end: number;
}

/** A writer over a file of SIZE bytes, of which `stored` is stored already. `digest`: the bytes it was given. */
function writerOf(poolBytes: number, stored: readonly Commit[] = []) {
  const file = Buffer.alloc(SIZE);
  const written: { at: number; nbytes: number; last: boolean }[] = [];
  const commits: Commit[] = [];
  const pending: Promise<void>[] = [];
  const digested = new Map<number, number>();
  let ends = 0;
  let answers: (() => void)[] | undefined;
  const io = {
    write: async (
      writer: number,
      _: string,
      at: number,
      block: ArrayBuffer,
      nbytes: number,
      last: boolean,
    ) => {
      const bytes = new Uint8Array(structuredClone(block, { transfer: [block] }));
      if (answers) await new Promise<void>((resolve) => answers?.push(resolve));
      written.push({ at, nbytes, last });
      file.set(bytes.subarray(0, nbytes), at);
      digested.set(writer, (digested.get(writer) ?? 0) + nbytes);
      const digest = { low: digested.get(writer) ?? 0, high: 0 };
      return { block: bytes.buffer, ...(last ? { digest } : {}) };
    },
    end: (writer: number) => {
      ends++;
      return Promise.resolve({ low: digested.get(writer) ?? 0, high: 0 });
    },
  } as unknown as StoreIo;
  const pool = new BlockPool(poolBytes, () => {
    writer.spill();
  });
  let next = 1;
  const writer: ExtentWriter = new ExtentWriter({
    pool,
    find(offset) {
      const run = stored.find(({ begin, end }) => begin <= offset && offset < end);
      const behind = stored.find(({ begin }) => begin > offset)?.begin ?? SIZE;
      const digest = { low: 0, high: 0 };
      return run
        ? { stored: true, ...run, digest }
        : { stored: false, begin: 0, end: behind, digest };
    },
    io: () => ({ io, writer: next++, file: '0' }),
    pending: (work) => void pending.push(work),
    arriving: () => undefined,
    commit(begin, end, digest: Digest) {
      assert.equal(digest.low, end - begin, 'the digest is that of the whole extent');
      commits.push({ begin, end });
    },
  });
  return {
    writer,
    pool,
    file,
    written,
    commits,
    settled: () => Promise.all(pending),
    ends: () => ends,
    hold: () => {
      answers = [];
    },
    letGo: () => {
      for (const answer of answers?.splice(0) ?? []) answer();
      answers = undefined;
    },
  };
}

/** Reads so many bytes into what room() gave, as a stream does: the buffer is taken and comes back. */
function filled(room: Uint8Array<ArrayBuffer>, at: number, most: number): Uint8Array<ArrayBuffer> {
  const nbytes = Math.min(room.byteLength, most, SIZE - at);
  const bytes = new Uint8Array(
    structuredClone(room.buffer, { transfer: [room.buffer] }),
    0,
    nbytes,
  );
  bytes.set(patternBytes(SEED, at, at + nbytes));
  return bytes;
}

const whole = (): Buffer => Buffer.from(patternBytes(SEED, 0, SIZE));

describe('ExtentWriter', () => {
  for (const most of [Infinity, 300_000]) {
    test(`bytes read into its blocks, ${most} at a time, are stored without a copy`, async () => {
      const { writer, file, written, commits, settled, ends } = writerOf(16 * 2 ** 20);
      for (let at = 0; at < SIZE;) {
        const room = await writer.room(at);
        assert.ok(room && room.byteOffset === 0);
        assert.ok(at % EXTENT_BYTES === 0 || room.byteLength <= EXTENT_BYTES - (at % EXTENT_BYTES));
        const bytes = filled(room, at, most);
        writer.took(bytes);
        // They are the reader's until the next call
        writer.spill();
        assert.ok(bytes.byteLength > 0);
        at += bytes.byteLength;
      }
      writer.end();
      await settled();
      assert.deepEqual(file, whole());
      assert.deepEqual(commits, [
        { begin: 0, end: EXTENT_BYTES },
        { begin: EXTENT_BYTES, end: 2 * EXTENT_BYTES },
        { begin: 2 * EXTENT_BYTES, end: SIZE },
      ]);
      // The last write of each extent brings its digest
      assert.equal(written.filter(({ last }) => last).length, 3);
      assert.equal(ends(), 0);
    });
  }

  test('copied and read bytes may take turns, and what is stored is passed over', async () => {
    const stored = [{ begin: 2_000_000, end: 3_000_000 }];
    const { writer, file, commits, settled } = writerOf(4 * 2 ** 20, stored);
    let turn = 0;
    for (let at = 0; at < SIZE;) {
      const room = turn++ % 3 === 0 ? undefined : await writer.room(at);
      const nbytes = Math.min(room?.byteLength ?? 700_001, SIZE - at);
      if (room) writer.took(filled(room, at, nbytes));
      else await writer.write(patternBytes(SEED, at, at + nbytes), at);
      at += nbytes;
    }
    writer.end();
    await settled();
    const expected = whole();
    expected.fill(0, 2_000_000, 3_000_000);
    assert.deepEqual(file, expected);
    assert.equal(
      commits.reduce((sum, { begin, end }) => sum + end - begin, 0),
      SIZE - 1_000_000,
    );
    assert.ok(!commits.some(({ begin, end }) => begin < 3_000_000 && end > 2_000_000));
  });

  test('what has not come back is replaced, and what came before is kept', async () => {
    const { writer, pool, file, commits, settled } = writerOf(2 ** 20);
    const first = await writer.room(0);
    assert.ok(first);
    writer.took(filled(first, 0, 5000));
    const lost = await writer.room(5000);
    assert.ok(lost);
    filled(lost, 5000, 1);
    writer.back(lost);
    writer.end();
    await settled();
    assert.deepEqual(commits, [{ begin: 0, end: 5000 }]);
    assert.deepEqual(file.subarray(0, 5000), whole().subarray(0, 5000));
    // Every block is there again
    const blocks = pool.nbytes / pool.blockBytes;
    for (let i = 0; i < blocks; i++) {
      const block = await pool.take();
      assert.equal(block?.byteLength, pool.blockBytes);
    }
  });

  test('bytes that come after the end are not stored, and their block goes back', async () => {
    const { writer, pool, written, settled } = writerOf(2 ** 20);
    const room = await writer.room(0);
    assert.ok(room);
    writer.end();
    writer.took(filled(room, 0, 100));
    assert.equal(await writer.room(100), undefined);
    await settled();
    assert.deepEqual(written, []);
    const blocks = pool.nbytes / pool.blockBytes;
    for (let i = 0; i < blocks; i++) assert.ok(await pool.take());
  });

  test('room waits while the store is slow', async () => {
    const { writer, hold, letGo, pool, settled } = writerOf(2 * 2 ** 12);
    hold();
    let at = 0;
    for (let i = 0; i < pool.nbytes / pool.blockBytes; i++) {
      const room = await writer.room(at);
      assert.ok(room);
      writer.took(filled(room, at, Infinity));
      at += room.byteLength || pool.blockBytes;
    }
    let given = false;
    const waiting = writer.room(at).then((room) => {
      given = true;
      return room;
    });
    await new Promise((resolve) => setTimeout(resolve, 20));
    assert.equal(given, false);
    letGo();
    const room = await waiting;
    assert.ok(room);
    writer.back(room);
    writer.end();
    await settled();
  });
});
