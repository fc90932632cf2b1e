import { SluiceError } from '../errors.js';
import { detectDevice, WebGPUDevice } from '../runtime/webgpu/index.js';
import type { FunctionInfo, ImageView, KernelFunction } from '../runtime/webgpu/index.js';
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

/** What a device has where nobody asked for more, so far as kernels and buffers ask for it. */
const DEFAULT_LIMITS = {
  maxBufferSize: 2 ** 28,
  maxStorageBufferBindingSize: 2 ** 27,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupsPerDimension: 65_535,
  minUniformBufferOffsetAlignment: 256,
  minStorageBufferOffsetAlignment: 256,
};

/** The device itself, unless it is a stand-in that lacks what tvmjs does not look at: then one that has it. */
function complete(device: GPUDevice): GPUDevice {
  const { limits, features, lost } = device as Partial<GPUDevice>;
  if (limits && features && lost) return device;
  return Object.create(device, {
    limits: { value: limits ?? DEFAULT_LIMITS },
    features: { value: features ?? new Set() },
    lost: { value: lost ?? new Promise(() => undefined) },
  }) as GPUDevice;
}

function checkOffset(offset: number, name: string): void {
  if (Number.isSafeInteger(offset) && offset >= 0 && offset % 4 === 0) return;
  throw new Error(`${name} must be a nonnegative multiple of four: ${offset}`);
}

const wholeWords = (nbytes: number): number => Math.ceil(nbytes / 4) * 4;

/**
 * A GPU in tvmjs's words, on a WebGPUDevice. Its own functions keep tvmjs's order: what JavaScript writes, reads, frees or
 * draws is preceded by a submit of what was called before. C++ of an Instance is given the functions of `gpu` instead, which
 * batch uploads and reads as well, and copy at any byte.
 */
export class WebGPUContext implements Disposable {
  readonly device: GPUDevice;
  readonly memory: Memory;
  readonly gpu: WebGPUDevice;

  constructor(memory: Memory, device: GPUDevice) {
    this.device = device;
    this.memory = memory;
    this.gpu = new WebGPUDevice(complete(device), {
      bytes: (pointer, nbytes) => memory.viewRawBytes(pointer, nbytes),
      store: (pointer, bytes) => {
        memory.storeRawBytes(pointer, bytes);
      },
    });
  }

  /** Bytes of the buffers that there are now. */
  get currAllocatedBytes(): number {
    return this.gpu.stats().allocatedBytes;
  }

  /** Where drawImageFromBuffer() draws. */
  get canvasRenderManager(): ImageView | undefined {
    return this.gpu.canvas;
  }
  set canvasRenderManager(view: ImageView | undefined) {
    this.gpu.canvas = view;
  }

  flushCommands(): void {
    this.gpu.flush();
  }

  /**
   * Waits until everything so far is done, and what is read has arrived. Rejects with what failed; where the browser could
   * not map a buffer, with its own error.
   */
  async sync(): Promise<void> {
    try {
      await this.gpu.sync();
    } catch (error) {
      throw browserError(error) ?? error;
    }
  }

  /** The submissions are of shaders: dispatches, as there. */
  runtimeStatsText(): string {
    const { peakBytes, totalBytes, dispatches } = this.gpu.stats();
    return `peak-memory=${megabytes(peakBytes)}, all-memory=${megabytes(totalBytes)}, shader-submissions=${dispatches}`;
  }

  drawImageFromBuffer(pointer: Pointer, height: number, width: number): void {
    if (this.gpu.canvas === undefined) {
      throw new Error('Do not have a canvas context, call bindCanvas first');
    }
    this.gpu.showImage(pointer, height, width);
  }

  copyRawBytesToBuffer(bytes: Uint8Array, to: Pointer, toOffset: number, nbytes: number): void {
    this.gpu.flush();
    this.gpu.copyBytesToBuffer(bytes.subarray(0, nbytes), to, toOffset);
  }

  bindCanvas(canvas: HTMLCanvasElement | OffscreenCanvas): void {
    this.gpu.bindCanvas(canvas);
  }

  /** Nothing where no canvas is bound. */
  clearCanvas(): void {
    if (this.gpu.canvas !== undefined) this.gpu.clearCanvas();
  }

  createShader(info: FunctionInfo, code: string): KernelFunction {
    return this.gpu.createShader(info, code);
  }

  createShaderAsync(info: FunctionInfo, code: string): Promise<KernelFunction> {
    return this.gpu.createShaderAsync(info, code);
  }

  /**
   * tvmjs's functions of a device by their names. Buffers are of whole words, offsets of uploads and reads multiples of
   * four, and what is uploaded is padded with zeros to whole words.
   */
  // eslint-disable-next-line @typescript-eslint/no-unsafe-function-type -- as tvmjs types it
  getDeviceAPI(name: string): Function {
    const { gpu, memory } = this;
    switch (name) {
      case 'deviceAllocDataSpace':
        return (nbytes: number): Pointer => gpu.allocate(wholeWords(nbytes));
      case 'deviceFreeDataSpace':
        return (pointer: Pointer): void => {
          gpu.flush();
          gpu.free(pointer);
        };
      case 'deviceCopyToGPU':
        return (from: Pointer, to: Pointer, toOffset: number, nbytes: number): void => {
          checkOffset(toOffset, 'WebGPU destination offset');
          gpu.flush();
          let bytes = memory.viewRawBytes(from, nbytes);
          if (nbytes % 4 !== 0) {
            const padded = new Uint8Array(wholeWords(nbytes));
            padded.set(bytes);
            bytes = padded;
          }
          gpu.copyBytesToBuffer(bytes, to, toOffset);
        };
      case 'deviceCopyFromGPU':
        return (from: Pointer, fromOffset: number, to: Pointer, nbytes: number): void => {
          checkOffset(fromOffset, 'WebGPU source offset');
          gpu.flush();
          gpu.copyFromGPU(from, fromOffset, to, nbytes);
          gpu.flush();
        };
      case 'deviceCopyWithinGPU':
        return gpu.deviceAPI(name);
      default:
        throw new Error(`Unknown DeviceAPI function ${name}`);
    }
  }

  /** Ends the device as well. */
  dispose(): void {
    this.gpu.dispose();
    this.device.destroy();
  }
}

/** The error that is not of this library behind one that is. */
function browserError(error: unknown): Error | undefined {
  let at = error;
  while (at instanceof SluiceError) at = at.cause;
  return at instanceof Error ? at : undefined;
}
