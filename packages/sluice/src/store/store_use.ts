import { asSluiceError, SluiceError } from '../errors.js';
import type { Source } from '../sources/source.js';
import type { ModelManifest, ModelPlan } from '../wasm/loader_module.js';
import { ModelStore } from './model_store.js';
import type { FileChecksum, ModelSession, StoreReport } from './session.js';
import { checkManifest, parseIntegrity, type PinnedDigest } from '../integrity.js';
import { fetchRanges, type FileRange } from './fetch_ranges.js';
import { EXTENT_BYTES } from './extent_writer.js';
import { StoredSource } from './stored_source.js';

/** Memory for bytes on their way to the store, of a load's budget: of the usual one the rest is six slots of 4 MiB. */
export function storeShare(budgetBytes: number): number {
  return Math.min(10 * 2 ** 20, Math.floor(budgetBytes / 4));
}

/** Extents on their way from the store, at most: one for each of three workers, and one that is used. */
const READ_AHEAD = 4;

/** Memory for them where all is stored, of a load's budget. */
function readAheadShare(budgetBytes: number): number {
  return Math.min(READ_AHEAD * EXTENT_BYTES, Math.floor((budgetBytes * 3) / 8));
}

let warned = false;

/** Says on the console, once, that loading works and keeps nothing. */
export function warnUnavailable(reason: string): void {
  // eslint-disable-next-line no-console -- nothing else tells why the next load takes as long
  if (!warned) console.warn(`sluice: models are not kept on this device: ${reason}`);
  warned = true;
}

/** What a load reports that was to use the store: where there is none, why. */
export function storeReport(
  report: StoreReport | undefined,
  unavailable: string | undefined,
): StoreReport | undefined {
  if (unavailable === undefined) return report;
  return { readBytes: 0, storedBytes: 0, damagedBytes: 0, problem: unavailable };
}

/** What one load does with the store, from its beginning to its end. */
export class StoreUse {
  readonly source: StoredSource;
  /** What the model must be. */
  readonly pinned: PinnedDigest | undefined;
  /** The pin is that of a manifest, which says what the files are. */
  #byManifest = false;
  readonly #key: string;
  readonly #store: ModelStore;
  readonly #session: ModelSession;

  private constructor(
    store: ModelStore,
    session: ModelSession,
    source: StoredSource,
    pinned: PinnedDigest | undefined,
    key: string,
  ) {
    this.pinned = pinned;
    this.#key = key;
    this.#store = store;
    this.#session = session;
    this.source = source;
  }

  /**
   * Puts the store in front of `origin`. Undefined where this browser, window or disk has none to give, which
   * `onUnavailable` is told. Rejects with `aborted`.
   */
  static async begin(
    openStore: () => Promise<ModelStore>,
    key: string,
    origin: Source,
    options: {
      budgetBytes: number;
      signal?: AbortSignal | undefined;
      integrity?: string | undefined;
      onUnavailable: (reason: string) => void;
    },
  ): Promise<StoreUse | undefined> {
    const pinned = options.integrity === undefined ? undefined : parseIntegrity(options.integrity);
    const { budgetBytes, signal } = options;
    try {
      const store = await openStore();
      const session = await store.session(key, {
        poolBytes: storeShare(budgetBytes),
        readAheadBytes: readAheadShare(budgetBytes),
        signal,
      });
      return new StoreUse(store, session, new StoredSource(session, origin), pinned, key);
    } catch (cause) {
      const error = asSluiceError(cause);
      if (pinned || error.code === 'aborted' || error.code === 'invalid_argument') throw error;
      options.onUnavailable(error.message);
      return undefined;
    }
  }

