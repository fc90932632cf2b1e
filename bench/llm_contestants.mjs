// A compiled language model, driven by sluice/runtime and by tvmjs's JavaScript: the same wasm, the same weights. Either
// has its own GPU device, as it asks for one, and stays loaded from one task to the next.

const PAGE_SIZE = 16;
/** Tokens that the KV cache holds. */
const POSITIONS = 1024;
/** The package's entry for this host. */
const ENTRY = typeof process === 'object' ? 'runtime/node.js' : 'runtime/index.js';
const LIMITS = [
  'maxBufferSize',
  'maxStorageBufferBindingSize',
  'maxStorageBuffersPerShaderStage',
  'maxComputeWorkgroupStorageSize',
  'maxComputeInvocationsPerWorkgroup',
  'maxComputeWorkgroupSizeX',
];
const FEATURES = ['shader-f16', 'subgroups', 'timestamp-query'];

async function deviceWithAll(gpu) {
  const adapter = await gpu.requestAdapter({ powerPreference: 'high-performance' });
  return adapter.requestDevice({
    requiredLimits: Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]])),
    requiredFeatures: FEATURES.filter((name) => adapter.features.has(name)),
  });
}

/** Milliseconds of phases that may overlap: `phase(name, promise)`, and `done()`. */
function stopwatch() {
  const begin = performance.now();
  const milliseconds = {};
  return {
    milliseconds,
    async phase(name, work) {
      const from = performance.now();
      const result = await work();
      milliseconds[name] = performance.now() - from;
      return result;
    },
    done: () => (milliseconds.total = performance.now() - begin),
  };
}

/**
 * Ours. `step(tokens)` appends tokens and gives what reads the logits after them; `clear()` empties the KV cache.
 */
async function sluice({ dist, model: { url } }, { device, store, time }) {
  const { createRuntime } = await dist.module(ENTRY);
  const { buildPipelines } = await dist.module('chat/pipelines.js');
  const { runtime, library, vm, metadata } = await time.phase('wasm', async () => {
    const made = await createRuntime({ wasm: `${url}/model.wasm`, device });
    const system = made.systemLibrary();
    const machine = system.getFunction('vm_load_executable')();
    machine.getFunction('vm_initialization')(made.webgpu().type, 0, 2, made.cpu().type, 0, 2);
    const text = machine.getFunction('_metadata')();
    return { runtime: made, library: system, vm: machine, metadata: JSON.parse(text) };
  });
  const [loaded] = await Promise.all([
    time.phase('weights', () =>
      runtime.loadTensors(`${url}/tensor-cache.json`, { device: runtime.webgpu(), store }),
    ),
    time.phase('pipelines', () => buildPipelines(runtime, library, () => undefined)),
  ]);
  const weights = runtime.array(metadata.params.map(({ name }) => loaded.get(name)));
  const gpu = runtime.webgpu();
  const shape = (n) => runtime.shape([n]);
  const cache = vm.getFunction('create_tir_paged_kv_cache')(
    ...[1, POSITIONS, metadata.prefill_chunk_size, PAGE_SIZE, 0].map(shape),
  );
  const state = (name) => runtime.getFunction(`vm.builtin.kv_state_${name}`);
  const [clear, add, begin, end] = ['clear', 'add_sequence', 'begin_forward', 'end_forward'].map(
    state,
  );
  const [embed, prefill, decode] = ['embed', 'prefill', 'decode'].map((name) =>
    vm.getFunction(name),
  );
  return {
    device,
    clear() {
      clear(cache);
      add(cache, 0);
    },
    step(tokens) {
      const logits = runtime.withScope(() => {
        const ids = runtime.tensor(tokens, [tokens.length], 'int32', gpu);
        const embedded = embed(ids, weights);
        const input = embedded.view([1, ...embedded.shape]);
        begin(cache, [0], [tokens.length]);
        const result = (tokens.length > 1 ? prefill : decode)(input, cache, weights);
        end(cache);
        return result.get(0);
      });
      const read = logits.read();
      return async () => {
        const bytes = await read;
        logits.dispose();
        return new Float32Array(bytes.buffer);
      };
    },
    dispose() {
      runtime.dispose();
      device.destroy();
    },
  };
}

