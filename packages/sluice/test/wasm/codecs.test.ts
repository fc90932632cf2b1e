// What loadModel() decodes, against a scalar reference in JavaScript, bit by bit.
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { loadModel } from 'sluice';
import { gguf, randomBytes, safetensors, type TestTensor } from '../support/models.js';

const scratch = new DataView(new ArrayBuffer(4));

function floatOf(bits: number): number {
  scratch.setUint32(0, bits);
  return scratch.getFloat32(0);
}

function bitsOf(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}

/** IEEE 754 binary16 to binary32; a NaN becomes quiet and keeps its sign and payload. */
function bitsOfHalf(half: number): number {
  const sign = half & 0x8000 ? 0x80000000 : 0;
  const exponent = (half >> 10) & 31;
  const fraction = half & 1023;
  if (exponent === 31) {
    return (sign | 0x7f800000 | (fraction ? 0x400000 : 0) | (fraction << 13)) >>> 0;
  }
  const value = exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
  return (sign | bitsOf(value)) >>> 0;
}

/** To nearest, ties to even; 65,520 and above become infinite. */
function halfOf(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = floatOf(bits & 0x7fffffff);
  if (Number.isNaN(magnitude)) return sign | 0x7e00 | ((bits >>> 13) & 0x3ff);
  if (magnitude === Infinity) return sign | 0x7c00;
  const exponent = Math.max(((bits >>> 23) & 255) - 127, -14);
  const units = magnitude / 2 ** (exponent - 10);
  const low = Math.floor(units);
  const up = units - low > 0.5 || (units - low === 0.5 && low % 2 === 1);
  return sign | Math.min((exponent + 14) * 1024 + low + (up ? 1 : 0), 0x7c00);
}

function bfloatOf(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return Math.floor((bits + 0x7fff + ((bits >>> 16) & 1)) / 65536);
}

// Blocks as dequantize_row_* of ggml-quants.c define them, each operation rounded to binary32

type Block = (block: DataView, element: number) => number;

const half = (block: DataView, at: number): number =>
  floatOf(bitsOfHalf(block.getUint16(at, true)));
const times = (a: number, b: number): number => Math.fround(a * b);
const nibble = (block: DataView, at: number, i: number): number =>
  i < 16 ? block.getUint8(at + i) & 15 : block.getUint8(at + i - 16) >> 4;
const fifth = (block: DataView, at: number, i: number): number =>
  ((block.getUint32(at, true) >>> i) & 1) << 4;

/** The 6-bit scale and minimum of group j of a q4_k or q5_k block: get_scale_min_k4(). */
function scaleAndMin(block: DataView, j: number): [number, number] {
  const q = (i: number): number => block.getUint8(4 + i);
  if (j < 4) return [q(j) & 63, q(j + 4) & 63];
  return [(q(j + 4) & 15) | ((q(j - 4) >> 6) << 4), (q(j + 4) >> 4) | ((q(j) >> 6) << 4)];
}

function kQuant(block: DataView, i: number, quant: number): number {
  const [scale, minimum] = scaleAndMin(block, i >> 5);
  const product = times(times(half(block, 0), scale), quant);
  return Math.fround(product - times(half(block, 2), minimum));
}

