// What is measured against each other. Each loads the whole model from the server, leaves it in GPU memory,
// and gives `find(name)`, where a record is, and `destroy()`.
const CONNECTIONS = 4;
const RANGE_BYTES = 32 * 2 ** 20;
const SLOT_BYTES = 4 * 2 ** 20;
const SLOTS = 8;
const CHECKED_RECORDS = 64;

// GPUMapMode and GPUBufferUsage (https://www.w3.org/TR/webgpu/#buffer-usage); Node has no such globals
const MAP_WRITE = 2;
const USAGE = { MAP_READ: 1, MAP_WRITE: 2, COPY_SRC: 4, COPY_DST: 8, STORAGE: 128 };
const TENSOR_USAGE = USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST;

/** Streams by fetch: calls `take(chunk)` for each chunk and waits for the promise it may return. */
export async function fetchStream(url, range, take) {
  const response = await fetch(url, { cache: 'no-store', headers: rangeHeader(range) });
  if (!response.ok) throw new Error(`${url}: status ${response.status}`);
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const pending = take(value);
    if (pending) await pending;
  }
}

/** The same, read into one array again and again, as the package reads. */
export async function byobStream(url, range, take) {
  const response = await fetch(url, { cache: 'no-store', headers: rangeHeader(range) });
  if (!response.ok) throw new Error(`${url}: status ${response.status}`);
  const reader = response.body.getReader({ mode: 'byob' });
  for (let buffer = new ArrayBuffer(256 * 1024); ;) {
    const { done, value } = await reader.read(new Uint8Array(buffer));
    if (done) return;
    const pending = take(value);
    if (pending) await pending;
    ({ buffer } = value);
  }
}

export function rangeHeader(range) {
  return range ? { range: `bytes=${range.begin}-${range.end - 1}` } : {};
}

/** The requests that fetch the model: whole files, or ranges of 32 MiB of larger ones. */
function requests(model) {
  const list = [];
  model.files.forEach((file, index) => {
    if (file.nbytes <= RANGE_BYTES) list.push({ file, index, begin: 0, end: file.nbytes });
    else
      for (let begin = 0; begin < file.nbytes; begin += RANGE_BYTES) {
        const end = Math.min(begin + RANGE_BYTES, file.nbytes);
        list.push({ file, index, begin, end, range: { begin, end } });
      }
  });
  return list;
}

async function eachRequest(model, work) {
  const waiting = requests(model);
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      for (let next; (next = waiting.shift());) await work(next);
    }),
  );
}

/** Fetches and drops: the limit of everything else. */
async function discard({ model, stream }) {
  let received = 0;
  await eachRequest(model, ({ file, range }) =>
    stream(`${model.url}/${file.path}`, range, (chunk) => {
      received += chunk.length;
    }),
  );
  if (received !== model.nbytes) throw new Error(`received ${received} of ${model.nbytes} bytes`);
  return { destroy() {} };
}

/** Slots of CPU memory, from which full blocks are uploaded. */
class Uploader {
  #free = [];
  #waiting = [];
  #all = [];
  #device;
  #ring;

  constructor(device, path) {
    this.#device = device;
    this.#ring = path === 'ring';
    for (let i = 0; i < SLOTS; i++) {
      const slot = {};
      if (this.#ring) {
        const usage = USAGE.MAP_WRITE | USAGE.COPY_SRC;
        slot.buffer = device.createBuffer({ size: SLOT_BYTES, usage, mappedAtCreation: true });
        slot.bytes = new Uint8Array(slot.buffer.getMappedRange());
      } else {
        slot.bytes = new Uint8Array(SLOT_BYTES);
      }
      this.#all.push(slot);
      this.#free.push(slot);
    }
  }

  /** A free slot, or undefined: then wait for room(). */
  take() {
    return this.#free.pop();
  }

