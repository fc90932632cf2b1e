// The page's worker: the same agent with a device of its own.
import { loadModel } from '/dist/index.js';
import { createAgent } from './agent.mjs';

const here = createAgent({ loadModel, gpu: navigator.gpu, streams: {} });

globalThis.onmessage = async ({ data: task }) => {
  try {
    globalThis.postMessage({ result: await here(task) });
  } catch (error) {
    globalThis.postMessage({ error: String(error?.stack ?? error) });
  }
};