const BLOCKS: Record<string, { elements: number; bytes: number; factors: number[]; at: Block }> = {
  q4_0: {
    elements: 32,
    bytes: 18,
    factors: [0],
    at: (b, i) => times(half(b, 0), nibble(b, 2, i) - 8),
  },
  q4_1: {
    elements: 32,
    bytes: 20,
    factors: [0, 2],
    at: (b, i) => Math.fround(times(half(b, 0), nibble(b, 4, i)) + half(b, 2)),
  },
  q5_0: {
    elements: 32,
    bytes: 22,
    factors: [0],
    at: (b, i) => times(half(b, 0), (nibble(b, 6, i) | fifth(b, 2, i)) - 16),
  },
  q5_1: {
    elements: 32,
    bytes: 24,
    factors: [0, 2],
    at: (b, i) => Math.fround(times(half(b, 0), nibble(b, 8, i) | fifth(b, 4, i)) + half(b, 2)),
  },
  q8_0: {
    elements: 32,
    bytes: 34,
    factors: [0],
    at: (b, i) => times(half(b, 0), b.getInt8(2 + i)),
  },
  q4_k: {
    elements: 256,
    bytes: 144,
    factors: [0, 2],
    at: (b, i) => {
      const byte = b.getUint8(16 + (i >> 6) * 32 + (i & 31));
      return kQuant(b, i, i & 32 ? byte >> 4 : byte & 15);
    },
  },
  q5_k: {
    elements: 256,
    bytes: 176,
    factors: [0, 2],
    at: (b, i) => {
      const byte = b.getUint8(48 + (i >> 6) * 32 + (i & 31));
      const high = (b.getUint8(16 + (i & 31)) >> (i >> 5)) & 1;
      return kQuant(b, i, (i & 32 ? byte >> 4 : byte & 15) + 16 * high);
    },
  },
  q6_k: {
    elements: 256,
    bytes: 210,
    factors: [208],
    at: (b, i) => {
      const part = i >> 7;
      const quarter = (i >> 5) & 3;
      const l = i & 31;
      const byte = b.getUint8(64 * part + 32 * (quarter & 1) + l);
      const high = (b.getUint8(128 + 32 * part + l) >> (2 * quarter)) & 3;
      const quant = (quarter < 2 ? byte & 15 : byte >> 4) + 16 * high - 32;
      return times(times(half(b, 208), b.getInt8(192 + (i >> 4))), quant);
    },
  },
};

/** The stored bytes as binary32, bit by bit. */
function decoded({ dtype, bytes }: TestTensor): Uint32Array {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const block = BLOCKS[dtype];
  if (block === undefined) {
    const size = dtype.toLowerCase() === 'f32' ? 4 : 2;
    return Uint32Array.from({ length: bytes.length / size }, (_, i) => {
      if (size === 4) return view.getUint32(4 * i, true);
      const word = view.getUint16(2 * i, true);
      return dtype.toLowerCase() === 'f16' ? bitsOfHalf(word) : word * 65536;
    });
  }
  const out = new Uint32Array((bytes.length / block.bytes) * block.elements);
  for (let at = 0, next = 0; at < bytes.length; at += block.bytes) {
    const one = new DataView(bytes.buffer, bytes.byteOffset + at, block.bytes);
    for (let i = 0; i < block.elements; i++) {
      const value = block.at(one, i);
      // A NaN out of a block has neither sign nor payload
      out[next++] = Number.isNaN(value) ? 0x7fc00000 : bitsOf(value);
    }
  }
  return out;
}

const ENCODERS = {
  float32: (bits: number) => bits,
  float16: halfOf,
  bfloat16: bfloatOf,
} as const;

/** What `tensor` must be as `dtype`; as its own type it is copied. */
function encoded(tensor: TestTensor, bits: Uint32Array, dtype: keyof typeof ENCODERS): Uint8Array {
  if ({ F16: 'float16', BF16: 'bfloat16' }[tensor.dtype] === dtype) return tensor.bytes;
  if (dtype === 'float32') return new Uint8Array(bits.buffer);
  return new Uint8Array(Uint16Array.from(bits, ENCODERS[dtype]).buffer);
}

/** Random blocks; the factors of two in three are finite and below 2, as models have them. */
function blockTensor(dtype: string): TestTensor {
  const block = BLOCKS[dtype];
  assert.ok(block);
  const columns = 3 * block.elements;
  const rows = 577; // an odd number of blocks, several decoding steps
  const bytes = randomBytes(rows * 3 * block.bytes, dtype.charCodeAt(1) * 31 + dtype.length);
  for (let at = 0, n = 0; at < bytes.length; at += block.bytes, n++) {
    if (n % 3 === 0) continue;
    for (const factor of block.factors) bytes[at + factor + 1]! &= 0xbf;
  }
  return { name: `blocks.${dtype}`, dtype, shape: [rows, columns], bytes };
}

