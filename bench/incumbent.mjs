// The incumbent: the steps of fetchTensorCache() in the npm package @mlc-ai/web-runtime (Apache TVM, web/src/runtime.ts,
// artifact_cache.ts and opfs_store.ts), written afresh, without its wasm and its progress reports.
import { TENSOR_USAGE } from './contestants.mjs';

const SCOPE = 'sluice-bench';

// It cannot hold larger tensors in wasm memory: it aborts
const WASM_TENSOR_BYTES = 670 * 2 ** 20;

/**
 * All shards into the cache in four parallel loops, unless they are there; then one after the other out of it as an
 * ArrayBuffer. Without `artifacts`: one after the other from the network, which its caches never do.
 * - With `staged`, as in 0.24.0-dev1, each record: slice() → the call stack's staging array → a slice of that →
 *   wasm memory → decoded into the tensor in wasm memory (a copy, as these models' records are raw) → writeBuffer;
 * - otherwise, as in 0.27.0-dev0, each raw record: writeBuffer of a view of the shard;
 * - after each record: wait for onSubmittedWorkDone().
 */
export async function loadRecords({ model, device }, { staged, artifacts }) {
  const buffers = new Map();
  const urls = shardUrls(model);
  if (artifacts && !(await artifacts.hasAll(urls))) await fill(artifacts, urls);
  const stage = staged ? wasmStage() : (bytes) => bytes;
  const unstaged = [];
  for (const [index, file] of model.files.entries()) {
    const shard = artifacts
      ? await artifacts.arrayBuffer(urls[index])
      : await (await fetch(urls[index], { cache: 'no-store' })).arrayBuffer();
    for (const { name, format, nbytes, byteOffset } of file.records) {
      if (format !== 'raw' || nbytes % 4) throw new Error(`${name}: not as its steps here expect`);
      const buffer = device.createBuffer({ size: nbytes, usage: TENSOR_USAGE });
      buffers.set(name, buffer);
      const direct = !staged || nbytes > WASM_TENSOR_BYTES;
      if (staged && direct) unstaged.push(name);
      const bytes = direct
        ? new Uint8Array(shard, byteOffset, nbytes)
        : stage(new Uint8Array(shard.slice(byteOffset, byteOffset + nbytes)));
      device.queue.writeBuffer(buffer, 0, bytes, 0, nbytes);
      await device.queue.onSubmittedWorkDone();
    }
  }
  return {
    note: unstaged.length > 0 ? `past wasm, which cannot hold it: ${unstaged.join(', ')}` : '',
    find: (name) => ({ buffer: buffers.get(name), offset: 0 }),
    destroy() {
      for (const buffer of buffers.values()) buffer.destroy();
    },
  };
}

const shardUrls = (model) => model.files.map((file) => `${model.url}/${file.path}`);

async function fill(artifacts, urls) {
  const quarter = Math.floor(urls.length / 4);
  await Promise.all(
    [0, 1, 2, 3].map(async (i) => {
      const end = i === 3 ? urls.length : (i + 1) * quarter;
      for (const url of urls.slice(i * quarter, end)) await artifacts.add(url);
    }),
  );
}

/** A function that takes bytes through wasm memory, and gives the view of them there until its next call. */
function wasmStage() {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 65536 });
  let staging = new Uint8Array(1024);
  return (bytes) => {
    const missing = 2 * bytes.length - memory.buffer.byteLength;
    if (missing > 0) memory.grow(Math.ceil(missing / 65536));
    if (staging.length < bytes.length) staging = new Uint8Array(bytes.length);
    staging.set(bytes);
    const wasm = new Uint8Array(memory.buffer);
    wasm.set(staging.slice(0, bytes.length));
    wasm.copyWithin(bytes.length, 0, bytes.length);
    return wasm.subarray(bytes.length, 2 * bytes.length);
  };
}

