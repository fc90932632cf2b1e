import { asSluiceError, SluiceError, type ErrorCode, type ErrorDetails } from '../errors.js';
import { KeptWorkers } from '../util/kept_workers.js';
import type { StoreFolder } from './files.js';
import { LocalIo, type ByteRange, type StoreIo } from './io.js';
import { StoreModule, type Digest } from './store_module.js';

/** The store's folder as a worker can be told of it: a name in the browser's file system, or a path of the disk. */
export interface StorePlace {
  readonly root: string;
}

/** Where messages go and come from: a worker, or a worker's own scope. */
export interface Port {
  postMessage(message: unknown, transfer?: ArrayBuffer[]): void;
  /** Tells of messages, and of a failure of the other side as a whole, from now on these alone. */
  listen(onMessage: (message: unknown) => void, onFailure: (reason: string) => void): void;
  /** Whether an answer is awaited, for which a process that has nothing else to do must stay. */
  hold(waiting: boolean): void;
  /** Ends the other side; what it was doing is lost. */
  terminate(): void;
}

/** As many as one load has: of the loads of a page or program mostly one is under way. */
const KEPT_WORKERS = 3;

/** Workers that serve store operations, for one session after the other. */
export class StoreWorkers {
  readonly #start: () => Promise<Port>;
  readonly #kept = new KeptWorkers<Port>(KEPT_WORKERS, {
    rest(port, gone) {
      port.listen(() => undefined, gone);
      port.hold(false); // listening holds it
    },
    end(port) {
      port.terminate();
    },
  });

  /** `start` gives a new one. */
  constructor(start: () => Promise<Port>) {
    this.#start = start;
  }

  /** One that waits, or a new one. Its failures are the taker's to hear. */
  take(): Promise<Port> {
    const kept = this.#kept.take();
    return kept ? Promise.resolve(kept) : this.#start();
  }

  /** Takes back one that has closed everything. */
  give(port: Port): void {
    this.#kept.give(port);
  }
}

type Method = Exclude<keyof StoreIo, 'close' | 'ready'>;

type Request =
  | { id: number; open: { module: WebAssembly.Module; place: StorePlace; folder: string } }
  | { id: number; method: Method; args: unknown[] }
  | { id: number; close: true };

type Answer =
  | { id: number; value: unknown }
  | { id: number; error: ErrorDetails & { code: ErrorCode; message: string } };

/** The worker's half: carries out what it is asked on one model's folder. */
export function serveIo(port: Port, openRoot: (place: StorePlace) => Promise<StoreFolder>): void {
  let io: Promise<LocalIo> | undefined;

  async function answer(request: Request): Promise<unknown> {
    if ('open' in request) {
      const { module, place, folder } = request.open;
      io = Promise.all([openModelFolder(openRoot, place, folder), StoreModule.create(module)]).then(
        ([opened, instance]) => new LocalIo(opened, instance),
      );
      await io;
      return undefined;
    }
    if (!io) throw new SluiceError('internal', 'the store worker has no folder');
    const local = await io;
    if ('close' in request) return local.close();
    const { method, args } = request;
    return (local[method] as (...all: unknown[]) => Promise<unknown>).apply(local, args);
  }

  port.listen(
    (message) => {
      const request = message as Request;
      answer(request).then(
        (value) => {
          port.postMessage({ id: request.id, value } satisfies Answer, transferables(value));
        },
        (error: unknown) => {
          port.postMessage({
            id: request.id,
            error: asSluiceError(error).toJSON(),
          } satisfies Answer);
        },
      );
    },
    () => undefined,
  );
}

/** The folder of all models below the store's root, made where it is not there. */
export async function openModelsFolder(
  openRoot: (place: StorePlace) => Promise<StoreFolder>,
  place: StorePlace,
): Promise<StoreFolder> {
  return (await openRoot(place)).folder('models', true);
}

/** The folder of one model in it, made where it is not there. */
async function openModelFolder(
  openRoot: (place: StorePlace) => Promise<StoreFolder>,
  place: StorePlace,
  folder: string,
): Promise<StoreFolder> {
  return (await openModelsFolder(openRoot, place)).folder(folder, true);
}

/** Of all requests of this thread, since a worker serves one session after the other. */
let nextId = 1;

/** The operations in a worker. */
export class RemoteIo implements StoreIo {
  /** The worker runs and has opened the folder. */
  ready = false;
  readonly #port: Promise<Port>;
  readonly #waiting = new Map<
    number,
    { resolve: (value: unknown) => void; reject: (error: unknown) => void }
  >();
  readonly #release: (port: Port) => void;
  #failed: SluiceError | undefined;

