import { SluiceError } from '../errors.js';

/** What a load rejects with whose caller aborted it. */
export function aborted(signal: AbortSignal): SluiceError {
  return new SluiceError('aborted', 'the load was aborted by its caller', { cause: signal.reason });
}

/**
 * Settles as `work` does, or rejects with `aborted` as soon as the signal says so. For work that cannot be
 * stopped: `discard` is given what it brings too late.
 */
export function orAborted<T>(
  work: Promise<T>,
  signal: AbortSignal | undefined,
  discard: (late: T) => void,
): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => {
      reject(aborted(signal));
      work.then(discard, () => undefined);
    };
    if (signal.aborted) {
      onAbort();
      return;
    }
    signal.addEventListener('abort', onAbort, { once: true });
    work
      .finally(() => {
        signal.removeEventListener('abort', onAbort);
      })
      .then(resolve, reject);
  });
}
