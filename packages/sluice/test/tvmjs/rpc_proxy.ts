// What stands at the other end of an RPCServer: TVM's RPC proxy as far as a server sees it, and a client that speaks the
// protocol (core/rpc/protocol.h).
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { WebSocketServer, type WebSocket } from 'ws';
import { ByteQueue } from '../../src/tvmjs/rpc_protocol.js';

export const MAGIC = 0xff271;
export const CPU = 1;
export const WEBGPU = 15;
const LIMIT_MS = 20_000;

/** Codes of packets. */
export const Code = {
  shutdown: 1,
  init: 2,
  call: 3,
  returned: 4,
  exception: 5,
  copyFromRemote: 6,
  copyToRemote: 7,
  copyAck: 8,
  getGlobalFunction: 9,
  freeHandle: 10,
  getAttribute: 12,
  allocate: 13,
} as const;

export type Sent =
  number | string | Uint8Array | null | { object: bigint } | { tensor: RemoteTensor };

/** Memory of the server's, as float32 values. */
export interface RemoteTensor {
  handle: bigint;
  device: number;
  shape: number[];
  offset?: number;
}

/** Puts a packet together. */
export class Packet {
  readonly #parts: Uint8Array[] = [];

  constructor(code: number) {
    this.i32(code);
  }
  i32(...values: number[]): this {
    this.#parts.push(new Uint8Array(Int32Array.from(values).buffer));
    return this;
  }
  u64(value: bigint | number): this {
    this.#parts.push(new Uint8Array(BigUint64Array.of(BigInt.asUintN(64, BigInt(value))).buffer));
    return this;
  }
  bytes(content: Uint8Array | string): this {
    const bytes = typeof content === 'string' ? new TextEncoder().encode(content) : content;
    this.u64(bytes.length).#parts.push(bytes);
    return this;
  }
  description({ handle, device, shape, offset = 0 }: RemoteTensor): this {
    const float32 = 2 | (32 << 8) | (1 << 16);
    this.u64(handle).i32(device, 0, shape.length, float32);
    for (const extent of shape) this.u64(extent);
    return this.u64(offset);
  }
  values(...values: Sent[]): this {
    this.i32(values.length);
    for (const value of values) this.#value(value);
    return this;
  }
  #value(value: Sent): void {
    if (value === null) this.i32(0);
    else if (typeof value === 'number') this.i32(1).u64(value);
    else if (typeof value === 'string') this.i32(8).bytes(value);
    else if (value instanceof Uint8Array) this.i32(9).bytes(value);
    else if ('object' in value) this.i32(4).u64(value.object);
    else this.i32(7).description(value.tensor);
  }
  /** With its length in front. */
  framed(): Buffer {
    const body = Buffer.concat(this.#parts);
    return Buffer.concat([Buffer.from(BigUint64Array.of(BigInt(body.length)).buffer), body]);
  }
}

/** An answer: the values, or the bytes of a copy, or an error's text. */
export interface Answer {
  code: number;
  values: (number | bigint | string | Uint8Array | RemoteTensor | null)[];
  bytes: Uint8Array;
  error: string;
}

export function readAnswer(packet: Uint8Array): Answer {
  const view = new DataView(packet.buffer, packet.byteOffset, packet.byteLength);
  let at = 4;
  const i32 = (): number => view.getInt32((at += 4) - 4, true);
  const u64 = (): bigint => view.getBigUint64((at += 8) - 8, true);
  const bytes = (): Uint8Array =>
    packet.slice((at += 8), (at += Number(view.getBigUint64(at - 8, true))));
  const tensor = (): RemoteTensor => {
    const handle = u64();
    const [device, , dimensions] = [i32(), i32(), i32(), i32()] as const;
    const shape = Array.from({ length: dimensions }, () => Number(u64()));
    return { handle, device, shape, offset: Number(u64()) };
  };
  const code = view.getInt32(0, true);
  const answer: Answer = { code, values: [], bytes: packet.subarray(4), error: '' };
  if (code === Code.copyAck) return answer;
  const count = i32();
  for (let i = 0; i < count; i++) {
    const type = i32();
    if (type === 0) answer.values.push(null);
    else if (type === 1 || type === 2) answer.values.push(Number(BigInt.asIntN(64, u64())));
    else if (type === 3) answer.values.push(view.getFloat64((at += 8) - 8, true));
    else if (type === 4) answer.values.push(u64());
    else if (type === 7) answer.values.push(tensor());
    else if (type === 8) answer.values.push(new TextDecoder().decode(bytes()));
    else if (type === 9) answer.values.push(bytes());
    else assert.fail(`a value of type ${type} in an answer`);
  }
  assert.equal(at, packet.length);
  if (code === Code.exception) {
    const [text] = answer.values;
    answer.error = typeof text === 'string' ? text : assert.fail('an exception without a text');
  }
  return answer;
}

