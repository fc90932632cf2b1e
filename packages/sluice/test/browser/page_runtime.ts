// Runs in a page and in a worker of a browser: the main paths of sluice/runtime.
import type * as SluiceRuntime from '../../src/runtime/index.js';
import type * as Models from '../support/models.js';

export interface Outcome {
  values: unknown[];
  sameError: boolean;
  misuse: string[];
  flat: boolean;
  cpu: boolean[];
  gpu: boolean[];
  /** Names of the wasm files that were fetched: for calls alone, and in the end. */
  fetched: [string[], string[]];
}

function wasmFiles(): string[] {
  const names = performance.getEntriesByType('resource').map(({ name }) => name);
  return names.filter((name) => name.endsWith('.wasm')).map((name) => name.replace(/^.*\//, ''));
}

export async function driveRuntime(origin: string): Promise<Outcome> {
  const entry = `${origin}/dist/runtime/index.js`;
  const { createRuntime } = (await import(entry)) as typeof SluiceRuntime;
  const models = (await import(`${origin}/test/support/models.js`)) as typeof Models;
  const runtime = await createRuntime();
  const echo = runtime.getFunction('testing.echo');
  const call = runtime.getFunction('tvmjs.testing.call');

  const values = [
    ...([1, -0.5, 'Größe 🦥, longer than a small string', [3, 4], true] as const).map((v) =>
      echo(v),
    ),
    `${echo(2n ** 60n) as bigint}`,
    call((x: number, shape: number[]) => x + shape.length, 40, [7, 7]),
    runtime.withScope(() => [
      ...runtime.tensor([1, 2, 3], [3]).view([2], { byteOffset: 4 }).toArray(),
    ]),
  ];
  const mine = new Error('mine');
  let sameError = false;
  try {
    call(() => {
      throw mine;
    });
  } catch (error) {
    sameError = error === mine;
  }
  const disposed = runtime.empty([2], 'int8');
  disposed.dispose();
  const misuse = [
    () => disposed.shape,
    () => echo(2 ** 53),
    () => runtime.getFunction('no.such'),
    () => runtime.empty([-1]),
  ].map((act) => {
    try {
      act();
      return 'no error';
    } catch (error) {
      return String(error);
    }
  });
  const before = runtime.memoryBytes;
  for (let i = 0; i < 50_000; i++) runtime.empty([i & 7, 16]).dispose();
  const flat = runtime.memoryBytes === before;
  // And memory that grows while a callback runs
  call((text: string) => {
    runtime.empty([runtime.memoryBytes], 'uint8').inPlace()[1] = 1;
    values.push(text);
  }, 'text of a call in a memory that grows');
  const fetchedByCalls = wasmFiles();

  const tensors = [
    models.randomTensor('a', 'F32', [257, 33], 1),
    models.randomTensor('b', 'U8', [5], 2),
  ];
  const model = new Blob([new Uint8Array(models.safetensors(tensors))]);
  const equal = (a: Uint8Array, b: Uint8Array | undefined): boolean =>
    a.length === b?.length && a.every((byte, i) => byte === b[i]);
  const check = async (loaded: SluiceRuntime.LoadedTensors): Promise<boolean[]> =>
    Promise.all(
      tensors.map(async ({ name, bytes }) => equal(bytes, await loaded.get(name)?.read())),
    );
  const cpu = await check(await runtime.loadTensors(model));

  const adapter = await navigator.gpu.requestAdapter();
  const device = await adapter?.requestDevice();
  if (!device) throw new Error('there is no WebGPU here');
  const withGpu = await createRuntime({ device });
  const loaded = await withGpu.loadTensors(model);
  const gpu = await check(loaded);
  loaded.dispose();
  withGpu.dispose();
  device.destroy();
  runtime.dispose();
  return { values, sameError, misuse, flat, cpu, gpu, fetched: [fetchedByCalls, wasmFiles()] };
}
