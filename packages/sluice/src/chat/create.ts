import { asSluiceError, SluiceError } from '../errors.js';
import type { RuntimeOptions } from '../runtime/create.js';
import { describe } from '../runtime/errors.js';
import type { RuntimeFunction } from '../runtime/function.js';
import type { LoadedTensors, LoadTensorsOptions, ModelSource } from '../runtime/load.js';
import { RuntimeModule } from '../runtime/object.js';
import type { Runtime } from '../runtime/runtime.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Device } from '../runtime/values.js';
import { detectDevice } from '../runtime/webgpu/index.js';
import { aborted } from '../util/abort.js';
import type { LoadProgress } from '../wasm/loader_module.js';
import { Chat, type ChatReport } from './chat.js';
import { readJson, type FileReader } from './files.js';
import { LanguageModel, parseMetadata, type ModelMetadata } from './language_model.js';
import { Sampler } from './sampler.js';
import { createTokenizer, type ChatTokenizer, type TokenizerConfig } from './tokenizer.js';

/** Where the parts of a model are. */
export interface ChatModel {
  /** The compiled model, linked with the runtime: its module, its bytes, its URL or, in Node, its path. */
  wasm: WebAssembly.Module | ArrayBuffer | Uint8Array<ArrayBuffer> | URL | string;
  /** What loadModel() loads from. */
  weights: ModelSource;
  /** tokenizer.json: where it is, or its content. */
  tokenizer: string | URL | object;
  /** tokenizer_config.json, with the chat template: where it is, or its content. */
  config: string | URL | TokenizerConfig;
  /** Texts or ids of tokens that end an answer, beside the config's eos_token. */
  stopTokens?: readonly (string | number)[];
  /** What answers call it; the compiled model's type unless given. */
  name?: string;
}

export interface ChatProgress {
  /** Undefined before it is known how much there is to load. */
  weights: LoadProgress | undefined;
  pipelinesDone: number;
  pipelines: number;
}

export interface ChatOptions {
  model: ChatModel;
  /**
   * Where the model runs: a GPUDevice, which stays the caller's; 'gpu', the default, for one with all that the adapter has;
   * 'cpu' for models that were compiled for it.
   */
  device?: GPUDevice | 'gpu' | 'cpu';
  /** Tokens of a conversation with its answer, for which the KV cache takes memory: as many as the model knows unless given. */
  contextWindowSize?: number;
  /** How the weights are loaded: the store, the budget and so on. */
  load?: Omit<LoadTensorsOptions, 'device' | 'cache' | 'signal' | 'onProgress'>;
  /** Called as weights and pipelines become ready. */
  onProgress?: (progress: ChatProgress) => void;
  /** Ends the making, which rejects with `aborted` then; everything is freed. */
  signal?: AbortSignal;
}

/** What differs between browsers and Node. */
export interface ChatHost {
  createRuntime: (options: RuntimeOptions) => Promise<Runtime>;
  readFile: FileReader;
}

export async function createChatWith(host: ChatHost, options: ChatOptions): Promise<Chat> {
  const undo: (() => void)[] = [];
  const release = (): void => {
    for (const each of undo.splice(0).reverse()) each();
  };
  try {
    return await create(host, checkOptions(options), undo, release);
  } catch (error) {
    release();
    const { signal } = options as Partial<ChatOptions>;
    throw signal?.aborted ? aborted(signal) : asSluiceError(error);
  }
}

