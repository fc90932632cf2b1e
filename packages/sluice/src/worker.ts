/**
 * The loading worker: fetches and decodes for a page whose GPU device lives on its main thread, and sends
 * blocks of bytes to it, for one load after the other. loadModel() starts it; nobody else needs to.
 */
import { asSluiceError, SluiceError } from './errors.js';
import { runLoad } from './engine.js';
import { checkOf } from './load.js';
import { openModel } from './open.js';
import { RemoteSink } from './sinks/remote_sink.js';
import { blobModel } from './sources/blob.js';
import { httpModel } from './sources/http_model.js';
import type { Source } from './sources/source.js';
import { browserPlatform } from './store/browser.js';
import { ModelStore } from './store/model_store.js';
import { StoreUse } from './store/store_use.js';
import { collectGarbage } from './util/collect_garbage.js';
import type { FromWorker, StoreWish, ToWorker } from './worker_protocol.js';
import type { LoaderModel, ModelManifest, ModelPlan } from './wasm/loader_module.js';

/** A dedicated worker's global scope, as far as it is used here. */
interface WorkerScope {
  postMessage(message: FromWorker): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<ToWorker>) => void): void;
}
const scope = globalThis as unknown as WorkerScope;

/** Bytes loaded after each of which garbage is collected. */
const COLLECT_BYTES = 2 ** 28;

let source: Source | undefined;
let model: LoaderModel | undefined;
let manifest: ModelManifest | undefined;
let plan: ModelPlan | undefined;
let use: StoreUse | undefined;
/** Why there is no store. */
let unavailable: string | undefined;

function beginUse({ root, key, budgetBytes, integrity, module: wasm }: StoreWish, origin: Source) {
  const platform = wasm
    ? browserPlatform(root, () => Promise.resolve(wasm))
    : browserPlatform(root);
  const open = async () => new ModelStore(await platform);
  // The page says it, which has more loads than this one
  const onUnavailable = (reason: string): void => {
    unavailable = reason;
  };
  return StoreUse.begin(open, key, origin, { budgetBytes, integrity, onUnavailable });
}

async function handle(message: ToWorker): Promise<void> {
  switch (message.type) {
    case 'open': {
      const { module, place, store } = message;
      const opened = 'url' in place ? httpModel(place.url, place.http) : blobModel(place);
      source = opened.source;
      use = store && (await beginUse(store, source));
      model = await openModel(module, use?.source ?? source, opened.name, undefined, checkOf(use));
      manifest = model.manifest();
      const reservedBytes = use?.budgetBytes(manifest) ?? 0;
      if (!store?.partial) use?.opened(manifest);
      const allStored = use?.hasAll(manifest) ?? false;
      scope.postMessage({
        type: 'opened',
        manifest,
        reservedBytes,
        allStored,
        unbuffered: source.unbuffered ?? false,
        ...(unavailable === undefined ? {} : { unavailable }),
      });
      break;
    }
    case 'plan':
      if (!model) throw new SluiceError('internal', 'the worker has no model to plan');
      plan = model.plan(message.options);
      if (manifest) await use?.planned(manifest, plan);
      scope.postMessage({ type: 'planned', plan });
      break;
    case 'run': {
      if (!model || !manifest || !plan || !source) {
        throw new SluiceError('internal', 'the worker has no model to load');
      }
      const sink = new RemoteSink(message.port);
      let collectedAt = 0;
      try {
        const progress = await runLoad(model, manifest, plan, use?.source ?? source, sink, {
          onProgress: (report) => {
            if (report.sourceBytesDone - collectedAt >= COLLECT_BYTES) {
              collectedAt = report.sourceBytesDone;
              collectGarbage();
            }
            if (message.progress) scope.postMessage({ type: 'progress', progress: report });
          },
          onTensor: message.tensors
            ? (index) => {
                scope.postMessage({ type: 'tensor', index });
              }
            : undefined,
        });
        await use?.finish(manifest, plan);
        sink.close(true);
        scope.postMessage({ type: 'done', progress, store: use?.report });
      } catch (error) {
        sink.close(false);
        throw error;
      } finally {
        source.close();
      }
      break;
    }
    case 'stop':
      source?.close();
      await use?.close();
      // The page may have another model for it
      source = model = manifest = plan = use = unavailable = undefined;
      scope.postMessage({ type: 'stopped' });
      collectGarbage(); // while nobody waits
      break;
  }
}

/** What was asked last: a page need not wait for the plan before it says run. */
let last = Promise.resolve();

scope.addEventListener('message', ({ data }) => {
  const handled = data.type === 'stop' ? handle(data) : last.then(() => handle(data));
  // What comes after a failure is not done
  last = handled;
  handled.catch((error: unknown) => {
    scope.postMessage({ type: 'failed', error: asSluiceError(error).toJSON() });
  });
});
scope.postMessage({ type: 'ready' });
collectGarbage(); // what starting has left, while the page hears of it
