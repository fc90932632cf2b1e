import type { ErrorCode, ErrorDetails } from './errors.js';
import type { LoadOutcome } from './engine.js';
import type { FileModel } from './sources/model_files.js';
import type { StoreReport } from './store/session.js';
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

/** The store that a load uses: where it is, the model's name in it, and the load's budget. */
export interface StoreWish {
  root: string;
  key: string;
  budgetBytes: number;
  integrity?: string;
  /** Not all tensors are wanted, so that nothing is looked at before it is known which. */
  partial?: boolean;
  /** The store's wasm, where the page has compiled it. */
  module?: WebAssembly.Module;
}

/**
 * What the page tells its loading worker, in this order: open, plan, run; it need not have the plan to say run. It ends
 * the worker with the load, after `stop` where there is a store to be left in order; or keeps it once that is answered,
 * to begin anew.
 */
export type ToWorker =
  | { type: 'open'; module: WebAssembly.Module; place: ModelPlace; store?: StoreWish }
  | { type: 'stop' }
  | { type: 'plan'; options: PlanOptions }
  | { type: 'run'; port: MessagePort; progress: boolean; tensors: boolean };

/**
 * What the worker answers: ready once its script runs; opened, planned, then progress and tensors until done; or
 * failed at any time.
 */
export type FromWorker =
  | { type: 'ready' }
  | {
      type: 'opened';
      manifest: ModelManifest;
      reservedBytes: number;
      allStored?: boolean;
      unbuffered?: boolean;
      /** Why there is no store. */
      unavailable?: string;
    }
  | { type: 'planned'; plan: ModelPlan }
  | { type: 'progress'; progress: LoadProgress }
  | { type: 'tensor'; index: number }
  | { type: 'done'; progress: LoadOutcome; store: StoreReport | undefined }
  | { type: 'stopped' }
  | { type: 'failed'; error: ErrorDetails & { code: ErrorCode; message: string } };
