// Files of the origin private file system for the bare loops, one for each file of a model. Workers only.

/** All of a model's files, open: `{read(into, at), write(from, at), close()}`. With `create`, made and emptied. */
export async function opfsFiles(model, _, create = false) {
  const root = await navigator.storage.getDirectory();
  const name = `bench-${encodeURIComponent(model.url)}`;
  const folder = await root.getDirectoryHandle(name, { create });
  return Promise.all(
    model.files.map(async ({ path }) => {
      const file = await folder.getFileHandle(path, { create });
      const mode = create ? 'readwrite' : 'read-only';
      const handle = await file.createSyncAccessHandle({ mode });
      if (create) handle.truncate(0);
      return {
        read: (into, at) => handle.read(into, { at }),
        write: (from, at) => handle.write(from, { at }),
        close: () => handle.close(),
      };
    }),
  );
}
