/** What the store's fault tests share: models, seeded chance, counting, and a store on disk with its insides open. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  loadModel,
  ModelStore,
  openStore,
  SluiceError,
  type LoadOptions,
  type Model,
} from 'sluice';
import { randomTensor, safetensors, tensorCache, type TestTensor } from '../support/models.js';
import type { TestServer } from '../support/server.js';

/** Numbers in [0, 1) that a seed repeats (mulberry32). */
export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let t = this.#state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** An integer in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.next() * limit);
  }

  pick<T>(all: readonly T[]): T {
    return all[this.below(all.length)] ?? assert.fail('nothing to pick from');
  }
}

/** Cases of one experiment: how many passed, what happened in them, and what went wrong. */
export class Tally {
  readonly name: string;
  passed = 0;
  failed = 0;
  readonly notes = new Map<string, number>();
  readonly #began = Date.now();

  constructor(name: string) {
    this.name = name;
  }

  note(what: string, count = 1): void {
    this.notes.set(what, (this.notes.get(what) ?? 0) + count);
  }

  /** Runs one case, which is a failure too where it takes longer than `limitMs`. */
  async case(what: string, limitMs: number, act: () => Promise<void>): Promise<void> {
    try {
      await within(limitMs, what, act());
      this.passed++;
    } catch (error) {
      this.failed++;
      console.error(
        `FAILED ${this.name}: ${what}: ${error instanceof Error ? (error.stack ?? '') : String(error)}`,
      );
    }
  }

  toString(): string {
    const notes = [...this.notes].map(([what, count]) => `${what} ${count}`).join(', ');
    const seconds = ((Date.now() - this.#began) / 1000).toFixed(0);
    return `${this.name}: ${this.passed} passed, ${this.failed} failed (${seconds} s; ${notes})`;
  }
}

export async function within<T>(limitMs: number, what: string, promise: Promise<T>): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`${what}: not done after ${limitMs} ms`));
    }, limitMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs `act` for 0 … count - 1, several at a time. */
export async function each(
  count: number,
  atATime: number,
  act: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const lane = async (): Promise<void> => {
    while (next < count) await act(next++);
  };
  await Promise.all(Array.from({ length: atATime }, lane));
}

/** A model as it is served and as it must come out. */
export interface Subject {
  /** The file of its location, or nothing for its folder. */
  readonly name: string;
  readonly files: Record<string, Uint8Array>;
  readonly tensors: readonly TestTensor[];
  /** Bytes of all files. */
  readonly nbytes: number;
}

function subject(name: string, files: Record<string, Uint8Array>, tensors: TestTensor[]): Subject {
  const nbytes = Object.values(files).reduce((sum, { length }) => sum + length, 0);
  return { name, files, tensors, nbytes };
}

/** A tensor cache of `shards` shards of some `shardBytes` bytes, with their MD5. */
export function cacheModel(shards: number, shardBytes: number, seed: number, md5 = true): Subject {
  const tensors = Array.from({ length: shards }, (_, i) => [
    randomTensor(
      `layer.${i}.weight`,
      'float32',
      [Math.ceil(shardBytes / 4100), 1025],
      seed + 2 * i,
    ),
    randomTensor(`layer.${i}.bias`, 'uint8', [997], seed + 2 * i + 1),
  ]);
  const { manifest, data } = tensorCache(tensors);
  for (const shard of manifest.records) {
    const bytes = data[shard.dataPath];
    if (md5 && bytes) shard.md5sum = createHash('md5').update(bytes).digest('hex');
  }
  const text = new TextEncoder().encode(JSON.stringify(manifest));
  return subject('', { 'tensor-cache.json': text, ...data }, tensors.flat());
}

/** One safetensors file of some `nbytes` bytes. */
export function fileModel(nbytes: number, seed: number): Subject {
  const tensors = [
    randomTensor('a.weight', 'F32', [Math.ceil(nbytes / 2 / 4100), 1025], seed),
    randomTensor('b', 'U8', [70_001], seed + 1),
    randomTensor('c.weight', 'F16', [Math.ceil(nbytes / 2 / 2050), 1025], seed + 2),
  ];
  return subject('model.safetensors', { 'model.safetensors': safetensors(tensors) }, tensors);
}

export function serve(server: TestServer, folder: string, model: Subject): string {
  for (const [path, bytes] of Object.entries(model.files)) server.files[folder + path] = bytes;
  return server.origin + folder + model.name;
}

