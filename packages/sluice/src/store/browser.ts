import { SluiceError } from '../errors.js';
import { startStoreWorker } from '../start_worker.js';
import { storeModule } from '../wasm_files.js';
import { webLocks } from './locks.js';
import { opfsRoot } from './opfs.js';
import type { StorePlatform } from './platform.js';
import { StoreWorkers, type Port } from './remote_io.js';

/** The store's root in the origin private file system, unless the caller names another. */
export const DEFAULT_ROOT = 'sluice';

/**
 * The store of this browser. `module` is the store's wasm, for a thread that was given it. Rejects with `io` where there
 * is none: private windows, old browsers, plain http.
 */
export async function browserPlatform(
  root: string = DEFAULT_ROOT,
  module: () => Promise<WebAssembly.Module> = storeModule,
): Promise<StorePlatform> {
  if (!('locks' in navigator)) {
    throw new SluiceError('io', 'this browser has no Web Locks here', {
      hint: 'they need a secure context: https, or localhost',
    });
  }
  const folder = await opfsRoot(root);
  const ownFiles = 'createSyncAccessHandle' in FileSystemFileHandle.prototype;
  const sharedFiles = ownFiles ? await canShare(root) : true;
  return {
    place: { root },
    locks: webLocks(),
    ownFiles,
    sharedFiles,
    // A thread that cannot try whether files can be shared has one worker for them all
    threads: !ownFiles ? 1 : navigator.hardwareConcurrency >= 8 ? 3 : 2,
    module,
    openRoot: () => Promise.resolve(folder),
    workers,
    async free() {
      const { quota, usage } = await navigator.storage.estimate();
      return quota === undefined || usage === undefined ? undefined : Math.max(quota - usage, 0);
    },
  };
}

let asked = false;

/**
 * Asks the browser, once a page, not to evict what is stored when the device runs out of space. It decides by itself or
 * asks the person, and nothing depends on the answer. Workers cannot ask.
 */
export function askToPersist(): void {
  if (asked || typeof document === 'undefined') return;
  asked = true;
  const { storage } = navigator;
  storage
    .persisted()
    .then((persisted) => persisted || storage.persist())
    .catch(() => undefined);
}

const shared = new Map<string, Promise<boolean>>();

/** Whether this browser lets two handles be open on one file (the mode 'readwrite-unsafe'). */
function canShare(root: string): Promise<boolean> {
  // Handles that tell their mode have modes; to try it takes as long as reading a model's first 50 MB
  const { FileSystemSyncAccessHandle: handle } = globalThis as unknown as {
    FileSystemSyncAccessHandle?: { prototype: object };
  };
  if (handle && 'mode' in handle.prototype) return Promise.resolve(true);
  let known = shared.get(root);
  if (!known) {
    known = opfsRoot(root).then(async (folder) => {
      const name = `probe-${crypto.randomUUID()}`;
      const first = await folder.file(name, true);
      try {
        (await folder.file(name, false)).close();
        return true;
      } catch {
        return false;
      } finally {
        first.close();
        await folder.remove(name);
      }
    });
    shared.set(root, known);
    known.catch(() => shared.delete(root));
  }
  return known;
}

const workers = new StoreWorkers(startWorker);

async function startWorker(): Promise<Port> {
  const worker = await startStoreWorker();
  return {
    postMessage(message, transfer = []) {
      worker.postMessage(message, transfer);
    },
    listen(onMessage, onFailure) {
      worker.onmessage = ({ data }: MessageEvent<unknown>) => {
        onMessage(data);
      };
      worker.onerror = ({ message }) => {
        onFailure(message || 'it could not be started');
      };
      worker.onmessageerror = () => {
        onFailure('a message of it could not be read');
      };
    },
    hold: () => undefined, // a page waits for nobody
    terminate() {
      worker.terminate();
    },
  };
}
