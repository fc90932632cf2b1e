// A llama in plain JavaScript, all of a sequence computed anew for each token: what the compiled one is held to.

export interface Sizes {
  layers: number;
  hidden: number;
  intermediate: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabulary: number;
}

type Vector = Float64Array<ArrayBuffer>;
export type Weights = (name: string) => Float32Array;

const EPSILON = 1e-5;
const THETA = 10_000;

/** The logits after the last of these tokens. */
export function logitsOf(sizes: Sizes, weights: Weights, tokens: readonly number[]): Vector {
  const { hidden, heads, kvHeads, headDim } = sizes;
  const table = weights('token_embd.weight');
  let states = tokens.map((token) =>
    Float64Array.from(table.subarray(token * hidden, (token + 1) * hidden)),
  );
  for (let layer = 0; layer < sizes.layers; layer++) {
    const weight = (name: string): Float32Array => weights(`blk.${layer}.${name}.weight`);
    const normed = states.map((x) => rmsNorm(x, weight('attn_norm')));
    const q = normed.map((x, at) => rotate(product(weight('attn_q'), x), headDim, at));
    const k = normed.map((x, at) => rotate(product(weight('attn_k'), x), headDim, at));
    const v = normed.map((x) => product(weight('attn_v'), x));
    states = states.map((state, at) => {
      const out = new Float64Array(heads * headDim);
      for (let head = 0; head < heads; head++) {
        const kv = Math.floor((head * kvHeads) / heads) * headDim;
        const mine = (q[at] as Vector).subarray(head * headDim, (head + 1) * headDim);
        const scores = k
          .slice(0, at + 1)
          .map((key) => dot(mine, key.subarray(kv, kv + headDim)) / Math.sqrt(headDim));
        const most = Math.max(...scores);
        const shares = scores.map((score) => Math.exp(score - most));
        const sum = shares.reduce((a, b) => a + b);
        for (const [i, share] of shares.entries())
          for (let d = 0; d < headDim; d++)
            out[head * headDim + d]! += (share / sum) * (v[i]?.[kv + d] ?? NaN);
      }
      const x = add(state, product(weight('attn_output'), out));
      const y = rmsNorm(x, weight('ffn_norm'));
      const gate = product(weight('ffn_gate'), y).map((g) => g / (1 + Math.exp(-g)));
      const up = product(weight('ffn_up'), y);
      return add(
        x,
        product(
          weight('ffn_down'),
          gate.map((g, i) => g * (up[i] ?? NaN)),
        ),
      );
    });
  }
  return product(table, rmsNorm(states.at(-1) as Vector, weights('output_norm.weight')));
}

/** Rows of `matrix`, as long as `x` is, by `x`. */
function product(matrix: Float32Array, x: Vector): Vector {
  return Float64Array.from({ length: matrix.length / x.length }, (_, row) =>
    dot(x, matrix.subarray(row * x.length, (row + 1) * x.length)),
  );
}

function dot(a: Vector, b: Vector | Float32Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] ?? NaN) * (b[i] ?? NaN);
  return sum;
}

const add = (a: Vector, b: Vector): Vector => a.map((value, i) => value + (b[i] ?? NaN));

function rmsNorm(x: Vector, weight: Float32Array): Vector {
  const scale = 1 / Math.sqrt(dot(x, x) / x.length + EPSILON);
  return x.map((value, i) => value * scale * (weight[i] ?? NaN));
}

/** Rotary embedding of dimensions 2i and 2i + 1 of each head. */
function rotate(x: Vector, headDim: number, position: number): Vector {
  const out = x.slice();
  for (let i = 0; i < x.length; i += 2) {
    const angle = position * THETA ** (-(i % headDim) / headDim);
    const [a = NaN, b = NaN] = [x[i], x[i + 1]];
    out[i] = a * Math.cos(angle) - b * Math.sin(angle);
    out[i + 1] = b * Math.cos(angle) + a * Math.sin(angle);
  }
  return out;
}
