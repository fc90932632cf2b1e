/** What TVM's RPC says on the wire before the wasm module takes over: core/rpc/protocol.h has the whole of it. */

/** The first four bytes of either side; one more, or two, are the proxy's refusals. */
export const RPC_MAGIC = 0xff271;

/** As core/rpc has them: what the other side may announce. */
export const MAX_PACKET_BYTES = 2 ** 30;
export const MAX_KEY_BYTES = 4096;

export const CODE_SHUTDOWN = 1;
export const CODE_INIT_SERVER = 2;
const CODE_EXCEPTION = 5;

/** Type indices of the C ABI. */
const RAW_STRING = 8;
const BYTE_ARRAY = 9;
const SMALL_STRING = 11;
const SMALL_BYTES = 12;
const STRING = 65;
const BYTES = 66;

/** Bytes that come in pieces and are taken in others. */
export class ByteQueue {
  readonly #pieces: Uint8Array[] = [];
  #size = 0;

  get size(): number {
    return this.#size;
  }

  push(piece: Uint8Array): void {
    if (piece.length === 0) return;
    this.#pieces.push(piece);
    this.#size += piece.length;
  }

  /** The next `count` bytes, as an array of their own; that many must be there. */
  take(count: number): Uint8Array<ArrayBuffer> {
    if (count > this.#size)
      throw new Error(`${count} bytes are taken, and ${this.#size} are there`);
    const taken = new Uint8Array(count);
    let at = 0;
    let used = 0;
    for (let piece = this.#pieces[used]; piece && at < count; piece = this.#pieces[used]) {
      const part = piece.subarray(0, count - at);
      taken.set(part, at);
      at += part.length;
      if (part.length === piece.length) used++;
      else this.#pieces[used] = piece.subarray(part.length);
    }
    this.#pieces.splice(0, used);
    this.#size -= count;
    return taken;
  }
}

/** Reads what stands in a packet; throws where it does not. */
export class PacketReader {
  readonly #bytes: Uint8Array<ArrayBuffer>;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array<ArrayBuffer>) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  #advance(count: number, what: string): number {
    const at = this.#at;
    if (count > this.#bytes.length - at) {
      throw new Error(
        `a packet of ${this.#bytes.length} bytes is cut at ${what}, ${count} bytes at byte ${at}`,
      );
    }
    this.#at += count;
    return at;
  }

  i32(what: string): number {
    return this.#view.getInt32(this.#advance(4, what), true);
  }

  /** A number that may be any, as far as JavaScript can count. */
  u64(what: string): number {
    return Number(this.#view.getBigUint64(this.#advance(8, what), true));
  }

  bytes(what: string): Uint8Array<ArrayBuffer> {
    const length = this.u64(what);
    const at = this.#advance(length, what);
    return this.#bytes.subarray(at, at + length);
  }

  text(what: string): string {
    return new TextDecoder().decode(this.bytes(what));
  }
}

/** What a client begins with. */
export interface InitPacket {
  /** Of the protocol. */
  version: string;
  /** The name of a constructor, and its arguments. */
  args: (string | Uint8Array<ArrayBuffer>)[];
}

/** Reads the packet that a client begins with. */
export function readInit(packet: Uint8Array<ArrayBuffer>): InitPacket {
  const reader = new PacketReader(packet);
  const code = reader.i32('its code');
  if (code !== CODE_INIT_SERVER) {
    throw new Error(`a packet of code ${code} came first, where the session's begins`);
  }
  const version = reader.text("the client's version");
  const count = reader.i32('the number of values');
  if (count < 0 || count > packet.length / 4) {
    throw new Error(`a packet of ${packet.length} bytes has ${count} values`);
  }
  const args: InitPacket['args'] = [];
  for (let i = 0; i < count; i++) {
    let type = reader.i32("a value's type");
    // These have their type twice
    if ([SMALL_STRING, SMALL_BYTES, STRING, BYTES].includes(type)) {
      type = reader.i32("a string's type");
    }
    if (type === RAW_STRING || type === STRING) args.push(reader.text('a string'));
    else if (type === BYTE_ARRAY || type === BYTES) args.push(reader.bytes('bytes'));
    else throw new Error(`argument ${i} of the session's constructor is of type ${type}`);
  }
  return { version, args };
}

/** A packet, with its length in front. */
function packet(code: number, ...parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const length = parts.reduce((sum, part) => sum + part.length, 4);
  const bytes = new Uint8Array(8 + length);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(length), true);
  view.setInt32(8, code, true);
  let at = 12;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const i32 = (value: number): Uint8Array => new Uint8Array(Int32Array.of(value).buffer);

function text(value: string): Uint8Array {
  const content = new TextEncoder().encode(value);
  const bytes = new Uint8Array(8 + content.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(content.length), true);
  bytes.set(content, 8);
  return bytes;
}

/** The packet that begins a session of a constructor without arguments, with its length. */
export function initPacket(version: string, constructor: string): Uint8Array<ArrayBuffer> {
  const content = [i32(1), i32(RAW_STRING), text(constructor)];
  return packet(CODE_INIT_SERVER, text(version), ...content);
}

/** The answer to a request that failed. */
export function exceptionPacket(message: string): Uint8Array<ArrayBuffer> {
  return packet(CODE_EXCEPTION, i32(1), i32(RAW_STRING), text(message));
}

/** What a server says to the proxy first. */
export function greeting(key: string): Uint8Array<ArrayBuffer>[] {
  const name = new TextEncoder().encode(`server:${key}`);
  return [Int32Array.of(RPC_MAGIC), Int32Array.of(name.length), name].map(
    (part) => new Uint8Array(part.buffer),
  );
}