async function create(
  { createRuntime, readFile }: ChatHost,
  options: ChatOptions,
  undo: (() => void)[],
  release: () => void,
): Promise<Chat> {
  const { model, device = 'gpu', contextWindowSize } = options;
  const begin = performance.now();
  const milliseconds: ChatReport['milliseconds'] = {
    total: 0,
    device: 0,
    wasm: 0,
    start: 0,
    tokenizer: 0,
    weights: 0,
    pipelines: 0,
    cache: 0,
  };
  const timed = async <T>(
    phase: keyof ChatReport['milliseconds'],
    act: () => T | Promise<T>,
  ): Promise<T> => {
    const start = performance.now();
    const result = await act();
    milliseconds[phase] = performance.now() - start;
    return result;
  };
  // What fails ends the rest, which is waited for
  const failed = new AbortController();
  const signal = AbortSignal.any([failed.signal, ...(options.signal ? [options.signal] : [])]);
  const together = async <T extends readonly unknown[]>(work: {
    [K in keyof T]: Promise<T[K]>;
  }): Promise<T> => {
    const all = work as readonly Promise<unknown>[];
    try {
      return (await Promise.all(all)) as unknown as T;
    } catch (error) {
      // The first failure: what it ends fails as well
      failed.abort(error);
      await Promise.allSettled(all);
      throw failed.signal.reason;
    }
  };

  const prepareTokenizer = (): Promise<ChatTokenizer> =>
    timed('tokenizer', async () => {
      const [tokenizer, config] = await Promise.all([
        readJson(readFile, model.tokenizer, signal),
        readJson(readFile, model.config, signal),
      ]);
      const { stopTokens } = model;
      return createTokenizer({ tokenizer, config, ...(stopTokens ? { stopTokens } : {}) });
    });

  const startRuntime = async (): Promise<Started> => {
    const [wasm, gpu] = await together<[WebAssembly.Module, GPUDevice | undefined]>([
      timed('wasm', () => compile(readFile, model.wasm, signal)),
      timed('device', async () => {
        if (device !== 'gpu') return device === 'cpu' ? undefined : device;
        const { device: own } = await detectDevice();
        undo.push(() => own.destroy());
        return own;
      }),
    ]);
    return timed('start', async () => {
      const runtime = await createRuntime({ wasm, ...(gpu ? { device: gpu } : {}) });
      undo.push(() => runtime.dispose());
      signal.throwIfAborted();
      return startModel(runtime, gpu ? runtime.webgpu() : runtime.cpu());
    });
  };

  const progress: ChatProgress = { weights: undefined, pipelinesDone: 0, pipelines: 0 };
  const report = (part: Partial<ChatProgress>): void => {
    Object.assign(progress, part);
    options.onProgress?.({ ...progress });
  };
  const loadAll = async (): Promise<[Started, LoadedTensors, number]> => {
    const started = await startRuntime();
    const { runtime, library, place } = started;
    const { buildPipelines } = await import('./pipelines.js');
    const [weights, pipelines] = await together<[LoadedTensors, number]>([
      timed('weights', () =>
        runtime.loadTensors(model.weights, {
          ...options.load,
          device: place,
          signal,
          onProgress: (weights) => report({ weights }),
        }),
      ),
      timed('pipelines', () =>
        buildPipelines(runtime, library, (done, pipelines) => {
          signal.throwIfAborted();
          report({ pipelinesDone: done, pipelines });
        }),
      ),
    ]);
    return [started, weights, pipelines];
  };

  const [tokenizer, [{ runtime, machine, metadata, place }, weights, pipelines]] = await together<
    [ChatTokenizer, Awaited<ReturnType<typeof loadAll>>]
  >([prepareTokenizer(), loadAll()]);

  const languageModel = await timed('cache', () => {
    return new LanguageModel({
      runtime,
      function: (name) => functionOf(machine, name),
      weights: inOrder(metadata, weights),
      metadata,
      device: place,
      contextWindowSize,
    });
  });
  milliseconds.total = performance.now() - begin;
  return new Chat({
    model: languageModel,
    tokenizer,
    sampler: new Sampler(runtime),
    name: model.name ?? metadata.model_type ?? 'model',
    report: { milliseconds, pipelines, weights: weights.report },
    release,
  });
}

/** A compiled model that has begun. */
interface Started {
  runtime: Runtime;
  /** Where it runs. */
  place: Device;
  library: RuntimeModule;
  machine: RuntimeModule;
  metadata: ModelMetadata;
}

