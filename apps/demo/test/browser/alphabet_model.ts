// The smallest model that chats, with weights made so that it can be foretold: after a colon, with which the chat template
// ends, it says the letters of ALPHABET, each after the one before it, and ends. Compiled for software adapters by
// tests/chat/compile_tiny.py.
import { mkdirSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import {
  CONFIG,
  idOf,
  TOKENIZER,
  words,
} from '../../../../packages/sluice/test/chat/small_tokenizer.js';
import { tensorCacheFiles } from '../../../../packages/sluice/test/support/models.js';
import type { TestTensor } from '../../../../packages/sluice/test/support/models.js';
import { linkObjects } from '../../../../tests/vm/support.js';

/** What it answers to everything, at low temperatures. */
export const ALPHABET = 'abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789';
/** Tokens that it knows at most: a conversation and its answer. */
export const CONTEXT = 256;

/** Those of compile_tiny.py. */
const HIDDEN = 32;
const INTERMEDIATE = 64;
const KV = 16;
const LAYERS = 2;

/** A space's byte is written as another letter by the tokenizer. */
const letter = (character: string): string => (character === ' ' ? '\u0120' : character);

/** Every token, in the order in which one follows the other. */
function succession(): number[] {
  const said = [':', ...Array.from(ALPHABET, letter), '<|end|>'].map(idOf);
  const others = words.map((_, token) => token).filter((token) => !said.includes(token));
  return [...said, ...others];
}

/**
 * Places token number i of the succession at the angle i on 15 circles, each as fast as its frequency says, beside a
 * dimension that is always 1. The first layer's feed-forward network turns all circles by one step; attention and the second
 * layer add nothing.
 */
function tensors(): TestTensor[] {
  const order = succession();
  const count = order.length;
  const circles = Array.from({ length: 15 }, (_, i) => ({
    cos: 1 + 2 * i,
    sin: 2 + 2 * i,
    step: (2 * Math.PI * (1 + ((37 * i) % 131))) / count,
  }));
  const matrix = (rows: number, columns: number): number[][] =>
    Array.from({ length: rows }, () => Array<number>(columns).fill(0));
  const set = (values: number[][], row: number, column: number, value: number): void => {
    (values[row] ?? [])[column] = value;
  };

  const embedding = matrix(count, HIDDEN);
  for (const [i, token] of order.entries()) {
    set(embedding, token, 0, 1);
    for (const { cos, sin, step } of circles) {
      set(embedding, token, cos, Math.cos(i * step));
      set(embedding, token, sin, Math.sin(i * step));
    }
  }
  // Norms give root 2 times an embedding, whose length is 4: up passes it on, times silu(gate), which is a constant
  const gate = matrix(INTERMEDIATE, HIDDEN);
  const up = matrix(INTERMEDIATE, HIDDEN);
  const down = matrix(HIDDEN, INTERMEDIATE);
  const constant = 20 * Math.SQRT2;
  for (let i = 0; i < HIDDEN; i++) {
    set(gate, i, 0, 20);
    set(up, i, i, 1);
  }
  for (const { cos, sin, step } of circles) {
    const scale = 1 / (constant * Math.SQRT2);
    set(down, cos, cos, scale * (Math.cos(step) - 1));
    set(down, cos, sin, scale * -Math.sin(step));
    set(down, sin, cos, scale * Math.sin(step));
    set(down, sin, sin, scale * (Math.cos(step) - 1));
  }

  const tensor = (name: string, values: number[][]): TestTensor => ({
    name,
    dtype: 'float32',
    shape: [values.length, values[0]?.length ?? 0],
    bytes: new Uint8Array(Float32Array.from(values.flat()).buffer),
  });
  const norm = (name: string, value: number): TestTensor => ({
    name,
    dtype: 'float32',
    shape: [HIDDEN],
    bytes: new Uint8Array(new Float32Array(HIDDEN).fill(value).buffer),
  });
  const layers = Array.from({ length: LAYERS }, (_, layer) => [
    norm(`blk.${layer}.attn_norm.weight`, 1),
    tensor(`blk.${layer}.attn_q.weight`, matrix(HIDDEN, HIDDEN)),
    tensor(`blk.${layer}.attn_k.weight`, matrix(KV, HIDDEN)),
    tensor(`blk.${layer}.attn_v.weight`, matrix(KV, HIDDEN)),
    tensor(`blk.${layer}.attn_output.weight`, matrix(HIDDEN, HIDDEN)),
    norm(`blk.${layer}.ffn_norm.weight`, 1),
    tensor(`blk.${layer}.ffn_gate.weight`, gate),
    tensor(`blk.${layer}.ffn_up.weight`, up),
    tensor(`blk.${layer}.ffn_down.weight`, layer === 0 ? down : matrix(HIDDEN, INTERMEDIATE)),
  ]);
  // So flat that a high temperature says something else
  return [
    tensor('token_embd.weight', embedding),
    ...layers.flat(),
    norm('output_norm.weight', 0.4),
  ];
}

/** Writes the model into `folder` as models/smollm2/build.sh writes SmolLM2: the build for adapters that are software. */
export async function writeAlphabetModel(folder: string): Promise<void> {
  const fixture = (name: string): string =>
    fileURLToPath(new URL(`../../../../tests/chat/fixtures/${name}`, import.meta.url));
  const objects = [fixture('tiny_webgpu.o'), fixture('tiny_webgpu.lib.o')];
  const wasm = await readFile(await linkObjects('alphabet', objects, '--no-optimize'));
  const files = {
    'model-software.wasm': wasm,
    'tokenizer.json': JSON.stringify(TOKENIZER),
    'tokenizer_config.json': JSON.stringify(CONFIG),
    ...tensorCacheFiles([tensors()]),
  };
  const target = join(folder, 'float32');
  mkdirSync(target, { recursive: true });
  for (const [name, content] of Object.entries(files)) {
    if (typeof content !== 'string' && !(content instanceof Uint8Array)) {
      throw new Error(`${name} is neither text nor bytes`);
    }
    writeFileSync(join(target, name), content);
  }
}
