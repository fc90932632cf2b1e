// One start of the model: a device, what is known of it while it loads, and how that ends. Nothing here touches the page.
import type { LoadProgress, SluiceError } from 'sluice';
import { createChat } from 'sluice/chat';
import type { Chat } from 'sluice/chat';

import type { ChatBuild } from '../../server.js';
import { findAdapter, whyNoAdapter } from '../adapter.js';
import { asSluiceError } from '../errors.js';
import { fetchBytes } from './fetch_bytes.js';
import { GpuMemory } from './gpu_memory.js';

/** Limits that the kernels of models and their weights run into. */
const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
  'maxComputeWorkgroupsPerDimension',
] as const;

/** A model that answers, and the device that it is on. */
export interface Engine {
  readonly chat: Chat;
  readonly memory: GpuMemory;
  readonly build: ChatBuild;
  /** Milliseconds from the beginning, fetching the program included. */
  readonly milliseconds: number;
  /** Resolves when the device is gone, with what the browser says; never after dispose(). */
  readonly lost: Promise<string>;
  dispose(): Promise<void>;
}

export interface StartProgress {
  wasmBytesDone: number;
  wasmBytes: number;
  /** Undefined before the program runs. */
  weights: LoadProgress | undefined;
  pipelinesDone: number;
  /** 0 before they are known. */
  pipelines: number;
}

export type StartOutcome =
  | { kind: 'ready'; engine: Engine }
  | { kind: 'cancelled' }
  | { kind: 'failed'; error: SluiceError };

export class Start {
  readonly build: ChatBuild;
  readonly progress: StartProgress;
  readonly #contextWindowSize: number;
  readonly #aborter = new AbortController();
  readonly #begin = performance.now();

  constructor(build: ChatBuild, contextWindowSize: number) {
    this.build = build;
    this.#contextWindowSize = contextWindowSize;
    this.progress = {
      wasmBytesDone: 0,
      wasmBytes: build.wasmBytes,
      weights: undefined,
      pipelinesDone: 0,
      pipelines: 0,
    };
  }

  get elapsed(): number {
    return performance.now() - this.#begin;
  }

  cancel(): void {
    this.#aborter.abort();
  }

  /** Starts the model; never rejects. */
  async run(): Promise<StartOutcome> {
    const { signal } = this.#aborter;
    let device: GPUDevice | undefined;
    try {
      const [wasm, own] = await Promise.all([
        fetchBytes(this.build.wasm, signal, (done, total) => {
          this.progress.wasmBytesDone = done;
          this.progress.wasmBytes = total ?? this.progress.wasmBytes;
        }),
        requestDevice().then((made) => (device = made)),
      ]);
      signal.throwIfAborted();
      const memory = new GpuMemory(own);
      const chat = await createChat({
        model: {
          wasm,
          weights: this.build.folder,
          tokenizer: `${this.build.folder}tokenizer.json`,
          config: `${this.build.folder}tokenizer_config.json`,
        },
        device: own,
        contextWindowSize: this.#contextWindowSize,
        signal,
        onProgress: (progress) => Object.assign(this.progress, progress),
      });
      return { kind: 'ready', engine: this.#engine(chat, own, memory) };
    } catch (error) {
      device?.destroy();
      if (signal.aborted) return { kind: 'cancelled' };
      return { kind: 'failed', error: asSluiceError(error) };
    }
  }

  #engine(chat: Chat, device: GPUDevice, memory: GpuMemory): Engine {
    let disposed = false;
    return {
      chat,
      memory,
      build: this.build,
      milliseconds: this.elapsed,
      lost: new Promise((resolve) => {
        void device.lost.then(({ message }) => {
          if (!disposed) resolve(message);
        });
      }),
      dispose: async () => {
        disposed = true;
        await chat.dispose();
        device.destroy();
      },
    };
  }
}

/** A device with all that the adapter has of what models need. An adapter gives one device: each start asks for one anew. */
async function requestDevice(): Promise<GPUDevice> {
  const found = await findAdapter();
  if (!found) throw new Error(whyNoAdapter());
  const { adapter } = found;
  return adapter.requestDevice({
    requiredFeatures: adapter.features.has('shader-f16') ? ['shader-f16'] : [],
    requiredLimits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])),
  });
}
