/** Types that tvmjs exports, and those that stand in all of this folder. */

/** Holds what is not collected by itself (wasm memory, GPU buffers). dispose() may be called again. */
export interface Disposable {
  dispose: () => void;
}

/** What a wasm module that was built by others needs: its imports, and a call once the instance is there. */
export interface LibraryProvider {
  imports: Record<string, Untyped>;
  start: (instance: WebAssembly.Instance) => void;
}

/** An address in the wasm memory. */
export type Pointer = number;

/** What tvmjs leaves to the caller to know. Code that was written for it compiles with nothing stricter. */
// eslint-disable-next-line @typescript-eslint/no-explicit-any -- see above
export type Untyped = any;

/** Any function of JavaScript. */
export type AnyFunction = (...args: Untyped[]) => Untyped;