/** One server's connection, and the client that it serves. */
export class Client {
  readonly #socket: WebSocket;
  readonly #queue = new ByteQueue();
  #wake: () => void = () => undefined;
  /** Bytes of a message to the server: what comes is cut differently each time. */
  pieceBytes = Infinity;
  readonly closed: Promise<void>;
  #isClosed = false;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.binaryType = 'nodebuffer';
    socket.on('message', (data: Buffer) => {
      this.#queue.push(new Uint8Array(data));
      this.#wake();
    });
    this.closed = new Promise((resolve) => {
      socket.on('close', () => {
        this.#isClosed = true;
        this.#wake();
        resolve();
      });
    });
  }

  async read(count: number): Promise<Uint8Array<ArrayBuffer>> {
    const end = Date.now() + LIMIT_MS;
    while (this.#queue.size < count) {
      if (this.#isClosed) throw new Error('the server has closed the connection');
      if (Date.now() > end) throw new Error(`${count} bytes of the server's have not come`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, 1000);
      });
    }
    return this.#queue.take(count);
  }

  /** The server's key; a client is there from now on, or the proxy refuses with another code. */
  async greet(code = MAGIC): Promise<string> {
    const head = new DataView((await this.read(8)).buffer);
    assert.equal(head.getInt32(0, true), MAGIC);
    const key = new TextDecoder().decode(await this.read(head.getInt32(4, true)));
    const name = new TextEncoder().encode('client:key');
    this.send(Buffer.concat([Buffer.from(Int32Array.of(code, name.length).buffer), name]));
    return key;
  }

  send(bytes: Uint8Array): void {
    const piece = Math.min(this.pieceBytes, bytes.length);
    for (let at = 0; at < bytes.length; at += piece) {
      this.#socket.send(bytes.subarray(at, at + piece));
    }
  }

  async answer(): Promise<Answer> {
    const length = Number(new DataView((await this.read(8)).buffer).getBigUint64(0, true));
    return readAnswer(await this.read(length));
  }

  ask(packet: Packet): Promise<Answer> {
    this.send(packet.framed());
    return this.answer();
  }

  /** The values of an answer that is no exception. */
  async values(packet: Packet): Promise<Answer['values']> {
    const answer = await this.ask(packet);
    assert.equal(answer.code, Code.returned, answer.error);
    return answer.values;
  }

  init(...args: (string | Uint8Array)[]): Promise<Answer> {
    return this.ask(new Packet(Code.init).bytes('0.8.0').values(...args));
  }

  async start(wasm: Uint8Array): Promise<this> {
    await this.greet();
    const { code, error } = await this.init('rpc.WasmSession', wasm);
    assert.equal(code, Code.returned, error);
    return this;
  }

  async function(name: string): Promise<bigint> {
    const [handle] = await this.values(new Packet(Code.getGlobalFunction).values(name));
    return handle as bigint;
  }

  /** What a function of a name gives. */
  async call(name: string | bigint, ...args: Sent[]): Promise<Answer['values'][number]> {
    const handle = typeof name === 'bigint' ? name : await this.function(name);
    assert.notEqual(handle, 0n, `there is no function ${name}`);
    const [, value] = await this.values(new Packet(Code.call).u64(handle).values(...args));
    return value ?? null;
  }

  async upload(values: Float32Array, device: number): Promise<RemoteTensor> {
    const tensor: RemoteTensor = { handle: 0n, device, shape: [values.length] };
    // None is the scope
    const allocate = new Packet(17).i32(2).i32(7).description(tensor).i32(0);
    const [handle] = await this.values(allocate);
    tensor.handle = handle as bigint;
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    await this.values(new Packet(Code.copyToRemote).description(tensor).bytes(bytes));
    return tensor;
  }

  async download(tensor: RemoteTensor): Promise<number[]> {
    const nbytes = 4 * tensor.shape.reduce((product, extent) => product * extent, 1);
    const asked = new Packet(Code.copyFromRemote).description(tensor).u64(nbytes);
    const { code, bytes, error } = await this.ask(asked);
    assert.equal(code, Code.copyAck, error);
    return [...new Float32Array(bytes.slice().buffer)];
  }

  shutdown(): void {
    this.send(new Packet(Code.shutdown).framed());
  }
  close(): void {
    this.#socket.close();
  }
}

/** Accepts the connections of servers. */
export class Proxy {
  readonly #server: WebSocketServer;
  readonly #waiting: Client[] = [];
  #wake: () => void = () => undefined;
  connections = 0;
  readonly url: string;

  private constructor(server: WebSocketServer) {
    this.#server = server;
    this.url = `ws://127.0.0.1:${(server.address() as AddressInfo).port}/ws`;
    server.on('connection', (socket) => {
      this.connections++;
      this.#waiting.push(new Client(socket));
      this.#wake();
    });
  }

  static async start(): Promise<Proxy> {
    const server = new WebSocketServer({ host: '127.0.0.1', port: 0, maxPayload: 1 << 28 });
    await once(server, 'listening');
    return new Proxy(server);
  }

  /** The next server. */
  async accept(): Promise<Client> {
    const end = Date.now() + LIMIT_MS;
    for (;;) {
      const client = this.#waiting.shift();
      if (client) return client;
      if (Date.now() > end) throw new Error('no server has connected');
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, 1000);
      });
    }
  }

  async close(): Promise<void> {
    for (const socket of this.#server.clients) socket.terminate();
    await new Promise((resolve) => {
      this.#server.close(resolve);
    });
  }
}
