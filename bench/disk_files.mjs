// Files of a folder for Node's bare loops, one for each file of a model.
import { closeSync, mkdirSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';

/** All of a model's files, open: `{read(into, at), write(from, at), close()}`. With `create`, made and emptied. */
export function diskFiles(model, folder, create = false) {
  const bare = join(folder, 'bare');
  if (create) mkdirSync(bare, { recursive: true });
  return model.files.map(({ path }) => {
    const file = openSync(join(bare, path), create ? 'w+' : 'r');
    return {
      read: (into, at) => readSync(file, into, 0, into.length, at),
      write: (from, at) => writeSync(file, from, 0, from.length, at),
      close: () => closeSync(file),
    };
  });
}
