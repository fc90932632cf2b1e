import { SluiceError } from '../errors.js';
import { STORE_ABI_VERSION, STORE_RUN } from '../generated/abi.js';
import type { Validators } from '../sources/source.js';
import { instantiate } from '../wasm/instance.js';
import { errorFromJson } from '../wasm/loader_module.js';

/** The functions of hosts/wasm/store_exports.txt. Addresses, handles and counts are numbers; see there. */
interface Exports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  sluice_store_abi_version(): number;
  sluice_allocate(nbytes: number): number;
  sluice_deallocate(address: number): void;
  sluice_initialize(): void;
  store_folder_name(key: number, length: number): number;
  store_model_new(key: number, length: number, now: number): number;
  store_model_replay(journal: number, nbytes: number): number;
  store_model_free(model: number): void;
  store_model_snapshot(model: number): number;
  store_model_file(
    model: number,
    path: number,
    pathLength: number,
    nbytes: number,
    etag: number,
    etagLength: number,
    lastModified: number,
    lastModifiedLength: number,
  ): number;
  store_model_add(
    model: number,
    file: number,
    begin: number,
    end: number,
    low: number,
    high: number,
  ): number;
  store_model_drop(model: number, file: number, begin: number, end: number): number;
  store_model_find(model: number, file: number, offset: number): number;
  store_model_checked(
    model: number,
    file: number,
    algorithm: number,
    algorithmLength: number,
    digest: number,
    digestLength: number,
  ): number;
  store_model_loaded(model: number, now: number): number;
  store_model_used(model: number, now: number): number;
  store_model_journal(model: number): number;
  store_model_compact(model: number): number;
  store_hash_new(): number;
  store_hash_free(hash: number): void;
  store_hash_reset(hash: number): void;
  store_hash_update(hash: number, address: number, nbytes: number): void;
  store_hash_digest(hash: number): number;
}

/** XXH3-64 of an extent's bytes. */
export interface Digest {
  readonly low: number;
  readonly high: number;
}

/** An extent of a file, or the gap between two; bytes. */
export interface Run {
  readonly stored: boolean;
  readonly begin: number;
  /** Infinity for a last gap where the file's size is not known. */
  readonly end: number;
  /** Of a stored one. */
  readonly digest: Digest;
}

export interface StoredFileInfo {
  index: number;
  path: string;
  /** Null where it was never learned. */
  nbytes: number | null;
  etag: string;
  last_modified: string;
  stored_bytes: number;
  complete: boolean;
  checked: { algorithm: string; digest: string }[];
}

/** What a stored model's journal says (core/store/stored_model.h). Times are milliseconds since 1970. */
export interface StoredModelInfo {
  key: string;
  created_ms: number;
  used_ms: number;
  /** When a load from the present state completed; null where none has. */
  loaded_ms: number | null;
  stored_bytes: number;
  journal_bytes: number;
  /** How many times the journal was compacted. */
  generation: number;
  files: StoredFileInfo[];
}

/** How much is hashed at a time; what it takes of memory stays for as long as the instance. */
const HASH_BYTES = 256 * 1024;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** An instance of sluice_store.wasm: keeps what a journal says, and digests. */
export class StoreModule {
  readonly #exports: Exports;
  #hashBuffer = 0;

  private constructor(exports: Exports) {
    this.#exports = exports;
  }

  static async create(module: WebAssembly.Module): Promise<StoreModule> {
    const exports = await instantiate<Exports>(module, 'sluice_store.wasm', {
      wanted: STORE_ABI_VERSION,
      of: (exports) => exports.sluice_store_abi_version(),
    });
    return new StoreModule(exports);
  }

