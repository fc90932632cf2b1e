import { readFile, statfs } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { diskRoot } from './disk.js';
import { diskLocks } from './disk_locks.js';
import type { StorePlatform } from './platform.js';
import type { Port } from './remote_io.js';

let compiled: Promise<WebAssembly.Module> | undefined;

function storeModule(): Promise<WebAssembly.Module> {
  compiled ??= readFile(new URL('../sluice_store.wasm', import.meta.url))
    .then((bytes) => WebAssembly.compile(bytes))
    .catch((error: unknown) => {
      compiled = undefined;
      throw error;
    });
  return compiled;
}

/** The store in a folder of the disk, which is made where it is not there. */
export async function nodePlatform(directory: string): Promise<StorePlatform> {
  const folder = await diskRoot(directory);
  return {
    place: { root: directory },
    locks: diskLocks(directory),
    ownFiles: true,
    sharedFiles: true,
    threads: availableParallelism() >= 8 ? 3 : 2,
    module: storeModule,
    openRoot: () => Promise.resolve(folder),
    startWorker,
    async free() {
      const { bavail, bsize } = await statfs(directory);
      return bavail * bsize;
    },
  };
}

async function startWorker(): Promise<Port> {
  const worker = new Worker(new URL('./store_worker_node.js', import.meta.url));
  // An idle store keeps no program running
  worker.unref();
  return {
    postMessage(message, transfer = []) {
      worker.postMessage(message, transfer);
    },
    onMessage(listener) {
      worker.on('message', listener);
    },
    onFailure(listener) {
      worker.on('error', (error) => {
        listener(error instanceof Error ? error.message : String(error));
      });
      worker.on('exit', (status) => {
        listener(`it ended with status ${status}`);
      });
    },
    hold(waiting) {
      if (waiting) worker.ref();
      else worker.unref();
    },
    terminate() {
      void worker.terminate();
    },
  };
}
