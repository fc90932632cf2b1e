// Kernels as compiled modules have them, a device to run them on, and memory like a wasm module's.
import assert from 'node:assert/strict';
import { SluiceError } from '../../../src/errors.js';
import { detectDevice } from '../../../src/runtime/webgpu/detect.js';
import { WebGPUDevice } from '../../../src/runtime/webgpu/device.js';
import type { WebGPUDeviceOptions } from '../../../src/runtime/webgpu/device.js';
import type { KernelSource } from '../../../src/runtime/webgpu/device.js';
import { nodeAdapter } from '../../sinks/node_gpu.js';

/** A kernel of WGSL as TVM writes it: buffers, then a uniform of the plain arguments with packGridDimX last. */
export function kernelSource(
  name: string,
  buffers: readonly ('read' | 'read_write')[],
  pods: Readonly<Record<string, string>>,
  body: string,
  tags: readonly string[] = ['blockIdx.x', 'threadIdx.x'],
): KernelSource {
  const WGSL_TYPES: Record<string, string> = { int32: 'i32', uint32: 'u32', float32: 'f32' };
  const fields = Object.entries(pods).map(
    ([key, type]) => `  ${key}: ${WGSL_TYPES[type] ?? 'i32'},`,
  );
  const declared = buffers.map(
    (access, i) => `@group(0) @binding(${i}) var<storage, ${access}> b${i} : array<u32>;`,
  );
  return {
    info: {
      name,
      arg_types: [...buffers.map(() => 'handle'), ...Object.values(pods)],
      launch_param_tags: [
        ...tags,
        `paramWriteAccess:[${buffers.map((access) => (access === 'read' ? 0 : 1)).join(',')}]`,
      ],
    },
    wgsl: `${declared.join('\n')}
struct PODArgs {
${fields.join('\n')}
  packGridDimX: u32
}
@group(0) @binding(${buffers.length}) var<uniform> podArgs : PODArgs;
@compute @workgroup_size(64, 1, 1)
fn ${name}(
  @builtin(workgroup_id) blockIdx : vec3<u32>,
  @builtin(num_workgroups) gridDim : vec3<u32>,
  @builtin(local_invocation_id) threadIdx : vec3<u32>
) {
  if (blockIdx.z * gridDim.x + blockIdx.x > podArgs.packGridDimX) { return; }
  let i = (blockIdx.z * gridDim.x + blockIdx.x) * 64 + threadIdx.x;
  ${body}
}
`,
  };
}

/** b1[i] = b0[i] * factor + summand, for i < n. */
export const AFFINE = kernelSource(
  'affine',
  ['read', 'read_write'],
  { n: 'int32', factor: 'uint32', summand: 'uint32' },
  'if (i < u32(podArgs.n)) { b1[i] = b0[i] * podArgs.factor + podArgs.summand; }',
);

/** Memory that grows as a module's does: old views are detached. */
export class GrowingMemory {
  readonly memory = new WebAssembly.Memory({ initial: 1 });
  bytes(pointer: number, nbytes: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, pointer, nbytes);
  }
  store(pointer: number, bytes: Uint8Array): void {
    this.bytes(pointer, bytes.length).set(bytes);
  }
}

export interface Fixture extends AsyncDisposable {
  gpu: WebGPUDevice;
  memory: GrowingMemory;
  /** Errors that reached nobody; a test ends with none. */
  uncaptured: string[];
}

export async function fixture(options: WebGPUDeviceOptions = {}): Promise<Fixture> {
  const { device } = await detectDevice(await nodeAdapter());
  const uncaptured: string[] = [];
  device.addEventListener('uncapturederror', (event) => void uncaptured.push(event.error.message));
  const memory = new GrowingMemory();
  const gpu = new WebGPUDevice(device, memory, options);
  return {
    gpu,
    memory,
    uncaptured,
    async [Symbol.asyncDispose]() {
      gpu.dispose();
      device.destroy();
      await device.lost;
      assert.deepEqual(uncaptured, []);
    },
  };
}

export const failsWith =
  (code: string, ...texts: (string | number)[]) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.equal(error.code, code, error.message);
    for (const text of texts) {
      assert.ok(error.message.includes(String(text)), `"${error.message}" names ${text}`);
    }
    return true;
  };

export const bytesOf = (words: readonly number[]): Uint8Array =>
  new Uint8Array(Uint32Array.from(words).buffer);

export const wordsOf = (bytes: Uint8Array): number[] => [...new Uint32Array(bytes.slice().buffer)];