/** Memory of VMs is pooled: the number of that allocator. */
const POOLED = 2;

function startModel(runtime: Runtime, place: Device): Started {
  const library = runtime.systemLibrary();
  if (!library.hasFunction('vm_load_executable')) {
    throw new SluiceError('invalid_argument', 'option model.wasm holds no compiled model', {
      hint: 'link it with tools/link_model.py, from what TVM compiled',
    });
  }
  const machine = runtime.withScope(() => library.getFunction('vm_load_executable')());
  if (!(machine instanceof RuntimeModule)) {
    throw new SluiceError('internal', 'vm_load_executable gave no module');
  }
  const cpu = runtime.cpu();
  const devices = place.type === cpu.type ? [cpu] : [place, cpu];
  functionOf(
    machine,
    'vm_initialization',
  )(...devices.flatMap(({ type, id }) => [type, id, POOLED]));
  const metadata = parseMetadata(functionOf(machine, '_metadata')());
  return { runtime, place, library, machine, metadata };
}

function functionOf(machine: RuntimeModule, name: string): RuntimeFunction {
  if (machine.hasFunction(name)) return machine.getFunction(name);
  throw new SluiceError('invalid_argument', `the compiled model has no function '${name}'`, {
    hint: 'a chat needs embed, prefill, decode, create_tir_paged_kv_cache and _metadata, as MLC-LLM compiles them',
  });
}

/** The weights as the compiled functions take them. Those that they do not take are given back. */
function inOrder({ params }: ModelMetadata, weights: LoadedTensors): Tensor[] {
  const taken = params.map(({ name, shape, dtype }) => {
    const wanted = `${dtype}[${shape.join(',')}]`;
    const tensor = weights.get(name);
    if (!tensor) {
      throw new SluiceError('invalid_argument', `the weights have no tensor '${name}'`, {
        tensor: name,
        hint: `the compiled model takes ${wanted}; are these its weights?`,
      });
    }
    const given = `${tensor.dtype}[${tensor.shape.join(',')}]`;
    if (given === wanted) return tensor;
    throw new SluiceError(
      'invalid_argument',
      `the weights' tensor '${name}' is ${given}, and the compiled model takes ${wanted}`,
      { tensor: name, hint: 'pack the weights with the dtype for which the model was compiled' },
    );
  });
  const kept = new Set(taken);
  for (const each of weights.tensors.values()) if (!kept.has(each)) each.dispose();
  return taken;
}

async function compile(
  readFile: FileReader,
  wasm: ChatModel['wasm'],
  signal: AbortSignal,
): Promise<WebAssembly.Module> {
  if (wasm instanceof WebAssembly.Module) return wasm;
  const named = typeof wasm === 'string' || wasm instanceof URL;
  const bytes = named ? await readFile(wasm, signal) : wasm;
  try {
    return await WebAssembly.compile(bytes);
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    const what = named ? String(wasm) : 'option model.wasm';
    throw new SluiceError('invalid_argument', `${what} does not compile: ${message}`, {
      ...(named ? { file: what } : {}),
      cause,
    });
  }
}

function checkOptions(options: ChatOptions): ChatOptions {
  const { model, device } = options as Partial<ChatOptions>;
  const parts = ['wasm', 'weights', 'tokenizer', 'config'] as const;
  const missing = parts.filter((name) => model?.[name] === undefined);
  if (missing.length > 0) {
    throw new SluiceError(
      'invalid_argument',
      `option model lacks ${missing.join(', ')}; it needs ${parts.join(', ')}`,
    );
  }
  const known =
    device === undefined || typeof device === 'object' || ['gpu', 'cpu'].includes(device);
  if (known) return options;
  throw new SluiceError('invalid_argument', `option device is ${describe(device)}`, {
    hint: "pass a GPUDevice, 'gpu' or 'cpu'",
  });
}
