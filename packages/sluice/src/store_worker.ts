/** The store's worker in the browser: reads, writes and digests. The package starts it; nobody else needs to. */
import { opfsRoot } from './store/opfs.js';
import { serveIo } from './store/remote_io.js';
import { collectEarly } from './util/collect_early.js';

/** A dedicated worker's global scope, as far as it is used here. */
interface WorkerScope {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<unknown>) => void): void;
}
const scope = globalThis as unknown as WorkerScope;

serveIo(
  {
    postMessage(message, transfer = []) {
      scope.postMessage(message, transfer);
    },
    listen(onMessage) {
      scope.addEventListener('message', ({ data }) => {
        onMessage(data);
      });
    },
    hold: () => undefined,
    terminate: () => undefined,
  },
  ({ root }) => opfsRoot(root),
);
scope.postMessage({ type: 'ready' }, []);
collectEarly(); // while the page hears of it