/** ArtifactCache: the default. */
async function cacheApi() {
  const cache = await caches.open(SCOPE);
  const add = async (url) => {
    const request = new Request(url);
    if (!(await cache.match(request))) await cache.add(request);
  };
  return {
    async hasAll(urls) {
      const keys = (await cache.keys()).map(({ url }) => url);
      return urls.every((url) => keys.indexOf(url) !== -1);
    },
    add,
    async arrayBuffer(url) {
      await add(url);
      return (await cache.match(new Request(url))).arrayBuffer();
    },
    remove: () => caches.delete(SCOPE),
  };
}

/**
 * ArtifactOPFSCache, without what it does for failures. `sync` is its opfsAccessMode 'sync', which needs a worker; the
 * default is 'async'.
 */
async function opfs(sync) {
  const root = await navigator.storage.getDirectory();
  const folder = await root.getDirectoryHandle(SCOPE, { create: true });
  const nameOf = async (url) => {
    const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(url));
    return Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, '0')).join(
      '',
    );
  };
  const entry = async (url) => {
    const name = await nameOf(url);
    const handle = await folder.getFileHandle(`${name}.record.json`).catch(() => undefined);
    if (!handle) return undefined;
    const record = JSON.parse(await (await handle.getFile()).text());
    return { record, payload: await folder.getFileHandle(`${name}.bin`) };
  };
  const has = async (url) => {
    const found = await entry(url);
    if (!found) return false;
    if (!sync) return (await found.payload.getFile()).size === found.record.nbytes;
    const handle = await found.payload.createSyncAccessHandle({ mode: 'read-only' });
    const size = handle.getSize();
    handle.close();
    return size === found.record.nbytes;
  };
  const writePayload = async (payload, body) => {
    const file = sync
      ? await payload.createSyncAccessHandle({ mode: 'readwrite' })
      : await payload.createWritable();
    if (sync) file.truncate(0);
    const reader = body.getReader();
    let nbytes = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (sync) file.write(value, { at: nbytes });
      else await file.write(value);
      nbytes += value.byteLength;
    }
    if (sync) file.flush();
    await file.close();
    return nbytes;
  };
  return {
    hasAll: async (urls) => (await Promise.all(urls.map(has))).every(Boolean),
    async add(url) {
      if (await has(url)) return;
      const response = await fetch(url);
      const name = await nameOf(url);
      const payload = await folder.getFileHandle(`${name}.bin`, { create: true });
      const nbytes = await writePayload(payload, response.body);
      const handle = await folder.getFileHandle(`${name}.record.json`, { create: true });
      const writable = await handle.createWritable();
      await writable.write(new TextEncoder().encode(JSON.stringify({ url, nbytes })));
      await writable.close();
    },
    async arrayBuffer(url) {
      const { record, payload } = await entry(url);
      let bytes;
      if (sync) {
        const handle = await payload.createSyncAccessHandle({ mode: 'read-only' });
        bytes = new ArrayBuffer(handle.getSize());
        handle.read(new Uint8Array(bytes), { at: 0 });
        handle.close();
      } else {
        bytes = await (await payload.getFile()).arrayBuffer();
      }
      if (bytes.byteLength !== record.nbytes) throw new Error(`${url}: ${bytes.byteLength} bytes`);
      return bytes;
    },
    remove: () => root.removeEntry(SCOPE, { recursive: true }),
  };
}

const artifactsOf = (cache) => (cache === 'cache' ? cacheApi() : opfs(cache === 'opfs-sync'));

/** From the network, or by way of one of its caches, which is emptied before and after. */
export const fetchTensorCache = {
  async prepare(_, { cache }) {
    if (!cache) return undefined;
    await (await artifactsOf(cache)).remove();
    return artifactsOf(cache);
  },
  load: (environment, options, artifacts) => loadRecords(environment, { ...options, artifacts }),
  clean: (_, options, artifacts) => artifacts?.remove(),
};

/** From one of its caches, which has everything. */
export const cachedFetchTensorCache = {
  async prepare({ model }, { cache }) {
    const artifacts = await artifactsOf(cache);
    const urls = shardUrls(model);
    if (!(await artifacts.hasAll(urls))) await fill(artifacts, urls);
    return artifacts;
  },
  load: (environment, options, artifacts) => loadRecords(environment, { ...options, artifacts }),
};
