/** Files kept by URL, in the places where tvmjs keeps them: what one has stored there, the other finds. */
import { hex } from '../util/bytes.js';
import { OPFSStore, type OPFSAccessMode } from './opfs_store.js';
import type { Untyped } from './types.js';

export type { OPFSAccessMode } from './opfs_store.js';

/** Files by URL. `storetype` says what one is given of a file: "json", "arraybuffer", or the Response itself. */
export interface ArtifactCacheTemplate {
  /** The file, which is fetched and kept where it is not there. */
  fetchWithCache(url: string, storetype?: string, signal?: AbortSignal): Promise<Untyped>;
  /** Fetches and keeps a file that is not there. */
  addToCache(url: string, storetype?: string, signal?: AbortSignal): Promise<void>;
  hasAllKeys(keys: string[]): Promise<boolean>;
  /** Also where there is none. */
  deleteInCache(url: string): Promise<void>;
}

export type ArtifactCacheType = 'cache' | 'indexeddb' | 'cross-origin' | 'opfs';

export interface TensorCacheAccessOptions {
  /** "tvmjs" unless given. */
  cacheScope?: string;
  /** "cache" unless given. */
  cacheType?: ArtifactCacheType;
  /** A cache of the caller's, in place of every other. */
  artifactCache?: ArtifactCacheTemplate;
  /** With "opfs": whether files are read and written by handles that only workers have. */
  opfsAccessMode?: OPFSAccessMode;
}

/** In the Cache API, under the scope as its name. */
export class ArtifactCache implements ArtifactCacheTemplate {
  readonly #scope: string;
  #opened: Promise<Cache> | undefined;

  constructor(scope: string) {
    this.#scope = scope;
  }

  #open(): Promise<Cache> {
    if (typeof caches === 'undefined') {
      return Promise.reject(
        new Error(
          'ArtifactCache: there is no Cache API here; it needs a browser and https, or localhost',
        ),
      );
    }
    return (this.#opened ??= caches.open(this.#scope));
  }

  responseTostoretype(response: Response, storetype?: string): Promise<Untyped> {
    return readAs(response, storetype);
  }

  async fetchWithCache(url: string, storetype?: string, signal?: AbortSignal): Promise<Untyped> {
    await this.addToCache(url, storetype, signal);
    const response = await (await this.#open()).match(url);
    if (response === undefined) throw new Error(`Cannot fetch ${url}`);
    return readAs(response, storetype);
  }

  async addToCache(url: string, _storetype?: string, signal?: AbortSignal): Promise<void> {
    const cache = await this.#open();
    if ((await cache.match(url)) !== undefined) return;
    await cache.put(url, await fetchFile(url, 'ArtifactCache', signal));
  }

  async hasAllKeys(keys: string[]): Promise<boolean> {
    const cache = await this.#open();
    const stored = new Set((await cache.keys()).map((request) => request.url));
    return keys.every((key) => stored.has(key));
  }

  async deleteInCache(url: string): Promise<void> {
    await (await this.#open()).delete(url);
  }
}

const OBJECTS = 'urls';

/** In IndexedDB, in the database of that name: objects `{url, data}`, `data` of the storetype that it was added with. */
export class ArtifactIndexedDBCache implements ArtifactCacheTemplate {
  readonly #name: string;
  #opened: Promise<IDBDatabase> | undefined;

  constructor(dbName: string) {
    this.#name = dbName;
  }

  #open(): Promise<IDBDatabase> {
    if (typeof indexedDB === 'undefined') {
      return Promise.reject(new Error('ArtifactIndexedDBCache: there is no IndexedDB here'));
    }
    this.#opened ??= new Promise((resolve, reject) => {
      const request = indexedDB.open(this.#name, 1);
      request.onupgradeneeded = () => {
        const { result } = request;
        if (!result.objectStoreNames.contains(OBJECTS)) {
          result.createObjectStore(OBJECTS, { keyPath: 'url' });
        }
      };
      request.onsuccess = () => {
        resolve(request.result);
      };
      request.onerror = () => {
        this.#opened = undefined;
        reject(failure(request.error, `database '${this.#name}' does not open`));
      };
    });
    return this.#opened;
  }

