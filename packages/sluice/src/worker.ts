/**
 * The loading worker: fetches and decodes for a page whose GPU device lives on its main thread, and sends
 * blocks of bytes to it. loadModel() starts it; nobody else needs to.
 */
import { asSluiceError, SluiceError } from './errors.js';
import { runLoad } from './engine.js';
import { openModel } from './open.js';
import { RemoteSink } from './sinks/remote_sink.js';
import { blobModel } from './sources/blob.js';
import { httpModel } from './sources/http_model.js';
import type { Source } from './sources/source.js';
import type { FromWorker, ToWorker } from './worker_protocol.js';
import type { LoaderModel, ModelManifest, ModelPlan } from './wasm/loader_module.js';

/** A dedicated worker's global scope, as far as it is used here. */
interface WorkerScope {
  postMessage(message: FromWorker): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<ToWorker>) => void): void;
}
const scope = globalThis as unknown as WorkerScope;

let source: Source | undefined;
let model: LoaderModel | undefined;
let manifest: ModelManifest | undefined;
let plan: ModelPlan | undefined;

async function handle(message: ToWorker): Promise<void> {
  switch (message.type) {
    case 'open': {
      const { module, place } = message;
      const opened = 'url' in place ? httpModel(place.url, place.http) : blobModel(place);
      source = opened.source;
      model = await openModel(module, source, opened.name);
      manifest = model.manifest();
      scope.postMessage({ type: 'opened', manifest });
      break;
    }
    case 'plan':
      if (!model) throw new SluiceError('internal', 'the worker has no model to plan');
      plan = model.plan(message.options);
      scope.postMessage({ type: 'planned', plan });
      break;
    case 'run': {
      if (!model || !manifest || !plan || !source) {
        throw new SluiceError('internal', 'the worker has no model to load');
      }
      const sink = new RemoteSink(message.port);
      try {
        const progress = await runLoad(model, manifest, plan, source, sink, {
          onProgress: message.progress
            ? (report) => {
                scope.postMessage({ type: 'progress', progress: report });
              }
            : undefined,
          onTensor: message.tensors
            ? (index) => {
                scope.postMessage({ type: 'tensor', index });
              }
            : undefined,
        });
        sink.close(true);
        scope.postMessage({ type: 'done', progress });
      } catch (error) {
        sink.close(false);
        throw error;
      } finally {
        source.close();
      }
      break;
    }
  }
}

scope.addEventListener('message', (event) => {
  handle(event.data).catch((error: unknown) => {
    scope.postMessage({ type: 'failed', error: asSluiceError(error).toJSON() });
  });
});
scope.postMessage({ type: 'ready' });
