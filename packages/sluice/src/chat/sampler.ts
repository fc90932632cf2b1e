import type { RuntimeFunction } from '../runtime/function.js';
import type { Runtime } from '../runtime/runtime.js';
import type { Tensor } from '../runtime/tensor.js';
import { float, type Float } from '../runtime/values.js';
import { randomNumbers } from './random.js';

export interface SamplingOptions {
  readonly temperature: number;
  readonly topP: number;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly repetitionPenalty: number;
  /** An integer. */
  readonly seed: number;
}

/** Draws the tokens of an answer from their logits. */
export type Draw = (logits: Float32Array<ArrayBuffer>) => number;

/** Draws tokens by the runtime's functions, on the CPU. */
export class Sampler {
  readonly #runtime: Runtime;
  readonly #sample: RuntimeFunction<[Tensor, Float, Float, Float], number>;
  readonly #repetition: RuntimeFunction<[Tensor, Tensor, Float]>;
  readonly #presence: RuntimeFunction<[Tensor, Tensor, Tensor, Float, Float]>;
  #logits: Tensor | undefined;

  constructor(runtime: Runtime) {
    this.#runtime = runtime;
    this.#sample = runtime.getFunction('vm.builtin.sample_top_p_from_logits');
    this.#repetition = runtime.getFunction('vm.builtin.apply_repetition_penalty');
    this.#presence = runtime.getFunction('vm.builtin.apply_presence_and_frequency_penalty');
  }

  /** For one answer. Penalties are for the tokens that were drawn before. */
  begin(options: SamplingOptions): Draw {
    const random = randomNumbers(options.seed);
    const counts = new Map<number, number>();
    return (values) => {
      const logits = this.#fill(values);
      this.#penalise(logits, options, counts);
      const { temperature, topP } = options;
      const token = this.#sample(logits, float(temperature), float(topP), float(random()));
      counts.set(token, (counts.get(token) ?? 0) + 1);
      return token;
    };
  }

  #fill(values: Float32Array<ArrayBuffer>): Tensor {
    if (this.#logits?.size !== values.length) {
      this.#logits?.dispose();
      this.#logits = this.#runtime.empty([values.length]);
    }
    return this.#logits.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength));
  }

  #penalise(logits: Tensor, options: SamplingOptions, counts: ReadonlyMap<number, number>): void {
    const { frequencyPenalty, presencePenalty, repetitionPenalty } = options;
    const repetition = repetitionPenalty !== 1;
    const presence = frequencyPenalty !== 0 || presencePenalty !== 0;
    if (counts.size === 0 || !(repetition || presence)) return;
    const runtime = this.#runtime;
    runtime.withScope(() => {
      const ids = runtime.tensor([...counts.keys()], [counts.size], 'int32');
      if (repetition) this.#repetition(logits, ids, float(repetitionPenalty));
      if (presence) {
        const times = runtime.tensor([...counts.values()], [counts.size], 'int32');
        this.#presence(logits, ids, times, float(presencePenalty), float(frequencyPenalty));
      }
    });
  }
}
