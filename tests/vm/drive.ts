// Runs calls of a compiled model with sluice/runtime: in Node, and in a page, which gets the source of this function alone.
import type * as SluiceRuntime from 'sluice/runtime';
import type { Call, Value } from './support.js';

export interface Given {
  /** The module sluice/runtime. */
  entry: string;
  /** Where the linked model is. */
  wasm: string;
  calls: Call[];
  /** Whether the model runs on WebGPU; otherwise it does on the CPU. */
  gpu: boolean;
}

/** What comes out of each call, float16 as its bits. `nodeDevice`: that of Node, where it runs on WebGPU. */
export async function drive(given: Given, nodeDevice?: GPUDevice): Promise<Value[]> {
  const { createRuntime, RuntimeArray, RuntimeModule, Tensor } = (await import(
    given.entry
  )) as typeof SluiceRuntime;
  let device = nodeDevice;
  if (given.gpu && !device) {
    const adapter = await navigator.gpu.requestAdapter();
    if (!adapter) throw new Error('the page has no WebGPU adapter');
    device = await adapter.requestDevice();
  }
  const runtime = await createRuntime({ wasm: given.wasm, ...(device ? { device } : {}) });
  const scope = runtime.scope({ detached: true });
  const place = device ? runtime.webgpu() : runtime.cpu();

  function toArgument(value: Value): SluiceRuntime.Argument {
    if (Array.isArray(value)) return runtime.array(value.map(toArgument));
    if (!('dtype' in value)) return runtime.shape(value.shape);
    const { dtype, shape, data } = value;
    // Conditions are read while the VM runs
    const on = dtype === 'bool' ? runtime.cpu() : place;
    const elements = dtype === 'int64' ? data.map(BigInt) : data.map(Number);
    return runtime.tensor(elements, shape, dtype, on);
  }

  async function toValue(result: unknown): Promise<Value> {
    if (result instanceof RuntimeArray) {
      return Promise.all(scope.run(() => result.toArray()).map(toValue));
    }
    if (Array.isArray(result)) return { shape: result as number[] };
    if (!(result instanceof Tensor)) throw new Error(`${String(result)} is no tensor`);
    const bytes = await result.read();
    const onCpu = scope.run(() => runtime.empty(result.shape, result.dtype));
    onCpu.inPlace().set(bytes);
    // As bits, for not every platform has numbers of 16
    const half = result.dtype === 'float16';
    const data = Array.from(half ? new Uint16Array(bytes.buffer) : onCpu.toArray(), Number);
    return { dtype: result.dtype, shape: [...result.shape], data };
  }

  // The fixture `control` calls a function of the host
  runtime.registerFunction('sluice.test.twice', (x: SluiceRuntime.Tensor) => x);
  const vm = scope.run(() => {
    const load = runtime.systemLibrary().getFunction('vm_load_executable');
    const machine = load();
    if (!(machine instanceof RuntimeModule)) throw new Error('vm_load_executable gave no module');
    machine.getFunction('vm_initialization')(place.type, 0, 2, 1, 0, 2);
    return machine;
  });
  const results: Value[] = [];
  for (const call of given.calls) {
    const result = scope.run(() =>
      vm.getFunction(call.function)(...call.arguments.map(toArgument)),
    );
    results.push(await toValue(result));
  }
  scope.dispose();
  runtime.dispose();
  return results;
}
