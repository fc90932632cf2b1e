import { SluiceError } from '../errors.js';

/** Gives up what was locked; safe to call again. Resolves when others can have it, and never rejects. */
export type Release = () => Promise<void>;

/** Locks among everything that uses one store: other threads, other tabs, other processes. */
export interface Locks {
  /**
   * Takes lock `name`: 'shared' with others that share it, or 'exclusive'. Waits, or with `wait` false gives
   * undefined where it cannot be had at once. Rejects with `aborted` when the signal is heard first. A holder that
   * dies gives up its locks.
   */
  take(
    name: string,
    mode: 'shared' | 'exclusive',
    options: { wait: boolean; signal?: AbortSignal | undefined },
  ): Promise<Release | undefined>;
}

/** The browser's, across tabs and workers of one origin (Web Locks). */
export function webLocks(): Locks {
  return {
    take(name, mode, { wait, signal }) {
      return new Promise((resolve, reject) => {
        const options: LockOptions = { mode };
        if (!wait) options.ifAvailable = true;
        else if (signal) options.signal = signal;
        const held = navigator.locks.request(name, options, (lock) => {
          if (lock === null) {
            resolve(undefined);
            return undefined;
          }
          return new Promise<void>((release) => {
            resolve(async () => {
              release();
              await held.catch(() => undefined);
            });
          });
        });
        held.catch((cause: unknown) => {
          reject(
            signal?.aborted
              ? new SluiceError('aborted', 'the load was aborted by its caller', { cause })
              : new SluiceError('io', `lock ${name} cannot be had: ${String(cause)}`, { cause }),
          );
        });
      });
    },
  };
}
