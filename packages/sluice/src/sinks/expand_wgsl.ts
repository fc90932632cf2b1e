import { unitOf, type Conversion } from './conversion.js';

/** Threads of a workgroup of expand(). */
export const WORKGROUP = 256;

/*
 * The codecs of core/load/codecs as compute shaders, byte for byte alike. WGSL lets a device flush subnormal numbers,
 * drop the sign of a zero, round a sum either way and assume that there are neither infinities nor NaNs
 * (https://www.w3.org/TR/WGSL/#differences-from-ieee754), so no value here is ever a float: all are bits in u32. A
 * block's values are products of an f16 and small integers, which are exact in fixed point with the unit 2^-24 of f16's
 * subnormals and at most 52 bits; only the sum with a minimum and the narrowing to 16 bits round.
 */

const COMMON = /* wgsl */ `
struct Params {
  elements: u32,
  source: u32,  // bytes from the start of the source, a multiple of 4
  first: u32,   // word of the result that the first element goes to
}
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;
@group(0) @binding(2) var<uniform> params: Params;

fn byte_at(at: u32) -> u32 { return (source[at / 4u] >> ((at % 4u) * 8u)) & 0xffu; }
fn signed_byte_at(at: u32) -> i32 { return bitcast<i32>(byte_at(at) << 24u) >> 24u; }
// Of an even offset
fn half_at(at: u32) -> u32 { return (source[at / 4u] >> ((at % 4u) * 8u)) & 0xffffu; }

// A number of 2^-24 in high and low, to the nearest f32, ties to even. sign: 0 or 0x80000000.
fn f32_of_fixed(sign: u32, high: u32, low: u32) -> u32 {
  if ((high | low) == 0u) { return sign; }
  var top = firstLeadingBit(low);
  if (high != 0u) { top = 32u + firstLeadingBit(high); }
  let exponent = (top + 102u) << 23u;  // one less than the leading bit, which is added, makes it
  if (top <= 23u) { return sign | (exponent + (low << (23u - top))); }
  let shift = top - 23u;  // below 32
  let mantissa = (low >> shift) | (high << (32u - shift));
  let rest = low & ((1u << shift) - 1u);
  let tie = 1u << (shift - 1u);
  let up = rest > tie || (rest == tie && (mantissa & 1u) == 1u);
  return sign | (exponent + mantissa + select(0u, 1u, up));
}

fn f32_of_f16(half: u32) -> u32 {
  let sign = (half & 0x8000u) << 16u;
  let magnitude = half & 0x7fffu;
  if (magnitude > 0x7c00u) { return sign | 0x7fc00000u | (magnitude << 13u); }
  if (magnitude == 0x7c00u) { return sign | 0x7f800000u; }
  if (magnitude >= 0x0400u) { return sign | ((magnitude << 13u) + 0x38000000u); }
  return f32_of_fixed(sign, 0u, magnitude);
}

fn f16_of_f32(bits: u32) -> u32 {
  let sign = (bits >> 16u) & 0x8000u;
  let magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) { return sign | 0x7e00u | ((magnitude >> 13u) & 0x03ffu); }
  if (magnitude >= 0x47800000u) { return sign | 0x7c00u; }
  if (magnitude >= 0x38800000u) {
    return sign | ((magnitude - 0x38000000u + 0x0fffu + ((magnitude >> 13u) & 1u)) >> 13u);
  }
  if (magnitude < 0x33000000u) { return sign; }  // below half of 2^-24
  let shift = 126u - (magnitude >> 23u);  // 14 to 24
  let mantissa = (magnitude & 0x007fffffu) | 0x00800000u;
  let half = mantissa >> shift;
  let rest = mantissa & ((1u << shift) - 1u);
  let tie = 1u << (shift - 1u);
  return sign | (half + select(0u, 1u, rest > tie || (rest == tie && (half & 1u) == 1u)));
}

fn bf16_of_f32(bits: u32) -> u32 {
  if ((bits & 0x7fffffffu) > 0x7f800000u) { return (bits >> 16u) | 0x0040u; }
  return (bits + 0x7fffu + ((bits >> 16u) & 1u)) >> 16u;
}
`;

