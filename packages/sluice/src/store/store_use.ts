import { asSluiceError, SluiceError } from '../errors.js';
import type { Source } from '../sources/source.js';
import type { ModelManifest, ModelPlan } from '../wasm/loader_module.js';
import type { ModelStore } from './model_store.js';
import type { FileChecksum, ModelSession, StoreReport } from './session.js';
import { StoredSource } from './stored_source.js';

/** Memory for bytes on their way to the store, of a load's budget. */
export function storeShare(budgetBytes: number): number {
  return Math.min(16 * 2 ** 20, Math.floor(budgetBytes / 4));
}

let warned = false;

/** What one load does with the store, from its beginning to its end. */
export class StoreUse {
  readonly source: StoredSource;
  /** Bytes of the budget that it takes. */
  readonly budgetBytes: number;
  readonly #store: ModelStore;
  readonly #session: ModelSession;

  private constructor(
    store: ModelStore,
    session: ModelSession,
    source: StoredSource,
    budgetBytes: number,
  ) {
    this.#store = store;
    this.#session = session;
    this.source = source;
    this.budgetBytes = budgetBytes;
  }

  /**
   * Puts the store in front of `origin`. Undefined where this browser, window or disk has none to give, which is said
   * on the console, once. Rejects with `aborted`.
   */
  static async begin(
    openStore: () => Promise<ModelStore>,
    key: string,
    origin: Source,
    options: { budgetBytes: number; signal?: AbortSignal | undefined },
  ): Promise<StoreUse | undefined> {
    const budgetBytes = storeShare(options.budgetBytes);
    try {
      const store = await openStore();
      const session = await store.session(key, { poolBytes: budgetBytes, signal: options.signal });
      return new StoreUse(store, session, new StoredSource(session, origin), budgetBytes);
    } catch (cause) {
      const error = asSluiceError(cause);
      if (error.code === 'aborted' || error.code === 'invalid_argument') throw error;
      // eslint-disable-next-line no-console -- loading works, and nothing else tells why the next takes as long
      if (!warned) console.warn(`sluice: models are not kept on this device: ${error.message}`);
      warned = true;
      return undefined;
    }
  }

  get report(): StoreReport {
    return this.#session.report;
  }

  /** The manifest is read and the load is planned: makes room for what will be fetched. */
  async planned(manifest: ModelManifest, plan: ModelPlan): Promise<void> {
    this.source.opened();
    const missing = this.#session.missingBytes(filesOf(manifest, plan));
    if (missing === 0) return;
    const problem = await this.#store.makeRoom(missing);
    if (problem) this.#session.endStoring(problem);
  }

  /** Every tensor is there. Rejects with `checksum_mismatch` where a file is not what the manifest promises. */
  async finish(manifest: ModelManifest, plan: ModelPlan): Promise<void> {
    const checksums = filesOf(manifest, plan).flatMap(({ path, md5 }): FileChecksum[] =>
      md5 === undefined ? [] : [{ path, algorithm: 'md5', digest: md5 }],
    );
    await this.#session.finish(checksums);
  }

  /** Keeps what was fetched, and gives everything up. Never rejects. */
  async close(): Promise<void> {
    await this.#session.close().catch(() => undefined);
  }
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