  room() {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  send(slot, nbytes, target, offset) {
    const { queue } = this.#device;
    let done;
    if (this.#ring) {
      slot.buffer.unmap();
      const encoder = this.#device.createCommandEncoder();
      encoder.copyBufferToBuffer(slot.buffer, 0, target, offset, nbytes);
      queue.submit([encoder.finish()]);
      done = slot.buffer.mapAsync(MAP_WRITE).then(() => {
        slot.bytes = new Uint8Array(slot.buffer.getMappedRange());
      });
    } else {
      queue.writeBuffer(target, offset, slot.bytes, 0, nbytes);
      done = queue.onSubmittedWorkDone();
    }
    done.then(() => {
      this.#free.push(slot);
      this.#waiting.shift()?.();
    });
  }

  destroy() {
    for (const slot of this.#all) slot.buffer?.destroy();
  }
}

/** The bare loop: the same requests over as many connections, copied into slots and uploaded. */
async function bare({ model, device, stream }, { path }) {
  const buffers = model.files.map(({ nbytes }) =>
    device.createBuffer({ size: nbytes, usage: TENSOR_USAGE }),
  );
  const uploader = new Uploader(device, path);
  await eachRequest(model, async ({ file, index, begin, range }) => {
    let at = begin;
    let slot;
    let used = 0;
    const send = () => {
      uploader.send(slot, used, buffers[index], at);
      at += used;
      slot = undefined;
    };
    const take = (chunk) => {
      for (let done = 0; done < chunk.length;) {
        if (!slot) {
          slot = uploader.take();
          if (!slot) return uploader.room().then(() => take(chunk.subarray(done)));
          used = 0;
        }
        const part = chunk.subarray(done, done + SLOT_BYTES - used);
        slot.bytes.set(part, used);
        done += part.length;
        used += part.length;
        if (used === SLOT_BYTES) send();
      }
    };
    await stream(`${model.url}/${file.path}`, range, take);
    if (slot) send();
  });
  await device.queue.onSubmittedWorkDone();
  uploader.destroy();
  return inFiles(model, buffers);
}

function inFiles(model, buffers) {
  return {
    find(name) {
      for (const [index, file] of model.files.entries()) {
        const record = file.records.find((each) => each.name === name);
        if (record) return { buffer: buffers[index], offset: record.byteOffset };
      }
    },
    destroy() {
      for (const buffer of buffers) buffer.destroy();
    },
  };
}

/** The common way: whole shards as ArrayBuffers, then one writeBuffer a record. */
async function common({ model, device }) {
  const buffers = new Map();
  const waiting = [...model.files];
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      for (let file; (file = waiting.shift());) {
        const response = await fetch(`${model.url}/${file.path}`, { cache: 'no-store' });
        const bytes = await response.arrayBuffer();
        for (const { name, nbytes, byteOffset } of file.records) {
          const buffer = device.createBuffer({ size: nbytes, usage: TENSOR_USAGE });
          buffers.set(name, buffer);
          device.queue.writeBuffer(buffer, 0, bytes, byteOffset, nbytes);
        }
      }
    }),
  );
  await device.queue.onSubmittedWorkDone();
  return {
    find: (name) => ({ buffer: buffers.get(name), offset: 0 }),
    destroy() {
      for (const buffer of buffers.values()) buffer.destroy();
    },
  };
}

/** The package, as a person would call it. */
async function sluice({ model, device, loadModel }, { options }) {
  const loaded = await loadModel(`${model.url}/tensor-cache.json`, { device, ...options });
  await device.queue.onSubmittedWorkDone();
  return {
    note: `${loaded.report.upload}, ${loaded.report.thread}`,
    find: (name) => loaded.get(name),
    destroy: () => loaded.destroy(),
  };
}

/** The package, and its bytes dropped: no device takes part. */
async function drop({ model, loadModel }, { options }) {
  let received = 0;
  await loadModel(`${model.url}/tensor-cache.json`, {
    ...options,
    consume(tensor, offset, bytes) {
      received += bytes.length;
    },
  });
  if (received !== model.nbytes) throw new Error(`received ${received} of ${model.nbytes} bytes`);
  return { destroy() {} };
}

