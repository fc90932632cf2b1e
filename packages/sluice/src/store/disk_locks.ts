/** Locks for Node: files that name the process which holds them, in the folder `locks` of the store. */
import { createHash, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { mkdir, open, readdir, rm, stat, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SluiceError } from '../errors.js';
import type { Locks, Release } from './locks.js';

const POLL_MS = 50;
/** A holder touches its file so often. */
const BEAT_MS = 2000;
/** A file that was not touched for so long is nobody's, whatever the process that it names does. */
const STALE_MS = 30_000;

/**
 * Each holder has a file `<lock>.<mode>.<process>.<since>-<uuid>`. Who wants the lock adds its own first and then looks at the
 * others': the file goes again where one is in the way. Files of processes that are gone count for nothing, nor do
 * those that nobody touches any more: of a thread that was ended, or from another machine or container, where the
 * process's number says nothing. Should a process have slept for so long while it wrote, two write at once: what they
 * store is then verified and, where it is torn, fetched again.
 */
export function diskLocks(directory: string): Locks {
  const folder = join(directory, 'locks');

  async function attempt(lock: string, mode: string): Promise<Release | undefined> {
    await mkdir(folder, { recursive: true });
    const own = `${lock}.${mode}.${process.pid}.${startOf(process.pid)}-${randomUUID()}`;
    const file = join(folder, own);
    // What cannot be removed now goes stale
    const remove = (path: string): Promise<void> =>
      rm(path, { force: true }).catch(() => undefined);
    try {
      await (await open(file, 'wx')).close();
      for (const other of await readdir(folder)) {
        const [name, itsMode, pid, since = ''] = other.split('.');
        if (name !== lock || other === own) continue;
        if (await isStale(join(folder, other), Number(pid), since)) {
          await remove(join(folder, other));
        } else if (mode === 'exclusive' || itsMode === 'exclusive') {
          await remove(file);
          return undefined;
        }
      }
    } catch (cause) {
      await remove(file);
      throw new SluiceError('io', `${folder}: no lock can be had there: ${String(cause)}`, {
        file: folder,
        cause,
      });
    }
    const beat = setInterval(() => {
      const now = new Date();
      utimes(file, now, now).catch(() => undefined);
    }, BEAT_MS);
    beat.unref();
    return () => {
      clearInterval(beat);
      return remove(file);
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

async function isStale(file: string, pid: number, since: string): Promise<boolean> {
  if (!isRunning(pid) || !since.startsWith(`${startOf(pid)}-`)) return true;
  try {
    return Date.now() - (await stat(file)).mtimeMs > STALE_MS;
  } catch {
    return true; // given up meanwhile
  }
}

/** When a process started, where the system tells: numbers come again. Ticks since the machine did. */
function startOf(pid: number): string {
  try {
    // Field 22 of proc(5), stat; the second is in parentheses and may hold anything
    const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').replace(/^.*\) /s, '');
    return fields.split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
