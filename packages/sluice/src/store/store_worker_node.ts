/** The store's worker in Node. */
import { parentPort } from 'node:worker_threads';
import { diskRoot } from './disk.js';
import { serveIo } from './remote_io.js';

const port = parentPort;
if (port === null) throw new Error('this module is a worker');

serveIo(
  {
    postMessage(message, transfer = []) {
      port.postMessage(message, transfer);
    },
    listen(onMessage) {
      port.on('message', onMessage);
    },
    hold: () => undefined,
    terminate: () => undefined,
  },
  ({ root }) => diskRoot(root),
);
