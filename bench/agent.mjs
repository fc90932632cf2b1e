// Carries out the main process's tasks in a page, in its worker and in Node.
import { byobStream, fetchStream, perform, requestDevice } from './contestants.mjs';
import { fetchModel } from './model.mjs';

/**
 * A function that carries out one task and gives what is to be reported. `platform` has `loadModel`, `gpu`, and
 * `streams` by name, beside `fetch` and `byob`.
 */
export function createAgent({ loadModel, gpu, streams }) {
  const environments = new Map();
  const environmentOf = (url) => {
    if (!environments.has(url)) environments.set(url, prepare(url));
    return environments.get(url);
  };
  async function prepare(url) {
    const model = await fetchModel(url);
    const { device, adapter, takeFailure } = await requestDevice(gpu, model);
    return { loadModel, model, device, adapter, takeFailure };
  }
  const allStreams = { fetch: fetchStream, byob: byobStream, ...streams };

  return async (task) => {
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
