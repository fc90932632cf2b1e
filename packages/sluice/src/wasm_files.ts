/** The package's wasm files, which lie beside this module; each compiled once a thread, and again after a failure. */
import { asSluiceError, SluiceError } from './errors.js';

const compiled = new Map<string, Promise<WebAssembly.Module>>();

export function loaderModule(): Promise<WebAssembly.Module> {
  return compile(new URL('./sluice_loader.wasm', import.meta.url));
}

export function storeModule(): Promise<WebAssembly.Module> {
  return compile(new URL('./sluice_store.wasm', import.meta.url));
}

export function runtimeModule(): Promise<WebAssembly.Module> {
  return compile(new URL('./sluice_runtime.wasm', import.meta.url));
}

function compile({ href }: URL): Promise<WebAssembly.Module> {
  let module = compiled.get(href);
  if (!module) {
    module = WebAssembly.compileStreaming(fetch(href)).catch((cause: unknown) => {
      compiled.delete(href);
      throw new SluiceError('internal', `${href} does not load: ${asSluiceError(cause).message}`, {
        file: href,
        hint: "serve it beside the package's JavaScript, with the type application/wasm, and with CORS headers where the page is of another origin",
        cause,
      });
    });
    compiled.set(href, module);
  }
  return module;
}
