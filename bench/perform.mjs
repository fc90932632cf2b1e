// Runs one contestant: measures it and, where asked, compares what it has loaded.
import { bare, common, discard, drop, rangeHeader, sluice, USAGE } from './contestants.mjs';
import { EXPAND_CONTESTANTS } from './expand_contestants.mjs';
import { cachedFetchTensorCache, fetchTensorCache } from './incumbent.mjs';
import { LLM_CONTESTANTS } from './llm_contestants.mjs';
import { RUNTIME_CONTESTANTS } from './runtime_contestants.mjs';
import { STORE_CONTESTANTS } from './store_contestants.mjs';
import { WEBGPU_RUNTIME_CONTESTANTS } from './webgpu_runtime_contestants.mjs';

const CONTESTANTS = {
  discard,
  bare,
  common,
  sluice,
  drop,
  fetchTensorCache,
  cachedFetchTensorCache,
  ...EXPAND_CONTESTANTS,
  ...LLM_CONTESTANTS,
  ...RUNTIME_CONTESTANTS,
  ...STORE_CONTESTANTS,
  ...WEBGPU_RUNTIME_CONTESTANTS,
};

/**
 * Runs one of them once: `{milliseconds, note, figures}`. With `check`, so many of its records are read back and
 * compared. A contestant is a function, or an object whose `prepare` and `clean` are not measured.
 */
export async function perform(environment, { contestant, check, targetless, ...options }) {
  if (targetless) environment = { ...environment, device: withoutTargets(environment.device) };
  const given = CONTESTANTS[contestant];
  const { prepare, load, clean } = typeof given === 'function' ? { load: given } : given;
  const prepared = await prepare?.(environment, options);
  // What the one before has left is not this one's to clear away
  globalThis.gc?.();
  const begin = performance.now();
  const loaded = await load(environment, options, prepared);
  const milliseconds = performance.now() - begin;
  try {
    if (check && loaded.find) await checkRecords(environment, loaded, check);
  } finally {
    await loaded.destroy?.();
    await freeDestroyed(environment.device);
    await clean?.(environment, options, prepared);
  }
  const { note, figures } = loaded;
  return { milliseconds, ...(note ? { note } : {}), ...(figures ? { figures } : {}) };
}

/** Dawn frees what was destroyed, which takes 40 ms a GiB, behind a later submission: not the next one's first. */
async function freeDestroyed(device) {
  for (let i = 0; device && i < 2; i++) {
    device.queue.submit([device.createCommandEncoder().finish()]);
    await device.queue.onSubmittedWorkDone();
  }
}

/** Compares both ends of some records, the largest among them, with what the server sends for their ranges. */
async function checkRecords({ model, device }, loaded, count) {
  const records = model.files.flatMap((file) =>
    file.records.map((record) => ({ ...record, url: `${model.url}/${file.path}` })),
  );
  const step = Math.ceil(records.length / count);
  const largest = records.reduce((a, b) => (b.nbytes > a.nbytes ? b : a));
  const checked = new Set(records.filter((_, index) => index % step === 0));
  for (const record of checked.add(largest).add(records.at(-1))) {
    const { name, nbytes, byteOffset, url } = record;
    const size = Math.min(4096, nbytes);
    for (const at of new Set([0, nbytes - size])) {
      const { data, buffer, offset } = loaded.find(name);
      const bytes = data
        ? data.subarray(at, at + size)
        : await readBack(device, buffer, offset + at, size);
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