  /** The name of the folder of the model with this key: 32 hexadecimal digits. */
  folderName(key: string): string {
    return this.#withBytes(encoder.encode(key), (address, length) =>
      this.#text(this.#exports.store_folder_name(address, length)),
    );
  }

  /** A model of which nothing is stored. */
  fresh(key: string): StoredModel {
    return this.#withBytes(encoder.encode(key), (address, length) => {
      const { value } = this.#result(this.#exports.store_model_new(address, length, Date.now()));
      return new StoredModel(this, value);
    });
  }

  /** What a journal says, as far as it is whole: `validBytes` of it. Throws `store_corrupt` if it is none. */
  replay(journal: Uint8Array): { model: StoredModel; validBytes: number } {
    return this.#withBytes(journal, (address, length) => {
      const result = this.#result(this.#exports.store_model_replay(address, length));
      const { valid_bytes: validBytes } = JSON.parse(decoder.decode(result.bytes)) as {
        valid_bytes: number;
      };
      return { model: new StoredModel(this, result.value), validBytes };
    });
  }

  /** A running digest; free() it. */
  hash(): RunningDigest {
    const { memory } = this.#exports;
    this.#hashBuffer ||= this.#exports.sluice_allocate(HASH_BYTES);
    return new RunningDigest(this.#exports, memory, this.#hashBuffer);
  }

  // For StoredModel

  /** @internal */
  get raw(): Exports {
    return this.#exports;
  }

  /** @internal Checks a call's result, whose bytes are valid until the next call. */
  result(address: number): { bytes: Uint8Array; value: number } {
    return this.#result(address);
  }

  /** @internal */
  withTexts<T>(texts: string[], call: (at: (readonly [number, number])[]) => T): T {
    const bytes = texts.map((text) => encoder.encode(text));
    const all = new Uint8Array(bytes.reduce((sum, { byteLength }) => sum + byteLength, 0));
    const places: [number, number][] = [];
    let offset = 0;
    for (const part of bytes) {
      all.set(part, offset);
      places.push([offset, part.byteLength]);
      offset += part.byteLength;
    }
    return this.#withBytes(all, (address) =>
      call(places.map(([at, length]) => [address + at, length] as const)),
    );
  }

  #text(address: number): string {
    return decoder.decode(this.#result(address).bytes);
  }

  #result(address: number): { bytes: Uint8Array; value: number } {
    const { buffer } = this.#exports.memory;
    const [status = 0, data = 0, length = 0, value = 0] = new Uint32Array(buffer, address, 4);
    const bytes = new Uint8Array(buffer, data, length);
    if (status !== 0) throw errorFromJson(decoder.decode(bytes));
    return { bytes, value };
  }

  #withBytes<T>(bytes: Uint8Array, call: (address: number, length: number) => T): T {
    const address = this.#exports.sluice_allocate(bytes.byteLength);
    new Uint8Array(this.#exports.memory.buffer).set(bytes, address);
    try {
      return call(address, bytes.byteLength);
    } finally {
      this.#exports.sluice_deallocate(address);
    }
  }
}

/** Digests what it is given piece by piece. */
export class RunningDigest {
  readonly #exports: Exports;
  readonly #memory: WebAssembly.Memory;
  readonly #buffer: number;
  readonly #hash: number;

  constructor(exports: Exports, memory: WebAssembly.Memory, buffer: number) {
    this.#exports = exports;
    this.#memory = memory;
    this.#buffer = buffer;
    this.#hash = exports.store_hash_new();
  }

  update(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.byteLength; at += HASH_BYTES) {
      const part = bytes.subarray(at, at + HASH_BYTES);
      this.window(part.byteLength).set(part);
      this.take(part.byteLength);
    }
  }

  /** Room of `nbytes` bytes, at most HASH_BYTES, to be filled and then take()n: saves a copy. */
  window(nbytes: number): Uint8Array {
    return new Uint8Array(this.#memory.buffer, this.#buffer, Math.min(nbytes, HASH_BYTES));
  }

  take(nbytes: number): void {
    this.#exports.store_hash_update(this.#hash, this.#buffer, nbytes);
  }

  /** The digest of everything since the last call. */
  finish(): Digest {
    const address = this.#exports.store_hash_digest(this.#hash);
    const { buffer } = this.#memory;
    const data = new Uint32Array(buffer, address, 4)[1] ?? 0;
    const view = new DataView(buffer, data, 8);
    const digest = { low: view.getUint32(0, true), high: view.getUint32(4, true) };
    this.#exports.store_hash_reset(this.#hash);
    return digest;
  }

  free(): void {
    this.#exports.store_hash_free(this.#hash);
  }
}

