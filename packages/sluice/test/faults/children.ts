import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { StoreReport } from 'sluice';

const CHILD = fileURLToPath(new URL('./load_child.mjs', import.meta.url));
const KILL_AT_WRITE = new URL('./kill_at_write.mjs', import.meta.url).href;

export interface ChildOutcome {
  /** As digestOf() in support.ts. */
  digest?: string;
  store?: StoreReport;
  error?: { code: string; message: string };
}

/** A process of ours that loads once it is told to. */
export class LoadingChild {
  /** What it printed at its end; undefined where it was killed before. */
  readonly outcome: Promise<ChildOutcome | undefined>;
  readonly #process: ChildProcess;
  readonly #ready: Promise<void>;

  /** `killAt`: it ends as a power cut would have it, by SIGKILL, with so many bytes of a write to that file written. */
  constructor(url: string, store: string, killAt?: { file: string; bytes: number }) {
    const preload = killAt ? ['--import', KILL_AT_WRITE] : [];
    const child = spawn(process.execPath, [...preload, CHILD, url, store], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: {
        ...process.env,
        ...(killAt ? { KILL_FILE: killAt.file, KILL_BYTES: String(killAt.bytes) } : {}),
      },
    });
    this.#process = child;
    const lines: string[] = [];
    this.#ready = new Promise((resolve, reject) => {
      createInterface({ input: child.stdout }).on('line', (line) => {
        if (line === 'ready') resolve();
        else lines.push(line);
      });
      child.on('exit', (status) => {
        reject(
          new Error(`the loading process ended with status ${status ?? 'none'} before it began`),
        );
      });
    });
    this.#ready.catch(() => undefined);
    child.stdin.on('error', () => undefined); // it may be gone
    this.outcome = once(child, 'close').then(([status, signal]: unknown[]) => {
      if (signal === 'SIGKILL') return undefined;
      assert.equal(status, 0, 'the loading process ended before its load did');
      return JSON.parse(lines[0] ?? '') as ChildOutcome;
    });
    this.outcome.catch(() => undefined);
  }

  async go(): Promise<void> {
    await this.#ready;
    this.#process.stdin?.write('go\n');
  }

  /** Ends exactly this process, at once. */
  kill(): void {
    this.#process.kill('SIGKILL');
  }
}
