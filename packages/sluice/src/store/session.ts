import { asSluiceError, SluiceError } from '../errors.js';
import type { StoredBytes, Validators } from '../sources/source.js';
import { BlockPool } from './block_pool.js';
import { ExtentWriter } from './extent_writer.js';
import type { StoreFolder, SyncFile } from './files.js';
import { LocalIo, type StoreIo } from './io.js';
import type { Release } from './locks.js';
import type { StorePlatform } from './platform.js';
import { openModelFolder, RemoteIo } from './remote_io.js';
import {
  StoreModule,
  type Run,
  type StoredFileInfo,
  type StoredModel,
  type StoredModelInfo,
} from './store_module.js';

export const JOURNAL = 'journal';
/** No journal is longer: that of 3 TB in extents of 4 MiB. */
export const MAX_JOURNAL_BYTES = 64 * 2 ** 20;
/** A journal longer than this many bytes a stored file and twice its compacted length is written anew. */
const COMPACT_FROM_BYTES = 1 << 20;
const MAX_OFFSET = 2 ** 53;
const NO_VALIDATORS: Validators = { etag: '', lastModified: '' };
/** Extents that are verified ahead of the one that is wanted. */
const VERIFY_AHEAD = 6;

/** What a load had of the store. */
export interface StoreReport {
  /** Bytes that came from the store. */
  readBytes: number;
  /** Bytes that were fetched and stored. */
  storedBytes: number;
  /** Bytes that were found damaged and fetched again. */
  damagedBytes: number;
  /** Why nothing more is stored; undefined where all was. */
  problem?: string;
}

/** What a manifest says of a file beyond its bytes. */
export interface FileChecksum {
  path: string;
  algorithm: 'md5' | 'sha256';
  digest: string;
}

/** Names of the locks of one model: 'use' is shared by who reads, 'write' is held by the one who fetches. */
export function lockName(root: string, folder: string, what: 'use' | 'write'): string {
  return `sluice/${root}/${folder}/${what}`;
}

interface OpenFile {
  index: number;
  name: string;
}

/**
 * One load's use of one stored model. Reads need no permission but the shared lock; what must be fetched is fetched
 * under the write lock, for which a second load of the same model waits, to find the bytes stored then.
 */
export class ModelSession {
  readonly report: StoreReport = { readBytes: 0, storedBytes: 0, damagedBytes: 0 };
  readonly #platform: StorePlatform;
  readonly #module: StoreModule;
  readonly #key: string;
  readonly #folderName: string;
  readonly #folder: StoreFolder;
  readonly #signal: AbortSignal | undefined;
  readonly #ios: StoreIo[];
  readonly #local: LocalIo | undefined;
  readonly #pool: BlockPool;
  #model: StoredModel;
  #files = new Map<string, OpenFile>();
  #loaded: boolean;
  readonly #validated = new Set<string>();
  readonly #verified = new Map<string, Promise<boolean>>();
  readonly #sized = new Map<string, Promise<void>>();
  readonly #pending = new Set<Promise<void>>();
  readonly #writers = new Set<ExtentWriter>();
  #nextWriter = 1;
  #nextVerifier = 0;
  readonly #releaseUse: Release | undefined;
  #releaseWrite: Release | undefined;
  #becomingWriter: Promise<boolean> | undefined;
  #journalEnd = 0;
  #appending: Promise<void> | undefined;
  #off: SluiceError | undefined;
  #closed: Promise<void> | undefined;

  private constructor(parts: {
    platform: StorePlatform;
    module: StoreModule;
    key: string;
    folderName: string;
    folder: StoreFolder;
    signal: AbortSignal | undefined;
    ios: StoreIo[];
    local: LocalIo | undefined;
    model: StoredModel;
    poolBytes: number;
    releaseUse: Release | undefined;
  }) {
    this.#platform = parts.platform;
    this.#module = parts.module;
    this.#key = parts.key;
    this.#folderName = parts.folderName;
    this.#folder = parts.folder;
    this.#signal = parts.signal;
    this.#ios = parts.ios;
    this.#local = parts.local;
    this.#model = parts.model;
    this.#pool = new BlockPool(parts.poolBytes);
    this.#releaseUse = parts.releaseUse;
    this.#loaded = this.#learn();
  }

