import type { InitProgressCallback, InstanceBase } from './instance.js';
import type { PackedFunc } from './objects.js';
import { initPacket, readInit } from './rpc_protocol.js';
import type { Untyped } from './types.js';
import { detectGPUDevice } from './webgpu.js';

/** Lets the handler read and write. */
const READ_AND_WRITE = 3;
const CLOSED = 0;

/** What a session is made with. */
export interface SessionOptions {
  instantiate: (
    bytes: BufferSource,
    imports: Record<string, Untyped>,
    logger: (message: string) => void,
  ) => Promise<InstanceBase>;
  getImports: () => Record<string, unknown>;
  logger: (message: string) => void;
  /** With the server's name in front. */
  log: (message: string) => void;
  tensorCacheUrl: string;
  tensorCacheDevice: string;
  initProgressCallback: InitProgressCallback | undefined;
  asyncOnServerLoad: ((inst: InstanceBase) => Promise<Untyped>) | undefined;
  /** For the handler's messages. */
  name: string;
  key: string;
  /** Takes all the bytes; false where there is no connection. */
  send: (bytes: Uint8Array<ArrayBuffer>) => boolean;
}

/** The wasm module that a client has brought, and the RPC server in it. */
export class RPCSession {
  readonly #inst: InstanceBase;
  readonly #handler: PackedFunc;
  readonly #log: (message: string) => void;
  #answering = false;
  #ended = false;

  private constructor(inst: InstanceBase, log: (message: string) => void, options: SessionOptions) {
    this.#inst = inst;
    this.#log = log;
    const create = inst.getGlobalFunc('rpc.CreateEventDrivenServer');
    const send = (bytes: Uint8Array<ArrayBuffer>): unknown => {
      this.#answering = false;
      // The call that answers is still on its way out of the wasm module
      if (this.#ended) setTimeout(() => this.#dispose());
      return inst.scalar(options.send(bytes) ? bytes.length : 0, 'int32');
    };
    const made = create(send, options.name, options.key) as PackedFunc;
    this.#handler = inst.detachFromCurrentScope(made);
  }

  /**
   * Starts the module of the packet that a client begins with. Rejects where the packet asks for another session than
   * rpc.WasmSession, or the module does not start.
   */
  static async start(
    packet: Uint8Array<ArrayBuffer>,
    options: SessionOptions,
  ): Promise<RPCSession> {
    const { version, args } = readInit(packet);
    const [constructor, wasm] = args;
    if (constructor !== 'rpc.WasmSession' || !(wasm instanceof Uint8Array) || args.length !== 2) {
      const given = args.map((arg) => (typeof arg === 'string' ? `'${arg}'` : 'bytes'));
      throw new Error(
        `this server takes session_constructor_args=["rpc.WasmSession", wasm_binary], not [${given.join(', ')}]`,
      );
    }
    const inst = await options.instantiate(wasm, options.getImports(), options.logger);
    try {
      return await RPCSession.#serve(inst, version, options);
    } catch (error) {
      inst.dispose();
      throw error;
    }
  }

  static async #serve(
    inst: InstanceBase,
    version: string,
    options: SessionOptions,
  ): Promise<RPCSession> {
    const { log } = options;
    try {
      const found = await detectGPUDevice();
      if (found) {
        log(`Initialize GPU device: WebGPU: ${found.adapterInfo.description}`);
        inst.initWebGPU(found.device);
      } else {
        log('Cannot find WebGPU device in the env');
      }
    } catch (error) {
      log(`Cannot initialize WebGPU, ${String(error)}`);
    }
    inst.beginScope();
    if (options.initProgressCallback)
      inst.registerInitProgressCallback(options.initProgressCallback);
    const { tensorCacheUrl, tensorCacheDevice } = options;
    if (tensorCacheUrl !== '') {
      await inst.fetchTensorCache(tensorCacheUrl, inst.device(tensorCacheDevice));
    }
    await options.asyncOnServerLoad?.(inst);
    const session = new RPCSession(inst, log, options);
    // The module's own session; the client's binary stays on this side
    session.receive(initPacket(version, 'wasm.LocalSession'));
    inst.endScope();
    return session;
  }

  /** Hands over a packet, with its length. False where the connection shall end. */
  receive(packet: Uint8Array<ArrayBuffer>): boolean {
    this.#answering = true;
    const flags = this.#inst.scalar(READ_AND_WRITE, 'int32');
    let goesOn = false;
    try {
      goesOn = this.#handler(packet, flags) !== CLOSED;
    } finally {
      if (!goesOn) this.#answering = false;
    }
    return goesOn;
  }

  /** Ends the module; once it has answered, where the host is still at work for a request. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    if (!this.#answering) this.#dispose();
  }

  #dispose(): void {
    try {
      this.#handler.dispose();
      const stats = this.#inst.runtimeStatsText();
      if (stats !== '') this.#log(stats);
      this.#inst.dispose();
    } catch (error) {
      // A module that has trapped; it is gone all the same
      this.#log(`Error: ${String(error)}`);
    }
  }
}
