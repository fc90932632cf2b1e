import { SluiceError } from '../errors.js';

const decoder = new TextDecoder();

/** What every wasm module of the package exports. */
interface CommonExports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  sluice_initialize(): void;
}

/**
 * An instance of one of the package's wasm modules, `file`, initialised. Its one import ends what it does with an
 * `internal` error. Throws the same where its interface is not the one that this JavaScript was written for.
 */
export async function instantiate<Exports extends CommonExports>(
  module: WebAssembly.Module,
  file: string,
  interfaceVersion: { readonly wanted: number; readonly of: (exports: Exports) => number },
): Promise<Exports> {
  const instance: WebAssembly.Instance = await WebAssembly.instantiate(module, {
    sluice: {
      panic(text: number, length: number): never {
        const { memory } = instance.exports as unknown as Exports;
        const reason = decoder.decode(new Uint8Array(memory.buffer, text, length));
        throw new SluiceError('internal', `${file} stopped: ${reason}`);
      },
    },
  });
  const exports = instance.exports as unknown as Exports;
  const { wanted } = interfaceVersion;
  const actual = interfaceVersion.of(exports);
  if (actual !== wanted) {
    throw new SluiceError(
      'internal',
      `${file} has interface version ${actual}; this package needs ${wanted}`,
      {
        expected: wanted,
        actual,
        hint: 'deploy the wasm and the JavaScript of one release together',
      },
    );
  }
  exports._initialize();
  exports.sluice_initialize();
  return exports;
}
