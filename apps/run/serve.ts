// The packed model on a server of its own process, so that serving does not slow the measurement elsewhere. Prints its
// origin; for each line of stdin the bytes it has sent so far, headers and all; ends with stdin.
import { subscribe } from 'node:diagnostics_channel';
import type { Socket } from 'node:net';
import { createInterface } from 'node:readline';

import { startServer } from '../../packages/sluice/test/support/server.js';

const sockets = new Set<Socket>();
subscribe('http.server.request.start', (message) => {
  sockets.add((message as { socket: Socket }).socket);
});
const [, , root = '.'] = process.argv;
// As `sluice serve` does: Chromium holds whole responses that it may cache in memory (docs/benchmarks.md, memory)
const server = await startServer({ root, cors: true, headers: { 'Cache-Control': 'no-store' } });
console.log(server.origin);
const lines = createInterface({ input: process.stdin });
lines.on('line', () => {
  console.log([...sockets].reduce((sum, { bytesWritten }) => sum + bytesWritten, 0));
});
lines.on('close', () => void server.close());
