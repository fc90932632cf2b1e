// A model that needs no download: the shapes of a small transformer, with weights as they are drawn before
// training (normal, standard deviation 0.02) and norms near one, in several element types.
import { concat, safetensors } from '../../packages/sluice/test/support/models.js';
import type { TestTensor } from '../../packages/sluice/test/support/models.js';

const LAYERS = 8;
const HIDDEN = 256;
const VOCABULARY = 8192;

let file: Uint8Array | undefined;

/** The safetensors file, some 20 MiB; generated once, always the same. */
export function sampleModel(): Uint8Array {
  return (file ??= safetensors(tensors(), { title: 'Generated sample' }));
}

function tensors(): TestTensor[] {
  const normal = normals(4096);
  const weights = (name: string, shape: number[]): TestTensor => {
    const bytes = repeat(bfloat16(normal.map((value) => 0.02 * value)), 2 * product(shape));
    return { name, dtype: 'BF16', shape, bytes };
  };
  const norm = (name: string): TestTensor => {
    const values = Float32Array.from(normal.subarray(0, HIDDEN), (value) => 1 + 0.1 * value);
    return { name, dtype: 'F32', shape: [HIDDEN], bytes: new Uint8Array(values.buffer) };
  };
  const layers = Array.from({ length: LAYERS }, (_, i) => {
    const at = (name: string): string => `model.layers.${i}.${name}`;
    return [
      norm(at('input_layernorm.weight')),
      weights(at('self_attn.q_proj.weight'), [HIDDEN, HIDDEN]),
      weights(at('self_attn.k_proj.weight'), [HIDDEN / 4, HIDDEN]),
      weights(at('self_attn.v_proj.weight'), [HIDDEN / 4, HIDDEN]),
      weights(at('self_attn.o_proj.weight'), [HIDDEN, HIDDEN]),
      norm(at('post_attention_layernorm.weight')),
      weights(at('mlp.gate_proj.weight'), [4 * HIDDEN, HIDDEN]),
      weights(at('mlp.up_proj.weight'), [4 * HIDDEN, HIDDEN]),
      weights(at('mlp.down_proj.weight'), [HIDDEN, 4 * HIDDEN]),
    ];
  });
  const positions = Int32Array.from({ length: 2048 }, (_, i) => i);
  return [
    weights('model.embed_tokens.weight', [VOCABULARY, HIDDEN]),
    ...layers.flat(),
    norm('model.norm.weight'),
    {
      name: 'position_ids',
      dtype: 'I32',
      shape: [1, positions.length],
      bytes: new Uint8Array(positions.buffer),
    },
  ];
}

/** Normally distributed numbers (Box and Muller, 1958) from a linear congruential generator. */
function normals(count: number): Float32Array {
  let state = 1;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return Float32Array.from(
    { length: count },
    () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()),
  );
}

/** The upper halves of float32, little-endian. */
function bfloat16(values: Float32Array): Uint8Array {
  const halves = Uint16Array.from(new Uint32Array(values.buffer), (bits) => bits >>> 16);
  return new Uint8Array(halves.buffer);
}

function repeat(bytes: Uint8Array, nbytes: number): Uint8Array {
  const times = Math.ceil(nbytes / bytes.length);
  return concat(Array.from({ length: times }, () => bytes)).subarray(0, nbytes);
}

const product = (shape: readonly number[]): number =>
  shape.reduce((result, extent) => result * extent, 1);
