import { asSluiceError } from '../errors.js';
import { aborted } from './abort.js';

/** The loader's own RetryPolicy (core/load/loader.h), for the requests that it does not make itself. */
const MAX_ATTEMPTS = 5;
const FIRST_DELAY_MS = 200;
const MAX_DELAY_MS = 10_000;

/**
 * Waits before a request is made again that has failed `attempts` times in a row. Rejects with `cause` where trying
 * again does not help, or was tried often enough, and with `aborted` as soon as the signal says so.
 */
export async function waitToRetry(
  cause: unknown,
  attempts: number,
  signal: AbortSignal | undefined,
): Promise<void> {
  const error = asSluiceError(cause);
  if (!error.retryable || attempts >= MAX_ATTEMPTS) throw error;
  const delay = Math.min(FIRST_DELAY_MS * 2 ** (attempts - 1), MAX_DELAY_MS);
  await pause(Math.max(delay, error.retryAfterMs ?? 0), signal);
}

function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) {
      reject(aborted(signal));
      return;
    }
    const onAbort = (): void => {
      clearTimeout(timer);
      if (signal) reject(aborted(signal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, milliseconds);
    signal?.addEventListener('abort', onAbort, { once: true });
  });
}