  /** For openModel(): holds a manifest to the pin. Rejects with `checksum_mismatch`, and forgets what was stored of it. */
  async check(path: string, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    if (!this.pinned || this.#byManifest || !path.endsWith('.json')) return;
    this.#byManifest = true;
    try {
      await checkManifest(this.source.describe(path), bytes, this.pinned);
    } catch (error) {
      await this.#session.dropForGood(path);
      throw error;
    }
  }

  /** Bytes of the budget that it takes for a model with these files. To be called once, and before opened(). */
  budgetBytes({ files }: ModelManifest): number {
    return this.#session.memoryFor(files.map(({ path }) => path));
  }

  /** The manifest is read: looks at the bytes that a load of all tensors begins with, while it is planned. */
  opened({ files, tensors }: ModelManifest): void {
    const [first] = files;
    const begin = tensors.reduce(
      (least, { file, offset }) => (file === 0 ? Math.min(least, offset) : least),
      Infinity,
    );
    if (first && begin < Infinity) this.#session.verifyAhead(first.path, begin);
  }

  /** Every file of the model is stored, as far as is known. */
  hasAll({ files }: ModelManifest): boolean {
    return files.every(({ path }) => this.#session.isComplete(path));
  }

  get session(): ModelSession {
    return this.#session;
  }

  get report(): StoreReport {
    return this.#session.report;
  }

  /** The manifest is read and the load is planned: makes room for what will be fetched. */
  async planned(manifest: ModelManifest, plan: ModelPlan): Promise<void> {
    const files = filesOf(manifest, plan);
    if (this.pinned && !this.#isOneFile(manifest)) requireDigests(files);
    await this.#makeRoom(files);
  }

  /**
   * Sees to it that ranges of the model's files lie in the store, verified, and lets others fetch from then on: the
   * session is to be read from. Where they cannot be kept, `report.problem` says why.
   */
  async keep(
    manifest: ModelManifest,
    ranges: readonly FileRange[],
    options: Parameters<typeof fetchRanges>[3],
  ): Promise<void> {
    const paths = new Set(ranges.map(({ path }) => path));
    const files = manifest.files.filter(({ path }) => paths.has(path));
    if (this.pinned && !this.#isOneFile(manifest)) requireDigests(files);
    await this.#makeRoom(files);
    if (this.report.problem === undefined) {
      await fetchRanges(this.#session, this.source, ranges, options);
      await this.#verify(manifest, files);
    }
    await this.#session.onlyRead();
  }

  /** Holds files to the manifest's digests and to the pin. Rejects with `checksum_mismatch`. */
  async #verify(manifest: ModelManifest, files: ModelManifest['files']): Promise<void> {
    const checksums = files.flatMap(({ path, md5 }): FileChecksum[] =>
      md5 === undefined ? [] : [{ path, algorithm: 'md5', digest: md5 }],
    );
    if (this.pinned) {
      const [file] = files;
      if (file && this.#isOneFile(manifest)) {
        checksums.push({ path: file.path, algorithm: 'sha256', digest: this.pinned });
      }
      await this.#wholeFiles(files);
    }
    await this.#session.check(checksums);
    this.#mustHaveChecked();
  }

  /** Of a pinned model nothing may stay unchecked. */
  #mustHaveChecked(): void {
    const { problem } = this.report;
    if (!this.pinned || problem === undefined) return;
    throw new SluiceError(
      'quota_exceeded',
      `the model cannot be checked, which integrity asks for: ${problem}`,
      {
        hint: 'files are checked in the local store: free space on this device',
      },
    );
  }

  async #makeRoom(files: ModelManifest['files']): Promise<void> {
    this.source.opened();
    const missing = this.#session.missingBytes(files);
    if (missing === 0) return;
    // No trouble with other models is a reason not to load this one
    const problem = await this.#store.makeRoom(missing).catch(asSluiceError);
    if (problem) this.#session.endStoring(problem);
  }

  /** Every tensor is there. Rejects with `checksum_mismatch` where a file is not what the manifest promises. */
  async finish(manifest: ModelManifest, plan: ModelPlan): Promise<void> {
    await this.#verify(manifest, filesOf(manifest, plan));
    await this.#session.finish();
  }

  /** The model is one file by itself, without a manifest that says what others hold. */
  #isOneFile({ files }: ModelManifest): boolean {
    return !this.#byManifest && files.length === 1;
  }

  /** Fetches what no tensor needed of these files, so that they can be checked. */
  async #wholeFiles(files: ModelManifest['files']): Promise<void> {
    const ranges = files.flatMap(({ path, nbytes }): FileRange[] => {
      const end = this.#session.fileBytes(path) ?? nbytes;
      return end === undefined ? [] : [{ path, begin: 0, end }];
    });
    await this.#session.settled();
    await fetchRanges(this.#session, this.source, ranges, { connections: 1 });
    await this.#session.settled();
    this.#mustHaveChecked();
  }

  /** Keeps what was fetched, and gives everything up; of a load that stored nothing nothing is left. Never rejects. */
  async close(): Promise<void> {
    let empty = false;
    try {
      empty = !this.#session.loaded && this.#session.snapshot().stored_bytes === 0;
    } catch {
      // It was closed before
    }
    await this.#session.close().catch(() => undefined);
    if (empty) await this.#store.removeEmpty(this.#key);
  }
}

function requireDigests(files: ModelManifest['files']): void {
  const file = files.find(({ md5 }) => md5 === undefined);
  if (!file) return;
  throw new SluiceError(
    'invalid_argument',
    `${file.path}: the manifest has no digest of this file, so that integrity says nothing of its bytes`,
    { file: file.path, hint: '`sluice pack` writes a manifest with digests' },
  );
}

/** The files of which the plan takes tensors. */
function filesOf(manifest: ModelManifest, plan: ModelPlan): ModelManifest['files'] {
  const wanted = new Set<number>();
  plan.placements.forEach((placement, index) => {
    const file = manifest.tensors[index]?.file;
    if (placement !== null && file !== undefined) wanted.add(file);
  });
  return manifest.files.filter((_, index) => wanted.has(index));
}

/** The option `store`, where it is one. Throws `invalid_argument`. */
export function checkStore(store: unknown): void {
  if (store === undefined || typeof store === 'boolean' || store instanceof ModelStore) return;
  throw new SluiceError(
    'invalid_argument',
    `option store is of type ${typeof store}; expected true, false or what openStore() gives`,
  );
}

/** The argument of openStore(), which takes no options. Throws `invalid_argument`. */
export function checkStoreName(name: unknown): void {
  if (typeof name === 'string' && name !== '') return;
  const given = typeof name === 'string' ? "''" : `of type ${typeof name}`;
  throw new SluiceError('invalid_argument', `openStore() was given a name that is ${given}`, {
    hint: 'expected a name, which in Node is the path of a folder, or nothing',
  });
}

/** Under which name a model at `url` is stored, unless the caller gives another. */
export function storeKey(url: string, given: string | undefined): string {
  if (given === '') {
    throw new SluiceError('invalid_argument', "option storeKey is ''; expected a name");
  }
  if (given !== undefined) return given;
  const key = new URL(url);
  key.hash = '';
  return key.href;
}
