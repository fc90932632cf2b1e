import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { formatBytes, formatDuration } from '../page/format.js';
import { sampleStretches } from '../page/read_tensor.js';
import { describe as statisticsOf } from '../page/statistics.js';
import { gridLayout } from '../page/tensor_grid.js';
import { TimeSeries } from '../page/time_series.js';
import { bfloat16, decode, elementSize, float16, hexLines, texts } from '../page/values.js';

const bytesOf = (array: ArrayBufferView): Uint8Array =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

describe('values of a tensor', () => {
  it('reads float16: zeros, subnormals, normals, infinities, NaN', () => {
    const cases: [number, number][] = [
      [0x0000, 0],
      [0x8000, -0],
      [0x0001, 2 ** -24],
      [0x83ff, -1023 * 2 ** -24],
      [0x0400, 2 ** -14],
      [0x3c00, 1],
      [0xc100, -2.5],
      [0x7bff, 65504],
      [0x7c00, Infinity],
      [0xfc00, -Infinity],
      [0x7e00, NaN],
    ];
    for (const [bits, value] of cases) {
      assert.ok(Object.is(float16(bits), value), `${bits.toString(16)} is ${float16(bits)}`);
    }
  });

  it('reads bfloat16 as the upper half of float32', () => {
    assert.equal(bfloat16(0x3f80), 1);
    assert.equal(bfloat16(0xc020), -2.5);
    assert.ok(Number.isNaN(bfloat16(0x7fc0)));
    assert.equal(bfloat16(0xff80), -Infinity);
  });

  it('decodes integers of every width, and bool', () => {
    assert.deepEqual([...decode('int8', Uint8Array.of(0x80, 0x7f))], [-128, 127]);
    assert.deepEqual([...decode('uint16', Uint8Array.of(1, 2))], [513]);
    assert.deepEqual([...decode('int32', bytesOf(Int32Array.of(-5, 7)))], [-5, 7]);
    assert.deepEqual([...decode('bool', Uint8Array.of(0, 1))], [0, 1]);
  });

  it('says 64-bit integers exactly', () => {
    const bytes = bytesOf(BigInt64Array.of(-9007199254740993n, 5n));
    assert.deepEqual(texts('int64', bytes, 9), ['-9007199254740993', '5']);
  });

  it('says floats by the shortest decimal that gives the same value back', () => {
    const values = Float32Array.of(0.1, 1 / 3, -0, 1e-45, 16777216, NaN, -Infinity);
    assert.deepEqual(texts('float32', bytesOf(values), 99), [
      '0.1',
      '0.33333334',
      '-0',
      '1e-45',
      '16777216',
      'NaN',
      '-Infinity',
    ]);
    assert.deepEqual(texts('bfloat16', Uint8Array.of(0x80, 0x3f, 0xcd, 0x3d), 2), ['1', '0.1001']);
    assert.deepEqual(texts('float16', Uint8Array.of(0x66, 0x2e), 2), ['0.099976']);
  });

  it('reads from the middle of a buffer and leaves a part of an element out', () => {
    const all = Uint8Array.of(9, 1, 0, 2, 0, 3);
    assert.deepEqual([...decode('uint16', all.subarray(1))], [1, 2]);
  });

  it('has no element size for packed types, whose bytes are shown', () => {
    assert.equal(elementSize('q4_1'), undefined);
    assert.equal(elementSize('uint4'), undefined);
    assert.deepEqual(hexLines(Uint8Array.of(0, 10, 255), 2), ['00 0a', 'ff']);
  });
});

