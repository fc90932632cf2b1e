// A process that loads a model, digests every tensor and keeps none of it. Prints its resident memory at rest,
// the most that it had during the load, and the digests, as JSON. Needs --expose-gc.
import { createHash, type Hash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { loadModel } from 'sluice';

const [url = '', budget = ''] = process.argv.slice(2);

/** A field of /proc/self/status in bytes (proc_pid_status(5)). */
function memory(field: 'VmRSS' | 'VmHWM'): number {
  const status = readFileSync('/proc/self/status', 'utf8');
  return 1024 * Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
}

// At rest: everything imported and compiled, nothing loaded
await loadModel(url, { tensors: [], consume: () => undefined });
globalThis.gc?.();
const idle = memory('VmRSS');
writeFileSync('/proc/self/clear_refs', '5'); // resets VmHWM

const hashes = new Map<string, Hash>();
const begin = performance.now();
const { report } = await loadModel(url, {
  budgetBytes: Number(budget),
  consume({ name }, _offset, bytes) {
    let hash = hashes.get(name);
    if (!hash) hashes.set(name, (hash = createHash('sha256')));
    hash.update(bytes);
  },
});
const milliseconds = performance.now() - begin;
console.log(
  JSON.stringify({
    idle,
    peak: memory('VmHWM'),
    milliseconds,
    report,
    digests: Object.fromEntries([...hashes].map(([name, hash]) => [name, hash.digest('hex')])),
  }),
);