// The incumbent cannot hold larger tensors in wasm memory: it aborts
const WASM_TENSOR_BYTES = 670 * 2 ** 20;

/**
 * The sequence of fetchTensorCache() in the npm package @mlc-ai/web-runtime (Apache TVM, web/src/runtime.ts,
 * fetchTensorCacheInternal), without its progress reports. Written afresh from its steps:
 * - with `cache`, as by default: all shards into the Cache API in four parallel loops, then one after the other
 *   out of it. Without: one after the other from the network, which its caches never do;
 * - a whole shard as an ArrayBuffer;
 * - with `staged`, as in 0.24.0-dev1, each record: slice() → the call stack's staging array → a slice of that →
 *   wasm memory → decoded into the tensor in wasm memory (a copy, as these models' records are raw) → writeBuffer;
 * - otherwise, as in 0.27.0-dev0, each raw record: writeBuffer of a view of the shard;
 * - after each record: wait for onSubmittedWorkDone().
 */
async function fetchTensorCache({ model, device }, { staged, cache: cached }) {
  const buffers = new Map();
  const scope = 'sluice-bench';
  const urls = model.files.map((file) => `${model.url}/${file.path}`);
  let cache;
  if (cached) {
    await caches.delete(scope);
    cache = await caches.open(scope);
    const quarter = Math.floor(urls.length / 4);
    await Promise.all(
      [0, 1, 2, 3].map(async (i) => {
        const end = i === 3 ? urls.length : (i + 1) * quarter;
        for (const url of urls.slice(i * quarter, end)) await cache.add(url);
      }),
    );
  }
  const stage = staged ? wasmStage() : (bytes) => bytes;
  const unstaged = [];
  for (const [index, file] of model.files.entries()) {
    const response = cache
      ? await cache.match(urls[index])
      : await fetch(urls[index], { cache: 'no-store' });
    const shard = await response.arrayBuffer();
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
    async destroy() {
      for (const buffer of buffers.values()) buffer.destroy();
      if (cached) await caches.delete(scope);
    },
  };
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

const CONTESTANTS = { discard, bare, common, fetchTensorCache, sluice, drop };

/** Runs one of them once: `{milliseconds, note}`. With `check`, its records are read back and compared. */
export async function perform(environment, { contestant, check, targetless, ...options }) {
  if (targetless) environment = { ...environment, device: withoutTargets(environment.device) };
  // What the one before has left is not this one's to clear away
  globalThis.gc?.();
  const begin = performance.now();
  const loaded = await CONTESTANTS[contestant](environment, options);
  const milliseconds = performance.now() - begin;
  try {
    if (check && loaded.find) await checkRecords(environment, loaded);
  } finally {
    await loaded.destroy();
    await environment.device?.queue.onSubmittedWorkDone();
  }
  return { milliseconds, ...(loaded.note ? { note: loaded.note } : {}) };
}

/** Compares both ends of some records, the largest among them, with what the server sends for their ranges. */
async function checkRecords({ model, device }, loaded) {
  const records = model.files.flatMap((file) =>
    file.records.map((record) => ({ ...record, url: `${model.url}/${file.path}` })),
  );
  const step = Math.ceil(records.length / CHECKED_RECORDS);
  const largest = records.reduce((a, b) => (b.nbytes > a.nbytes ? b : a));
  const checked = new Set(records.filter((_, index) => index % step === 0));
  for (const record of checked.add(largest).add(records.at(-1))) {
    const { name, nbytes, byteOffset, url } = record;
    const size = Math.min(4096, nbytes);
    for (const at of new Set([0, nbytes - size])) {
      const { buffer, offset } = loaded.find(name);
      const bytes = await readBack(device, buffer, offset + at, size);
      const begin = byteOffset + at;
      const headers = rangeHeader({ begin, end: begin + size });
      const response = await fetch(url, { cache: 'no-store', headers });
      if (response.status !== 206) throw new Error(`${url}: status ${response.status}, not 206`);
      const expected = new Uint8Array(await response.arrayBuffer());
      if (expected.length !== size)
        throw new Error(`${url}: ${expected.length} bytes, not ${size}`);
      if (!bytes.every((byte, i) => byte === expected[i])) {
        throw new Error(`record ${name} differs near byte ${at}`);
      }
    }
  }
}

async function readBack(device, buffer, offset, nbytes) {
  const begin = offset - (offset % 4); // a copy's offset and size are multiples of 4
  const size = Math.ceil((offset + nbytes - begin) / 4) * 4;
  const readback = device.createBuffer({ size, usage: USAGE.MAP_READ | USAGE.COPY_DST });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, begin, readback, 0, size);
  device.queue.submit([encoder.finish()]);
  await readback.mapAsync(1);
  const bytes = new Uint8Array(readback.getMappedRange()).slice(offset - begin);
  readback.destroy();
  return bytes.subarray(0, nbytes);
}

