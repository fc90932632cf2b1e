import { asSluiceError, SluiceError } from '../errors.js';
import type { StoredBytes, Validators } from '../sources/source.js';
import { BlockPool } from './block_pool.js';
import { allClosed } from './closing.js';
import { ExtentVerifier } from './extent_verifier.js';
import { EXTENT_BYTES, ExtentWriter } from './extent_writer.js';
import type { StoreFolder, SyncFile } from './files.js';
import { LocalIo, type StoreIo } from './io.js';
import {
  FIRST_SLOT,
  otherSlot,
  readJournal,
  type Journal,
  type JournalSlot,
} from './journal_slots.js';
import { ModelLocks } from './model_locks.js';
import type { StorePlatform } from './platform.js';
import { openModelsFolder, RemoteIo, type Port } from './remote_io.js';
import {
  StoreModule,
  type Run,
  type StoredFileInfo,
  type StoredModel,
  type StoredModelInfo,
} from './store_module.js';

/** A journal longer than this many bytes a stored file and twice its compacted length is written anew. */
const COMPACT_FROM_BYTES = 1 << 20;
const MAX_OFFSET = 2 ** 53;
/** Of what is not stored yet, or never. */
const NO_DIGEST: Run['digest'] = { low: 0, high: 0 };
const NO_VALIDATORS: Validators = { etag: '', lastModified: '' };
/** Bytes that are taken at a time of a file that another tab holds. */
const SLICE_BYTES = 2 ** 20;
/** Memory for what is fetched again where all is stored and some of it is damaged. */
const REPAIR_BYTES = 2 * 2 ** 20;
/** Of rows so many bytes at least are worth asking another thread for. */
const LANE_BYTES = 256 * 1024;
/** A model is noted as used again after so long. */
const USED_AGAIN_MS = 60 * 60 * 1000;
/** Files that are opened before they are asked for: of most models the manifest and what two transfers begin with. */
const OPENED_AHEAD = 3;

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

/** Memory is in bytes. */
export interface SessionOptions {
  poolBytes: number;
  readAheadBytes?: number;
  signal?: AbortSignal | undefined;
}

/** What a manifest says of a file beyond its bytes. */
export interface FileChecksum {
  path: string;
  algorithm: 'md5' | 'sha256';
  digest: string;
}

/** A checksum, and the file as it was when it was looked at. */
type FileCheck = FileChecksum & { readonly info: StoredFileInfo };

interface OpenFile {
  readonly index: number;
  readonly name: string;
  /** Size in bytes, where it is known. */
  nbytes: number | undefined;
}

/**
 * One load's use of one stored model. Reads need no permission but the shared lock; what must be fetched is fetched
 * under the write lock, for which a second load of the same model waits, to find the bytes stored then.
 */
export class ModelSession {
  readonly report: StoreReport = { readBytes: 0, storedBytes: 0, damagedBytes: 0 };
  readonly #module: StoreModule;
  readonly #key: string;
  readonly #folder: StoreFolder;
  /** Ends what waits for a lock: the caller's signal, or close(). */
  readonly #giveUp: AbortController;
  readonly #locks: ModelLocks;
  readonly #ios: StoreIo[];
  readonly #local: LocalIo | undefined;
  readonly #pool: BlockPool;
  /** Extents for which there is memory, where all that is wanted is stored. */
  readonly #readAhead: number;
  #model: StoredModel;
  /** What the model has told of itself, until it changes. */
  #known: StoredModelInfo | undefined;
  #files = new Map<string, OpenFile>();
  #loaded: boolean;
  readonly #validated = new Set<string>();
  /** What the source says that the SHA-256 of files is. */
  readonly #promised = new Map<string, string>();
  readonly #verifier: ExtentVerifier;
  /** What files were held to in this load, and are. */
  readonly #checks: FileCheck[] = [];
  /** Files that were asked to be made as long as they will be. */
  readonly #sized = new Set<string>();
  readonly #pending = new Set<Promise<void>>();
  readonly #writers = new Set<ExtentWriter>();
  #nextWriter = 1;
  /** What is written may take the place of what others read. */
  #overwrites = false;
  /** Sizes that nobody had told and the end of a body has shown; true only if the load ends well. */
  readonly #ends = new Map<string, number>();
  /** Stored bytes cannot be read here; they are fetched as if there were none. */
  #unreadable = false;
  readonly #damaged = new Set<string>();
  /** Extents that are written and not committed yet. */
  readonly #arriving = new Set<{ path: string; begin: number; end: number; done: Promise<void> }>();
  #becomingWriter: Promise<boolean> | undefined;
  #journalSlot: JournalSlot = FIRST_SLOT;
  #journalEnd = 0;
  #appending: Promise<void> | undefined;
  #off: SluiceError | undefined;
  #closed: Promise<void> | undefined;

