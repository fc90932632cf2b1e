import { SluiceError, type ErrorCode, type ErrorDetails } from '../errors.js';
import { ERROR_CODES } from '../generated/abi.js';

export interface RuntimeErrorDetails extends ErrorDetails {
  /** Where the error came from in C++, the most recent call first; empty where that is not known. */
  wasmBacktrace?: string;
}

/**
 * An error of the runtime: raised in C++, or by this API where it was misused. `kind` is that of the C ABI
 * (`TypeError`, `ValueError`, `IndexError`, …), and `wasmBacktrace` the C++ side's own stack beside `stack`.
 */
export class RuntimeError extends SluiceError {
  override readonly name = 'RuntimeError';
  readonly kind: string;
  readonly wasmBacktrace: string;

  constructor(kind: string, message: string, details: RuntimeErrorDetails = {}) {
    super(codeOf(kind), message, details);
    this.kind = kind;
    this.wasmBacktrace = details.wasmBacktrace ?? '';
  }
}

/** The package's code for a kind, which may be one. */
function codeOf(kind: string): ErrorCode {
  switch (kind) {
    case 'TypeError':
    case 'ValueError':
    case 'IndexError':
    case 'RangeError':
      return 'invalid_argument';
    case 'KeyError':
    case 'AttributeError':
      return 'not_found';
    case 'MemoryError':
      return 'out_of_device_memory';
    default:
      return ERROR_CODES.find((code) => code === kind) ?? 'internal';
  }
}

export const typeError = (message: string, hint?: string): RuntimeError =>
  new RuntimeError('TypeError', message, hint === undefined ? {} : { hint });

export const valueError = (message: string, details: RuntimeErrorDetails = {}): RuntimeError =>
  new RuntimeError('ValueError', message, details);

/** A value as a message shows it: its type, and itself where that is short. */
export function describe(value: unknown): string {
  switch (typeof value) {
    case 'string':
      return value.length > 40 ? `a string of ${value.length} characters` : `'${value}'`;
    case 'number':
    case 'boolean':
    case 'undefined':
      return String(value);
    case 'bigint':
      return `${value}n`;
    case 'symbol':
      return 'a symbol';
    case 'function':
      return 'a function';
    case 'object': {
      if (value === null) return 'null';
      if (Array.isArray(value)) return `an array of ${value.length}`;
      const { constructor } = value as { constructor?: unknown };
      return typeof constructor === 'function' && constructor.name !== 'Object'
        ? `a ${constructor.name}`
        : 'a plain object';
    }
  }
}