/** tvmjs's Instance, in the steps of a page that runs models with it: web/src/runtime.ts of Apache TVM. */
async function tvmjs({ tvmjs: load, model }, { device, store, time }) {
  const { url } = model;
  const { instantiate } = await load();
  const tvm = await time.phase('wasm', async () => {
    const bytes = await (await fetch(`${url}/model.wasm`)).arrayBuffer();
    const made = await instantiate(bytes, { imports: {}, start() {} });
    made.initWebGPU(device);
    return made;
  });
  const keep = (object) => tvm.detachFromCurrentScope(object);
  const gpu = tvm.webgpu();
  await time.phase('weights', () =>
    store ? tvm.fetchTensorCache(`${url}/`, gpu, 'sluice-bench', 'cache') : putWeights(tvm, model),
  );
  await time.phase('pipelines', () =>
    tvm.asyncLoadWebGPUPipelines(tvm.withNewScope(() => keep(tvm.systemLib()))),
  );
  tvm.beginScope();
  const vm = keep(tvm.createVirtualMachine(gpu));
  const metadata = JSON.parse(vm.getFunction('_metadata')());
  const weights = keep(tvm.getParamsFromCacheByName(metadata.params.map(({ name }) => name)));
  const shape = (n) => tvm.makeShapeTuple([n]);
  const cache = keep(
    vm.getFunction('create_tir_paged_kv_cache')(
      ...[1, POSITIONS, metadata.prefill_chunk_size, PAGE_SIZE, 0].map(shape),
    ),
  );
  const [clear, add, begin, end] = ['clear', 'add_sequence', 'begin_forward', 'end_forward'].map(
    (name) => keep(tvm.getGlobalFunc(`vm.builtin.kv_state_${name}`)),
  );
  const [embed, prefill, decode] = ['embed', 'prefill', 'decode'].map((name) =>
    keep(vm.getFunction(name)),
  );
  const onCpu = keep(tvm.empty([1, 1, metadata.vocab_size], 'float32', tvm.cpu()));
  const sequence = tvm.scalar(0, 'int64');
  tvm.endScope();
  return {
    device,
    clear() {
      clear(cache);
      add(cache, sequence);
    },
    step(tokens) {
      tvm.beginScope();
      const ids = tvm.empty([tokens.length], 'int32', gpu).copyFrom(tokens);
      const embedded = embed(ids, weights);
      const input = embedded.view([1, ...embedded.shape]);
      begin(cache, shape(0), shape(tokens.length));
      const result = (tokens.length > 1 ? prefill : decode)(input, cache, weights);
      end(cache);
      const logits = keep(result.get(0));
      tvm.endScope();
      onCpu.copyFrom(logits);
      logits.dispose();
      const done = gpu.sync();
      return async () => {
        await done;
        return onCpu.toArray();
      };
    },
    dispose() {
      tvm.dispose();
      device.destroy();
    },
  };
}

/** Its own way to the weights needs a cache of the browser: here each shard as it comes. */
async function putWeights(tvm, { url, files }) {
  const gpu = tvm.webgpu();
  for (const { path, records } of files) {
    const shard = await (await fetch(`${url}/${path}`)).arrayBuffer();
    for (const { name, shape, dtype, byteOffset, nbytes } of records) {
      tvm.withNewScope(() => {
        const tensor = tvm.empty(shape, dtype, gpu);
        tensor.copyFromRawBytes(new Uint8Array(shard, byteOffset, nbytes));
        tvm.tensorCacheUpdate(name, tensor, true);
      });
    }
    await gpu.sync();
  }
}

const SIDES = { sluice, tvmjs };

function likeliest(logits) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  if (!Number.isFinite(logits[best])) throw new Error(`a logit is ${logits[best]}`);
  return best;
}

/** Milliseconds of one step: until the last call has returned, to the logits, and to the token. */
async function timedStep(model, tokens) {
  const begin = performance.now();
  const read = model.step(tokens);
  const called = performance.now();
  const logits = await read();
  const came = performance.now();
  const token = likeliest(logits);
  const end = performance.now();
  return { token, call: called - begin, total: end - begin, outside: called - begin + end - came };
}

