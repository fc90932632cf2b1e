import { SluiceError } from '../errors.js';
import { readError } from '../sources/blob.js';
import type { StoreFolder } from './files.js';
import type { StorePlatform } from './platform.js';
import { allClosed } from './closing.js';
import { lockName } from './model_locks.js';
import { readJournal } from './journal_slots.js';
import { ModelSession, type SessionOptions } from './session.js';
import { StoreModule, type StoredModelInfo } from './store_module.js';
import { aborted } from '../util/abort.js';

/** What the store has of one model. */
export interface StoredModelEntry {
  /** Where it was loaded from: the URL, or the key that the caller gave. */
  readonly key: string;
  /** A load has completed from it, so that the next needs no network. */
  readonly complete: boolean;
  /** Bytes that are known to be right, until looked at again. */
  readonly storedBytes: number;
  /** Bytes of the files that are known of it, stored or not. */
  readonly totalBytes: number;
  /** The epoch (0) where what the store knows of it cannot be read: it is being made, or damaged. */
  readonly createdAt: Date;
  readonly usedAt: Date;
  readonly files: readonly { path: string; nbytes: number | undefined; storedBytes: number }[];
}

/** Bytes on their way into or out of the store while files are exported and imported. */
const COPY_BYTES = 4 * 2 ** 20;
/** Left free beside what is stored: the journal, and what the estimate does not know. */
const SPARE_BYTES = 8 * 2 ** 20;

/** The models stored on this device, shared by everything of one origin, or of one folder in Node. */
export class ModelStore {
  readonly platform: StorePlatform;

  constructor(platform: StorePlatform) {
    this.platform = platform;
  }

  /** Every stored model, the most recently used first. */
  async models(): Promise<StoredModelEntry[]> {
    const found = await this.#all();
    return found.map(({ info }) => entryOf(info)).sort((a, b) => +b.usedAt - +a.usedAt);
  }

  /** Bytes stored of all models, and bytes that can still be stored, where that is known. */
  async usage(): Promise<{ storedBytes: number; freeBytes: number | undefined }> {
    const models = await this.models();
    return {
      storedBytes: models.reduce((sum, { storedBytes }) => sum + storedBytes, 0),
      freeBytes: await this.platform.free(),
    };
  }

