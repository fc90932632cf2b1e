import type { InitProgressCallback, InstanceBase } from './instance.js';
import {
  ByteQueue,
  CODE_SHUTDOWN,
  exceptionPacket,
  greeting,
  MAX_KEY_BYTES,
  MAX_PACKET_BYTES,
  PacketReader,
  RPC_MAGIC,
} from './rpc_protocol.js';
import { RPCSession, type SessionOptions } from './rpc_session.js';
import { createSocket, Sender } from './rpc_socket.js';
import type { Untyped } from './types.js';

/** What the server waits for, numbered as tvmjs does. */
export const RPCServerState = {
  InitHeader: 0,
  InitHeaderKey: 1,
  WaitForCallback: 3,
  ReceivePacketHeader: 4,
  ReceivePacketBody: 5,
} as const;
export type RPCServerState = (typeof RPCServerState)[keyof typeof RPCServerState];

/** Bytes of what comes first, and of the length of a packet. */
const HEADER_BYTES = 8;
/** A close of the WebSocket by us, for what the other side has said. */
const CLOSE_PROTOCOL_ERROR = 4002;

/**
 * Serves wasm modules to TVM's RPC clients, one after the other. It connects to TVM's RPC proxy (`python -m
 * tvm.exec.rpc_proxy`) by WebSocket, and waits there under its key. A client of that key,
 * `tvm.rpc.connect(host, port, key, session_constructor_args=["rpc.WasmSession", wasm_binary])`, brings a wasm module: a
 * compiled model that was linked with the runtime. Its functions, tensors and devices are then the client's to use. When
 * the client goes, the module ends, and the server connects for the next one.
 *
 * The functions of a module can do all that the page can do with the module: let only those reach the proxy who may.
 */
export class RPCServerBase {
  readonly url: string;
  readonly key: string;
  readonly logger: (msg: string) => void;
  readonly getImports: () => Record<string, unknown>;
  /** Of the connection that there is now, or was last. */
  socket: WebSocket;
  state: RPCServerState = RPCServerState.InitHeader;
  /** Settles when the server has ended and connects no more; rejects with what kept it from going on. */
  readonly closed: Promise<void>;
  readonly #name: string;
  readonly #options: Omit<SessionOptions, 'send'>;
  #end: { resolve: () => void; reject: (reason: Error) => void } | undefined;
  #closing = false;

  // Of the connection
  #sender: Sender;
  #queue = new ByteQueue();
  #wanted = HEADER_BYTES;
  #session: RPCSession | undefined;
  #failure: Error | undefined;

