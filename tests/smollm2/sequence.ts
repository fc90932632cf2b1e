// The compiled SmolLM2 of build/smollm2/web under sluice/runtime, one sequence, as the models' functions want to be called.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  createRuntime,
  RuntimeArray,
  RuntimeModule,
  Tensor,
  type Runtime,
  type RuntimeFunction,
} from 'sluice/runtime';

const PAGE_SIZE = 16;

/** Of what the model's function `_metadata` tells. */
interface Metadata {
  prefill_chunk_size: number;
  params: { name: string; shape: number[]; dtype: string }[];
}

export interface OpenOptions {
  /** The linked model in the folder. */
  wasm?: string;
  /** Tokens that the KV cache holds at most. */
  positions?: number;
}

export class Sequence {
  readonly runtime: Runtime;
  readonly metadata: Metadata;
  readonly #vm: RuntimeModule;
  readonly #weights: RuntimeArray;
  readonly #positions: number;
  #cache: unknown;

  private constructor(
    runtime: Runtime,
    vm: RuntimeModule,
    metadata: Metadata,
    weights: RuntimeArray,
    positions: number,
  ) {
    this.runtime = runtime;
    this.metadata = metadata;
    this.#vm = vm;
    this.#weights = weights;
    this.#positions = positions;
  }

  /** The model in `folder`, on `device`, with its weights loaded. */
  static async open(
    folder: string,
    device: GPUDevice,
    { wasm: file = 'model.wasm', positions = 1024 }: OpenOptions = {},
  ): Promise<Sequence> {
    const wasm = await readFile(join(folder, file));
    const runtime = await createRuntime({ wasm, device });
    const vm = runtime.systemLibrary().getFunction('vm_load_executable')();
    if (!(vm instanceof RuntimeModule)) throw new Error('vm_load_executable gave no module');
    vm.getFunction('vm_initialization')(runtime.webgpu().type, 0, 2, runtime.cpu().type, 0, 2);
    const metadata = JSON.parse(vm.getFunction('_metadata')() as string) as Metadata;
    const loaded = await runtime.loadTensors(folder, { device: runtime.webgpu() });
    const weights = metadata.params.map(({ name, shape, dtype }) => {
      const tensor = loaded.get(name);
      if (tensor?.shape.join() !== shape.join() || tensor.dtype !== dtype)
        throw new Error(
          `the weights have ${String(tensor)} for ${name}: ${dtype}[${shape.join()}]`,
        );
      return tensor;
    });
    return new Sequence(runtime, vm, metadata, runtime.array(weights), positions);
  }

  #function(name: string): RuntimeFunction {
    return this.#vm.getFunction(name);
  }

  /** A kernel or function of the model, by its name. */
  function(name: string): RuntimeFunction {
    return this.#function(name);
  }

  /** [n, hidden] of the model's type, on the GPU; the caller's. */
  embed(tokens: readonly number[]): Tensor {
    const { runtime } = this;
    return runtime.withScope(() => {
      const ids = runtime.tensor(tokens, [tokens.length], 'int32', runtime.webgpu());
      return tensor(this.#function('embed')(ids, this.#weights));
    });
  }

  /** Begins again with no token. */
  clear(): void {
    const { runtime } = this;
    if (this.#cache === undefined) {
      const sizes = [1, this.#positions, this.metadata.prefill_chunk_size, PAGE_SIZE, 0];
      this.#cache = this.#function('create_tir_paged_kv_cache')(
        ...sizes.map((size) => runtime.shape([size])),
      );
    } else {
      runtime.getFunction('vm.builtin.kv_state_clear')(this.#cache as Tensor);
    }
    runtime.getFunction('vm.builtin.kv_state_add_sequence')(this.#cache as Tensor, 0);
  }

  /** Appends tokens and gives the logits after the last of them, [vocabulary]. */
  async append(tokens: readonly number[]): Promise<Float32Array> {
    const { runtime } = this;
    const chunk = this.metadata.prefill_chunk_size;
    const cache = this.#cache as Tensor;
    let logits: Tensor | undefined;
    for (let at = 0; at < tokens.length; at += chunk) {
      const piece = tokens.slice(at, at + chunk);
      logits?.dispose();
      logits = runtime.withScope(() => {
        const embedded = this.embed(piece);
        const input = embedded.view([1, ...embedded.shape]);
        runtime.getFunction('vm.builtin.kv_state_begin_forward')(
          cache,
          runtime.shape([0]),
          runtime.shape([piece.length]),
        );
        const step = this.#function(piece.length > 1 ? 'prefill' : 'decode');
        const result = step(input, cache, this.#weights);
        if (!(result instanceof RuntimeArray)) throw new Error('a step gave no array');
        runtime.getFunction('vm.builtin.kv_state_end_forward')(cache);
        return tensor(result.get(0));
      });
    }
    if (!logits) throw new Error('no tokens were given');
    const bytes = await logits.read();
    logits.dispose();
    return new Float32Array(bytes.buffer);
  }

  /**
   * The next `count` tokens after `tokens`, each the likeliest; each is told to `onToken` as it is there, with the logits
   * it was chosen by.
   */
  async greedy(
    tokens: readonly number[],
    count: number,
    onToken?: (token: number, logits: Float32Array) => void,
  ): Promise<number[]> {
    this.clear();
    const answer: number[] = [];
    let logits = await this.append(tokens);
    for (;;) {
      const token = indexOfLargest(logits);
      answer.push(token);
      onToken?.(token, logits);
      if (answer.length === count) return answer;
      logits = await this.append(answer.slice(-1));
    }
  }

  dispose(): void {
    this.runtime.dispose();
  }
}

export function indexOfLargest(numbers: Float32Array): number {
  let best = 0;
  for (let i = 1; i < numbers.length; i++)
    if ((numbers[i] as number) > (numbers[best] as number)) best = i;
  return best;
}

function tensor(value: unknown): Tensor {
  if (value instanceof Tensor) return value;
  throw new Error(`${String(value)} is no tensor`);
}
