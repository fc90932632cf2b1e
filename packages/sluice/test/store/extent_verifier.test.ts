// Which extents are looked at, by whom and when.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SluiceError } from '../../src/errors.js';
import { ExtentVerifier } from '../../src/store/extent_verifier.js';
import type { ByteRange, LocalIo, StoreIo } from '../../src/store/io.js';
import type { Digest, Run } from '../../src/store/store_module.js';

const EXTENT = 100;
const digestOf = (file: string, begin: number): Digest => ({ low: begin, high: Number(file) });

interface Asked {
  io: string;
  file: string;
  begins: number[];
  /** With their bytes. */
  whole?: boolean;
}

/** Files of so many extents each, stored but for `gaps`, one behind the other. */
function verifierOf(
  files: readonly number[],
  {
    ready = ['a', 'b'],
    local = false,
    gaps = [] as readonly string[],
    answer = (file: string, range: ByteRange): Digest | undefined => digestOf(file, range.begin),
    held = Promise.resolve(),
  } = {},
): {
  verifier: ExtentVerifier;
  asked: Asked[];
  prepared: string[];
  run: (file: number, extent: number) => Run;
} {
  const asked: Asked[] = [];
  const prepared: string[] = [];
  const ioOf = (name: string, isReady: boolean) =>
    ({
      ready: isReady,
      prepare: (file: string) => {
        prepared.push(`${name} ${file}`);
        return Promise.resolve();
      },
      digests: async (file: string, ranges: readonly ByteRange[]) => {
        asked.push({ io: name, file, begins: ranges.map(({ begin }) => begin / EXTENT) });
        return Promise.resolve(ranges.map((range) => answer(file, range)));
      },
      extent: async (file: string, range: ByteRange, block: ArrayBuffer) => {
        asked.push({ io: name, file, begins: [range.begin / EXTENT], whole: true });
        new Uint8Array(block)[0] = range.begin / EXTENT;
        await held;
        return { block, digest: answer(file, range) };
      },
    }) as unknown as StoreIo;
  const run = (file: number, extent: number): Run => ({
    stored: extent < (files[file] ?? 0) && !gaps.includes(`${file}/${extent}`),
    begin: extent * EXTENT,
    end: (extent + 1) * EXTENT,
    digest: digestOf(String(file), extent * EXTENT),
  });
  const verifier = new ExtentVerifier({
    ios: ['a', 'b'].map((name) => ioOf(name, ready.includes(name))),
    local: local ? (ioOf('here', true) as unknown as LocalIo) : undefined,
    find: (path, offset) => run(Number(path), Math.floor(offset / EXTENT)),
    nameOf: (path) => path,
    behind: (path) => (Number(path) + 1 < files.length ? String(Number(path) + 1) : undefined),
  });
  return { verifier, asked, prepared, run };
}

const all = (asked: readonly Asked[]): string[] =>
  asked.flatMap(({ file, begins }) => begins.map((begin) => `${file}/${begin}`));

