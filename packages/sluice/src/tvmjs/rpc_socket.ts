/** Of Node's `process`, from 20.16 on. */
interface NodeProcess {
  getBuiltinModule?: (name: 'module') => {
    createRequire: (from: string) => (id: string) => unknown;
  };
}

type SocketConstructor = new (url: string) => WebSocket;

/** A WebSocket of the environment's own, or in Node, which has none before version 22, of the package `ws`. */
export function createSocket(url: string): WebSocket {
  const own = (globalThis as { WebSocket?: SocketConstructor }).WebSocket;
  const Socket = own ?? socketOfNode();
  if (Socket === undefined) {
    throw new Error(
      'RPCServer needs WebSocket, which this environment has not: in Node before 22, install the package ws, or set ' +
        'globalThis.WebSocket',
    );
  }
  const socket = new Socket(url);
  socket.binaryType = 'arraybuffer';
  return socket;
}

function socketOfNode(): SocketConstructor | undefined {
  // Without an import, which a bundle for browsers would follow
  const { process } = globalThis as { process?: NodeProcess };
  const require = process?.getBuiltinModule?.('module').createRequire(import.meta.url);
  try {
    return require?.('ws') as SocketConstructor | undefined;
  } catch {
    return undefined;
  }
}

const PIECE_BYTES = 64 * 1024;
const MAX_WAITING_BYTES = 1024 * 1024;
const POLL_MS = 2;

/** Sends in order, and not more than the socket may hold: a browser closes one that is given too much at once. */
export class Sender {
  readonly #socket: WebSocket;
  #done = Promise.resolve();

  constructor(socket: WebSocket) {
    this.#socket = socket;
  }

  isOpen(): boolean {
    return this.#socket.readyState === 1;
  }

  send(bytes: Uint8Array<ArrayBuffer>): void {
    this.#done = this.#done.then(() => this.#sendPieces(bytes));
  }

  /** Settles when all has been handed to the socket. */
  drained(): Promise<void> {
    return this.#done;
  }

  async #sendPieces(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    for (let at = 0; at < bytes.length && this.isOpen(); at += PIECE_BYTES) {
      while (this.isOpen() && this.#socket.bufferedAmount > MAX_WAITING_BYTES) {
        await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      }
      if (this.isOpen()) this.#socket.send(bytes.subarray(at, at + PIECE_BYTES));
    }
  }
}
