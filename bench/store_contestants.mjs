// What is measured of the local store: Sluice with `store`, and bare loops over the same bytes in files of their own.
// `files` of an environment opens those by number: {read(into, at), write(from, at), close()}, for one model.
import { eachRequest, fileBuffers, inFiles, TENSOR_USAGE, Uploader } from './contestants.mjs';

const warmKey = (model) => `warm ${model.url}`;
const coldKey = (model) => `cold ${model.url}`;
const BLOCKS = 4;
const BLOCK_BYTES = 4 * 2 ** 20;

const manifestOf = (model) => `${model.url}/tensor-cache.json`;

/** Puts the model where the warm contestants look for it: a file for each of its files, and the store. */
async function fillStores({ model, files, stream, loadModel, openStore }, { folder }) {
  const open = await files(model, folder, true);
  await eachRequest(model, ({ file, index, begin, range }) => {
    let at = begin;
    return stream(`${model.url}/${file.path}`, range, (chunk) => {
      open[index].write(chunk, at);
      at += chunk.length;
    });
  });
  for (const file of open) file.close();
  const store = await openStore(folder);
  const { report } = await loadModel(manifestOf(model), {
    store,
    storeKey: warmKey(model),
    consume: () => undefined,
  });
  checkStored(report, model, 'storedBytes');
  return {};
}

function checkStored({ store }, model, from) {
  if (store === undefined) throw new Error('the store was not used');
  if (store.problem) throw new Error(store.problem);
  const other = from === 'readBytes' ? 'storedBytes' : 'readBytes';
  // More than the model: the manifest is stored, too
  if (store[from] < model.nbytes || store[other] > model.nbytes / 2) {
    throw new Error(`${store.readBytes} bytes read of the store, ${store.storedBytes} stored`);
  }
}

/** Reads straight into mapped staging, and copies on the GPU: all in the calling thread. */
async function storedRing({ model, device, files }, { slots, slotBytes, folder }) {
  const buffers = fileBuffers(model, device);
  const uploader = new Uploader(device, 'ring', slots, slotBytes);
  const open = await files(model, folder);
  for (const [index, { nbytes }] of model.files.entries()) {
    for (let at = 0; at < nbytes; at += slotBytes) {
      let slot;
      while (!(slot = uploader.take())) await uploader.room();
      const count = Math.min(slotBytes, nbytes - at);
      checkCount(open[index].read(slot.bytes.subarray(0, count), at), count);
      uploader.send(slot, count, buffers[index], at);
    }
  }
  await device.queue.onSubmittedWorkDone();
  for (const file of open) file.close();
  uploader.destroy();
  return inFiles(model, buffers);
}

function checkCount(actual, expected) {
  if (actual !== expected) throw new Error(`${actual} of ${expected} bytes could be read`);
}

/** The device here, and a worker that reads into blocks, which are handed over and come back. */
const storedTransferred = {
  prepare() {
    const worker = new Worker(new URL('./store_reader.mjs', import.meta.url), { type: 'module' });
    return new Promise((resolve, reject) => {
      worker.onmessage = () => resolve(worker);
      worker.onerror = ({ message }) => reject(new Error(`reader: ${message}`));
    });
  },
  async load({ model, device }, { slots, slotBytes }, worker) {
    const buffers = fileBuffers(model, device);
    const uploader = new Uploader(device, 'ring', slots, slotBytes);
    let left = model.nbytes;
    const blocks = Array.from({ length: BLOCKS }, () => new ArrayBuffer(BLOCK_BYTES));
    await new Promise((resolve, reject) => {
      worker.onmessage = async ({ data: { block, index, at, count } }) => {
        let slot;
        while (!(slot = uploader.take())) await uploader.room();
        slot.bytes.set(new Uint8Array(block, 0, count));
        uploader.send(slot, count, buffers[index], at);
        worker.postMessage({ block }, [block]);
        left -= count;
        if (left === 0) resolve();
      };
      worker.onerror = ({ message }) => reject(new Error(`reader: ${message}`));
      worker.postMessage({ model, blockBytes: slotBytes });
      for (const block of blocks) worker.postMessage({ block }, [block]);
    });
    await device.queue.onSubmittedWorkDone();
    uploader.destroy();
    return inFiles(model, buffers);
  },
  clean: (_, __, worker) => worker.terminate(),
};

/** Reads into CPU memory. */
async function storedRead({ model, files }, { folder }) {
  const open = await files(model, folder);
  const read = model.files.map(({ nbytes }, index) => {
    const bytes = new Uint8Array(nbytes);
    checkCount(open[index].read(bytes, 0), nbytes);
    return bytes;
  });
  for (const file of open) file.close();
  return {
    find(name) {
      for (const [index, file] of model.files.entries()) {
        const record = file.records.find((each) => each.name === name);
        if (record) return { data: read[index].subarray(record.byteOffset) };
      }
    },
  };
}