describe('ExtentVerifier', () => {
  test('looks at each extent once, those that come next ahead and several at a time', async () => {
    const { verifier, asked, run } = verifierOf([40]);
    for (let extent = 0; extent < 40; extent++) {
      assert.equal(await verifier.verify('0', run(0, extent)), true);
      assert.equal(await verifier.verify('0', run(0, extent)), true);
      const looked = all(asked).length;
      assert.ok(looked >= Math.min(extent + 13, 40) && looked <= Math.min(extent + 17, 40));
    }
    assert.deepEqual(
      all(asked),
      Array.from({ length: 40 }, (_, extent) => `0/${extent}`),
    );
    // The first ones, which are wanted soon, one by one; later ones four together, in turns
    const sizes = asked.map(({ begins }) => begins.length);
    assert.deepEqual(sizes.slice(0, 4), [1, 1, 1, 1]);
    assert.ok(Math.max(...sizes) === 4 && sizes.length < 20, `sizes ${sizes.join()}`);
    assert.deepEqual(new Set(asked.map(({ io }) => io)), new Set(['a', 'b']));
  });

  test('goes on into the files behind, past gaps and what was looked at before', async () => {
    const { verifier, asked, prepared, run } = verifierOf([3, 2, 30], { gaps: ['0/2'] });
    verifier.trust('1', 0);
    assert.equal(await verifier.verify('0', run(0, 0)), true);
    // Whoever looks has the file behind open by then
    assert.deepEqual(prepared, ['a 1', 'b 1', 'a 2', 'b 2']);
    assert.deepEqual(all(asked).slice(0, 4), ['0/0', '0/1', '1/1', '2/0']);
    assert.equal(all(asked).length, 17);
  });

  test('an extent that nobody foresaw begins anew from there', async () => {
    const { verifier, asked, run } = verifierOf([100]);
    await verifier.verify('0', run(0, 0));
    asked.length = 0;
    await verifier.verify('0', run(0, 60));
    assert.deepEqual(all(asked).slice(0, 3), ['0/60', '0/61', '0/62']);
    assert.equal(all(asked).length, 17);
  });

  test('knows which are right, and forgets', async () => {
    const damaged = 2 * EXTENT;
    const { verifier, asked, run } = verifierOf([5, 5], {
      answer: (file, { begin, end }) =>
        begin === damaged ? { low: 1, high: 1 } : end > 400 ? undefined : digestOf(file, begin),
    });
    const verdicts: boolean[] = [];
    for (let extent = 0; extent < 5; extent++) {
      verdicts.push(await verifier.verify('0', run(0, extent)));
      assert.equal(verifier.isGood('0', extent * EXTENT), verdicts[extent]);
    }
    assert.deepEqual(verdicts, [true, true, false, true, false]);
    assert.equal(verifier.isGood('0', 700), false);
    assert.equal(verifier.isGood('1', 0), true);
    verifier.forget('0');
    assert.equal(verifier.isGood('0', 0), false);
    assert.equal(verifier.isGood('1', 0), true);
    asked.length = 0;
    assert.equal(await verifier.verify('0', run(0, 0)), true);
    assert.equal(all(asked)[0], '0/0');
    verifier.forget();
    assert.equal(verifier.isGood('1', 0), false);
  });

  test('until a worker runs this thread looks, and not ahead', async () => {
    const { verifier, asked, run } = verifierOf([9], { ready: [], local: true });
    assert.equal(await verifier.verify('0', run(0, 0)), true);
    assert.deepEqual(asked, [{ io: 'here', file: '0', begins: [0] }]);
  });

  test('what cannot be read is an error, heard by who wants it', async () => {
    const { verifier, run } = verifierOf([9], {
      answer: () => {
        throw new SluiceError('io', 'gone');
      },
    });
    await assert.rejects(() => verifier.verify('0', run(0, 0)), { code: 'io' });
  });

  test('brings the bytes of as many extents as there are blocks for, and each once', async () => {
    const { verifier, asked, run } = verifierOf([40]);
    verifier.useBlocks(3);
    for (let extent = 0; extent < 40; extent++) {
      assert.equal(await verifier.verify('0', run(0, extent), true), true);
      assert.ok(all(asked).length <= extent + 3);
      assert.equal(verifier.brings('0', extent * EXTENT), true);
      const block = verifier.take('0', extent * EXTENT);
      assert.ok(block);
      assert.equal(new Uint8Array(block)[0], extent);
      assert.equal(verifier.brings('0', extent * EXTENT), false);
      assert.equal(verifier.take('0', extent * EXTENT), undefined);
      verifier.give(block);
    }
    assert.deepEqual(
      all(asked),
      Array.from({ length: 40 }, (_, extent) => `0/${extent}`),
    );
    assert.ok(asked.every(({ whole }) => whole));
  });

  test('where every block is in use, extents are looked at without their bytes', async () => {
    const { verifier, asked, run } = verifierOf([40]);
    verifier.useBlocks(1);
    await verifier.verify('0', run(0, 0), true);
    assert.ok(verifier.take('0', 0));
    assert.equal(await verifier.verify('0', run(0, 1), true), true);
    assert.equal(verifier.take('0', EXTENT), undefined);
    assert.equal(verifier.isGood('0', EXTENT), true);
    assert.equal(asked.filter(({ whole }) => whole).length, 1);
  });

  test('bytes that nobody takes give up their block to those that are wanted', async () => {
    const { verifier, run } = verifierOf([40]);
    verifier.useBlocks(2);
    await verifier.verify('0', run(0, 0), true);
    await verifier.verify('0', run(0, 1), true);
    // Elsewhere, as a second transfer would: both blocks hold what was expected to come next
    assert.equal(await verifier.verify('0', run(0, 20), true), true);
    const block = verifier.take('0', 20 * EXTENT);
    assert.ok(block);
    assert.equal(new Uint8Array(block)[0], 20);
    assert.equal(verifier.take('0', 0), undefined);
    assert.equal(verifier.isGood('0', 0), true);
  });

  test('an extent that is damaged, forgotten or cannot be read gives nothing, and its block back', async () => {
    let fails = false;
    const { verifier, run } = verifierOf([3], {
      answer: (file, { begin }) => {
        if (fails) throw new SluiceError('io', 'gone');
        return begin === 0 ? { low: 1, high: 1 } : digestOf(file, begin);
      },
    });
    verifier.useBlocks(1);
    assert.equal(await verifier.verify('0', run(0, 0), true), false);
    assert.equal(verifier.take('0', 0), undefined);
    assert.equal(await verifier.verify('0', run(0, 1), true), true);
    verifier.forget('0');
    assert.equal(verifier.take('0', EXTENT), undefined);
    fails = true;
    await assert.rejects(verifier.verify('0', run(0, 1), true), { code: 'io' });
    fails = false;
    assert.equal(await verifier.verify('0', run(0, 2), true), true);
    assert.ok(verifier.take('0', 2 * EXTENT));
  });

  test('fewer blocks than before: what is under way comes back to nobody', async () => {
    let answer: () => void = () => undefined;
    const held = new Promise<void>((resolve) => {
      answer = resolve;
    });
    const { verifier, asked, run } = verifierOf([40], { held });
    verifier.useBlocks(4);
    const verified = verifier.verify('0', run(0, 0), true);
    await new Promise((resume) => setTimeout(resume));
    assert.equal(asked.length, 4);
    verifier.useBlocks(0);
    answer();
    assert.equal(await verified, true);
    assert.equal(verifier.take('0', 0), undefined);
    asked.length = 0;
    assert.equal(await verifier.verify('0', run(0, 30), true), true);
    assert.ok(asked.every(({ whole }) => !whole));
  });
});