const TARGETLESS_BYTES = 16 * 2 ** 20;

/**
 * The device, except that it makes no storage buffers: what is copied into one goes into the same few bytes. So
 * a load of any size takes the same memory of the GPU, and everything else of it is as ever.
 */
function withoutTargets(device) {
  const usage = USAGE.COPY_DST | USAGE.COPY_SRC;
  const sink = device.createBuffer({ size: TARGETLESS_BYTES, usage });
  const targets = new WeakSet();
  const place = (target, offset, nbytes) => {
    if (!targets.has(target)) return [target, offset];
    if (nbytes > TARGETLESS_BYTES) throw new Error(`${nbytes} bytes in one copy`);
    return [sink, offset % (TARGETLESS_BYTES - nbytes + 4)];
  };
  const bound = (object, overrides) =>
    new Proxy(object, {
      get(_, name) {
        if (Object.hasOwn(overrides, name)) return overrides[name];
        const value = object[name];
        return typeof value === 'function' ? value.bind(object) : value;
      },
    });
  const limits = bound(device.limits, { maxBufferSize: Infinity });
  const queue = bound(device.queue, {
    writeBuffer(target, offset, source, sourceOffset, nbytes) {
      device.queue.writeBuffer(...place(target, offset, nbytes), source, sourceOffset, nbytes);
    },
  });
  return bound(device, {
    limits,
    queue,
    createBuffer(description) {
      if (!(description.usage & USAGE.STORAGE)) return device.createBuffer(description);
      const target = { ...description, destroy() {} };
      targets.add(target);
      return target;
    },
    createCommandEncoder() {
      const encoder = device.createCommandEncoder();
      return {
        copyBufferToBuffer(source, sourceOffset, target, offset, nbytes) {
          encoder.copyBufferToBuffer(
            source,
            sourceOffset,
            ...place(target, offset, nbytes),
            nbytes,
          );
        },
        finish: () => encoder.finish(),
      };
    },
  });
}

/** A device for buffers of `largest` bytes: a record or, for the bare loop, a file. */
export async function requestDevice(gpu, largest) {
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  if (!adapter) throw new Error('there is no WebGPU adapter');
  const maxBufferSize = Math.min(adapter.limits.maxBufferSize, Math.max(largest, 256 * 2 ** 20));
  const device = await adapter.requestDevice({ requiredLimits: { maxBufferSize } });
  let failure;
  device.addEventListener('uncapturederror', (event) => {
    failure ??= event.error.message;
  });
  const { vendor, architecture, description } = adapter.info ?? {};
  return {
    device,
    adapter: [vendor, architecture, description].filter(Boolean).join(' '),
    takeFailure() {
      const said = failure;
      failure = undefined;
      return said;
    },
  };
}
