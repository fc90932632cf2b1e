// The Node process that is measured: carries out the main process's tasks.
import { readFileSync } from 'node:fs';
import { Agent, request } from 'node:http';
import { pathToFileURL } from 'node:url';
import { createAgent } from './agent.mjs';
import { rangeHeader } from './contestants.mjs';
import { diskFiles } from './disk_files.mjs';

const { dist, webgpu } = JSON.parse(process.argv[2]);
const { loadModel, openStore } = await import(pathToFileURL(`${dist}/node.js`).href);

const agent = new Agent({ keepAlive: true });

/** Streams by node:http, as fetchStream() does by fetch. */
function httpStream(url, range, take) {
  return new Promise((resolve, reject) => {
    const outgoing = request(url, { agent, headers: rangeHeader(range) }, (response) => {
      if (response.statusCode !== 200 && response.statusCode !== 206) {
        reject(new Error(`${url}: status ${response.statusCode}`));
        response.destroy();
        return;
      }
      let pending;
      response.on('data', (chunk) => {
        pending = take(chunk);
        if (!pending) return;
        response.pause();
        pending.then(() => response.resume(), reject);
      });
      response.on('end', () => Promise.resolve(pending).then(resolve, reject));
      response.on('error', reject);
    });
    outgoing.on('error', reject);
    outgoing.end();
  });
}

let perform;
async function start() {
  const dawn = await import(webgpu.startsWith('/') ? pathToFileURL(webgpu).href : webgpu);
  const { create, globals } = dawn.create ? dawn : dawn.default;
  Object.assign(globalThis, globals);
  // Kept: the devices live as long as this object
  globalThis.dawn = create((process.env.GPU_WEBGPU_FLAGS ?? '').split(' ').filter(Boolean));
  perform = createAgent({
    loadModel,
    openStore,
    files: diskFiles,
    dist: {
      module: (name) => import(pathToFileURL(`${dist}/${name}`).href),
      bytes: (name) => readFileSync(`${dist}/${name}`),
    },
    tvmjs: async () => (await import('@mlc-ai/web-runtime')).default,
    gpu: globalThis.dawn,
    streams: { http: httpStream },
  });
}

function statusBytes(field) {
  const text = readFileSync('/proc/self/status', 'utf8');
  return 1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? NaN);
}

/** Peak RSS of a load whose bytes are dropped, beside that of the process before. */
async function dropMemory({ url, budgetBytes }) {
  globalThis.gc?.();
  const idle = statusBytes('VmRSS');
  let bytes = 0;
  const model = await loadModel(`${url}/tensor-cache.json`, {
    budgetBytes,
    consume(tensor, offset, chunk) {
      bytes += chunk.length;
    },
  });
  return { idle, peak: statusBytes('VmHWM'), bytes, budgetPeak: model.report.budgetPeak };
}

process.on('message', async (task) => {
  try {
    if (task.contestant === 'drop') process.send({ result: await dropMemory(task) });
    else {
      if (!perform) await start();
      process.send({ result: await perform(task) });
    }
  } catch (error) {
    process.send({ error: String(error?.stack ?? error) });
  }
});
process.on('disconnect', () => process.exit());
process.send({ ready: true });
