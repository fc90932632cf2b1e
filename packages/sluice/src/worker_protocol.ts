import type { ErrorCode, ErrorDetails } from './errors.js';
import type { FileModel } from './sources/model_files.js';
import type { LoadProgress, ModelManifest, ModelPlan, PlanOptions } from './wasm/loader_module.js';

/** Where a model lies, as it can be posted: a URL with what its requests need, or files. */
export type ModelPlace =
  | {
      url: string;
      http: {
        headers?: Record<string, string>;
        credentials?: RequestCredentials;
        stallTimeoutMs?: number;
      };
    }
  | FileModel;

/** What the page tells its loading worker, in this order: open, plan, run. It stops a load by ending the worker. */
export type ToWorker =
  | { type: 'open'; module: WebAssembly.Module; place: ModelPlace }
  | { type: 'plan'; options: PlanOptions }
  | { type: 'run'; port: MessagePort; progress: boolean; tensors: boolean };

/**
 * What the worker answers: ready once its script runs; opened, planned, then progress and tensors until done; or
 * failed at any time.
 */
export type FromWorker =
  | { type: 'ready' }
  | { type: 'opened'; manifest: ModelManifest }
  | { type: 'planned'; plan: ModelPlan }
  | { type: 'progress'; progress: LoadProgress }
  | { type: 'tensor'; index: number }
  | { type: 'done'; progress: LoadProgress }
  | { type: 'failed'; error: ErrorDetails & { code: ErrorCode; message: string } };
