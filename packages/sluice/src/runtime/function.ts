import type { Core } from './core.js';
import { RuntimeObject } from './object.js';
import type { Argument, Value } from './values.js';

/**
 * A function of C++, or one of JavaScript that went through C++. Callable; holds a reference until dispose(). The type
 * arguments are what the caller knows of it: C++ checks what it is given, nothing checks what it gives.
 */
export interface RuntimeFunction<
  Arguments extends readonly Argument[] = readonly Argument[],
  Result = Value,
> extends Disposable {
  (...args: Arguments): Result;
  /** Its address. Throws once it is disposed. */
  readonly handle: number;
  readonly disposed: boolean;
  /** Gives the reference back. Safe to call again, and while the function runs. */
  dispose(): void;
}

const CELL = Symbol('sluice function');

/** The reference that a RuntimeFunction holds. */
export class FunctionCell extends RuntimeObject {
  readonly #name: string | undefined;

  constructor(core: Core, handle: number, name: string | undefined) {
    super(core, handle);
    this.#name = name;
  }

  protected override describe(): string {
    return this.#name === undefined ? 'function' : `function '${this.#name}'`;
  }
}

interface Callable {
  (...args: readonly Argument[]): Value;
  [CELL]: FunctionCell;
}

/** What functions inherit, beside what functions of JavaScript have. */
const methods = Object.create(Function.prototype, {
  handle: {
    get(this: Callable): number {
      return this[CELL].handle;
    },
  },
  disposed: {
    get(this: Callable): boolean {
      return this[CELL].disposed;
    },
  },
  dispose: {
    value(this: Callable): void {
      this[CELL].dispose();
    },
  },
  [Symbol.dispose]: {
    value(this: Callable): void {
      this[CELL].dispose();
    },
  },
}) as object;

/** Takes the reference over. */
export function makeFunction(core: Core, handle: number, name?: string): RuntimeFunction {
  const cell = new FunctionCell(core, handle, name);
  const call = (...args: readonly Argument[]): Value => core.call(cell.handle, args);
  Object.setPrototypeOf(call, methods);
  (call as Callable)[CELL] = cell;
  return call as unknown as RuntimeFunction;
}

/** What a scope holds: an object, or a function. */
export type Owned = RuntimeObject | RuntimeFunction;

/** The object that a value is, or that stands behind a function; undefined for any other value. */
export function objectOf(value: unknown): RuntimeObject | undefined {
  if (value instanceof RuntimeObject) return value;
  return typeof value === 'function' ? cellOf(value) : undefined;
}

/** The reference of a RuntimeFunction; undefined for any other function. */
export function cellOf(value: object): FunctionCell | undefined {
  return (value as Partial<Callable>)[CELL];
}
