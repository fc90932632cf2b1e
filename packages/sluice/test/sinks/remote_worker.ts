// The worker of remote_sink.test.ts: drives a RemoteSink over the port it is given.
import { parentPort, workerData } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';

import { RemoteSink } from '../../src/sinks/remote_sink.js';
import { driveSink } from './upload_check.js';

const { port, die } = workerData as { port: MessagePort; die: boolean };
const sink = new RemoteSink(port);
if (die) {
  await sink.prepare(2, 4096);
  await sink.allocate(0, { nbytes: 4096, tensor: 't' });
  process.exit(3);
}
const expected = await driveSink(sink, 3, 65536, 60, 5);
parentPort?.postMessage(expected);
sink.close(true);
