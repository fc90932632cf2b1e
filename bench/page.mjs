// The page: asks the main process what to do, does it on this thread or in its worker, and reports.
import { loadModel, openStore } from '/dist/index.js';
import { createAgent } from './agent.mjs';
import { servedDist, servedTvmjs } from './served_dist.mjs';

const here = createAgent({
  loadModel,
  openStore,
  dist: servedDist,
  tvmjs: servedTvmjs,
  gpu: navigator.gpu,
  streams: {},
});

let worker;
function inWorker(task) {
  worker ??= new Worker(new URL('./page_worker.mjs', import.meta.url), { type: 'module' });
  return new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) =>
      'error' in data ? reject(new Error(data.error)) : resolve(data.result);
    worker.onerror = (event) => reject(new Error(`worker: ${event.message}`));
    worker.postMessage(task);
  });
}

let report = { ready: true };
for (;;) {
  const response = await fetch('/ask', { method: 'POST', body: JSON.stringify(report) });
  const task = await response.json();
  if (!task) break;
  if (task.contestant === 'reload') {
    location.reload();
    break;
  }
  try {
    report = { result: await (task.thread === 'worker' ? inWorker(task) : here(task)) };
  } catch (error) {
    report = { error: String(error?.stack ?? error) };
  }
}
