// Preloaded into a process: its first write at the beginning of the file KILL_FILE stops after KILL_BYTES bytes, and the
// process with it. Worker threads inherit it.
import fs from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { basename } from 'node:path';

const { KILL_FILE, KILL_BYTES } = process.env;
const { openSync, writeSync } = fs;
const descriptors = new Set();

fs.openSync = (path, ...rest) => {
  const descriptor = openSync(path, ...rest);
  if (basename(String(path)) === KILL_FILE) descriptors.add(descriptor);
  else descriptors.delete(descriptor);
  return descriptor;
};
fs.writeSync = (descriptor, bytes, offset, length, position) => {
  if (!descriptors.has(descriptor) || position !== 0) {
    return writeSync(descriptor, bytes, offset, length, position);
  }
  const count = Math.min(Number(KILL_BYTES), length);
  if (count > 0) writeSync(descriptor, bytes, offset, count, position);
  process.kill(process.pid, 'SIGKILL');
  for (;;); // the signal is on its way
};
syncBuiltinESMExports();
