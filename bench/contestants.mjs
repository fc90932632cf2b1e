// What is measured against each other. Each loads the whole model from the server, leaves it in GPU memory,
// and gives `find(name)`, where a record is, and `destroy()`.
const CONNECTIONS = 4;
const RANGE_BYTES = 32 * 2 ** 20;
const SLOT_BYTES = 4 * 2 ** 20;
const SLOTS = 8;

// GPUMapMode and GPUBufferUsage (https://www.w3.org/TR/webgpu/#buffer-usage); Node has no such globals
const MAP_WRITE = 2;
export const USAGE = { MAP_READ: 1, MAP_WRITE: 2, COPY_SRC: 4, COPY_DST: 8, STORAGE: 128 };
export const TENSOR_USAGE = USAGE.STORAGE | USAGE.COPY_SRC | USAGE.COPY_DST;

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

export async function eachRequest(model, work) {
  const waiting = requests(model);
  await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      for (let next; (next = waiting.shift());) await work(next);
    }),
  );
}

/** Fetches and drops: the limit of everything else. */
export async function discard({ model, stream }) {
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
export class Uploader {
  #free = [];
  #waiting = [];
  #all = [];
  #device;
  #ring;

  constructor(device, path, slots = SLOTS, slotBytes = SLOT_BYTES) {
    this.#device = device;
    this.#ring = path === 'ring';
    for (let i = 0; i < slots; i++) {
      const slot = {};
      if (this.#ring) {
        const usage = USAGE.MAP_WRITE | USAGE.COPY_SRC;
        slot.buffer = device.createBuffer({ size: slotBytes, usage, mappedAtCreation: true });
        slot.bytes = new Uint8Array(slot.buffer.getMappedRange());
      } else {
        slot.bytes = new Uint8Array(slotBytes);
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
export async function bare({ model, device, stream }, { path }) {
  const buffers = fileBuffers(model, device);
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

/** A buffer for each of the model's files. */
export function fileBuffers(model, device) {
  return model.files.map(({ nbytes }) =>
    device.createBuffer({ size: nbytes, usage: TENSOR_USAGE }),
  );
}

/** What a contestant gives whose buffers hold whole files. */
export function inFiles(model, buffers) {
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
export async function common({ model, device }) {
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
export async function sluice({ model, device, loadModel }, { options }) {
  const loaded = await loadModel(`${model.url}/tensor-cache.json`, {
    device,
    store: false,
    ...options,
  });
  await device.queue.onSubmittedWorkDone();
  return {
    note: `${loaded.report.upload}, ${loaded.report.thread}`,
    find: (name) => loaded.get(name),
    destroy: () => loaded.destroy(),
  };
}

/** The package, and its bytes dropped: no device takes part. */
export async function drop({ model, loadModel }, { options }) {
  let received = 0;
  await loadModel(`${model.url}/tensor-cache.json`, {
    store: false,
    ...options,
    consume(tensor, offset, bytes) {
      received += bytes.length;
    },
  });
  if (received !== model.nbytes) throw new Error(`received ${received} of ${model.nbytes} bytes`);
  return { destroy() {} };
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