const BLOCKS = /* wgsl */ `
const FINITE = 0u;
const INFINITE = 1u;
const NAN = 2u;
const NAN_BITS = 0x7fc00000u;
const INFINITY_BITS = 0x7f800000u;

// A number of 2^-24 in high and low, unless it is infinite or a NaN
struct Term {
  kind: u32,
  sign: u32,
  high: u32,
  low: u32,
}

// An f16 times two integers of at most 12 bits together
fn product(half: u32, a: i32, b: i32) -> Term {
  let negative = ((half >> 15u) & 1u) ^ select(0u, 1u, a < 0) ^ select(0u, 1u, b < 0);
  let sign = negative << 31u;
  let factor = u32(abs(a)) * u32(abs(b));
  let exponent = (half >> 10u) & 31u;
  let fraction = half & 0x03ffu;
  if (exponent == 31u) {
    return Term(select(INFINITE, NAN, fraction != 0u || factor == 0u), sign, 0u, 0u);
  }
  let value = select(fraction | 0x0400u, fraction, exponent == 0u) * factor;
  let shift = max(exponent, 1u) - 1u;
  return Term(FINITE, sign, (value >> 1u) >> (31u - shift), value << shift);
}

fn f32_of(term: Term) -> u32 {
  if (term.kind == NAN) { return NAN_BITS; }
  if (term.kind == INFINITE) { return term.sign | INFINITY_BITS; }
  return f32_of_fixed(term.sign, term.high, term.low);
}

fn f32_of_sum(x: Term, y: Term) -> u32 {
  if (x.kind != FINITE || y.kind != FINITE) {
    if (x.kind == NAN || y.kind == NAN) { return NAN_BITS; }
    if (x.kind == y.kind && x.sign != y.sign) { return NAN_BITS; }
    return select(y.sign, x.sign, x.kind == INFINITE) | INFINITY_BITS;
  }
  if (x.sign == y.sign) {
    let low = x.low + y.low;
    return f32_of_fixed(x.sign, x.high + y.high + select(0u, 1u, low < x.low), low);
  }
  var large = x;
  var small = y;
  if (x.high < y.high || (x.high == y.high && x.low < y.low)) {
    large = y;
    small = x;
  }
  let high = large.high - small.high - select(0u, 1u, large.low < small.low);
  let low = large.low - small.low;
  return f32_of_fixed(select(large.sign, 0u, (high | low) == 0u), high, low);
}
`;

/** Blocks of 32 elements; the low halves of the last 16 bytes are elements 0 to 15, the high halves 16 to 31. */
const nibbles = (value: string, quants: number, fifths: boolean): string => /* wgsl */ `
fn decode(block: u32, e: u32) -> u32 {
  var q = i32((byte_at(block + ${quants}u + e % 16u) >> ((e / 16u) * 4u)) & 15u);
  ${fifths ? `q |= i32(((byte_at(block + ${quants - 4}u + e / 8u) >> (e % 8u)) & 1u) << 4u);` : ''}
  return ${value};
}`;
const MINIMUM = 'product(half_at(block + 2u), 1, 1)';

/** Eight groups of 32 elements with 6-bit factors of scale and minimum: see decode_k_nibbles() in kernels.h. */
const kNibbles = (quants: number, fifths: boolean): string => /* wgsl */ `
fn decode(block: u32, e: u32) -> u32 {
  let g = e / 32u;
  let at = block + 4u + g % 4u;
  var scale = byte_at(at) & 63u;
  var least = byte_at(at + 4u) & 63u;
  if (g >= 4u) {
    let both = byte_at(at + 8u);
    scale = (both & 15u) | ((byte_at(at) >> 6u) << 4u);
    least = (both >> 4u) | ((byte_at(at + 4u) >> 6u) << 4u);
  }
  var q = (byte_at(block + ${quants}u + (g / 2u) * 32u + e % 32u) >> ((g % 2u) * 4u)) & 15u;
  ${fifths ? 'q |= ((byte_at(block + 16u + e % 32u) >> g) & 1u) << 4u;' : ''}
  return f32_of_sum(
    product(half_at(block), i32(scale), i32(q)), product(half_at(block + 2u), i32(least), -1));
}`;