/** Answers `prompt` with `count` tokens, each the likeliest. */
async function generate(model, { prompt, count }) {
  model.clear();
  const first = await timedStep(model, prompt);
  const tokens = [first.token];
  const steps = [];
  while (tokens.length < count) {
    const step = await timedStep(model, tokens.slice(-1));
    tokens.push(step.token);
    steps.push(step);
  }
  const mean = (field) => steps.reduce((sum, step) => sum + step[field], 0) / steps.length;
  return {
    tokens,
    prefill: first.total,
    decode: { call: mean('call'), outside: mean('outside'), total: mean('total') },
  };
}

const QUERY_RESOLVE = 0x200;
const QUERIES = 4096;

/**
 * Milliseconds that the GPU is busy with compute passes while `act` runs, whoever begins them: each pass writes the
 * GPU's clock as it begins and ends. Undefined where the device cannot.
 */
async function gpuMilliseconds(device, act) {
  if (!device.features.has('timestamp-query')) return undefined;
  const sets = [];
  let used = QUERIES;
  const descriptorOf = (given) => {
    if (used === QUERIES) {
      sets.push(device.createQuerySet({ type: 'timestamp', count: QUERIES }));
      used = 0;
    }
    const timestampWrites = {
      querySet: sets.at(-1),
      beginningOfPassWriteIndex: used,
      endOfPassWriteIndex: used + 1,
    };
    used += 2;
    return { ...given, timestampWrites };
  };
  const create = device.createCommandEncoder;
  device.createCommandEncoder = (...args) => {
    const encoder = create.apply(device, args);
    const beginPass = encoder.beginComputePass;
    encoder.beginComputePass = (given) => beginPass.call(encoder, descriptorOf(given));
    return encoder;
  };
  try {
    await act();
  } finally {
    delete device.createCommandEncoder;
  }
  let nanoseconds = 0;
  for (const [i, set] of sets.entries()) {
    const count = i === sets.length - 1 ? used : QUERIES;
    const resolved = device.createBuffer({ size: 8 * count, usage: QUERY_RESOLVE | 4 });
    const mapped = device.createBuffer({ size: 8 * count, usage: 1 | 8 });
    const encoder = device.createCommandEncoder();
    encoder.resolveQuerySet(set, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, mapped, 0, 8 * count);
    device.queue.submit([encoder.finish()]);
    await mapped.mapAsync(1);
    const times = new BigUint64Array(mapped.getMappedRange());
    for (let at = 0; at < count; at += 2) {
      nanoseconds += Math.max(0, Number(times[at + 1] - times[at]));
    }
    for (const each of [resolved, mapped, set]) each.destroy();
  }
  return nanoseconds / 1e6;
}

const loaded = new Map();

async function modelOf(environment, side) {
  const key = `${side} ${environment.model.url}`;
  if (!loaded.has(key)) {
    const device = await deviceWithAll(environment.gpu);
    loaded.set(key, SIDES[side](environment, { device, time: stopwatch(), store: false }));
  }
  return loaded.get(key);
}

/** Loads the model unless it is there, and answers. */
async function answer(environment, { side, ...task }) {
  return { figures: await generate(await modelOf(environment, side), task) };
}

/** Milliseconds of a decode step on the GPU. */
async function busy(environment, { side, prompt, count }) {
  const model = await modelOf(environment, side);
  model.clear();
  let { token } = await timedStep(model, prompt);
  const milliseconds = await gpuMilliseconds(model.device, async () => {
    for (let i = 1; i < count; i++) ({ token } = await timedStep(model, [token]));
  });
  return { figures: { gpu: milliseconds && milliseconds / (count - 1) } };
}

/** From nothing to the first token, the weights from the store, or its cache: the time of each phase. */
async function start(environment, { side, prompt, store }) {
  const time = stopwatch();
  const device = await time.phase('device', () => deviceWithAll(environment.gpu));
  const model = await SIDES[side](environment, { device, time, store });
  model.clear();
  const { token } = await time.phase('prefill', () => timedStep(model, prompt));
  time.done();
  model.dispose();
  return { figures: { milliseconds: time.milliseconds, token } };
}

async function unload({ model: { url } }) {
  for (const side of Object.keys(SIDES)) {
    const key = `${side} ${url}`;
    (await loaded.get(key))?.dispose();
    loaded.delete(key);
  }
  return {};
}

export const LLM_CONTESTANTS = {
  'llm answer': answer,
  'llm busy': busy,
  'llm start': start,
  'llm unload': unload,
};
