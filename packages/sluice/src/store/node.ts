import { statfs } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { diskRoot } from './disk.js';
import { diskLocks } from './disk_locks.js';
import { storeModule } from '../wasm_files_node.js';
import type { StorePlatform } from './platform.js';
import { StoreWorkers, type Port } from './remote_io.js';

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
    workers,
    async free() {
      const { bavail, bsize } = await statfs(directory);
      return bavail * bsize;
    },
  };
}

const workers = new StoreWorkers(startWorker);

async function startWorker(): Promise<Port> {
  const worker = new Worker(new URL('./store_worker_node.js', import.meta.url));
  // An idle store keeps no program running
  worker.unref();
  return {
    postMessage(message, transfer = []) {
      worker.postMessage(message, transfer);
    },
    listen(onMessage, onFailure) {
      for (const event of ['message', 'error', 'exit']) worker.removeAllListeners(event);
      worker.on('message', onMessage);
      worker.on('error', (error) => {
        onFailure(error instanceof Error ? error.message : String(error));
      });
      worker.on('exit', (status) => {
        onFailure(`it ended with status ${status}`);
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
