// The page's worker: the same agent with a device of its own.
import { loadModel, openStore } from '/dist/index.js';
import { createAgent } from './agent.mjs';
import { opfsFiles } from './opfs_files.mjs';
import { servedDist, servedTvmjs } from './served_dist.mjs';

const here = createAgent({
  loadModel,
  openStore,
  files: opfsFiles,
  dist: servedDist,
  tvmjs: servedTvmjs,
  gpu: navigator.gpu,
  streams: {},
});

globalThis.onmessage = async ({ data: task }) => {
  try {
    globalThis.postMessage({ result: await here(task) });
  } catch (error) {
    globalThis.postMessage({ error: String(error?.stack ?? error) });
  }
};
