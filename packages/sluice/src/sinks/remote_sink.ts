import { asSluiceError, SluiceError } from '../errors.js';
import type { ErrorDetails, ErrorCode } from '../errors.js';
import type { Conversion } from './conversion.js';
import { Lifeline } from './lifeline.js';
import { checkPieces, checkPlan, checkSlots } from './pieces.js';
import type { BufferPlan, Piece, SlotSink } from './sink.js';

/** What the two halves need of a MessagePort; that of the browser and that of Node both fit. */
export interface SinkPort {
  postMessage(message: unknown, transfer: ArrayBuffer[]): void;
  addEventListener(type: string, listener: (event: Event) => void): void;
  start(): void;
  close(): void;
}

type ErrorMessage = ErrorDetails & { code: ErrorCode; message: string };

type ToServer =
  | {
      type: 'prepare';
      slots: number;
      slotBytes: number;
      conversions: readonly Conversion[];
    }
  | { type: 'allocate'; id: number; index: number; plan: BufferPlan }
  | { type: 'upload'; slot: number; block: ArrayBuffer; pieces: readonly Piece[] }
  | { type: 'flush'; id: number }
  | { type: 'close'; keepBuffers: boolean };

type FromServer =
  | { type: 'done'; id: number; error?: ErrorMessage }
  | { type: 'freed'; slot: number; block: ArrayBuffer }
  | { type: 'failed'; error: ErrorMessage };

const fromMessage = ({ code, message, ...details }: ErrorMessage): SluiceError =>
  new SluiceError(code, message, details);

/** Staging slots of the device's half, at most: on an H100 more made no load faster, and they leave less for blocks. */
export const MAX_STAGING_SLOTS = 3;

/** Staging slots that serveSink() asks of its sink, for `slots` blocks in the worker. */
export function stagingSlotsFor(slots: number): number {
  return Math.min(slots, MAX_STAGING_SLOTS);
}

/**
 * Bytes that the two halves hold together for `slots` slots. The block in the worker and the staging slot
 * on the device's thread are two allocations, so the same bytes count twice.
 */
export function remoteBytes(slots: number, slotBytes: number): number {
  return (slots + stagingSlotsFor(slots)) * slotBytes;
}

interface Block {
  /** Undefined while the other half holds it. */
  bytes: Uint8Array<ArrayBuffer> | undefined;
  freed: (() => void) | undefined;
}

/**
 * The worker's half of a sink whose device lives on another thread (a GPUDevice belongs to the thread that
 * made it). Slots are pooled blocks: each is transferred with its upload, copied into a staging slot by
 * serveSink() and transferred back once the device's queue has its bytes, so the worker fills the next block
 * while the device takes the last. Memory is therefore counted twice, once as block and once as staging: see remoteBytes().
 *
 * A failed upload is reported by the next operation, and by flush(). When the other half ends, every
 * operation rejects.
 */
export class RemoteSink implements SlotSink {
  readonly kind = 'slots';
  readonly #port: SinkPort;
  readonly #lifeline = new Lifeline();
  readonly #plans = new Map<number, BufferPlan>();
  readonly #requests = new Map<number, (error: SluiceError | undefined) => void>();
  #blocks: Block[] = [];
  #slotBytes = 0;
  #nextId = 1;

