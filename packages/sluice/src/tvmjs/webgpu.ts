import { attachWebGPU } from '../runtime/gpu.js';
import type { Runtime } from '../runtime/runtime.js';
import { detectDevice } from '../runtime/webgpu/index.js';
import type { KernelFunction, WebGPUDevice } from '../runtime/webgpu/index.js';
import type { FunctionInfo } from '../runtime/webgpu/index.js';
import type { Memory } from './memory.js';
import type { Disposable, Pointer } from './types.js';

export type { FunctionInfo };

export interface GPUDeviceDetectOutput {
  adapter: GPUAdapter;
  adapterInfo: GPUAdapterInfo;
  device: GPUDevice;
}

/**
 * A device with all limits of the adapter that matter to models, and of shader-f16, subgroups and timestamp-query what it
 * has. Undefined where there is no WebGPU; rejects where there is no adapter.
 */
export async function detectGPUDevice(
  powerPreference: 'low-power' | 'high-performance' = 'high-performance',
): Promise<GPUDeviceDetectOutput | undefined> {
  const gpu = typeof navigator === 'undefined' ? undefined : (navigator as Partial<Navigator>).gpu;
  if (gpu === undefined) return undefined;
  const adapter = await gpu.requestAdapter({ powerPreference });
  if (adapter === null) {
    throw new Error(
      'Unable to find a compatible GPU. This device may have none, or its driver or the browser settings ' +
        'keep it from WebGPU; see https://webgpureport.org/',
    );
  }
  return detectDevice(adapter);
}

const megabytes = (nbytes: number): string => `${Math.ceil(nbytes / 2 ** 20)} MB`;

/** The GPU of an instance, in tvmjs's words. */
export class WebGPUContext implements Disposable {
  readonly device: GPUDevice;
  readonly memory: Memory;
  readonly #gpu: WebGPUDevice;

  /** Registers what C++ reaches the GPU by. */
  constructor(runtime: Runtime, memory: Memory, device: GPUDevice) {
    this.device = device;
    this.memory = memory;
    this.#gpu = attachWebGPU(runtime, device);
  }

  flushCommands(): void {
    this.#gpu.flush();
  }

  sync(): Promise<void> {
    return this.#gpu.sync();
  }

  runtimeStatsText(): string {
    const { peakBytes, totalBytes, submits } = this.#gpu.stats();
    return `peak-memory=${megabytes(peakBytes)}, all-memory=${megabytes(totalBytes)}, shader-submissions=${submits}`;
  }

  drawImageFromBuffer(pointer: Pointer, height: number, width: number): void {
    this.#gpu.showImage(pointer, height, width);
  }

  copyRawBytesToBuffer(bytes: Uint8Array, to: Pointer, toOffset: number, nbytes: number): void {
    this.#gpu.copyBytesToBuffer(bytes.subarray(0, nbytes), to, toOffset);
  }

  bindCanvas(canvas: HTMLCanvasElement | OffscreenCanvas): void {
    this.#gpu.bindCanvas(canvas);
  }

  clearCanvas(): void {
    this.#gpu.clearCanvas();
  }

  createShader(info: FunctionInfo, code: string): KernelFunction {
    return this.#gpu.createShader(info, code);
  }

  createShaderAsync(info: FunctionInfo, code: string): Promise<KernelFunction> {
    return this.#gpu.createShaderAsync(info, code);
  }

  // eslint-disable-next-line @typescript-eslint/no-unsafe-function-type -- as tvmjs types it
  getDeviceAPI(name: string): Function {
    return this.#gpu.deviceAPI(name);
  }

  /** Ends the device as well. */
  dispose(): void {
    this.#gpu.dispose();
    this.device.destroy();
  }
}
