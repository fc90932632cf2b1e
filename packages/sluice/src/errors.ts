import type { ERROR_CODES } from './generated/abi.js';

/** The stable codes of core/base/error.h. */
export type ErrorCode = (typeof ERROR_CODES)[number];

/** What an error carries besides its code and its sentence. */
export interface ErrorDetails {
  /** Path or URL of the file at fault. */
  file?: string;
  /** Name of the tensor at fault. */
  tensor?: string;
  /** The number that should have been, in the message's unit. */
  expected?: number;
  /** The number that was. */
  actual?: number;
  /** What the person can do. */
  hint?: string;
  /** HTTP status, with `http_status` and `not_found`. */
  status?: number;
  /** Trying the same again may help. */
  retryable?: boolean;
  /** The server's Retry-After, in milliseconds. */
  retryAfterMs?: number;
  cause?: unknown;
}

/**
 * The only thing this package rejects with. `code` is stable; `message` names the file, the tensor and
 * the numbers; `hint` says what the person can do.
 */
export class SluiceError extends Error {
  override readonly name: string = 'SluiceError';
  readonly code: ErrorCode;
  readonly file: string | undefined;
  readonly tensor: string | undefined;
  readonly expected: number | undefined;
  readonly actual: number | undefined;
  readonly hint: string | undefined;
  readonly status: number | undefined;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.file = details.file;
    this.tensor = details.tensor;
    this.expected = details.expected;
    this.actual = details.actual;
    this.hint = details.hint;
    this.status = details.status;
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs;
  }

  /** The fields, so that an error can cross `postMessage`. */
  toJSON(): ErrorDetails & { code: ErrorCode; message: string } {
    const out: ErrorDetails & { code: ErrorCode; message: string } = {
      code: this.code,
      message: this.message,
    };
    for (const key of ['file', 'tensor', 'expected', 'actual', 'hint', 'status'] as const) {
      const value = this[key];
      if (value !== undefined) Object.assign(out, { [key]: value });
    }
    return out;
  }
}

/** `error` as a SluiceError: itself, or wrapped as `internal` with the original as its cause. */
export function asSluiceError(error: unknown): SluiceError {
  if (error instanceof SluiceError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new SluiceError('internal', message, { cause: error });
}
