/** Tensors for tests of conversions: every stored type, with the values at which conversions differ. */
import assert from 'node:assert/strict';
import { randomBytes, randomTensor, type TestTensor } from './models.js';

/** Bytes and elements of a block, and where its f16 factors are. */
const BLOCKS: Record<string, { nbytes: number; elements: number; factors: number[] }> = {
  q4_0: { nbytes: 18, elements: 32, factors: [0] },
  q4_1: { nbytes: 20, elements: 32, factors: [0, 2] },
  q5_0: { nbytes: 22, elements: 32, factors: [0] },
  q5_1: { nbytes: 24, elements: 32, factors: [0, 2] },
  q8_0: { nbytes: 34, elements: 32, factors: [0] },
  q4_k: { nbytes: 144, elements: 256, factors: [0, 2] },
  q5_k: { nbytes: 176, elements: 256, factors: [0, 2] },
  q6_k: { nbytes: 210, elements: 256, factors: [208] },
};

/** f16 that mean something special: zeros, subnormals, the ends of the range, infinities, NaNs. */
const HALVES = [
  ...[0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x83ff, 0x0400, 0x8400, 0x1800, 0x9801, 0x3c00],
  ...[0xbc00, 0x3555, 0xb555, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x7c01, 0xffff],
];

/** Blocks with random quants: every pair of special factors, then random factors. */
export function blocks(dtype: string, count: number, seed: number): TestTensor {
  const { nbytes, elements, factors } = BLOCKS[dtype] ?? { nbytes: 0, elements: 0, factors: [] };
  const bytes = randomBytes(nbytes * count, seed);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < Math.min(count, HALVES.length ** 2); i++) {
    const chosen = [HALVES[i % HALVES.length], HALVES[Math.floor(i / HALVES.length)]];
    factors.forEach((at, j) => {
      view.setUint16(i * nbytes + at, chosen[j] ?? 0, true);
    });
    // All quants equal, so that zeros and the ends are among them
    if (i % 3 === 0)
      bytes.fill([0, 0xff, 0x88][(i / 3) % 3] ?? 0, i * nbytes + nbytes - 16, nbytes * (i + 1));
  }
  return { name: dtype, dtype, shape: [count, elements], bytes };
}

/** Every pattern of 16 bits, and one more element, so that there is an odd number of them. */
function everyHalf(name: string): TestTensor {
  const bits = Uint16Array.from({ length: 65_537 }, (_, i) => i);
  return { name, dtype: name, shape: [bits.length], bytes: new Uint8Array(bits.buffer) };
}

/** f32 around whatever f16 and bf16 round, overflow or lose, of both signs, and random ones. */
function singles(): TestTensor {
  const bits: number[] = [];
  for (let exponent = 0; exponent < 256; exponent++) {
    for (const fraction of [0, 1, 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x7fff, 0x8000, 0x8001]) {
      for (const top of [0, 0x400000, 0x7f0000, 0x7fe000]) {
        const magnitude = (exponent << 23) | top | fraction;
        bits.push(magnitude, magnitude + 2 ** 31);
      }
    }
  }
  const random = new Uint32Array(randomBytes(4 * 100_001, 9).buffer);
  const words = Uint32Array.from([...bits, ...random]);
  assert.equal(words.length % 2, 1);
  return { name: 'f32', dtype: 'f32', shape: [words.length], bytes: new Uint8Array(words.buffer) };
}

/** A tensor of every type that is converted, and one that is not. In GGUF's names. */
export function convertible(): TestTensor[] {
  return [
    everyHalf('f16'),
    everyHalf('bf16'),
    singles(),
    ...Object.keys(BLOCKS).map((name, i) => blocks(name, 601, i)),
    { ...randomTensor('integers', 'int32', [1001], 5), dtype: 'i32' },
  ];
}
