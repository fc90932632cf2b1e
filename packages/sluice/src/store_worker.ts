/** The store's worker in the browser: reads, writes and digests. The package starts it; nobody else needs to. */
import { opfsRoot } from './store/opfs.js';
import { serveIo } from './store/remote_io.js';
import { collectGarbage } from './util/collect_garbage.js';

/** A dedicated worker's global scope, as far as it is used here. */
interface WorkerScope {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  addEventListener(type: 'message', listener: (event: MessageEvent<unknown>) => void): void;
}
const scope = globalThis as unknown as WorkerScope;

/** Requests, most of them with a block of bytes, after each of which garbage is collected. */
const COLLECT_REQUESTS = 64;
let requests = 0;

serveIo(
  {
    postMessage(message, transfer = []) {
      scope.postMessage(message, transfer);
    },
    listen(onMessage) {
      scope.addEventListener('message', ({ data }) => {
        onMessage(data);
        if (++requests % COLLECT_REQUESTS === 0) collectGarbage();
      });
    },
    hold: () => undefined,
    terminate: () => undefined,
  },
  ({ root }) => opfsRoot(root),
);
scope.postMessage({ type: 'ready' }, []);
collectGarbage(); // what starting has left, while the page hears of it