async function loadStored({ model, device, loadModel, openStore }, key, { cpu, options, folder }) {
  let first;
  const begin = performance.now();
  const loaded = await loadModel(manifestOf(model), {
    device: cpu ? 'cpu' : device,
    store: folder === undefined ? true : await openStore(folder),
    storeKey: key,
    onTensor() {
      first ??= performance.now() - begin;
    },
    ...options,
  });
  if (!cpu) await device.queue.onSubmittedWorkDone();
  const { upload, thread } = loaded.report;
  return {
    report: loaded.report,
    note: [upload, thread].filter(Boolean).join(', '),
    figures: { firstTensorMilliseconds: first },
    find: (name) => loaded.get(name),
    destroy: () => loaded.destroy(),
  };
}

/** The package, from a store that has the model. */
async function storedSluice(environment, options) {
  const loaded = await loadStored(environment, warmKey(environment.model), options);
  checkStored(loaded.report, environment.model, 'readBytes');
  return loaded;
}

async function forget({ model, openStore }, { folder }) {
  const store = await openStore(folder);
  if (!(await store.delete(coldKey(model)))) throw new Error('the stored model is still in use');
}

/** The package, from the network into a store that has nothing of the model. */
const storingSluice = {
  prepare: forget,
  async load(environment, options) {
    const loaded = await loadStored(environment, coldKey(environment.model), options);
    checkStored(loaded.report, environment.model, 'storedBytes');
    return loaded;
  },
  clean: forget,
};

const GATHERED_ROWS = 512;
const GATHERS = 50;
const WARM_UP_GATHERS = 5;

/** Milliseconds of each of GATHERS calls of `gather(rows)`, for rows chosen at random. */
async function timeGathers(count, gather) {
  const milliseconds = [];
  for (let i = -WARM_UP_GATHERS; i < GATHERS; i++) {
    const rows = Array.from({ length: GATHERED_ROWS }, () => Math.floor(Math.random() * count));
    const begin = performance.now();
    await gather(rows);
    if (i >= 0) milliseconds.push(performance.now() - begin);
  }
  return milliseconds;
}

/** Rows of the model's largest tensor, which stays in the store. `bare`: read by rows from a file of its own. */
async function gatherRows(
  { model, device, loadModel, openStore, files },
  { target, bare, folder },
) {
  const [index, file, record] = model.files
    .flatMap((each, i) => each.records.map((found) => [i, each, found]))
    .reduce((a, b) => (b[2].nbytes > a[2].nbytes ? b : a));
  const count = record.shape[0];
  const rowBytes = record.nbytes / count;
  if (bare) {
    const open = await files(model, folder);
    const milliseconds = await timeGathers(count, (rows) => {
      const bytes = new Uint8Array(rows.length * rowBytes);
      rows.forEach((row, i) => {
        const into = bytes.subarray(i * rowBytes, (i + 1) * rowBytes);
        checkCount(open[index].read(into, record.byteOffset + row * rowBytes), rowBytes);
      });
    });
    for (const each of open) each.close();
    return { figures: { tensorBytes: record.nbytes, rowBytes, milliseconds } };
  }
  const loaded = await loadModel(manifestOf(model), {
    device,
    store: folder === undefined ? true : await openStore(folder),
    storeKey: warmKey(model),
    tensors: [record.name],
    placement: 'disk',
  });
  const tensor = loaded.get(record.name);
  if (tensor.location !== 'disk') throw new Error(`${record.name} is on the ${tensor.location}`);
  const buffer =
    target && device.createBuffer({ size: GATHERED_ROWS * rowBytes, usage: TENSOR_USAGE });
  await checkRow(model, file, record, tensor, rowBytes);
  const milliseconds = await timeGathers(count, async (rows) => {
    await tensor.gatherRows(rows, buffer && { device, buffer });
    if (buffer) await device.queue.onSubmittedWorkDone();
  });
  return {
    figures: { tensorBytes: record.nbytes, rowBytes, milliseconds },
    destroy() {
      buffer?.destroy();
      loaded.destroy();
    },
  };
}

/** Compares the last row with what the server sends. */
async function checkRow(model, file, record, tensor, rowBytes) {
  const end = record.byteOffset + record.nbytes;
  const headers = { range: `bytes=${end - rowBytes}-${end - 1}` };
  const response = await fetch(`${model.url}/${file.path}`, { cache: 'no-store', headers });
  const expected = new Uint8Array(await response.arrayBuffer());
  const bytes = await tensor.gatherRows([record.shape[0] - 1]);
  if (expected.length !== rowBytes || !expected.every((byte, i) => byte === bytes[i])) {
    throw new Error(`the last row of ${record.name} differs`);
  }
}

export const STORE_CONTESTANTS = {
  fillStores,
  storedRing,
  storedTransferred,
  storedRead,
  storedSluice,
  storingSluice,
  gatherRows,
};