  /**
   * `url` is the proxy's, as `ws://localhost:8888/ws`. `getImports` gives the imports of the wasm module, as
   * `instantiate` takes them; the messages of the server and of the module go to `logger`. Before a client's requests,
   * the tensors of `tensorCacheUrl` are loaded on `tensorCacheDevice`, and `asyncOnServerLoad` runs with the instance:
   * there, functions can be registered for the client. Throws where there is no WebSocket.
   */
  constructor(
    instantiate: SessionOptions['instantiate'],
    url: string,
    key: string,
    getImports: () => Record<string, unknown>,
    // eslint-disable-next-line no-console -- where tvmjs logs unless told otherwise
    logger: (msg: string) => void = console.log,
    tensorCacheUrl = '',
    tensorCacheDevice = 'cpu',
    initProgressCallback?: InitProgressCallback,
    asyncOnServerLoad?: (inst: InstanceBase) => Promise<Untyped>,
  ) {
    this.url = url;
    this.key = key;
    this.getImports = getImports;
    this.logger = logger;
    this.#name = `WebSocketRPCServer[${key}]: `;
    this.#options = {
      instantiate,
      getImports,
      logger,
      log: (message) => {
        this.#log(message);
      },
      tensorCacheUrl,
      tensorCacheDevice,
      initProgressCallback,
      asyncOnServerLoad,
      name: `WebSocketRPCServer[${key}]`,
      key,
    };
    this.closed = new Promise((resolve, reject) => {
      this.#end = { resolve, reject };
    });
    // Who does not wait for it reads of it in the log
    this.closed.catch(() => undefined);
    this.socket = this.#connect();
    this.#sender = new Sender(this.socket);
  }

  /** Ends the connection, and the client's session with it; there is no other one. */
  close(): Promise<void> {
    this.#closing = true;
    this.socket.close();
    return this.closed;
  }

  #log(message: string): void {
    this.logger(this.#name + message);
  }

  // ---- Connections ----

  #connect(): WebSocket {
    const socket = createSocket(this.url);
    const on = <T extends keyof WebSocketEventMap>(
      type: T,
      listener: (event: WebSocketEventMap[T]) => void,
    ): void => {
      socket.addEventListener(type, listener);
    };
    on('open', () => {
      for (const part of greeting(this.key)) socket.send(part);
      this.#log('connected...');
    });
    on('message', ({ data }: MessageEvent<unknown>) => {
      this.#guard(() => {
        if (!(data instanceof ArrayBuffer)) throw new Error('text came, where RPC has bytes');
        this.#queue.push(new Uint8Array(data));
        this.#process();
      });
    });
    on('error', (event) => {
      const { message } = event as { message?: unknown };
      const why = typeof message === 'string' && message !== '' ? `: ${message}` : '';
      this.#failure ??= new Error(`${this.#name}the connection to ${this.url} failed${why}`);
    });
    on('close', () => {
      this.#onClose();
    });
    return socket;
  }

  #onClose(): void {
    const wasServing = this.state >= RPCServerState.WaitForCallback;
    this.#session?.end();
    this.#session = undefined;
    if (this.#closing || !wasServing) {
      const failure = this.#closing ? undefined : this.#failure;
      this.#log(
        `Closing the server, final state=${this.state}${failure ? `: ${failure.message}` : ''}`,
      );
      const end = this.#end;
      this.#end = undefined;
      if (this.#closing) end?.resolve();
      else end?.reject(failure ?? new Error(`${this.#name}${this.url} has closed the connection`));
      return;
    }
    this.#log('Automatic reconnecting..');
    this.state = RPCServerState.InitHeader;
    this.#queue = new ByteQueue();
    this.#wanted = HEADER_BYTES;
    this.#failure = undefined;
    this.socket = this.#connect();
    this.#sender = new Sender(this.socket);
  }

  /** Runs what handles bytes; what it throws ends the connection. */
  #guard(action: () => void): void {
    try {
      action();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    const text = error instanceof Error ? error.message : String(error);
    this.#failure ??= new Error(`${this.#name}${text}`);
    this.#log(`Error: ${text}`);
    this.socket.close(CLOSE_PROTOCOL_ERROR);
  }

  // ---- Bytes ----

  #process(): void {
    while (
      this.state !== RPCServerState.WaitForCallback &&
      this.#queue.size >= this.#wanted &&
      this.socket.readyState === 1
    ) {
      const bytes = this.#queue.take(this.#wanted);
      switch (this.state) {
        case RPCServerState.InitHeader:
          this.#onHeader(bytes);
          break;
        case RPCServerState.InitHeaderKey:
          this.#expectPacket();
          break;
        case RPCServerState.ReceivePacketHeader:
          this.#onLength(bytes);
          break;
        case RPCServerState.ReceivePacketBody:
          this.#expectPacket();
          this.#onPacket(bytes);
          break;
      }
    }
  }

  #expectPacket(): void {
    this.state = RPCServerState.ReceivePacketHeader;
    this.#wanted = HEADER_BYTES;
  }

  #onHeader(bytes: Uint8Array<ArrayBuffer>): void {
    const reader = new PacketReader(bytes);
    const magic = reader.i32('the magic number');
    if (magic === RPC_MAGIC + 1) throw new Error(`key: ${this.key} has already been used in proxy`);
    if (magic === RPC_MAGIC + 2) {
      throw new Error(`RPCProxy do not have matching client key ${this.key}`);
    }
    if (magic !== RPC_MAGIC) throw new Error(`${this.url} is not an RPC Proxy`);
    const length = reader.i32("the client's key");
    if (length < 0 || length > MAX_KEY_BYTES) {
      throw new Error(`the client's key is ${length} bytes long`);
    }
    this.state = RPCServerState.InitHeaderKey;
    this.#wanted = length;
  }

  #onLength(bytes: Uint8Array<ArrayBuffer>): void {
    const length = new PacketReader(bytes).u64('its length');
    if (length === 0) return;
    if (length > MAX_PACKET_BYTES) {
      throw new Error(
        `a packet of ${length} bytes is announced, and it may have ${MAX_PACKET_BYTES}`,
      );
    }
    this.state = RPCServerState.ReceivePacketBody;
    this.#wanted = length;
  }

  #onPacket(body: Uint8Array<ArrayBuffer>): void {
    if (this.#session) {
      const packet = new Uint8Array(HEADER_BYTES + body.length);
      new DataView(packet.buffer).setBigUint64(0, BigInt(body.length), true);
      packet.set(body, HEADER_BYTES);
      if (!this.#session.receive(packet)) this.#closeWhenSent();
    } else if (body.length === 4 && new PacketReader(body).i32('its code') === CODE_SHUTDOWN) {
      this.socket.close();
    } else {
      this.state = RPCServerState.WaitForCallback;
      void this.#begin(body, this.socket, this.#sender);
    }
  }

  #closeWhenSent(): void {
    const { socket } = this;
    void this.#sender.drained().then(() => {
      socket.close();
    });
  }

  /** Starts the client's module. A client whose module does not start is told why. */
  async #begin(body: Uint8Array<ArrayBuffer>, socket: WebSocket, sender: Sender): Promise<void> {
    let session: RPCSession | undefined;
    try {
      session = await RPCSession.start(body, {
        ...this.#options,
        send: (bytes) => {
          if (!sender.isOpen()) return false;
          sender.send(bytes);
          return true;
        },
      });
      this.#log('Finish initializing the Wasm Server..');
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      this.#log(`Error: ${text}`);
      sender.send(exceptionPacket(`${this.#name}${text}`));
    }
    // The client may have gone meanwhile, and another one come
    if (this.socket !== socket || socket.readyState !== 1) {
      session?.end();
      return;
    }
    this.#session = session;
    this.#expectPacket();
    this.#guard(() => {
      this.#process();
    });
  }
}
