// What is read of a file that another tab holds: by slices, and the same.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { describe, test } from 'node:test';
import { SluiceError } from '../../src/errors.js';
import type { StoreFolder } from '../../src/store/files.js';
import { LocalIo } from '../../src/store/io.js';
import { StoreModule } from '../../src/store/store_module.js';
import { randomBytes } from '../support/models.js';

const BYTES = randomBytes(3_000_001, 7);

/** A folder of one file, `0`: open to all, or held by another tab. */
function folderOf(held: boolean): StoreFolder {
  const none = (): never => assert.fail('not asked for here');
  return {
    file: (name) =>
      held
        ? Promise.reject(new SluiceError('io', `${name} cannot be opened: another tab holds it`))
        : Promise.resolve({
            read: (into, at) => {
              const part = BYTES.subarray(at, at + into.byteLength);
              into.set(part);
              return part.byteLength;
            },
            size: () => BYTES.byteLength,
            write: none,
            truncate: none,
            flush: none,
            close: () => undefined,
          }),
    slice: (_, begin, end) => Promise.resolve(BYTES.slice(begin, end)),
    folder: none,
    entries: none,
    peek: none,
    remove: none,
  };
}

async function ioOf(held: boolean): Promise<LocalIo> {
  const wasm = await readFile(new URL('../../dist/sluice_store.wasm', import.meta.url));
  return new LocalIo(folderOf(held), await StoreModule.create(await WebAssembly.compile(wasm)));
}

describe('LocalIo over a file that another tab holds', () => {
  test('digests, checksums, ranges and rows are those of the file', async () => {
    const [open, held] = [await ioOf(false), await ioOf(true)];
    const all = BYTES.byteLength;
    // At once: the digest is shared by all who read
    const ranges = [
      [0, all],
      [1000, 2_000_000],
      [5, 6],
    ] as const;
    const digests = (io: LocalIo) =>
      Promise.all(ranges.map(([begin, end]) => io.digests('0', [{ begin, end }])));
    assert.deepEqual(await digests(held), await digests(open));
    const together = ranges.map(([begin, end]) => ({ begin, end }));
    assert.deepEqual(await held.digests('0', together), (await digests(open)).flat());
    assert.deepEqual(await held.digests('0', [{ begin: 0, end: all + 1 }]), [undefined]);
    for (const io of [open, held]) {
      const range = { begin: 1000, end: 2_000_000 };
      const whole = await io.extent('0', range, new ArrayBuffer(2_000_000));
      assert.deepEqual([whole.digest], await open.digests('0', [range]));
      assert.deepEqual(new Uint8Array(whole.block, 0, 1_999_000), BYTES.slice(1000, 2_000_000));
      const short = await io.extent('0', { begin: 5, end: all + 1 }, new ArrayBuffer(all));
      assert.equal(short.digest, undefined);
      assert.equal(short.block.byteLength, all);
    }
    const md5 = createHash('md5').update(BYTES).digest('hex');
    assert.equal(await held.checksum('0', all, 'md5'), md5);
    const { block, nbytes } = await held.read('0', 77, new ArrayBuffer(5000), 4000);
    assert.deepEqual(new Uint8Array(block, 0, nbytes), BYTES.slice(77, 4077));
    const rows = new Uint32Array([3, 0, 900]);
    assert.deepEqual(await held.rows('0', 11, 1000, rows), await open.rows('0', 11, 1000, rows));
    assert.equal(await held.readable('0'), undefined);
  });

  test('what ends too soon is store_corrupt, with the numbers', async () => {
    const held = await ioOf(true);
    const error = await held
      .slice('0', BYTES.byteLength - 10, BYTES.byteLength + 10)
      .catch((cause: unknown) => cause);
    assert.ok(error instanceof SluiceError);
    assert.equal(error.code, 'store_corrupt');
    assert.match(error.message, /3000001 bytes where 3000011/);
  });

  test('once closed it opens nothing', async () => {
    const held = await ioOf(true);
    await held.close();
    await assert.rejects(held.readable('0'), { code: 'aborted' });
  });
});