  /** Takes over `port`, whose other end is given to serveSink(). */
  constructor(port: SinkPort) {
    this.#port = port;
    port.addEventListener('message', (event) => {
      this.#receive((event as MessageEvent<FromServer>).data);
    });
    port.addEventListener('messageerror', () => {
      this.#lifeline.end(new SluiceError('internal', 'a message of the GPU thread was unreadable'));
    });
    port.addEventListener('close', () => {
      this.#lifeline.end(
        new SluiceError('aborted', 'the GPU thread closed its side of the upload'),
      );
    });
    port.start();
  }

  /** Blocks are filled while the other half prepares itself; where it cannot, everything later rejects with the reason. */
  async prepare(
    slots: number,
    slotBytes: number,
    conversions: readonly Conversion[] = [],
  ): Promise<void> {
    this.#lifeline.check();
    checkSlots(slots, slotBytes);
    if (this.#slotBytes !== 0) throw new SluiceError('internal', 'prepare() was called twice');
    this.#slotBytes = slotBytes;
    this.#post({ type: 'prepare', slots, slotBytes, conversions }, []);
    try {
      for (let i = 0; i < slots; i++) {
        this.#blocks.push({ bytes: new Uint8Array(slotBytes), freed: undefined });
      }
    } catch (cause) {
      this.#blocks = [];
      throw new SluiceError(
        'out_of_device_memory',
        `${slots} blocks of ${slotBytes} bytes could not be allocated in CPU memory`,
        { actual: slots * slotBytes, hint: 'choose a smaller budget', cause },
      );
    }
  }

  async allocate(index: number, plan: BufferPlan): Promise<void> {
    this.#lifeline.check();
    checkPlan(index, plan);
    const { nbytes, tensor } = plan;
    await this.#request((id) => ({ type: 'allocate', id, index, plan: { nbytes, tensor } }));
    this.#plans.set(index, plan);
  }

  slot(index: number): Uint8Array {
    this.#lifeline.check();
    const bytes = this.#blocks[index]?.bytes;
    if (bytes === undefined) throw this.#slotFault(index);
    return bytes;
  }

  /** Resolves when the block is back: its bytes are in the device's queue, but need not have reached the device. */
  async upload(index: number, pieces: readonly Piece[]): Promise<void> {
    this.#lifeline.check();
    const slot = this.#blocks[index];
    if (slot?.bytes === undefined) throw this.#slotFault(index);
    checkPieces(pieces, this.#slotBytes, (buffer) => this.#plans.get(buffer));
    if (pieces.length === 0) return;
    const block = slot.bytes.buffer;
    slot.bytes = undefined;
    const freed = new Promise<void>((resolve) => {
      slot.freed = resolve;
    });
    this.#post({ type: 'upload', slot: index, block, pieces }, [block]);
    await this.#lifeline.race(freed);
  }

  async flush(): Promise<void> {
    this.#lifeline.check();
    await this.#request((id) => ({ type: 'flush', id }));
  }

  /** The other half closes its sink in the same way, then the port. */
  close(keepBuffers: boolean): void {
    if (this.#lifeline.error === undefined) this.#post({ type: 'close', keepBuffers }, []);
    this.#lifeline.end(new SluiceError('aborted', 'the upload sink was closed'));
    this.#requests.clear();
    this.#blocks = [];
    this.#plans.clear();
  }

  onEnd(listener: (error: SluiceError) => void): void {
    this.#lifeline.onEnd(listener);
  }

  #post(message: ToServer, transfer: ArrayBuffer[]): void {
    this.#port.postMessage(message, transfer);
  }

  async #request(message: (id: number) => ToServer): Promise<void> {
    const id = this.#nextId++;
    const answer = new Promise<void>((resolve, reject) => {
      this.#requests.set(id, (error) => {
        if (error === undefined) resolve();
        else reject(error);
      });
    });
    this.#post(message(id), []);
    await this.#lifeline.race(answer);
  }

  #receive(message: FromServer): void {
    switch (message.type) {
      case 'done': {
        const settle = this.#requests.get(message.id);
        this.#requests.delete(message.id);
        settle?.(message.error && fromMessage(message.error));
        break;
      }
      case 'freed': {
        const slot = this.#blocks[message.slot];
        if (slot === undefined) break; // closed meanwhile
        slot.bytes = new Uint8Array(message.block);
        slot.freed?.();
        break;
      }
      case 'failed':
        this.#lifeline.end(fromMessage(message.error));
        break;
    }
  }

  #slotFault(index: number): SluiceError {
    return new SluiceError(
      'internal',
      `staging slot ${index} of ${this.#blocks.length} is held by an upload or does not exist`,
    );
  }
}

/** The device's half, as its owner sees it. */
export interface ServedSink {
  /**
   * Resolves when the worker's half has closed the sink; rejects with what ended it otherwise. Leaving it
   * unawaited is no unhandled rejection.
   */
  readonly finished: Promise<void>;
  /**
   * Ends both halves with `error` and releases every buffer. To be called when the worker has died, of
   * which a port in the browser may say nothing. Does nothing once `finished` has settled.
   */
  fail(error: unknown): void;
}