  private constructor(parts: {
    module: StoreModule;
    key: string;
    folder: StoreFolder;
    giveUp: AbortController;
    locks: ModelLocks;
    ios: StoreIo[];
    local: LocalIo | undefined;
    model: StoredModel;
    poolBytes: number;
    readAheadBytes: number;
  }) {
    this.#module = parts.module;
    this.#key = parts.key;
    this.#folder = parts.folder;
    this.#giveUp = parts.giveUp;
    this.#locks = parts.locks;
    this.#ios = parts.ios;
    this.#local = parts.local;
    this.#model = parts.model;
    this.#pool = new BlockPool(parts.poolBytes, () => {
      for (const writer of this.#writers) writer.spill();
    });
    this.#verifier = new ExtentVerifier({
      ios: parts.ios,
      local: parts.local,
      find: (path, offset) => this.find(path, offset),
      nameOf: (path) => this.#files.get(path)?.name ?? '',
      behind: (path) => this.#fileBehind(path),
    });
    this.#loaded = this.#learn();
    const most = Math.floor(parts.readAheadBytes / EXTENT_BYTES);
    // Alone, the calling thread reads nothing ahead
    this.#readAhead = this.#first === this.#local ? Math.min(most, 1) : most;
    // What is behind the manifest is wanted soon
    if (this.#loaded) this.#verifier.useBlocks(this.#readAhead);
  }

  /**
   * Opens what is stored under `key`, which may be nothing yet. `poolBytes` is the memory for bytes on their way to
   * the store, `readAheadBytes` that for bytes on their way from a store that has all of them. Rejects with `io` where
   * there is no store here, with `aborted`.
   */
  static async open(
    platform: StorePlatform,
    key: string,
    options: SessionOptions,
  ): Promise<ModelSession> {
    const { signal } = options;
    // They start while everything else is made ready
    const workers = Array.from({ length: platform.sharedFiles ? platform.threads : 0 }, () =>
      platform.workers.take(),
    );
    const ios: StoreIo[] = [];
    const giveUp = new AbortController();
    const onAbort = (): void => {
      giveUp.abort(signal?.reason);
    };
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true, signal: giveUp.signal });
    let locks: ModelLocks | undefined;
    try {
      const compiled = await platform.module();
      const module = await StoreModule.create(compiled);
      const folderName = module.folderName(key);
      locks = new ModelLocks(platform.locks, platform.place.root, folderName, giveUp.signal);
      // A file that cannot be shared must be closed by the load before this one
      if (!platform.sharedFiles) await allClosed();
      const openModels = () => openModelsFolder(() => platform.openRoot(), platform.place);
      // Looked up while the lock is waited for; until that is had somebody may remove it
      const models = openModels();
      const found = models.then((all) => all.folder(folderName, false)).catch(() => undefined);
      await locks.use();
      const release = (port: Port): void => {
        platform.workers.give(port);
      };
      for (const port of workers.splice(0)) {
        ios.push(new RemoteIo(port, release, compiled, platform.place, folderName));
      }
      let folder = await found;
      const journal = folder && (await readJournal(module, folder, key));
      // One that has been begun meanwhile is read by the one who is to write it
      if (!folder || !journal) {
        folder = await (await models.catch(openModels)).folder(folderName, true);
      }
      const model = journal?.model ?? module.fresh(key);
      const local = platform.ownFiles ? new LocalIo(folder, module) : undefined;
      if (ios.length === 0) {
        if (!local) {
          throw new SluiceError('io', 'this browser cannot open files of the store in this thread');
        }
        ios.push(local);
      }
      // Opening a file takes longer than reading an extent of it
      if (platform.sharedFiles)
        for (const { index } of model.snapshot().files.slice(0, OPENED_AHEAD))
          void local?.file(String(index)).catch(() => undefined);
      const { poolBytes, readAheadBytes = 0 } = options;
      const session = new ModelSession({
        module,
        key,
        folder,
        giveUp,
        locks,
        ios,
        local,
        model,
        poolBytes,
        readAheadBytes,
      });
      if (session.loaded) locks.read().catch(() => undefined); // heard by the first who reads
      return session;
    } catch (error) {
      for (const io of ios) void io.close();
      for (const port of workers) {
        port.then(
          (unused) => {
            platform.workers.give(unused);
          },
          () => undefined,
        );
      }
      await locks?.release();
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
    return this.#files.get(path)?.nbytes ?? this.#ends.get(path);
  }

  /** The end of a body, at `nbytes`, is all there is to tell how long a file is. */
  sawEnd(path: string, nbytes: number): void {
    this.#ends.set(path, nbytes);
  }

  /** The extent or gap at `offset`; a gap where nothing is known of the file. */
  find(path: string, offset: number): Run {
    const file = this.#files.get(path);
    const size = this.fileBytes(path) ?? Infinity;
    if (file && offset < size) {
      const run = this.#model.find(file.index, offset);
      return { ...run, end: Math.min(run.end, size) };
    }
    return { stored: false, begin: 0, end: size, digest: NO_DIGEST };
  }

  /** Waits for an extent with the byte at `offset` that is being stored: find() knows it then. */
  async arrived(path: string, offset: number): Promise<void> {
    for (const extent of this.#arriving) {
      if (extent.path === path && extent.begin <= offset && offset < extent.end) await extent.done;
    }
  }

  /** All of the file is stored. */
  isComplete(path: string): boolean {
    return this.#info(path)?.complete ?? false;
  }

  /** True where some of the file is stored, and the server must be asked whether it is still that file. */
  mustValidate(path: string): boolean {
    return !this.#loaded && !this.#validated.has(path) && (this.#info(path)?.stored_bytes ?? 0) > 0;
  }

  /**
   * Tells what the server says of a file. Where that is another version than the stored one, what was stored of it is
   * forgotten; and where bytes were given out already that do not go with it, that is `source_changed`.
   */
  learn(path: string, nbytes: number | undefined, validators: Validators): void {
    if (validators.sha256 !== undefined) this.#promised.set(path, validators.sha256);
    const known = this.#info(path);
    const first = !this.#validated.has(path);
    this.#validated.add(path);
    // Parts can be put together only where a name of the version says that they belong together
    if (
      first &&
      known &&
      !known.complete &&
      known.stored_bytes > 0 &&
      !comparable(known, validators)
    ) {
      this.#model.drop(known.index, 0, MAX_OFFSET);
    }
    const another = first && known !== undefined && isAnother(known, nbytes, validators);
    // Within one load the origin itself watches the version, of which each of its servers has its own name
    const { index, changed } = this.#model.file(path, nbytes, first ? validators : NO_VALIDATORS);
    this.#known = undefined;
    const size = this.snapshot().files.find((file) => file.index === index)?.nbytes ?? undefined;
    this.#files.set(path, { index, name: String(index), nbytes: size });
    if (!changed && !another) return;
    this.#loaded = false;
    this.#overwrites = true;
    this.#verifier.forget(path);
    this.#append();
    // Of a loaded model nothing was asked about the other files, which may be of the old version too
    if ([...this.#given].some((given) => given === path || !this.#validated.has(given))) {
      throw new SluiceError(
        'source_changed',
        `${path}: the file on the server is another one than was stored, and a part of the stored model is loaded already`,
        { file: path, hint: 'Load the model again: only what has changed is fetched.' },
      );
    }
  }

  /** Files of which stored bytes were given out. */
  readonly #given = new Set<string>();

  /** Drops a file so that the journal says it: without the lock it would be forgotten for this load alone. */
  async dropForGood(path: string): Promise<void> {
    await this.writable().catch(() => false);
    this.drop(path);
    await this.#settle();
  }

  /** Forgets what is stored of a file. What comes in its place may be something else. */
  drop(path: string): void {
    this.#overwrites = true;
    this.#forget(path, 0, MAX_OFFSET);
  }

  #forget(path: string, begin: number, end: number): void {
    const file = this.#files.get(path);
    if (!file) return;
    this.#model.drop(file.index, begin, end);
    this.#known = undefined;
    this.#loaded = false;
    this.#verifier.forget(path);
    this.#append();
  }

  /**
   * Becomes the one who fetches and stores, waiting for another that does so; what that one stored is known then.
   * False where storing has ended.
   */
  writable(): Promise<boolean> {
    if (this.#off) return Promise.resolve(false);
    if (this.#locks.writing) return Promise.resolve(true);
    this.#becomingWriter ??= this.#becomeWriter(true).finally(() => {
      this.#becomingWriter = undefined;
    });
    return this.#becomingWriter;
  }

  /** Becomes the one who may write to the journal; without `wait`, unless another is: no note is worth waiting for. */
  async #becomeWriter(wait: boolean): Promise<boolean> {
    if (!(await this.#locks.write(wait))) return false;
    if (this.#closed) {
      await this.#locks.endWrite();
      return false;
    }
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
    const journal = await readJournal(this.#module, this.#folder, this.#key);
    // What lies beside a journal of which something is lost is anybody's
    if (!journal || journal.damaged) this.#overwrites = true;
    // What was learned here since, under no lock, must not be lost: files and drops come again by themselves
    const { model, slot, end } = journal
      ? await this.#compacted(journal)
      : { model: this.#module.fresh(this.#key), slot: FIRST_SLOT, end: 0 };
    this.#model.free();
    this.#model = model;
    this.#journalSlot = slot;
    this.#journalEnd = end;
    this.#loaded = this.#learn();
    this.#validated.clear();
    this.#verifier.forget();
    for (const check of this.#checks) this.#takeCheck(check);
    this.#append();
  }

  /** The model, and where its journal goes on: in the other slot, where that is worth writing it anew. */
  async #compacted({
    model,
    validBytes,
    slot,
    bytes,
    otherBytes,
  }: Journal): Promise<{ model: StoredModel; slot: JournalSlot; end: number }> {
    const other = otherSlot(slot);
    let present = model;
    if (validBytes > COMPACT_FROM_BYTES) {
      const compact = model.compact();
      const end = compact.byteLength;
      if (end * 2 < validBytes) {
        try {
          await this.#first.append(other, 0, compact);
          return { model, slot: other, end };
        } catch {
          // The present journal is as good, only longer
        }
      }
      // The model goes on behind its compact journal; one that goes on behind the present one is wanted
      model.free();
      present = this.#module.replay(bytes).model;
    }
    // The journal before this one, or what an interrupted compaction has left
    if (otherBytes > 0) {
      await this.#first.append(other, 0, new Uint8Array(0)).catch(() => undefined);
    }
    return { model: present, slot, end: validBytes };
  }

  get #first(): StoreIo {
    const [io] = this.#ios;
    if (!io) throw new SluiceError('internal', 'the store has nobody to write');
    return io;
  }

  /** A writer for one transfer of a file whose version is learned; undefined where storing has ended. */
  async writer(path: string): Promise<ExtentWriter | undefined> {
    const file = this.#files.get(path);
    if (!file || this.#off || !this.#locks.writing) return undefined;
    const { index, name } = file;
    if (this.#overwrites && !(await this.#locks.readAlone())) {
      this.#stopStoring(
        new SluiceError(
          'io',
          `${path}: another load reads what is stored, and this is another version`,
        ),
      );
    }
    if (this.#hasEnded()) return undefined;
    const { nbytes } = file;
    if (nbytes !== undefined && !this.#sized.has(name)) {
      // Nobody waits for it: bytes written meanwhile lie within that size
      this.#sized.add(name);
      this.#wait(this.#first.resize(name, nbytes));
    }
    const writer = new ExtentWriter({
      pool: this.#pool,
      find: (offset) => {
        const size = this.#files.get(path)?.nbytes ?? Infinity;
        if (offset < size) return this.#unstored(path, index, offset);
        // More than the file has: nothing of it is wanted
        return { stored: true, begin: size, end: Infinity, digest: NO_DIGEST };
      },
      io: (offset) => {
        const turn = Math.floor(offset / EXTENT_BYTES) % this.#ios.length;
        return { io: this.#ios[turn] ?? this.#first, writer: this.#nextWriter++, file: name };
      },
      pending: (work) => {
        this.#wait(work);
      },
      arriving: (begin, end, work) => {
        const done = work
          .catch(() => undefined) // heard by pending()
          .finally(() => this.#arriving.delete(extent));
        const extent = { path, begin, end, done };
        this.#arriving.add(extent);
      },
      commit: (begin, end, digest) => {
        if (this.#off || this.#files.get(path)?.index !== index) return;
        try {
          this.#model.add(index, begin, end, digest);
          this.#known = undefined;
        } catch {
          return; // two transfers brought the same bytes
        }
        this.report.storedBytes += end - begin;
        this.#verifier.trust(path, begin);
        this.#append();
      },
    });
    this.#writers.add(writer);
    return writer;
  }

  /** The extent or gap at `offset`; an extent that is on its way counts as stored, since no two may overlap. */
  #unstored(path: string, index: number, offset: number): Run {
    const run = this.#model.find(index, offset);
    if (run.stored) return run;
    let { end } = run;
    for (const extent of this.#arriving) {
      if (extent.path !== path || extent.end <= offset) continue;
      if (extent.begin <= offset) {
        return { stored: true, begin: extent.begin, end: extent.end, digest: NO_DIGEST };
      }
      end = Math.min(end, extent.begin);
    }
    return { ...run, end };
  }

  /** Ends a transfer's writer; what it has is kept. */
  ended(writer: ExtentWriter): void {
    writer.end();
    this.#writers.delete(writer);
  }

  #hasEnded(): boolean {
    return this.#off !== undefined || this.#closed !== undefined;
  }

  /**
   * Whether an extent's bytes are still what was stored; they are looked at once. A damaged extent is forgotten. False
   * also where nothing can be read here. With `taking`, bytes() will be asked for them, and for those behind it.
   */
  async verify(path: string, run: Run, taking = false): Promise<boolean> {
    if (this.#unreadable) return false;
    try {
      await this.#locks.read();
    } catch (error) {
      if (this.#giveUp.signal.aborted) throw error;
      this.#cannotRead(error);
      return false;
    }
    try {
      if (await this.#verifier.verify(path, run, taking)) return true;
    } catch (error) {
      this.#cannotRead(error);
      return false;
    }
    // Another reader of the same extent may have been here first
    const now = this.find(path, run.begin);
    if (now.stored && now.begin === run.begin && sameDigest(now, run)) {
      const key = `${path}\n${run.begin}\n${run.digest.low}\n${run.digest.high}`;
      // It is met again where the journal is taken up again
      if (!this.#damaged.has(key)) this.report.damagedBytes += run.end - run.begin;
      this.#damaged.add(key);
      this.#forget(path, run.begin, run.end);
    }
    return false;
  }

  /** How far a file is known to be right from a verified extent on, that ends at `end`: to `limit` at most. */
  #goodTo(path: string, end: number, limit: number): number {
    while (end < limit) {
      const run = this.find(path, end);
      if (!run.stored || !this.#verifier.isGood(path, run.begin)) break;
      if (this.#verifier.brings(path, run.begin)) break;
      void this.#verifier.verify(path, run); // it is wanted now
      end = run.end;
    }
    return Math.min(end, limit);
  }

  /** Begins to look at the extents from `offset` of a file on, which will be wanted in a moment. */
  verifyAhead(path: string, offset: number): void {
    const run = this.find(path, offset);
    if (!this.#loaded || !run.stored) return;
    this.verify(path, run, true).catch(() => undefined); // who wants it hears of it
  }

  /** The file that was stored after this one, which is mostly the one that is loaded after it. */
  #fileBehind(path: string): string | undefined {
    const index = this.#files.get(path)?.index ?? Infinity;
    const behind = this.snapshot().files.find((file) => file.index > index);
    return behind?.path;
  }

  #cannotRead(error: unknown): void {
    this.#unreadable = true;
    this.#stopStoring(error);
  }

  /**
   * Bytes from `begin` on, which lies in the verified extent `run`, to `limit` at most; undefined where they cannot be
   * read after all.
   */
  async bytes(
    path: string,
    run: Run,
    begin: number,
    limit: number,
  ): Promise<StoredBytes | Uint8Array | undefined> {
    try {
      const block = this.#verifier.take(path, run.begin);
      const bytes = block
        ? new BlockBytes(
            new Uint8Array(block, begin - run.begin, Math.min(run.end, limit) - begin),
            () => {
              this.#verifier.give(block);
            },
          )
        : await this.#read(path, begin, this.#goodTo(path, run.end, limit));
      this.#given.add(path);
      this.report.readBytes += bytes.byteLength;
      return bytes;
    } catch (error) {
      this.#cannotRead(error);
      return undefined;
    }
  }

  /** Bytes [begin, end) of a file, or the first of them. */
  async #read(path: string, begin: number, end: number): Promise<StoredBytes | Uint8Array> {
    const file = this.#files.get(path);
    if (!file) throw new SluiceError('internal', `nothing of ${path} is stored`);
    const held = await this.#local?.readable(file.name);
    if (held) return new FileBytes(held, path, begin, end);
    if (!this.#local) return this.#copied(this.#first, file.name, path, begin, end);
    return this.#local.slice(file.name, begin, Math.min(end, begin + SLICE_BYTES));
  }

  async #copied(
    io: StoreIo,
    name: string,
    path: string,
    begin: number,
    end: number,
  ): Promise<Uint8Array> {
    const block = (await this.#pool.take()) ?? new ArrayBuffer(this.#pool.blockBytes);
    const wanted = Math.min(end - begin, block.byteLength);
    let back: ArrayBuffer | undefined;
    try {
      const answer = await io.read(name, begin, block, wanted);
      back = answer.block;
      if (answer.nbytes !== wanted) throw damaged(path, begin, wanted, answer.nbytes);
      return new Uint8Array(back.slice(0, wanted));
    } finally {
      // One that is lost with an error is replaced
      this.#pool.give(back ?? new ArrayBuffer(this.#pool.blockBytes));
    }
  }

  /** Makes sure that so many more bytes may be stored; `problem` says why not. Storing goes on where they may. */
  endStoring(error: SluiceError): void {
    this.#stopStoring(error);
  }

  /**
   * Bytes that a load of these files may hold here. Where all of them are stored, memory is less for bytes on their way
   * there and more for those that come from there. To be called once.
   */
  memoryFor(paths: readonly string[]): number {
    if (!paths.every((path) => this.#info(path)?.complete)) {
      this.#verifier.useBlocks(0);
      return this.#pool.nbytes;
    }
    this.#pool.limit(REPAIR_BYTES);
    this.#verifier.useBlocks(this.#readAhead);
    return this.#pool.nbytes + this.#readAhead * EXTENT_BYTES;
  }

  /** Bytes of these files that are not stored yet. */
  missingBytes(files: readonly { path: string; nbytes?: number | undefined }[]): number {
    return files.reduce((sum, { path, nbytes }) => {
      const known = this.#info(path);
      return sum + Math.max((known?.nbytes ?? nbytes ?? 0) - (known?.stored_bytes ?? 0), 0);
    }, 0);
  }

  /**
   * Waits for what is being written, and holds whole files to their checksums and to what the source promised, each
   * once. Rejects with `checksum_mismatch`; the file is forgotten then.
   */
  async check(checksums: readonly FileChecksum[]): Promise<void> {
    await this.#settle();
    const promised = [...this.#promised].map(([path, digest]): FileChecksum => ({
      path,
      algorithm: 'sha256',
      digest,
    }));
    const unchecked = [...checksums, ...promised].flatMap((checksum) => {
      const info = this.#info(checksum.path);
      if (!info?.complete) return [];
      const done = info.checked.some(
        ({ algorithm, digest }) => algorithm === checksum.algorithm && digest === checksum.digest,
      );
      return done ? [] : [{ ...checksum, info }];
    });
    if (unchecked.length === 0) return;
    const lanes = this.#ios.map(async (io, lane) => {
      for (let i = lane; i < unchecked.length; i += this.#ios.length) {
        const file = unchecked[i];
        if (file) await this.#check(io, file);
      }
    });
    const outcomes = await Promise.allSettled(lanes);
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
    if (await this.#becomeWriterNow()) this.#append();
    await this.#settle();
  }

  /** The load is complete: notes that the model is whole. To be followed by close(). */
  async finish(): Promise<void> {
    await this.#settle();
    await this.#noteLoaded();
    if (this.#off) this.report.problem = this.#off.message;
  }

  async #check(io: StoreIo, file: FileCheck): Promise<void> {
    const { info, path, algorithm, digest } = file;
    let actual: string;
    try {
      actual = await io.checksum(String(info.index), info.nbytes ?? 0, algorithm);
    } catch (error) {
      // The load has its bytes; only what is kept of them is in doubt
      this.#stopStoring(error);
      return;
    }
    if (actual === digest) {
      this.#checks.push(file);
      this.#takeCheck(file);
      return;
    }
    await this.dropForGood(path);
    throw new SluiceError(
      'checksum_mismatch',
      `${path}: the ${algorithm} of its ${info.nbytes ?? 0} bytes is ${actual}, and ${digest} was promised`,
      {
        file: path,
        hint: 'What was stored of it is forgotten. Load again; if it stays so, the publisher must mend the files.',
      },
    );
  }

  /** Notes a check in the model, if the file is still the one that was looked at. */
  #takeCheck({ info, path, algorithm, digest }: FileCheck): void {
    const now = this.#info(path);
    const same =
      now?.complete === true &&
      now.nbytes === info.nbytes &&
      now.etag === info.etag &&
      now.last_modified === info.last_modified;
    if (!same) return;
    this.#model.checked(now.index, algorithm, digest);
    this.#known = undefined;
  }

  async #becomeWriterNow(): Promise<boolean> {
    if (this.#off) return false;
    return this.#locks.writing || this.#becomeWriter(false);
  }

  async #noteLoaded(): Promise<void> {
    if (this.#off) return;
    if (!this.#locks.writing) {
      if (this.#loaded && Date.now() - this.snapshot().used_ms < USED_AGAIN_MS) return;
      if (!(await this.#becomeWriterNow())) return;
      // Something was lost since; who fetches it says when the model is whole again
      if (!this.#loaded) return;
    }
    for (const [path, nbytes] of this.#ends) {
      if (this.#files.has(path)) this.#model.file(path, nbytes, NO_VALIDATORS);
    }
    if (this.#loaded) this.#model.used();
    else this.#model.loaded();
    this.#known = undefined;
    this.#loaded = true;
    this.#append();
    await this.#settle();
  }

  /** What is stored now. */
  snapshot(): StoredModelInfo {
    this.#known ??= this.#model.snapshot();
    return this.#known;
  }

  /** Rows of bytes of a file; see StoreIo.rows(). */
  async rows(
    path: string,
    begin: number,
    rowBytes: number,
    rows: Uint32Array<ArrayBuffer>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const file = this.#files.get(path);
    if (!file) throw new SluiceError('internal', `nothing of ${path} is stored`);
    const { name } = file;
    // This thread is asked last, since it answers before it does anything else
    const readers = this.#ios.filter((io) => io !== this.#local && io.ready);
    if (this.#local) readers.push(this.#local);
    const lanes = Math.min(readers.length, Math.floor((rows.length * rowBytes) / LANE_BYTES));
    if (lanes < 2) return (this.#local ?? this.#first).rows(name, begin, rowBytes, rows);
    const bytes = new Uint8Array(rows.length * rowBytes);
    const each = Math.ceil(rows.length / lanes);
    await Promise.all(
      readers.slice(-lanes).map(async (io, lane) => {
        const some = rows.slice(lane * each, (lane + 1) * each);
        const read = (from: StoreIo) => from.rows(name, begin, rowBytes, some);
        const found = await read(io).catch((error: unknown) => {
          if (!this.#local || io === this.#local) throw error;
          return read(this.#local); // whatever has become of the worker
        });
        bytes.set(found, lane * each * rowBytes);
      }),
    );
    return bytes;
  }

  /** Everything that was written is known. Never rejects. */
  settled(): Promise<void> {
    return this.#settle();
  }

  /** Nothing more is fetched here: others may. What is stored can still be read. */
  async onlyRead(): Promise<void> {
    // Rows are read as they are asked for
    this.#verifier.useBlocks(0);
    await this.#settle();
    await this.#locks.readAlong();
    await this.#locks.read();
    await this.#locks.endWrite();
  }

  /** Keeps what has been written, closes every file and gives up the locks. Never rejects. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#giveUp.abort();
    for (const writer of this.#writers) writer.end();
    this.#writers.clear();
    await this.#settle();
    this.#pool.close();
    await Promise.all(
      [...this.#ios, ...(this.#local ? [this.#local] : [])].map((io) => io.close()),
    );
    this.#model.free();
    await this.#locks.release();
  }

  #info(path: string): StoredFileInfo | undefined {
    const file = this.#files.get(path);
    return file && this.snapshot().files.find(({ index }) => index === file.index);
  }

  /** Reads from the model which files there are; gives whether a load has completed from it. */
  #learn(): boolean {
    this.#known = undefined;
    const { files, loaded_ms: loaded } = this.snapshot();
    this.#files = new Map(
      files.map(
        ({ path, index, nbytes }) =>
          [path, { index, name: String(index), nbytes: nbytes ?? undefined }] as const,
      ),
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
    if (this.#appending || this.#off || !this.#locks.writing) return;
    const bytes = this.#model.journal();
    if (bytes.byteLength === 0) return;
    const length = bytes.byteLength;
    this.#appending = this.#first
      .append(this.#journalSlot, this.#journalEnd, bytes)
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

/** Bytes that a worker has read. */
class BlockBytes implements StoredBytes {
  readonly byteLength: number;
  readonly #bytes: Uint8Array;
  #give: (() => void) | undefined;

  constructor(bytes: Uint8Array, give: () => void) {
    this.byteLength = bytes.byteLength;
    this.#bytes = bytes;
    this.#give = give;
  }

  readInto(target: Uint8Array, from: number): void {
    if (!this.#give)
      throw new SluiceError('internal', 'stored bytes were used after their release');
    target.set(this.#bytes.subarray(from, from + target.byteLength));
  }

  release(): void {
    this.#give?.();
    this.#give = undefined;
  }
}

/** Whether what is known of a stored file and what a server says now name their versions in a common way. */
function comparable(known: StoredFileInfo, { etag, lastModified }: Validators): boolean {
  return (known.etag !== '' && etag !== '') || (known.last_modified !== '' && lastModified !== '');
}

function isAnother(
  known: StoredFileInfo,
  nbytes: number | undefined,
  { etag, lastModified }: Validators,
): boolean {
  return (
    (known.nbytes !== null && nbytes !== undefined && known.nbytes !== nbytes) ||
    (known.etag !== '' && etag !== '' && known.etag !== etag) ||
    (known.last_modified !== '' && lastModified !== '' && known.last_modified !== lastModified)
  );
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