function plainTensors(): TestTensor[] {
  const words = new Uint8Array(Uint16Array.from({ length: 65536 }, (_, i) => i).buffer);
  // Every half and bfloat, the midpoint behind each, their neighbours, and random patterns
  const floats: number[] = [];
  for (let word = 0; word < 65536; word++) {
    for (const around of [bitsOfHalf(word), word * 65536]) {
      for (const step of [0, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0x8001]) {
        floats.push((around + step) >>> 0);
      }
    }
    floats.push(bitsOf((word % 2048) * 2 ** -24 + 2 ** -25));
  }
  const random = randomBytes(400_000, 99);
  const all = new Uint8Array(4 * floats.length + random.length);
  all.set(new Uint8Array(Uint32Array.from(floats).buffer));
  all.set(random, 4 * floats.length);
  return [
    { name: 'plain.f16', dtype: 'F16', shape: [65536], bytes: words },
    { name: 'plain.bf16', dtype: 'BF16', shape: [256, 256], bytes: words },
    { name: 'plain.f32', dtype: 'F32', shape: [all.length / 4], bytes: all },
  ];
}

describe('codecs through loadModel()', () => {
  let folder: string;
  const plain = plainTensors();
  const blocks = Object.keys(BLOCKS).map(blockTensor);
  const reference = new Map(
    [...plain, ...blocks].map((tensor) => [tensor.name, { tensor, bits: decoded(tensor) }]),
  );

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'sluice-codecs-'));
    writeFileSync(join(folder, 'plain.safetensors'), safetensors(plain));
    writeFileSync(join(folder, 'blocks.gguf'), gguf(blocks));
  });
  after(() => {
    rmSync(folder, { recursive: true });
  });

  test('the reference itself', () => {
    assert.deepEqual(
      [0x0000, 0x0001, 0x3c00, 0x7bff, 0x7c00, 0xfc00, 0x8001].map((word) =>
        floatOf(bitsOfHalf(word)),
      ),
      [0, 2 ** -24, 1, 65504, Infinity, -Infinity, -(2 ** -24)],
    );
    assert.deepEqual(
      [1, 65519, 65520, -2, 2 ** -24, 2 ** -25, 3 * 2 ** -25].map((x) => halfOf(bitsOf(x))),
      [0x3c00, 0x7bff, 0x7c00, 0xc000, 1, 0, 2],
    );
    assert.deepEqual(
      [0x3f800000, 0x3f808000, 0x3f818000, 0x7f7fffff, 0x7f800001].map(bfloatOf),
      [0x3f80, 0x3f80, 0x3f82, 0x7f80, 0x7fc0],
    );
  });

  for (const dtype of ['float32', 'float16', 'bfloat16'] as const) {
    // Two shapes of the work: everything in few steps, and cut by a small budget and a busy consumer
    for (const budgetBytes of [64 * 2 ** 20, 820_000]) {
      for (const file of ['plain.safetensors', 'blocks.gguf']) {
        test(`${file} to ${dtype} with a budget of ${budgetBytes} bytes`, async () => {
          const model = await loadModel(join(folder, file), { device: 'cpu', dtype, budgetBytes });
          assert.equal(model.tensors.size, file === 'blocks.gguf' ? blocks.length : plain.length);
          for (const [name, tensor] of model.tensors) {
            assert.equal(tensor.location, 'cpu');
            assert.equal(tensor.dtype, dtype);
            const source = reference.get(name) ?? assert.fail(name);
            const expected = encoded(source.tensor, source.bits, dtype);
            assert.equal(tensor.data.length, expected.length, name);
            const wrong = expected.findIndex((byte, i) => byte !== tensor.data[i]);
            assert.equal(wrong, -1, `${name}: byte ${wrong} differs`);
          }
        });
      }
    }
  }
});