/** What is stored of one model: core/store/stored_model.h. Each change waits in journal() to be appended. */
export class StoredModel {
  readonly #module: StoreModule;
  #address: number;

  constructor(module: StoreModule, handle: number) {
    this.#module = module;
    this.#address = handle;
  }

  /** Everything else throws `aborted` from then on. Safe to call again. */
  free(): void {
    if (this.#address !== 0) this.#module.raw.store_model_free(this.#address);
    this.#address = 0;
  }

  get #handle(): number {
    if (this.#address === 0) throw new SluiceError('aborted', 'the store was closed');
    return this.#address;
  }

  snapshot(): StoredModelInfo {
    const { bytes } = this.#module.result(this.#module.raw.store_model_snapshot(this.#handle));
    return JSON.parse(decoder.decode(bytes)) as StoredModelInfo;
  }

  /**
   * The index of the file at `path`, which is made if new. `changed`: what was stored of it is of another version,
   * and dropped.
   */
  file(
    path: string,
    nbytes: number | undefined,
    { etag, lastModified }: Validators,
  ): { index: number; changed: boolean } {
    return this.#module.withTexts(
      [path, etag, lastModified],
      ([name = [0, 0], tag = [0, 0], modified = [0, 0]]) => {
        const { bytes, value } = this.#module.result(
          this.#module.raw.store_model_file(
            this.#handle,
            ...name,
            nbytes ?? -1,
            ...tag,
            ...modified,
          ),
        );
        const { changed } = JSON.parse(decoder.decode(bytes)) as { changed: boolean };
        return { index: value, changed };
      },
    );
  }

  /** Bytes [begin, end) are stored. Throws `invalid_argument` where some of them are already. */
  add(file: number, begin: number, end: number, { low, high }: Digest): void {
    this.#module.result(
      this.#module.raw.store_model_add(this.#handle, file, begin, end, low, high),
    );
  }

  /** Forgets every extent that has bytes of [begin, end). */
  drop(file: number, begin: number, end: number): void {
    this.#module.result(this.#module.raw.store_model_drop(this.#handle, file, begin, end));
  }

  /** The extent or the gap in which `offset` lies. */
  find(file: number, offset: number): Run {
    const { bytes } = this.#module.result(
      this.#module.raw.store_model_find(this.#handle, file, offset),
    );
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return {
      stored: view.getUint32(STORE_RUN.stored, true) !== 0,
      digest: {
        low: view.getUint32(STORE_RUN.digest_low, true),
        high: view.getUint32(STORE_RUN.digest_high, true),
      },
      begin: view.getFloat64(STORE_RUN.begin, true),
      end: view.getFloat64(STORE_RUN.end, true),
    };
  }

  /** The whole file was checked against a digest from outside. */
  checked(file: number, algorithm: string, digest: string): void {
    this.#module.withTexts([algorithm, digest], ([name = [0, 0], text = [0, 0]]) => {
      this.#module.result(
        this.#module.raw.store_model_checked(this.#handle, file, ...name, ...text),
      );
    });
  }

  loaded(): void {
    this.#module.result(this.#module.raw.store_model_loaded(this.#handle, Date.now()));
  }

  used(): void {
    this.#module.result(this.#module.raw.store_model_used(this.#handle, Date.now()));
  }

  /** What is to be appended to the journal: everything since the last call. */
  journal(): Uint8Array<ArrayBuffer> {
    return this.#module.result(this.#module.raw.store_model_journal(this.#handle)).bytes.slice();
  }

  /** A journal that says the same in fewer records, in place of the present one. */
  compact(): Uint8Array<ArrayBuffer> {
    return this.#module.result(this.#module.raw.store_model_compact(this.#handle)).bytes.slice();
  }
}
