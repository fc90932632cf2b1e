// Runs in a page and in a worker of a browser: the device's main paths, on the browser's own WebGPU.
import type * as WebGPU from '../../../src/runtime/webgpu/index.js';
import type * as Errors from '../../../src/errors.js';

export interface Outcome {
  adapter: string;
  chain: number[];
  passes: number;
  copied: number[];
  compileError: string;
  lost: string;
  uncaptured: string[];
}

const STEP = `
@group(0) @binding(0) var<storage, read> a : array<u32>;
@group(0) @binding(1) var<storage, read_write> b : array<u32>;
struct PODArgs { k: i32, packGridDimX: u32 }
@group(0) @binding(2) var<uniform> podArgs : PODArgs;
@compute @workgroup_size(4, 1, 1)
fn step(
  @builtin(workgroup_id) blockIdx : vec3<u32>,
  @builtin(num_workgroups) gridDim : vec3<u32>,
  @builtin(local_invocation_id) threadIdx : vec3<u32>
) {
  if (blockIdx.z * gridDim.x + blockIdx.x > podArgs.packGridDimX) { return; }
  b[threadIdx.x] = a[threadIdx.x] * 3 + u32(podArgs.k);
}`;
const INFO = {
  name: 'step',
  arg_types: ['handle', 'handle', 'int32'],
  launch_param_tags: ['blockIdx.x', 'threadIdx.x', 'paramWriteAccess:[0,1]'],
};

/** `dist`: the URL of the built package, with a slash at its end. */
export async function driveDevice(dist: string): Promise<Outcome> {
  const { detectDevice, WebGPUDevice } = (await import(
    `${dist}runtime/webgpu/index.js`
  )) as typeof WebGPU;
  const { SluiceError } = (await import(`${dist}errors.js`)) as typeof Errors;
  const said = (error: unknown): string =>
    error instanceof SluiceError ? `${error.code}: ${error.message}` : `not ours: ${String(error)}`;

  const { device, adapterInfo } = await detectDevice();
  const uncaptured: string[] = [];
  device.addEventListener('uncapturederror', (event) => uncaptured.push(event.error.message));
  const memory = new WebAssembly.Memory({ initial: 1 });
  const bytes = (at: number, n: number): Uint8Array => new Uint8Array(memory.buffer, at, n);
  const store = (at: number, source: Uint8Array): void => {
    bytes(at, source.length).set(source);
  };
  const gpu = new WebGPUDevice(device, { bytes, store }, { dispatchesPerSubmit: 100 });

  const [step] = await gpu.pipelines([{ info: INFO, wgsl: STEP }]);
  const pair = [gpu.allocate(16), gpu.allocate(16)] as const;
  gpu.copyBytesToBuffer(new Uint8Array(Uint32Array.of(0, 1, 2, 3).buffer), pair[0]);
  for (let k = 0; k < 500; k++) step?.(pair[k % 2] ?? 0, pair[(k + 1) % 2] ?? 0, k, 1, 4);
  gpu.copyFromGPU(pair[0], 0, 64, 16);
  memory.grow(1);
  await gpu.sync();
  const chain = [...new Uint32Array(memory.buffer, 64, 4)];
  const { passes } = gpu.stats();

  const odd = gpu.allocate(11);
  gpu.copyBytesToBuffer(Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11), odd);
  gpu.copyBytesToBuffer(Uint8Array.of(77, 78, 79), odd, 5);
  gpu.copyWithinGPU(odd, 4, odd, 1, 6);
  const copied = [...(await gpu.readBytes(odd, 0, 11))];

  let compileError = 'none';
  const broken = STEP.replace('u32(podArgs.k)', 'podArgs.k');
  await gpu.createShaderAsync(INFO, broken).catch((error: unknown) => (compileError = said(error)));

  gpu.copyFromGPU(pair[0], 0, 64, 16);
  const waiting = gpu.sync().catch(() => undefined);
  device.destroy();
  await waiting;
  await device.lost;
  let lost = 'none';
  try {
    gpu.allocate(4);
  } catch (error) {
    lost = said(error);
  }
  gpu.dispose();
  const adapter = `${adapterInfo.vendor} ${adapterInfo.architecture}`;
  return { adapter, chain, passes, copied, compileError, lost, uncaptured };
}