describe('statistics', () => {
  it('leaves NaN and infinities out of all but their counts', () => {
    const found = statisticsOf(Float64Array.of(1, NaN, 5, Infinity, 0, -Infinity), 3);
    const { min, max, mean, nan, infinite, zeros, count, bins } = found;
    assert.deepEqual(
      { min, max, mean, nan, infinite, zeros, count },
      { min: 0, max: 5, mean: 2, nan: 1, infinite: 2, zeros: 1, count: 6 },
    );
    assert.deepEqual(bins, [2, 0, 1]); // from 0, 5/3, 10/3 on
  });

  it('knows the deviation', () => {
    assert.equal(statisticsOf(Float64Array.of(2, 4, 4, 4, 5, 5, 7, 9)).deviation, 2);
  });

  it('has one bar for equal values and none for no number', () => {
    assert.deepEqual(statisticsOf(Float64Array.of(7, 7)).bins, [2]);
    const none = statisticsOf(Float64Array.of(NaN));
    assert.deepEqual(none.bins, []);
    assert.ok(Number.isNaN(none.min) && Number.isNaN(none.mean));
  });
});

describe('samples of large tensors', () => {
  it('take all of a small one', () => {
    assert.deepEqual(sampleStretches(1000, 4096), [{ begin: 0, end: 1000 }]);
  });

  it('stay within the limit, aligned, apart, from the first byte to the end', () => {
    for (const nbytes of [2 ** 16 + 2, 1_000_003, 3 * 2 ** 30]) {
      const limit = 2 ** 16;
      const stretches = sampleStretches(nbytes, limit);
      assert.equal(stretches.length, 16);
      assert.equal(stretches[0]?.begin, 0);
      assert.ok(nbytes - (stretches.at(-1)?.end ?? 0) < 256);
      let last = 0;
      for (const { begin, end } of stretches) {
        assert.ok(begin % 256 === 0 && begin >= last && end <= nbytes, `${begin} of ${nbytes}`);
        last = end;
      }
      assert.ok(stretches.reduce((sum, { begin, end }) => sum + end - begin, 0) <= limit);
    }
  });
});

describe('a load over time', () => {
  it('gives a steady rate as it is, also after a million bytes a second for an hour', () => {
    const series = new TimeSeries();
    for (let at = 0; at <= 3_600_000; at += 100) series.add(at, at * 1000, 5);
    series.close(3_600_000);
    const rates = series.rates();
    assert.ok(rates.length <= 257, `${rates.length} points`);
    for (const { at, value } of rates.slice(1)) {
      assert.ok(Math.abs(value - 1e6) < 3e4, `${value} at ${at}`);
    }
    assert.equal(rates.at(-1)?.at, 3_600_000);
  });

  it('shows a pause as none, and the most that was held', () => {
    const series = new TimeSeries();
    series.add(0, 1000, 3);
    series.add(10, 2000, 9);
    series.add(20, 2000, 4);
    series.add(5000, 3000, 1);
    series.close(5050);
    assert.equal(series.rates().find(({ at }) => at > 2000)?.value, 0);
    assert.equal(Math.max(...series.held().map(({ value }) => value)), 9);
    assert.equal(series.recentRate(5000, 2000), 500);
  });
});

describe('the grid of tensors', () => {
  it('fits any number of tensors in a bounded height', () => {
    for (const width of [280, 640, 1300]) {
      for (const count of [0, 1, 272, 3000, 100_000]) {
        const { size, columns, rows, group } = gridLayout(count, width);
        assert.ok(columns * rows * group >= count, `${count} tensors in ${width}`);
        assert.ok(columns * size <= width && rows * size <= 304, `${rows} rows of ${size}`);
        if (count <= 3000) assert.equal(group, 1);
      }
    }
  });
});

describe('numbers for people', () => {
  it('have units', () => {
    const plain = (text: string): string => text.replace('\u00a0', ' ');
    assert.equal(plain(formatBytes(1)), '1 byte');
    assert.equal(plain(formatBytes(1023)), '1023 bytes');
    assert.equal(plain(formatBytes(256.6 * 2 ** 20)), '256.6 MiB');
    assert.equal(plain(formatBytes(2 ** 30 - 1)), '1.00 GiB');
    assert.equal(formatDuration(350), '0.35 s');
    assert.equal(formatDuration(59_700), '1 min 0 s');
    assert.equal(formatDuration(3_900_000), '1 h 5 min');
  });
});