  /**
   * Opens a model's folder in a worker; what is asked meanwhile waits there, and fails where that fails. `release` takes
   * the worker back once it has closed everything; one that failed is ended.
   */
  constructor(
    started: Promise<Port>,
    release: (port: Port) => void,
    module: WebAssembly.Module,
    place: StorePlace,
    folder: string,
  ) {
    this.#release = release;
    this.#port = started.then((port) => {
      port.listen(
        (message) => {
          this.#answered(message as Answer);
        },
        (reason) => {
          this.#failedWorker(reason);
        },
      );
      return port;
    });
    this.#port.catch((error: unknown) => {
      this.#failedWorker(asSluiceError(error).message);
    });
    this.#ask({ id: nextId++, open: { module, place, folder } }).then(
      () => {
        this.ready = true;
      },
      (error: unknown) => {
        this.#fail(asSluiceError(error));
      },
    );
  }

  async resize(file: string, nbytes: number): Promise<void> {
    await this.#call('resize', [file, nbytes]);
  }

  async write(
    writer: number,
    file: string,
    at: number,
    block: ArrayBuffer,
    nbytes: number,
    last: boolean,
  ): Promise<{ block: ArrayBuffer; digest?: Digest }> {
    const answer = await this.#call('write', [writer, file, at, block, nbytes, last], [block]);
    return answer as { block: ArrayBuffer; digest?: Digest };
  }

  async end(writer: number): Promise<Digest> {
    return (await this.#call('end', [writer])) as Digest;
  }

  async prepare(file: string): Promise<void> {
    await this.#call('prepare', [file]);
  }

  async digests(file: string, ranges: readonly ByteRange[]): Promise<(Digest | undefined)[]> {
    return (await this.#call('digests', [file, ranges])) as (Digest | undefined)[];
  }

  async extent(
    file: string,
    range: ByteRange,
    block: ArrayBuffer,
  ): Promise<{ block: ArrayBuffer; digest: Digest | undefined }> {
    const answer = await this.#call('extent', [file, range, block], [block]);
    return answer as { block: ArrayBuffer; digest: Digest | undefined };
  }

  async checksum(file: string, nbytes: number, algorithm: 'md5' | 'sha256'): Promise<string> {
    return (await this.#call('checksum', [file, nbytes, algorithm])) as string;
  }

  async read(
    file: string,
    at: number,
    block: ArrayBuffer,
    nbytes: number,
  ): Promise<{ block: ArrayBuffer; nbytes: number }> {
    const answer = await this.#call('read', [file, at, block, nbytes], [block]);
    return answer as { block: ArrayBuffer; nbytes: number };
  }

  async rows(
    file: string,
    begin: number,
    rowBytes: number,
    rows: Uint32Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    return (await this.#call('rows', [file, begin, rowBytes, rows])) as Uint8Array<ArrayBuffer>;
  }

  async append(file: string, at: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    await this.#call('append', [file, at, bytes], [bytes.buffer]);
  }

  async flush(): Promise<void> {
    await this.#call('flush', []);
  }

  async close(): Promise<void> {
    // One that does not run yet has nothing open, and nobody waits for it to start
    const closed =
      this.ready &&
      (await this.#ask({ id: nextId++, close: true }).then(
        () => true,
        () => false,
      ));
    this.#fail(new SluiceError('aborted', 'the store was closed'));
    void this.#port.then(
      (port) => {
        if (closed) this.#release(port);
        else port.terminate();
      },
      () => undefined,
    );
  }

  #call(method: Method, args: unknown[], transfer: ArrayBuffer[] = []): Promise<unknown> {
    return this.#ask({ id: nextId++, method, args }, transfer);
  }

  #ask(request: Request, transfer: ArrayBuffer[] = []): Promise<unknown> {
    if (this.#failed) return Promise.reject(this.#failed);
    return new Promise((resolve, reject) => {
      this.#waiting.set(request.id, { resolve, reject });
      this.#port
        .then((port) => {
          if (this.#waiting.size > 0) port.hold(true);
          port.postMessage(request, transfer);
        })
        .catch((error: unknown) => {
          // Where the worker did not start, everything that waits has been told
          this.#waiting.delete(request.id);
          reject(asSluiceError(error));
        });
    });
  }

  /** Nothing is awaited any more: an idle store keeps no process running. */
  #idle(): void {
    void this.#port.then(
      (port) => {
        if (this.#waiting.size === 0) port.hold(false);
      },
      () => undefined,
    );
  }

  #answered(answer: Answer): void {
    const waiting = this.#waiting.get(answer.id); // none for the worker's word that it is ready
    this.#waiting.delete(answer.id);
    if (this.#waiting.size === 0) this.#idle();
    if ('error' in answer) {
      const { code, message, ...details } = answer.error;
      waiting?.reject(new SluiceError(code, message, details));
    } else {
      waiting?.resolve(answer.value);
    }
  }

  #failedWorker(reason: string): void {
    this.#fail(new SluiceError('io', `the store's worker failed: ${reason}`));
  }

  #fail(error: SluiceError): void {
    this.#failed ??= error;
    for (const { reject } of this.#waiting.values()) reject(this.#failed);
    this.#waiting.clear();
    this.#idle();
  }
}

/** What of an answer is handed over instead of copied. */
function transferables(value: unknown): ArrayBuffer[] {
  if (value instanceof ArrayBuffer) return [value];
  if (value instanceof Uint8Array && value.buffer instanceof ArrayBuffer) return [value.buffer];
  const { block } = (value ?? {}) as { block?: unknown };
  return block instanceof ArrayBuffer ? [block] : [];
}