/**
 * The device's half: takes blocks from `port`, copies each into a staging slot of `sink` and uploads it.
 * Takes over both: the sink is closed when either half ends. It holds stagingSlotsFor(slots) slots, so
 * that a copy and the uploads before it overlap.
 */
export function serveSink(port: SinkPort, sink: SlotSink): ServedSink {
  type Queued = Extract<ToServer, { type: 'upload' | 'flush' }>;
  const queue: Queued[] = [];
  const free: number[] = [];
  let ended = false;
  let resolveFinished: () => void = () => undefined;
  let rejectFinished: (error: SluiceError) => void = () => undefined;
  const finished = new Promise<void>((resolve, reject) => {
    resolveFinished = resolve;
    rejectFinished = reject;
  });
  finished.catch(() => undefined);

  const post = (message: FromServer, transfer: ArrayBuffer[] = []): void => {
    if (!ended) port.postMessage(message, transfer);
  };

  const end = (keepBuffers: boolean, error: SluiceError | undefined): void => {
    if (ended) return;
    if (error) post({ type: 'failed', error: error.toJSON() });
    ended = true;
    queue.length = 0;
    sink.close(keepBuffers);
    port.close();
    if (error) rejectFinished(error);
    else resolveFinished();
  };
  const fail = (error: unknown): void => {
    end(false, asSluiceError(error));
  };

  const answer = (id: number, work: Promise<void>): void => {
    work.then(
      () => {
        post({ type: 'done', id });
      },
      (error: unknown) => {
        post({ type: 'done', id, error: asSluiceError(error).toJSON() });
      },
    );
  };

  // Uploads and flushes go to the sink in the order in which they were posted.
  const pump = (): void => {
    while (!ended) {
      const next = queue[0];
      if (next === undefined) return;
      if (next.type === 'flush') {
        queue.shift();
        answer(next.id, sink.flush());
        continue;
      }
      const staging = free.pop();
      if (staging === undefined) return;
      queue.shift();
      const { slot, block, pieces } = next;
      let begin = Infinity;
      let stop = 0;
      for (const piece of pieces) {
        begin = Math.min(begin, piece.slotOffset);
        stop = Math.max(stop, piece.slotOffset + piece.nbytes);
      }
      sink.slot(staging).set(new Uint8Array(block, begin, stop - begin), begin);
      const upload = sink.upload(staging, pieces);
      // To the worker a block that is back is one whose bytes come before whatever is submitted from now on
      const freed = (): void => {
        post({ type: 'freed', slot, block }, [block]);
      };
      if (!sink.queuesLater) freed();
      upload
        .then(() => {
          if (sink.queuesLater) freed();
          free.push(staging);
          guarded(pump);
        })
        .catch(fail);
    }
  };

  const guarded = (act: () => void): void => {
    try {
      act();
    } catch (error) {
      fail(error);
    }
  };

  const prepare = async ({
    slots,
    slotBytes,
    conversions,
  }: Extract<ToServer, { type: 'prepare' }>): Promise<void> => {
    const staging = stagingSlotsFor(slots);
    await sink.prepare(staging, slotBytes, conversions);
    for (let i = 0; i < staging; i++) free.push(i);
    pump();
  };

  const receive = (message: ToServer): void => {
    switch (message.type) {
      case 'prepare':
        prepare(message).catch(fail);
        break;
      case 'allocate':
        answer(message.id, sink.allocate(message.index, message.plan));
        break;
      case 'upload':
      case 'flush':
        queue.push(message);
        pump();
        break;
      case 'close':
        end(message.keepBuffers, undefined);
        break;
    }
  };

  port.addEventListener('message', (event) => {
    if (!ended)
      guarded(() => {
        receive((event as MessageEvent<ToServer>).data);
      });
  });
  port.addEventListener('messageerror', () => {
    fail(new SluiceError('internal', 'a message of the worker was unreadable'));
  });
  port.addEventListener('close', () => {
    fail(new SluiceError('aborted', 'the worker ended before it closed its sink'));
  });
  port.start();
  sink.onEnd(fail);
  return { finished, fail };
}
