import { SluiceError } from '../errors.js';
import { gpuFunction } from '../runtime/gpu.js';
import type { RuntimeModule } from '../runtime/object.js';
import type { Runtime } from '../runtime/runtime.js';
import { WebGPUDevice, type FunctionInfo } from '../runtime/webgpu/index.js';

/**
 * Builds every kernel of a compiled model before it runs, side by side, and gives how many there are. Rejects with what is
 * wrong with the first that is, and with `invalid_argument` where the device lacks what they need.
 */
export async function buildPipelines(
  runtime: Runtime,
  library: RuntimeModule,
  onProgress: (done: number, total: number) => void,
): Promise<number> {
  const { gpu } = runtime.core;
  if (!(gpu instanceof WebGPUDevice) || !library.hasFunction('webgpu.get_fmap')) return 0;
  const [list, getShader, update] = (
    ['webgpu.get_fmap', 'webgpu.get_shader', 'webgpu.update_prebuild'] as const
  ).map((name) => library.getFunction(name)) as [Callable, Callable, Callable];
  try {
    const kernels = Object.entries(JSON.parse(list() as string) as Record<string, FunctionInfo>);
    let done = 0;
    onProgress(0, kernels.length);
    await Promise.all(
      kernels.map(async ([name, info]) => {
        const wgsl = getShader(name) as string;
        needFloat16(wgsl, gpu.device);
        const kernel = await gpu.createShaderAsync(info, wgsl);
        runtime.withScope(() => update(name, gpuFunction(runtime, kernel)));
        onProgress(++done, kernels.length);
      }),
    );
    return kernels.length;
  } finally {
    for (const each of [list, getShader, update]) each.dispose();
  }
}

type Callable = ReturnType<RuntimeModule['getFunction']>;

function needFloat16(wgsl: string, { features }: GPUDevice): void {
  if (features.has('shader-f16') || !/^\s*enable\s+f16\s*;/m.test(wgsl)) return;
  throw new SluiceError(
    'invalid_argument',
    'the model computes in float16, and the GPU device was made without the feature shader-f16',
    { hint: 'request the feature where the adapter has it, or use a float32 build of the model' },
  );
}