  async #do<T>(
    mode: IDBTransactionMode,
    act: (objects: IDBObjectStore) => IDBRequest<T>,
  ): Promise<T> {
    const database = await this.#open();
    return new Promise((resolve, reject) => {
      const transaction = database.transaction([OBJECTS], mode);
      const request = act(transaction.objectStore(OBJECTS));
      const what = `database '${this.#name}'`;
      transaction.oncomplete = () => {
        resolve(request.result);
      };
      transaction.onerror = () => {
        reject(failure(transaction.error, what));
      };
      transaction.onabort = () => {
        reject(failure(transaction.error, what));
      };
    });
  }

  /** The object as it is stored; undefined where there is none. */
  async asyncGetHelper(url: string): Promise<Untyped> {
    return this.#do<unknown>('readonly', (objects) => objects.get(url) as IDBRequest<unknown>);
  }

  async fetchWithCache(url: string, storetype?: string, signal?: AbortSignal): Promise<Untyped> {
    await this.addToCache(url, storetype, signal);
    const stored = (await this.asyncGetHelper(url)) as { data?: unknown } | undefined;
    if (stored && 'data' in stored) return stored.data;
    throw new Error(`ArtifactIndexedDBCache failed to fetch: ${url}`);
  }

  /** Keeps what a response has, read as the storetype says; without one, that there was such a file. */
  async addToIndexedDB(url: string, response: Untyped, storetype?: string): Promise<void> {
    const type = storetype?.toLowerCase();
    if (type !== undefined && type !== 'json' && type !== 'arraybuffer') {
      throw new Error(`Unsupported storetype for IndexedDB: ${storetype ?? ''}`);
    }
    const data: unknown = type === undefined ? undefined : await readAs(response as Response, type);
    await this.#do('readwrite', (objects) => objects.put({ data, url }));
  }

  async addToCache(url: string, storetype?: string, signal?: AbortSignal): Promise<void> {
    if (await this.hasAllKeys([url])) return;
    const response = await fetchFile(url, 'ArtifactIndexedDBCache', signal);
    try {
      await this.addToIndexedDB(url, response, storetype);
    } catch (cause) {
      if (signal?.aborted) throw signal.reason;
      throw new Error(`Failed to store ${url} with error: ${String(cause)}`, { cause });
    }
  }

  async hasAllKeys(keys: string[]): Promise<boolean> {
    for (const key of keys) {
      if ((await this.#do('readonly', (objects) => objects.count(key))) === 0) return false;
    }
    return true;
  }

  async deleteInCache(url: string): Promise<void> {
    await this.#do('readwrite', (objects) => objects.delete(url));
  }
}

/** In the origin private file system. */
export class ArtifactOPFSCache implements ArtifactCacheTemplate {
  readonly #store: OPFSStore;

  constructor(scope: string, accessMode: OPFSAccessMode = 'async') {
    this.#store = new OPFSStore(scope, accessMode);
  }

  static isAvailable(): boolean {
    return OPFSStore.isAvailable();
  }

  async fetchWithCache(url: string, storetype?: string, signal?: AbortSignal): Promise<Untyped> {
    const stored = await this.#store.read(url);
    if (stored) return readAs(stored, storetype);
    await this.addToCache(url, storetype, signal);
    const response = await this.#store.read(url);
    if (!response) throw new Error(`ArtifactOPFSCache failed to fetch: ${url}`);
    return readAs(response, storetype);
  }

  async addToCache(url: string, _storetype?: string, signal?: AbortSignal): Promise<void> {
    if (await this.#store.has(url)) return;
    await this.#store.write(url, await fetchFile(url, 'ArtifactOPFSCache', signal));
  }

  async hasAllKeys(keys: string[]): Promise<boolean> {
    for (const key of keys) if (!(await this.#store.has(key))) return false;
    return true;
  }

  async deleteInCache(url: string): Promise<void> {
    await this.#store.remove(url);
  }
}

// ---- The browser extension that shares files among origins, by their digests ----

interface HashDescriptor {
  algorithm: string;
  value: string;
}

interface CrossOriginHandle {
  getFile(): Promise<Blob>;
  createWritable(): Promise<{ write(data: Blob): Promise<void>; close(): Promise<void> }>;
}

interface CrossOriginAPI {
  requestFileHandle(
    descriptor: HashDescriptor,
    options?: { create?: boolean; origins?: string[] | string },
  ): Promise<CrossOriginHandle | undefined>;
}

/** Where digests of files are remembered, by URL. */
const HASHES = 'tvmjs-cos-hash-meta';
const knownHashes = new Map<string, HashDescriptor>();

function crossOriginStorage(): CrossOriginAPI | undefined {
  if (typeof navigator === 'undefined') return undefined;
  return (navigator as { crossOriginStorage?: CrossOriginAPI }).crossOriginStorage;
}

export const hasCrossOriginStorage = (): boolean => crossOriginStorage() !== undefined;

async function hashOf(url: string): Promise<HashDescriptor | undefined> {
  const known = knownHashes.get(url) ?? (await rememberedHash(url));
  if (known) {
    knownHashes.set(url, known);
    return known;
  }
  // Model hubs keep large files behind a pointer that has the digest
  if (!url.includes('/resolve/')) return undefined;
  try {
    const pointer = await (await fetch(url.replace('/resolve/', '/raw/'))).text();
    const value = /oid sha256:([0-9A-Fa-f]+)/.exec(pointer)?.[1];
    if (value === undefined) return undefined;
    const hash = { algorithm: 'SHA-256', value };
    await rememberHash(url, hash);
    return hash;
  } catch {
    return undefined;
  }
}

async function rememberedHash(url: string): Promise<HashDescriptor | undefined> {
  if (typeof caches === 'undefined') return undefined;
  try {
    const response = await (await caches.open(HASHES)).match(url);
    return response && ((await response.json()) as HashDescriptor);
  } catch {
    return undefined;
  }
}

async function rememberHash(url: string, hash: HashDescriptor): Promise<void> {
  knownHashes.set(url, hash);
  if (typeof caches === 'undefined') return;
  try {
    await (await caches.open(HASHES)).put(url, new Response(JSON.stringify(hash)));
  } catch {
    // It is found out again
  }
}

/** What ArtifactCrossOriginStorageCache needs of a storage; tests bring one of their own. */
export interface CrossOriginFiles {
  match(url: string): Promise<Response | undefined>;
  put(url: string, response: Response): Promise<void>;
  delete(url: string): Promise<void>;
}

class CrossOriginStorage implements CrossOriginFiles {
  async match(url: string): Promise<Response | undefined> {
    const hash = await hashOf(url);
    if (!hash) return undefined;
    try {
      const handle = await crossOriginStorage()?.requestFileHandle(hash);
      return handle && new Response(await handle.getFile());
    } catch {
      return undefined;
    }
  }

  async put(url: string, response: Response): Promise<void> {
    const blob = await response.blob();
    const digest = await crypto.subtle.digest('SHA-256', await blob.arrayBuffer());
    const hash = { algorithm: 'SHA-256', value: hex(new Uint8Array(digest)) };
    const handle = await crossOriginStorage()?.requestFileHandle(hash, {
      create: true,
      origins: '*',
    });
    if (!handle) throw new Error('Cross-origin storage API unavailable.');
    const writable = await handle.createWritable();
    await writable.write(blob);
    await writable.close();
    await rememberHash(url, hash);
  }

  /** The extension has no way to delete. */
  async delete(): Promise<void> {
    return Promise.resolve();
  }
}

/** In the storage that a browser extension shares among origins. */
export class ArtifactCrossOriginStorageCache implements ArtifactCacheTemplate {
  readonly #storage: CrossOriginFiles;

  constructor(_scope: string, storage: CrossOriginFiles = new CrossOriginStorage()) {
    this.#storage = storage;
  }

  async fetchWithCache(url: string, storetype?: string, signal?: AbortSignal): Promise<Untyped> {
    const stored = await this.#storage.match(url);
    if (stored) return readAs(stored, storetype);
    await this.addToCache(url, storetype, signal);
    const response = await this.#storage.match(url);
    if (!response) throw new Error(`ArtifactCrossOriginStorageCache: failed to hydrate ${url}`);
    return readAs(response, storetype);
  }

  async addToCache(url: string, _storetype?: string, signal?: AbortSignal): Promise<void> {
    if (await this.#storage.match(url)) return;
    const response = await fetchFile(url, 'ArtifactCrossOriginStorageCache', signal);
    await this.#storage.put(url, response);
  }

  async hasAllKeys(keys: string[]): Promise<boolean> {
    for (const key of keys) if (!(await this.#storage.match(key))) return false;
    return true;
  }

  async deleteInCache(url: string): Promise<void> {
    await this.#storage.delete(url);
  }
}

/** The kind of that name, in any case of letters; "cache", said on the console, where there is none. */
export function cacheTypeOf(cacheType = 'cache'): ArtifactCacheType {
  const type = cacheType.toLowerCase();
  if (type === 'cache' || type === 'indexeddb' || type === 'cross-origin' || type === 'opfs') {
    return type;
  }
  // eslint-disable-next-line no-console -- as tvmjs says it, which goes on as well
  console.error(`Unsupported cacheType: ${cacheType}, using default ArtifactCache.`);
  return 'cache';
}

let warned = false;

/** "cross-origin" is "cache" where the extension is not there, said on the console once. */
export function createArtifactCache(
  scope: string,
  options: TensorCacheAccessOptions = {},
): ArtifactCacheTemplate {
  if (options.artifactCache !== undefined) return options.artifactCache;
  switch (cacheTypeOf(options.cacheType)) {
    case 'indexeddb':
      return new ArtifactIndexedDBCache(scope);
    case 'opfs':
      return new ArtifactOPFSCache(scope, options.opfsAccessMode);
    case 'cross-origin':
      if (hasCrossOriginStorage()) return new ArtifactCrossOriginStorageCache(scope);
      if (!warned) {
        // eslint-disable-next-line no-console -- nothing else tells where files go
        console.warn('Cross-origin storage is unavailable; falling back to ArtifactCache.');
      }
      warned = true;
      return new ArtifactCache(scope);
    case 'cache':
      return new ArtifactCache(scope);
  }
}

async function fetchFile(
  url: string,
  who: string,
  signal: AbortSignal | undefined,
): Promise<Response> {
  const response = await fetch(url, signal ? { signal } : undefined);
  if (response.ok) return response;
  throw new Error(`${who}: Unable to fetch ${url}, received status ${response.status}`);
}

async function readAs(response: Response, storetype: string | undefined): Promise<unknown> {
  switch (storetype?.toLowerCase()) {
    case 'json':
      return response.json();
    case 'arraybuffer':
      return response.arrayBuffer();
    default:
      return response;
  }
}

function failure(error: DOMException | null, what: string): Error {
  return new Error(`${what}: ${error?.message ?? 'it failed'}`, { cause: error });
}

/** A record's bytes where they lie in a shard. Throws where they do not. */
export function getTensorCacheRecordBytes(
  shardData: ArrayBuffer | Uint8Array,
  { byteOffset, nbytes }: { byteOffset: number; nbytes: number },
): Uint8Array {
  const shard = shardData instanceof Uint8Array ? shardData : new Uint8Array(shardData);
  for (const [what, value] of Object.entries({ byteOffset, nbytes })) {
    if (!Number.isSafeInteger(value) || value < 0) {
      throw new Error(`Invalid tensor-cache ${what}: ${value}`);
    }
  }
  const end = byteOffset + nbytes;
  if (!Number.isSafeInteger(end) || end > shard.byteLength) {
    throw new Error(
      `Tensor-cache record range [${byteOffset}, ${end}) exceeds shard size ${shard.byteLength}`,
    );
  }
  return shard.subarray(byteOffset, end);
}
