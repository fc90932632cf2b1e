// Instances of sluice/tvmjs for the tests.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Instance, wasmPath } from 'sluice/tvmjs';

export const wasm = new WebAssembly.Module(readFileSync(join(wasmPath(), 'sluice_runtime.wasm')));

export const newInstance = (): Instance => new Instance(wasm, {});

export function memoryBytes(tvm: Instance): number {
  return tvm.memory.memory.buffer.byteLength;
}