/** Every byte of every tensor. */
export function checkTensors(loaded: Model, { tensors }: Subject): void {
  assert.deepEqual(
    [...loaded.tensors.keys()],
    tensors.map(({ name }) => name),
  );
  for (const { name, bytes } of tensors) {
    const tensor = loaded.get(name);
    assert.ok(tensor?.location === 'cpu');
    assert.equal(Buffer.compare(tensor.data, bytes), 0, `WRONG BYTES in ${name}`);
  }
}

/** SHA-256 of all tensors' bytes in order: what another process says of them. */
export function digestOf({ tensors }: Subject): string {
  const hash = createHash('sha256');
  for (const { bytes } of tensors) hash.update(bytes);
  return hash.digest('hex');
}

export function load(url: string, store: ModelStore, more: LoadOptions = {}): Promise<Model> {
  return loadModel(url, { device: 'cpu', store, ...more });
}

/** Loads, and gives the error instead of rejecting with it, which must be one of ours. */
export async function outcome(loading: Promise<Model>): Promise<Model | SluiceError> {
  try {
    return await loading;
  } catch (error) {
    assert.ok(error instanceof SluiceError, `no SluiceError: ${String(error)}`);
    assert.notEqual(error.code, 'internal', error.message);
    return error;
  }
}

/** Bytes that were asked for since request `from`: the ranges, or whole files. */
export function askedBytes(server: TestServer, folder: string, model: Subject, from = 0): number {
  let sum = 0;
  for (const { method, path, range } of server.requests.slice(from)) {
    const nbytes = model.files[path.slice(folder.length)]?.length;
    if (method !== 'GET' || !path.startsWith(folder) || nbytes === undefined) continue;
    const [, begin = '0', end = ''] = /^bytes=(\d+)-(\d*)$/.exec(range ?? '') ?? [];
    sum += (end === '' ? nbytes : Math.min(Number(end) + 1, nbytes)) - Number(begin);
  }
  return sum;
}

/** A folder of the disk that is removed afterwards. */
export async function withFolder<T>(act: (path: string) => Promise<T>): Promise<T> {
  const path = await mkdtemp(join(tmpdir(), 'sluice-faults-'));
  try {
    return await act(path);
  } finally {
    await rm(path, { recursive: true, force: true, maxRetries: 5 });
  }
}

type Platform = ModelStore['platform'];
export type StoreFolder = Awaited<ReturnType<Platform['openRoot']>>;
export type SyncFile = Awaited<ReturnType<StoreFolder['file']>>;

/** A store on disk whose operations run in this thread, with files as `wrap` makes them. */
export async function storeInThread(
  path: string,
  wrap: (file: SyncFile, name: string) => SyncFile = (file) => file,
): Promise<ModelStore> {
  const { platform } = await openStore(path);
  const wrapFolder = (folder: StoreFolder): StoreFolder => ({
    file: async (name, create) => wrap(await folder.file(name, create), name),
    folder: async (name, create) => wrapFolder(await folder.folder(name, create)),
    entries: () => folder.entries(),
    peek: (name, limit) => folder.peek(name, limit),
    remove: (name) => folder.remove(name),
  });
  return new ModelStore({
    ...platform,
    threads: 0,
    openRoot: async () => wrapFolder(await platform.openRoot()),
  });
}

/** The folder of the only model of a store. */
export async function modelFolder(store: string): Promise<string> {
  const names = await readdir(join(store, 'models'));
  assert.equal(names.length, 1, names.join());
  return join(store, 'models', names[0] ?? '');
}

export interface Extent {
  readonly path: string;
  /** Name of the data file. */
  readonly file: string;
  readonly begin: number;
  readonly end: number;
}

/** Every extent that a store says it has of a model. */
export async function extentsOf(store: ModelStore, key: string): Promise<Extent[]> {
  const session = await store.session(key, { poolBytes: 0 });
  try {
    const extents: Extent[] = [];
    for (const { path, index, nbytes } of session.snapshot().files) {
      for (let at = 0; at < (nbytes ?? 0);) {
        const { stored, begin, end } = session.find(path, at);
        if (stored) extents.push({ path, file: String(index), begin, end });
        at = end;
      }
    }
    return extents;
  } finally {
    await session.close();
  }
}

export async function storedBytes(store: ModelStore): Promise<number> {
  return (await store.usage()).storedBytes;
}

/** Nothing of a load may be left: no lock, and no wait for one. */
export async function checkNoLocks(store: string): Promise<void> {
  // Locks are given up without anybody waiting for it
  for (let attempt = 0; ; attempt++) {
    const left = await readdir(join(store, 'locks')).catch(() => []);
    if (left.length === 0) return;
    assert.ok(attempt < 100, `locks are left: ${left.join(', ')}`);
    await new Promise((resume) => setTimeout(resume, 10));
  }
}