  /**
   * Opens what is stored under `key`, which may be nothing yet. `poolBytes` is the memory for bytes on their way to
   * the store. Rejects with `io` where there is no store here, with `aborted`.
   */
  static async open(
    platform: StorePlatform,
    key: string,
    options: { poolBytes: number; signal?: AbortSignal | undefined },
  ): Promise<ModelSession> {
    const { signal } = options;
    const compiled = await platform.module();
    const module = await StoreModule.create(compiled);
    const folderName = module.folderName(key);
    const root = platform.place.root;
    const releaseUse = await platform.locks.take(lockName(root, folderName, 'use'), 'shared', {
      wait: true,
      signal,
    });
    const ios: StoreIo[] = [];
    try {
      const folder = await openModelFolder(() => platform.openRoot(), platform.place, folderName);
      const local = platform.ownFiles ? new LocalIo(folder, module) : undefined;
      if (platform.sharedFiles && platform.threads > 0) {
        for (let i = 0; i < platform.threads; i++) {
          ios.push(new RemoteIo(platform.startWorker(), compiled, platform.place, folderName));
        }
      } else if (local) {
        ios.push(local);
      } else {
        throw new SluiceError('io', 'this browser cannot open files of the store in this thread');
      }
      const journal = await folder.peek(JOURNAL, MAX_JOURNAL_BYTES);
      const model = restore(module, key, journal).model;
      const { poolBytes } = options;
      return new ModelSession({
        platform,
        module,
        key,
        folderName,
        folder,
        signal,
        ios,
        local,
        model,
        poolBytes,
        releaseUse,
      });
    } catch (error) {
      for (const io of ios) void io.close();
      releaseUse?.();
      throw asSluiceError(error);
    }
  }

  /** A load has completed from what is stored, so that nothing needs asking a server. */
  get loaded(): boolean {
    return this.#loaded;
  }

  has(path: string): boolean {
    return this.#files.has(path);
  }

  /** The file's size in bytes, where it is known. */
  fileBytes(path: string): number | undefined {
    return this.#info(path)?.nbytes ?? undefined;
  }

  /** The extent or gap at `offset`; a gap where nothing is known of the file. */
  find(path: string, offset: number): Run {
    const file = this.#files.get(path);
    const size = this.fileBytes(path) ?? Infinity;
    if (file && offset < size) return this.#model.find(file.index, offset);
    return { stored: false, begin: 0, end: size, digest: { low: 0, high: 0 } };
  }

  /** True where some of the file is stored, and the server must be asked whether it is still that file. */
  mustValidate(path: string): boolean {
    return !this.#loaded && !this.#validated.has(path) && (this.#info(path)?.stored_bytes ?? 0) > 0;
  }

  /**
   * Tells what the server says of a file. Where that is another version than the stored one, what was stored of it is
   * forgotten, and where bytes of it were given out already, that is `source_changed`.
   */
  learn(path: string, nbytes: number | undefined, validators: Validators): void {
    const known = this.#info(path);
    const first = !this.#validated.has(path);
    this.#validated.add(path);
    // Of a file that names no version, only a whole one can be trusted to be of one piece
    const unnamed = validators.etag === '' && validators.lastModified === '';
    if (first && known && unnamed && !known.complete && known.stored_bytes > 0) {
      this.#model.drop(known.index, 0, MAX_OFFSET);
    }
    // Within one load the origin itself watches the version, of which each of its servers has its own name
    const { index, changed } = this.#model.file(path, nbytes, first ? validators : NO_VALIDATORS);
    this.#files.set(path, { index, name: String(index) });
    if (!changed) return;
    this.#loaded = false;
    this.forgetVerified(path);
    if (this.#given.has(path)) {
      throw new SluiceError(
        'source_changed',
        `${path}: the file on the server is another one than was stored, of which a part is loaded already`,
        { file: path, hint: 'Load the model again: only this file is fetched.' },
      );
    }
  }

  /** Files of which stored bytes were given out. */
  readonly #given = new Set<string>();

