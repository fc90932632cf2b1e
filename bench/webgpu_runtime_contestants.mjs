// Work for the JS half of a runtime's WebGPU device, without the wasm half: ours, and the incumbent's.

/** As a compiled module has them: buffers, a uniform of the plain arguments, packGridDimX last. */
function kernelSource(name, body) {
  return {
    info: {
      name,
      arg_types: ['handle', 'handle', 'int32', 'int32'],
      launch_param_tags: ['blockIdx.x', 'threadIdx.x', 'paramWriteAccess:[0,1]'],
    },
    wgsl: `
@group(0) @binding(0) var<storage, read> a : array<u32>;
@group(0) @binding(1) var<storage, read_write> b : array<u32>;
struct PODArgs { n: i32, k: i32, packGridDimX: u32 }
@group(0) @binding(2) var<uniform> podArgs : PODArgs;
@compute @workgroup_size(64, 1, 1)
fn ${name}(
  @builtin(workgroup_id) blockIdx : vec3<u32>,
  @builtin(num_workgroups) gridDim : vec3<u32>,
  @builtin(local_invocation_id) threadIdx : vec3<u32>
) {
  if (blockIdx.z * gridDim.x + blockIdx.x > podArgs.packGridDimX) { return; }
  let i = blockIdx.x * 64 + threadIdx.x;
  if (i < u32(podArgs.n)) { ${body} }
}`,
  };
}

const ELEMENTS = 64;
const BYTES = 4 * ELEMENTS;
const KERNELS = Array.from({ length: 16 }, (_, i) =>
  kernelSource(`step_${i}`, `b[i] = a[i] * 3 + u32(podArgs.k) + ${i};`),
);

/** Ours. */
async function sluice({ device, dist }) {
  const { WebGPUDevice } = await dist.module('runtime/webgpu/index.js');
  const memory = new WebAssembly.Memory({ initial: 16 });
  const bytes = (at, nbytes) => new Uint8Array(memory.buffer, at, nbytes);
  const store = (at, given) => bytes(at, given.length).set(given);
  const gpu = new WebGPUDevice(device, { bytes, store });
  return {
    kernels: await gpu.pipelines(KERNELS),
    allocate: (nbytes) => gpu.allocate(nbytes),
    free: (handle) => gpu.free(handle),
    upload: (data, handle) => gpu.copyBytesToBuffer(data, handle),
    read: (handle, at, nbytes) => gpu.copyFromGPU(handle, 0, at, nbytes),
    sync: () => gpu.sync(),
    at: 1024,
    bytes,
  };
}

/** tvmjs's, by way of its instance, on the same wasm module. */
async function tvmjs({ device, dist, tvmjs: load }) {
  const { instantiate } = await load();
  const wasm = await dist.bytes('sluice_runtime.wasm');
  const instance = await instantiate(Uint8Array.from(new Uint8Array(wasm)).buffer, {
    imports: {},
    start() {},
  });
  instance.initWebGPU(device);
  const context = instance.lib.webGPUContext;
  const read = context.getDeviceAPI('deviceCopyFromGPU');
  const at = instance.exports.TVMWasmAllocSpace(65536);
  return {
    kernels: await Promise.all(
      KERNELS.map(({ info, wgsl }) => context.createShaderAsync(info, wgsl)),
    ),
    allocate: context.getDeviceAPI('deviceAllocDataSpace'),
    free: context.getDeviceAPI('deviceFreeDataSpace'),
    upload: (data, handle) => context.copyRawBytesToBuffer(data, handle, 0, data.length),
    read: (handle, to, nbytes) => read(handle, 0, to, nbytes),
    sync: () => context.sync(),
    at,
    bytes: (from, nbytes) => new Uint8Array(instance.exports.memory.buffer, from, nbytes),
  };
}

const DISPATCHES = 1000;
const CALLS = 200;
const READS = 50;

/** Each does its work and gives how many steps that is; what follows the last call is waited for by the caller. */
const WORK = {
  /** Small dispatches, each on what the one before has made. */
  chain({ kernels: [kernel] }, [a, b]) {
    for (let i = 0; i < DISPATCHES; i += 2) {
      kernel(a, b, ELEMENTS, 1, 1, 64);
      kernel(b, a, ELEMENTS, 1, 1, 64);
    }
    return DISPATCHES;
  },
  /** As a model's layers: many kernels and buffers, and arguments that change. */
  layers({ kernels }, buffers) {
    const n = buffers.length;
    for (let i = 0; i < DISPATCHES; i++) {
      const kernel = kernels[i % kernels.length];
      kernel(buffers[(7 * i) % n], buffers[(7 * i + 3) % n], ELEMENTS, i, 1, 64);
    }
    return DISPATCHES;
  },
  /** A small upload into the same buffer before every fourth dispatch. */
  uploads({ kernels: [kernel], upload }, [a, b]) {
    const data = new Uint8Array(BYTES);
    for (let i = 0; i < CALLS; i++) {
      data[0] = i;
      upload(data, a);
      for (let j = 0; j < 4; j++) kernel(a, b, ELEMENTS, j, 1, 64);
    }
    return CALLS;
  },
  /** A buffer that a dispatch writes to and that is freed at once. */
  temporaries({ kernels: [kernel], allocate, free }, [a]) {
    for (let i = 0; i < CALLS; i++) {
      const handle = allocate(BYTES);
      kernel(a, handle, ELEMENTS, i, 1, 64);
      free(handle);
    }
    return CALLS;
  },
  /** A dispatch, and 4 bytes of it on the CPU. */
  async reads({ kernels: [kernel], read, sync, at }, [a, b]) {
    for (let i = 0; i < READS; i++) {
      kernel(a, b, ELEMENTS, i, 1, 64);
      read(b, at, 4);
      await sync();
    }
    return READS;
  },
};

const BUFFERS = 24;
const contexts = new Map();

/** Does one kind of work: microseconds a step until the last call has returned, and until the GPU is done. */
async function measure(make, environment, { work }) {
  if (!contexts.has(make)) {
    const context = await make(environment);
    const buffers = Array.from({ length: BUFFERS }, () => context.allocate(BYTES));
    contexts.set(make, { context, buffers });
  }
  const { context, buffers } = contexts.get(make);
  for (const [i, buffer] of buffers.entries())
    context.upload(new Uint8Array(BYTES).fill(i), buffer);
  await context.sync();
  const begin = performance.now();
  const steps = await WORK[work](context, buffers);
  const returned = performance.now();
  await context.sync();
  const done = performance.now();
  // The same work gives the same bytes, whoever does it
  context.read(buffers[1], context.at, BYTES);
  await context.sync();
  const words = new Uint32Array(context.bytes(context.at, BYTES).slice().buffer);
  const microseconds = (end) => (1000 * (end - begin)) / steps;
  const figures = {
    call: microseconds(returned),
    done: microseconds(done),
    result: [...words].join(),
  };
  return { figures };
}

export const WEBGPU_RUNTIME_CONTESTANTS = {
  'webgpu runtime: sluice': (environment, options) => measure(sluice, environment, options),
  'webgpu runtime: tvmjs': (environment, options) => measure(tvmjs, environment, options),
};
