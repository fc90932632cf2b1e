import type { Core } from '../runtime/core.js';
import { importsOf } from '../runtime/core.js';
import type { LibraryProvider, Untyped } from './types.js';

/** What an instance imports, put together from what the caller gives and what the runtime needs. */
export class Environment implements LibraryProvider {
  readonly logger: (message: string) => void;
  readonly imports: Record<string, Untyped>;
  /** Gets the instance's core before wasm code calls back. */
  readonly holder: { core?: Core } = {};
  readonly #provider: LibraryProvider | undefined;

  /**
   * `importObject`: imports; a LibraryProvider; an object with `wasmLibraryProvider`; or a WASI object, with `wasiImport`
   * and `start`. What it gives stays as it is.
   */
  constructor(
    importObject: Record<string, Untyped> = {},
    // eslint-disable-next-line no-console -- where tvmjs logs unless told otherwise
    logger: (message: string) => void = console.log,
  ) {
    this.logger = logger;
    this.#provider = findProvider(importObject);
    const given = this.#provider?.imports ?? importObject;
    this.imports = {
      ...given,
      env: {
        __cxa_thread_atexit: () => undefined,
        emscripten_notify_memory_growth: () => undefined,
        ...(given['env'] as Record<string, unknown> | undefined),
        ...importsOf(this.holder),
        __console_log: (message: string) => {
          this.logger(message);
        },
      },
    };
  }

  /** Whether start() starts the module. */
  get starts(): boolean {
    return this.#provider !== undefined;
  }

  start(instance: WebAssembly.Instance): void {
    this.#provider?.start(instance);
  }
}

function findProvider(given: Record<string, Untyped>): LibraryProvider | undefined {
  const provider = given['wasmLibraryProvider'] as Partial<LibraryProvider> | undefined;
  if (provider?.start && provider.imports !== undefined) return provider as LibraryProvider;
  if (given['start'] === undefined) return undefined;
  const start = (instance: WebAssembly.Instance): void => {
    (given as { start: LibraryProvider['start'] }).start(instance);
  };
  if (given['imports']) return { imports: given['imports'] as Record<string, Untyped>, start };
  if (given['wasiImport']) {
    return {
      imports: { wasi_snapshot_preview1: given['wasiImport'] as Record<string, Untyped> },
      start,
    };
  }
  return undefined;
}