  /** Forgets what is stored of a file. */
  drop(path: string, begin = 0, end = MAX_OFFSET): void {
    const file = this.#files.get(path);
    if (!file) return;
    this.#model.drop(file.index, begin, end);
    this.#loaded = false;
    this.forgetVerified(path);
    if (this.#releaseWrite) this.#append();
  }

  private forgetVerified(path: string): void {
    for (const key of this.#verified.keys()) {
      if (key.startsWith(`${path}\n`)) this.#verified.delete(key);
    }
  }

  /**
   * Becomes the one who fetches and stores, waiting for another that does so; what that one stored is known then.
   * False where storing has ended.
   */
  writable(): Promise<boolean> {
    if (this.#off) return Promise.resolve(false);
    if (this.#releaseWrite) return Promise.resolve(true);
    this.#becomingWriter ??= this.#becomeWriter().finally(() => {
      this.#becomingWriter = undefined;
    });
    return this.#becomingWriter;
  }

  async #becomeWriter(): Promise<boolean> {
    const name = lockName(this.#platform.place.root, this.#folderName, 'write');
    const release = await this.#platform.locks.take(name, 'exclusive', {
      wait: true,
      signal: this.#signal,
    });
    if (this.#closed) {
      release?.();
      return false;
    }
    this.#releaseWrite = release;
    try {
      await this.#reread();
      return true;
    } catch (error) {
      this.#stopStoring(error);
      return false;
    }
  }

  /** Takes up the journal as it is now, and begins one where there is none. */
  async #reread(): Promise<void> {
    const journal = await this.#folder.peek(JOURNAL, MAX_JOURNAL_BYTES);
    // What was learned here since, under no lock, must not be lost: files and drops come again by themselves
    const { model, validBytes } = restore(this.#module, this.#key, journal);
    this.#model.free();
    this.#model = model;
    this.#journalEnd = validBytes;
    this.#loaded = this.#learn();
    this.#validated.clear();
    const total = model.snapshot().journal_bytes;
    if (validBytes > COMPACT_FROM_BYTES) {
      const compacted = model.compact();
      if (compacted.byteLength * 2 < total) {
        const length = compacted.byteLength;
        await this.#first.append(JOURNAL, 0, compacted);
        this.#journalEnd = length;
        return;
      }
    }
    this.#append();
    await this.#appending;
    if (this.#off) throw this.#off;
  }

  get #first(): StoreIo {
    const [io] = this.#ios;
    if (!io) throw new SluiceError('internal', 'the store has nobody to write');
    return io;
  }

  /** A writer for one transfer of a file whose version is learned; undefined where storing has ended. */
  async writer(path: string): Promise<ExtentWriter | undefined> {
    const file = this.#files.get(path);
    if (!file || this.#off || !this.#releaseWrite) return undefined;
    const { index, name } = file;
    const nbytes = this.fileBytes(path);
    if (nbytes !== undefined) {
      let sized = this.#sized.get(name);
      if (!sized) this.#sized.set(name, (sized = this.#first.resize(name, nbytes)));
      try {
        await sized;
      } catch (error) {
        this.#stopStoring(error);
        return undefined;
      }
    }
    const writer = new ExtentWriter({
      pool: this.#pool,
      find: (offset) => this.#model.find(index, offset),
      io: (offset) => {
        const turn = Math.floor(offset / 2 ** 22) % this.#ios.length;
        return { io: this.#ios[turn] ?? this.#first, writer: this.#nextWriter++, file: name };
      },
      pending: (work) => {
        this.#wait(work);
      },
      commit: (begin, end, digest) => {
        if (this.#files.get(path)?.index !== index) return;
        try {
          this.#model.add(index, begin, end, digest);
        } catch {
          return; // two transfers brought the same bytes
        }
        this.report.storedBytes += end - begin;
        this.#verified.set(verifiedKey(path, begin), Promise.resolve(true));
        this.#append();
      },
    });
    this.#writers.add(writer);
    return writer;
  }

  /** Ends a transfer's writer; what it has is kept. */
  ended(writer: ExtentWriter): void {
    writer.end();
    this.#writers.delete(writer);
  }

  /** Whether an extent's bytes are still what was stored; they are looked at once. A damaged extent is forgotten. */
  async verify(path: string, run: Run): Promise<boolean> {
    const wanted = this.#verifyOnce(path, run);
    let next = run.end;
    for (let ahead = 0; ahead < VERIFY_AHEAD; ahead++) {
      const following = this.find(path, next);
      if (!following.stored) break;
      void this.#verifyOnce(path, following).catch(() => undefined);
      next = following.end;
    }
    if (await wanted) return true;
    // Another reader of the same extent may have been here first
    const now = this.find(path, run.begin);
    if (now.stored && now.begin === run.begin && sameDigest(now, run)) {
      this.report.damagedBytes += run.end - run.begin;
      this.drop(path, run.begin, run.end);
    }
    return false;
  }

  #verifyOnce(path: string, run: Run): Promise<boolean> {
    const key = verifiedKey(path, run.begin);
    let verified = this.#verified.get(key);
    if (!verified) {
      const name = this.#files.get(path)?.name ?? '';
      const io = this.#ios[this.#nextVerifier++ % this.#ios.length] ?? this.#first;
      verified = io
        .digest(name, run.begin, run.end)
        .then((digest) => digest?.low === run.digest.low && digest.high === run.digest.high);
      this.#verified.set(key, verified);
    }
    return verified;
  }

  /** Bytes [begin, end) of a verified extent. */
  async bytes(path: string, begin: number, end: number): Promise<StoredBytes | Uint8Array> {
    const file = this.#files.get(path);
    if (!file) throw new SluiceError('internal', `nothing of ${path} is stored`);
    this.#given.add(path);
    this.report.readBytes += end - begin;
    if (this.#local) return new FileBytes(await this.#local.file(file.name), path, begin, end);
    const block = (await this.#pool.take()) ?? new ArrayBuffer(this.#pool.blockBytes);
    const wanted = Math.min(end - begin, block.byteLength);
    const answer = await this.#first.read(file.name, begin, block, wanted);
    const bytes = new Uint8Array(answer.block.slice(0, answer.nbytes));
    this.#pool.give(answer.block);
    if (answer.nbytes !== wanted) throw damaged(path, begin, wanted, answer.nbytes);
    return bytes;
  }

  /** Makes sure that so many more bytes may be stored; `problem` says why not. Storing goes on where they may. */
  endStoring(error: SluiceError): void {
    this.#stopStoring(error);
  }

  /** Bytes of these files that are not stored yet. */
  missingBytes(files: readonly { path: string; nbytes?: number | undefined }[]): number {
    return files.reduce((sum, { path, nbytes }) => {
      const known = this.#info(path);
      return sum + Math.max((known?.nbytes ?? nbytes ?? 0) - (known?.stored_bytes ?? 0), 0);
    }, 0);
  }

  /**
   * The load is complete: waits for what is being written, checks whole files against their checksums, once, and
   * notes that the model is whole. Rejects with `checksum_mismatch`; the file is forgotten then.
   */
  async finish(checksums: readonly FileChecksum[]): Promise<void> {
    await this.#settle();
    const unchecked = checksums.flatMap((checksum) => {
      const info = this.#info(checksum.path);
      if (!info?.complete) return [];
      const done = info.checked.some(
        ({ algorithm, digest }) => algorithm === checksum.algorithm && digest === checksum.digest,
      );
      return done ? [] : [{ ...checksum, info }];
    });
    const lanes = this.#ios.map(async (io, lane) => {
      for (let i = lane; i < unchecked.length; i += this.#ios.length) {
        const file = unchecked[i];
        if (file) await this.#check(io, file);
      }
    });
    await Promise.all(lanes);
    await this.#noteLoaded();
    if (this.#off) this.report.problem = this.#off.message;
  }

  async #check(io: StoreIo, file: FileChecksum & { info: StoredFileInfo }): Promise<void> {
    const { info, path, algorithm, digest } = file;
    const actual = await io.checksum(String(info.index), info.nbytes ?? 0, algorithm);
    if (actual === digest) {
      this.#model.checked(info.index, algorithm, digest);
      return;
    }
    this.drop(path);
    throw new SluiceError(
      'checksum_mismatch',
      `${path}: the ${algorithm} of its ${info.nbytes ?? 0} bytes is ${actual}, and the manifest promises ${digest}`,
      {
        file: path,
        hint: 'What was stored of it is forgotten. Load again; if it stays so, the publisher must mend the files.',
      },
    );
  }

  async #noteLoaded(): Promise<void> {
    if (this.#off) return;
    if (!this.#releaseWrite) {
      // Only a note of when it was used: not worth waiting for
      const name = lockName(this.#platform.place.root, this.#folderName, 'write');
      this.#releaseWrite = await this.#platform.locks.take(name, 'exclusive', { wait: false });
      if (!this.#releaseWrite) return;
      try {
        await this.#reread();
      } catch (error) {
        this.#stopStoring(error);
        return;
      }
    }
    if (this.#loaded) this.#model.used();
    else this.#model.loaded();
    this.#loaded = true;
    this.#append();
    await this.#settle();
  }

  /** What is stored now. */
  snapshot(): StoredModelInfo {
    return this.#model.snapshot();
  }

  /** Rows of bytes of a file; see StoreIo.rows(). */
  rows(
    path: string,
    begin: number,
    rowBytes: number,
    rows: Uint32Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const file = this.#files.get(path);
    if (!file) return Promise.reject(new SluiceError('internal', `nothing of ${path} is stored`));
    return this.#first.rows(file.name, begin, rowBytes, rows);
  }

  /** Keeps what has been written, closes every file and gives up the locks. Never rejects. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    for (const writer of this.#writers) writer.end();
    this.#writers.clear();
    await this.#settle();
    this.#pool.close();
    await Promise.all(
      [...this.#ios, ...(this.#local ? [this.#local] : [])].map((io) => io.close()),
    );
    this.#model.free();
    this.#releaseWrite?.();
    this.#releaseUse?.();
  }

  #info(path: string): StoredFileInfo | undefined {
    const file = this.#files.get(path);
    return file && this.#model.snapshot().files.find(({ index }) => index === file.index);
  }

  /** Reads from the model which files there are; gives whether a load has completed from it. */
  #learn(): boolean {
    const { files, loaded_ms: loaded } = this.#model.snapshot();
    this.#files = new Map(
      files.map(({ path, index }) => [path, { index, name: String(index) }] as const),
    );
    return loaded !== null;
  }

  #wait(work: Promise<void>): void {
    const settled = work
      .catch((error: unknown) => {
        this.#stopStoring(error);
      })
      .finally(() => this.#pending.delete(settled));
    this.#pending.add(settled);
  }

  async #settle(): Promise<void> {
    while (this.#pending.size > 0 || this.#appending) {
      await Promise.all([...this.#pending, this.#appending]);
    }
  }

  /** Appends what the model has to say to the journal, one piece after the other. */
  #append(): void {
    if (this.#appending || this.#off || !this.#releaseWrite) return;
    const bytes = this.#model.journal();
    if (bytes.byteLength === 0) return;
    const length = bytes.byteLength;
    this.#appending = this.#first
      .append(JOURNAL, this.#journalEnd, bytes)
      .then(
        () => {
          this.#journalEnd += length;
        },
        (error: unknown) => {
          this.#stopStoring(error);
        },
      )
      .then(() => {
        this.#appending = undefined;
        this.#append();
      });
  }

  /** Nothing more is stored; the load goes on without. */
  #stopStoring(error: unknown): void {
    if (this.#off) return;
    this.#off = asSluiceError(error);
    this.report.problem = this.#off.message;
    this.#pool.close();
  }
}

/** Bytes of a stored file, read when they are wanted. */
class FileBytes implements StoredBytes {
  readonly byteLength: number;
  readonly #file: SyncFile;
  readonly #path: string;
  readonly #begin: number;

  constructor(file: SyncFile, path: string, begin: number, end: number) {
    this.#file = file;
    this.#path = path;
    this.#begin = begin;
    this.byteLength = end - begin;
  }

  readInto(target: Uint8Array, from: number): void {
    const count = this.#file.read(target, this.#begin + from);
    if (count !== target.byteLength) {
      throw damaged(this.#path, this.#begin + from, target.byteLength, count);
    }
  }
}

function restore(
  module: StoreModule,
  key: string,
  journal: Uint8Array | undefined,
): { model: StoredModel; validBytes: number } {
  if (journal === undefined || journal.byteLength === 0) {
    return { model: module.fresh(key), validBytes: 0 };
  }
  try {
    const restored = module.replay(journal);
    if (restored.model.snapshot().key === key) return restored;
    restored.model.free();
  } catch {
    // Not a journal of ours: what is stored beside it is not known
  }
  return { model: module.fresh(key), validBytes: 0 };
}

function verifiedKey(path: string, begin: number): string {
  return `${path}\n${begin}`;
}

function sameDigest(a: Run, b: Run): boolean {
  return a.digest.low === b.digest.low && a.digest.high === b.digest.high;
}

function damaged(path: string, at: number, expected: number, actual: number): SluiceError {
  return new SluiceError(
    'store_corrupt',
    `${path}: ${actual} of ${expected} stored bytes could be read at ${at}`,
    { file: path, expected, actual, hint: 'Load the model again: what is missing is fetched.' },
  );
}
