/** The package's wasm files in Node, which lie beside this module; each compiled once a process, and again after a failure. */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { asSluiceError, SluiceError } from './errors.js';

const compiled = new Map<string, Promise<WebAssembly.Module>>();

export function loaderModule(): Promise<WebAssembly.Module> {
  return compile('./sluice_loader.wasm');
}

export function storeModule(): Promise<WebAssembly.Module> {
  return compile('./sluice_store.wasm');
}

export function runtimeModule(): Promise<WebAssembly.Module> {
  return compile('./sluice_runtime.wasm');
}

function compile(name: string): Promise<WebAssembly.Module> {
  const file = fileURLToPath(new URL(name, import.meta.url));
  let module = compiled.get(file);
  if (!module) {
    module = readFile(file)
      .then((bytes) => WebAssembly.compile(bytes))
      .catch((cause: unknown) => {
        compiled.delete(file);
        throw new SluiceError(
          'internal',
          `${file} does not load: ${asSluiceError(cause).message}`,
          {
            file,
            hint: "it lies beside the package's JavaScript; install the package again",
            cause,
          },
        );
      });
    compiled.set(file, module);
  }
  return module;
}