/** decode(block, e): element `e` of the block at byte `block`, as the bits of an f32. */
const DECODE: Readonly<Record<string, string>> = {
  float32: 'fn decode(at: u32, e: u32) -> u32 { return source[at / 4u]; }',
  float16: 'fn decode(at: u32, e: u32) -> u32 { return f32_of_f16(half_at(at)); }',
  bfloat16: 'fn decode(at: u32, e: u32) -> u32 { return half_at(at) << 16u; }',
  q4_0: BLOCKS + nibbles('f32_of(product(half_at(block), q - 8, 1))', 2, false),
  q4_1: BLOCKS + nibbles(`f32_of_sum(product(half_at(block), q, 1), ${MINIMUM})`, 4, false),
  q5_0: BLOCKS + nibbles('f32_of(product(half_at(block), q - 16, 1))', 6, true),
  q5_1: BLOCKS + nibbles(`f32_of_sum(product(half_at(block), q, 1), ${MINIMUM})`, 8, true),
  q8_0: /* wgsl */ `${BLOCKS}
fn decode(block: u32, e: u32) -> u32 {
  return f32_of(product(half_at(block), signed_byte_at(block + 2u + e), 1));
}`,
  q4_k: BLOCKS + kNibbles(16, false),
  q5_k: BLOCKS + kNibbles(48, true),
  q6_k: /* wgsl */ `${BLOCKS}
fn decode(block: u32, e: u32) -> u32 {
  let side = e / 128u;
  let quarter = (e / 32u) % 4u;
  let i = e % 32u;
  let low = (byte_at(block + 64u * side + 32u * (quarter % 2u) + i) >> ((quarter / 2u) * 4u)) & 15u;
  let upper = (byte_at(block + 128u + 32u * side + i) >> (quarter * 2u)) & 3u;
  return f32_of(product(
    half_at(block + 208u), signed_byte_at(block + 192u + e / 16u), i32(low | (upper << 4u)) - 32));
}`,
};

const NARROW: Readonly<Record<string, string>> = { float16: 'f16_of_f32', bfloat16: 'bf16_of_f32' };

/** The shader of a conversion, entry point `expand`; undefined where there is none. */
export function expandShader({ from, to }: Conversion): string | undefined {
  const decode = DECODE[from];
  const unit = unitOf(from);
  const narrow = NARROW[to];
  if (!decode || !unit || from === to || (to !== 'float32' && !narrow)) return undefined;
  const { blockElements, blockBytes } = unit;
  const perWord = narrow === undefined ? 1 : 2;
  const word =
    narrow === undefined
      ? 'return element(index);'
      : `let low = ${narrow}(element(2u * index));
  if (2u * index + 1u == params.elements) { return low; }
  return low | (${narrow}(element(2u * index + 1u)) << 16u);`;
  return /* wgsl */ `${COMMON}
${decode}

fn element(index: u32) -> u32 {
  return decode(params.source + (index / ${blockElements}u) * ${blockBytes}u, index % ${blockElements}u);
}

// Word \`index\` of the result; what is beyond the last element is 0
fn word(index: u32) -> u32 {
  ${word}
}

@compute @workgroup_size(${WORKGROUP})
fn expand(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
  let words = (params.elements + ${perWord - 1}u) / ${perWord}u;
  for (var i = id.x; i < words; i += groups.x * ${WORKGROUP}u) {
    result[params.first + i] = word(i);
  }
}
`;
}
