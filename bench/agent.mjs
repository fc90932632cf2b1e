// Carries out the main process's tasks in a page, in its worker and in Node.
import { byobStream, fetchStream, requestDevice } from './contestants.mjs';
import { fetchModel } from './model.mjs';
import { perform } from './perform.mjs';

/**
 * A function that carries out one task and gives what is to be reported. `platform` has `loadModel` and `openStore`,
 * `files` as store_contestants.mjs wants them, `dist` that gives the package's files by name, `tvmjs` that gives the
 * incumbent's module, `gpu`, and `streams` by name, beside `fetch` and `byob`.
 */
export function createAgent({ loadModel, openStore, files, dist, tvmjs, gpu, streams }) {
  const environments = new Map();
  let latest; // a device, which serves every model that it can hold
  const environmentOf = (url) => {
    if (!environments.has(url)) environments.set(url, prepare(url));
    return environments.get(url);
  };
  async function prepare(url) {
    const model = await fetchModel(url);
    const largest = Math.max(...model.files.map((file) => file.nbytes));
    if (!latest || latest.device.limits.maxBufferSize < largest) {
      latest = await requestDevice(gpu, largest);
    }
    return { loadModel, openStore, files, dist, tvmjs, gpu, model, ...latest };
  }
  const allStreams = { fetch: fetchStream, byob: byobStream, ...streams };

  return async (task) => {
    if (task.contestant === 'rest') {
      globalThis.gc?.();
      latest?.device.queue.submit([]); // a device frees what was destroyed as it takes work
      return {};
    }
    const environment = await environmentOf(task.url);
    if (task.contestant === 'prepare') {
      const { adapter } = environment;
      return { adapter, userAgent: globalThis.navigator?.userAgent };
    }
    const stream = allStreams[task.stream ?? 'fetch'];
    const result = await perform({ ...environment, stream }, task);
    const failure = environment.takeFailure();
    if (failure) throw new Error(failure);
    return result;
  };
}
