// Serves wasm modules to the RPC proxy of TVM at a URL, until it is ended:
//
//   serve.ts URL ours|theirs [RECORDING]
//
// by sluice/tvmjs, or by the published @mlc-ai/web-runtime. Registers the function tvm_rpc.concatenate for the client.
// RECORDING is a file for what the first client and the server have said, which rpc_server.test.ts plays again.
import { writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import type * as Ours from 'sluice/tvmjs';
import { WebSocket } from 'ws';
import { nodeGpu } from './node_gpu.js';

const [url, whose, recording] = process.argv.slice(2);
if (url === undefined || (whose !== 'ours' && whose !== 'theirs')) {
  throw new Error('serve.ts URL ours|theirs [RECORDING]');
}

// Both take what the environment has
Object.defineProperty(globalThis, 'navigator', { value: { gpu: nodeGpu() }, configurable: true });

/** What one side says after its greeting, of magic number, key length and key. */
class Stream {
  #bytes = Buffer.alloc(0);

  push(data: ArrayBufferView | ArrayBuffer): void {
    const bytes = ArrayBuffer.isView(data)
      ? Buffer.from(data.buffer, data.byteOffset, data.byteLength)
      : Buffer.from(data);
    this.#bytes = Buffer.concat([this.#bytes, bytes]);
  }

  /** The packets, without their lengths. */
  packets(): Buffer[] {
    const found: Buffer[] = [];
    let at = 8 + this.#bytes.readInt32LE(4);
    while (at < this.#bytes.length) {
      const length = Number(this.#bytes.readBigUInt64LE(at));
      found.push(this.#bytes.subarray(at + 8, at + 8 + length));
      at += 8 + length;
    }
    return found;
  }
}

class Recorded extends WebSocket {
  readonly #client = new Stream();
  readonly #server = new Stream();

  constructor(address: string) {
    super(address);
    this.addEventListener('message', ({ data }) => {
      this.#client.push(data as ArrayBuffer);
    });
    this.addEventListener('close', () => {
      const [init, ...requests] = this.#client.packets().map((packet) => packet.toString('hex'));
      const [, ...answers] = this.#server.packets().map((packet) => packet.toString('hex'));
      // Without the wasm module, and the length of it in front
      const binary = init?.indexOf(Buffer.from('\0asm').toString('hex')) ?? -1;
      if (binary === -1) return;
      const recorded = {
        note: 'What TVM 0.27 and RPCServer said to each other: tests/tvm_rpc/run.py record',
        init: init?.slice(0, binary - 16),
        exchange: requests.map((request, i) => [request, answers[i] ?? '']),
      };
      writeFileSync(recording ?? '', `${JSON.stringify(recorded, undefined, 1)}\n`);
    });
  }

  override send(data: Parameters<WebSocket['send']>[0]): void {
    if (ArrayBuffer.isView(data)) this.#server.push(data);
    super.send(data);
  }
}
Object.assign(globalThis, { WebSocket: recording === undefined ? WebSocket : Recorded });

const tvmjs = (
  whose === 'ours'
    ? await import('sluice/tvmjs')
    : await import(
        pathToFileURL(createRequire(import.meta.url).resolve('@mlc-ai/web-runtime')).href
      )
) as typeof Ours;

const server = new tvmjs.RPCServer(
  url,
  'wasm',
  () => ({}),
  console.log,
  '',
  'cpu',
  undefined,
  (inst) => {
    inst.registerAsyncServerFunc('tvm_rpc.concatenate', (...parts: string[]) =>
      Promise.resolve(parts.join('')),
    );
    return Promise.resolve();
  },
);
await (server as { closed?: Promise<void> }).closed;
