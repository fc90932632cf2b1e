import { SluiceError } from '../errors.js';
import { describe, RuntimeError, typeError } from './errors.js';
import type { ModelLoader } from './load.js';
import { Runtime } from './runtime.js';

export interface RuntimeOptions {
  /** The GPU, which stays the caller's. Without one, tensors are on the CPU. */
  device?: GPUDevice;
  /**
   * A compiled model that was linked with the runtime: its module, its bytes, or where it is. The package's own module,
   * which holds no model, unless given.
   */
  wasm?: WebAssembly.Module | ArrayBuffer | ArrayBufferView<ArrayBuffer> | URL | string | Response;
}

/** `ownModule` and `loadModel` are the package's, of the entry. */
export async function createWith(
  options: RuntimeOptions,
  ownModule: () => Promise<WebAssembly.Module>,
  loadModel: ModelLoader,
): Promise<Runtime> {
  const { wasm, device } = options;
  const module = wasm === undefined ? await ownModule() : await compile(wasm);
  const runtime = await Runtime.instantiate(module, loadModel);
  if (device) {
    const { attachWebGPU } = await import('./gpu.js');
    attachWebGPU(runtime, device);
  }
  return runtime;
}

async function compile(wasm: NonNullable<RuntimeOptions['wasm']>): Promise<WebAssembly.Module> {
  if (wasm instanceof WebAssembly.Module) return wasm;
  try {
    if (wasm instanceof ArrayBuffer || ArrayBuffer.isView(wasm)) {
      return await WebAssembly.compile(wasm);
    }
    if (typeof wasm === 'string' || wasm instanceof URL) return await compileFrom(String(wasm));
    if (typeof Response !== 'undefined' && wasm instanceof Response) {
      return await compileResponse(wasm);
    }
  } catch (cause) {
    if (cause instanceof SluiceError) throw cause;
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new RuntimeError('ValueError', `option wasm does not compile: ${message}`, { cause });
  }
  throw typeError(
    `option wasm is ${describe(wasm)}`,
    'pass a WebAssembly.Module, its bytes, a URL or a Response',
  );
}

async function compileFrom(location: string): Promise<WebAssembly.Module> {
  return compileResponse(await fetch(location));
}

async function compileResponse(response: Response): Promise<WebAssembly.Module> {
  if (!response.ok) {
    throw new SluiceError('http_status', `${response.url}: HTTP status ${response.status}`, {
      file: response.url,
      status: response.status,
    });
  }
  return WebAssembly.compile(await response.arrayBuffer());
}