  /** Removes a model. False where it is in use, here or in another tab; true also where there was none. */
  async delete(key: string): Promise<boolean> {
    await allClosed();
    // One whose key cannot be read is listed by the name of its folder
    const listed = (await this.#all()).find(({ info }) => info.key === key);
    const module = await StoreModule.create(await this.platform.module());
    return this.#remove(listed?.name ?? module.folderName(key));
  }

  /** Removes everything that is not in use; gives the keys of what stayed. */
  async clear(): Promise<string[]> {
    const kept: string[] = [];
    await allClosed();
    for (const { name, info } of await this.#all()) {
      if (!(await this.#remove(name))) kept.push(info.key);
    }
    return kept;
  }

  /**
   * Sees to it that `nbytes` bytes can be stored beside what is there: removes models, the least recently used first
   * and none in use. Gives why they cannot, or undefined.
   */
  async makeRoom(nbytes: number): Promise<SluiceError | undefined> {
    const needed = nbytes + SPARE_BYTES;
    let free = await this.platform.free();
    if (free === undefined || free >= needed) return undefined;
    await allClosed();
    const candidates = (await this.#all()).sort((a, b) => a.info.used_ms - b.info.used_ms);
    // Where all of them would not do, they are not lost for nothing
    const theirs = candidates.reduce((sum, { info }) => sum + fileBytes(info), 0);
    for (const { name } of free + theirs < needed ? [] : candidates) {
      if (!(await this.#remove(name))) continue;
      free = (await this.platform.free()) ?? Infinity;
      if (free >= needed) return undefined;
    }
    return new SluiceError(
      'quota_exceeded',
      `the model needs ${nbytes} more bytes in the local store, and there is room for ${free}`,
      {
        expected: needed,
        actual: free,
        hint: 'It loads, and is not kept. Free space on this device, or delete stored models.',
      },
    );
  }

  /** One load's use of a model; see ModelSession.open(). */
  session(key: string, options: SessionOptions): Promise<ModelSession> {
    return ModelSession.open(this.platform, key, options);
  }

  /**
   * Copies a model's files into a folder, under their own names, where any loader finds them. Rejects with
   * `not_found` where it is not stored, or not completely, and with `store_corrupt` where it is damaged. handleTarget()
   * gives the target for a directory handle.
   */
  async exportTo(
    key: string,
    target: FileTarget,
    { signal, onBytes }: CopyOptions = {},
  ): Promise<void> {
    const session = await this.session(key, { poolBytes: COPY_BYTES, signal });
    try {
      const { files } = session.snapshot();
      const missing = files.find(({ complete }) => !complete);
      if (files.length === 0 || missing) {
        throw new SluiceError(
          'not_found',
          missing
            ? `${missing.path}: ${missing.stored_bytes} of ${missing.nbytes ?? 'unknown'} bytes are stored of it`
            : `the model ${key} is not stored`,
          { ...(missing ? { file: missing.path } : {}), hint: 'Load it first, all of it.' },
        );
      }
      for (const { path, nbytes } of files) {
        const writer = await target.create(path);
        try {
          for (let at = 0; at < (nbytes ?? 0);) {
            if (signal?.aborted) throw aborted(signal);
            const run = session.find(path, at);
            if (!run.stored || !(await session.verify(path, run))) {
              throw new SluiceError(
                'store_corrupt',
                `${path}: the stored bytes at ${at} are damaged`,
                {
                  file: path,
                  hint: 'Load the model again: what is missing is fetched.',
                },
              );
            }
            const stored = await session.bytes(path, run, at, run.end);
            if (!stored)
              throw new SluiceError('io', session.report.problem ?? `${path}: not readable`);
            const bytes = stored instanceof Uint8Array ? stored : new Uint8Array(stored.byteLength);
            if (!(stored instanceof Uint8Array)) stored.readInto(bytes, 0);
            await writer.write(bytes);
            at += bytes.byteLength;
            onBytes?.(bytes.byteLength);
          }
        } catch (error) {
          await writer.abort?.();
          throw error;
        }
        await writer.close();
      }
    } finally {
      await session.close();
    }
  }

  /**
   * Stores the files of a model under a key, as if it had been loaded from there. filesForImport() gives them for what a
   * person has chosen. Rejects with `quota_exceeded`, and as the files do.
   */
  async importFrom(
    key: string,
    files: AsyncIterable<{ path: string; file: Blob }>,
    { signal, onBytes }: CopyOptions = {},
  ): Promise<void> {
    const session = await this.session(key, { poolBytes: COPY_BYTES, signal });
    try {
      if (!(await session.writable())) {
        throw new SluiceError('io', session.report.problem ?? 'nothing can be stored here');
      }
      for await (const { path, file } of files) {
        const full = await this.makeRoom(file.size);
        if (full) throw full;
        session.drop(path);
        session.learn(path, file.size, { etag: '', lastModified: '' });
        const writer = await session.writer(path);
        for (let at = 0; writer && at < file.size; at += COPY_BYTES) {
          if (signal?.aborted) throw aborted(signal);
          const part = file.slice(at, at + COPY_BYTES).arrayBuffer();
          const bytes = new Uint8Array(
            await part.catch((cause: unknown) => {
              throw readError(path, cause);
            }),
          );
          await writer.write(bytes, at);
          onBytes?.(bytes.byteLength);
        }
        if (writer) session.ended(writer);
      }
      await session.finish();
      const { problem } = session.report;
      if (problem !== undefined) throw new SluiceError('quota_exceeded', problem);
    } finally {
      await session.close();
    }
  }

  /** Removes what a load has left that stored nothing, unless somebody uses it. Never rejects. */
  async removeEmpty(key: string): Promise<void> {
    try {
      const module = await StoreModule.create(await this.platform.module());
      await this.#remove(module.folderName(key), async (folder) => {
        const journal = await readJournal(module, folder);
        const info = journal?.model.snapshot();
        journal?.model.free();
        if (info) return info.stored_bytes === 0 && info.loaded_ms === null;
        return (await folder.entries()).every(({ nbytes }) => nbytes === 0);
      });
    } catch {
      // Then it is listed, as a model of no bytes
    }
  }

  async #all(): Promise<{ name: string; info: StoredModelInfo }[]> {
    const module = await StoreModule.create(await this.platform.module());
    const models = await this.#models();
    const found: { name: string; info: StoredModelInfo }[] = [];
    for (const { name, kind } of await models.entries()) {
      if (kind !== 'folder') continue;
      try {
        const journal = await readJournal(module, await models.folder(name, false));
        // Being made, or damaged: it takes room, and is known by no other name
        found.push({ name, info: journal?.model.snapshot() ?? unknownModel(name) });
        journal?.model.free();
      } catch (error) {
        // Another tab has removed it since
        if (error instanceof SluiceError && error.code === 'not_found') continue;
        found.push({ name, info: unknownModel(name) });
      }
    }
    return found;
  }

  async #models(): Promise<StoreFolder> {
    return (await this.platform.openRoot()).folder('models', true);
  }

  async #remove(name: string, mayGo?: (folder: StoreFolder) => Promise<boolean>): Promise<boolean> {
    const { locks, place } = this.platform;
    const release = await locks.take(lockName(place.root, name, 'use'), 'exclusive', {
      wait: false,
    });
    if (!release) return false;
    try {
      const models = await this.#models();
      if (mayGo && !(await mayGo(await models.folder(name, false)))) return false;
      await models.remove(name);
      return true;
    } finally {
      await release();
    }
  }
}

/** Where exported files go. */
export interface FileTarget {
  create(path: string): Promise<{
    write(bytes: Uint8Array): Promise<void>;
    close(): Promise<void>;
    /** Called instead of close() where the file will not be whole. */
    abort?(): Promise<void>;
  }>;
}

/** Of a model that is exported or imported. */
export interface CopyOptions {
  /** Stops it; the promise rejects with `aborted`. */
  signal?: AbortSignal;
  /** Called with each number of bytes that has been copied. */
  onBytes?: (nbytes: number) => void;
}

function entryOf(info: StoredModelInfo): StoredModelEntry {
  const files = info.files.map(({ path, nbytes, stored_bytes: storedBytes }) => ({
    path,
    nbytes: nbytes ?? undefined,
    storedBytes,
  }));
  return {
    key: info.key,
    complete: info.loaded_ms !== null,
    storedBytes: info.stored_bytes,
    totalBytes: files.reduce((sum, file) => sum + (file.nbytes ?? file.storedBytes), 0),
    createdAt: new Date(info.created_ms),
    usedAt: new Date(info.used_ms),
    files,
  };
}

/** Bytes of a model's files, which are made as long as they will be; what a damaged journal does not say is unknown. */
function fileBytes({ created_ms: created, files }: StoredModelInfo): number {
  return created === 0
    ? Infinity
    : files.reduce(
        (sum, { nbytes, stored_bytes: stored }) => sum + Math.max(nbytes ?? 0, stored),
        0,
      );
}

function unknownModel(name: string): StoredModelInfo {
  return {
    key: name,
    created_ms: 0,
    used_ms: 0,
    loaded_ms: null,
    stored_bytes: 0,
    journal_bytes: 0,
    generation: 0,
    files: [],
  };
}
