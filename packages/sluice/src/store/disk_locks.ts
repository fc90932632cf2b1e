/** Locks for Node: files that name the process which holds them, in the folder `locks` of the store. */
import { mkdir, open, readdir, rm } from 'node:fs/promises';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../errors.js';
import type { Locks, Release } from './locks.js';

const POLL_MS = 50;
let holders = 0;

/**
 * Each holder has a file `<lock>.<mode>.<process id>.<number>`. Who wants the lock adds its own first and then looks
 * at the others': the file goes again where one is in the way. Files of processes that are gone count for nothing.
 */
export function diskLocks(directory: string): Locks {
  const folder = join(directory, 'locks');

  async function attempt(lock: string, mode: string): Promise<Release | undefined> {
    await mkdir(folder, { recursive: true });
    const own = `${lock}.${mode}.${process.pid}.${++holders}`;
    const file = join(folder, own);
    await (await open(file, 'wx')).close();
    for (const other of await readdir(folder)) {
      const [name, itsMode, pid] = other.split('.');
      if (name !== lock || other === own) continue;
      if (!isRunning(Number(pid))) {
        await rm(join(folder, other), { force: true });
      } else if (mode === 'exclusive' || itsMode === 'exclusive') {
        await rm(file, { force: true });
        return undefined;
      }
    }
    return () => {
      void rm(file, { force: true });
    };
  }

  return {
    async take(name, mode, { wait, signal }) {
      const lock = createHash('sha256').update(name).digest('hex').slice(0, 32);
      for (;;) {
        if (signal?.aborted) {
          throw new SluiceError('aborted', 'the load was aborted by its caller', {
            cause: signal.reason,
          });
        }
        const release = await attempt(lock, mode);
        if (release || !wait) return release;
        // Of several that gave way to each other, one comes first the next time
        await sleep(POLL_MS * (0.5 + Math.random()));
      }
    },
  };
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
