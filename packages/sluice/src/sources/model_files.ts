/** From what a visitor chose or dropped to a model: which files there are, and which one to open. */
import { SluiceError } from '../errors.js';
import { readError, type FileMap } from './blob.js';

/** What loadModel() takes besides URLs: one file, the files of a model, or its folder. */
export type ModelFiles =
  Blob | FileSystemFileHandle | FileSystemDirectoryHandle | FileList | readonly File[] | FileMap;

/** A model among files: its name in the sense of core/formats/open.h, and the files of its folder. */
export interface FileModel {
  files: FileMap;
  name: string;
}

/** More than any model has; a folder with more is somebody's whole disk. */
const MAX_FILES = 10_000;
/** The names that the message of an error lists. */
const NAMES_SHOWN = 10;
const MANIFESTS = ['tensor-cache.json', 'ndarray-cache.json', 'model.safetensors.index.json'];
/** core/formats/gguf/split.h */
const GGUF_PART = /^(.*)-(\d{5})-of-(\d{5})\.gguf$/;
const WHAT_TO_GIVE =
  'Give a folder that holds tensor-cache.json, ndarray-cache.json or model.safetensors.index.json with the files that it names, or one .safetensors or .gguf file.';

/** Whether this is something that modelOfFiles() takes, as far as its type shows. */
export function isModelFiles(given: unknown): given is ModelFiles {
  if (typeof given !== 'object' || given === null || given instanceof URL) return false;
  return isBlob(given) || isHandle(given) || given instanceof Map || isList(given);
}

/** The error for an argument that is neither a URL nor files. */
export function notAModel(given: unknown): SluiceError {
  const what = Object.prototype.toString.call(given);
  return new SluiceError('invalid_argument', `a model cannot be loaded from ${what}`, {
    hint:
      what === '[object DataTransfer]'
        ? 'Pass what fromDataTransfer() gives for it.'
        : 'Give a URL, a File or Blob, a list or Map of files, or the handle of a file or folder.',
  });
}

/**
 * Finds the model among files. A single file is taken whatever its name. Of several, those at the top are looked
 * at, or, where there is but one folder and nothing beside it, those in that folder: tensor-cache.json,
 * ndarray-cache.json, model.safetensors.index.json, the only .safetensors.index.json, model.safetensors, the only
 * .safetensors, the only .gguf or the first part of the only split one. Hidden files (.name) are passed over.
 * Errors: `not_found` and `invalid_argument`, with what was found; `io`.
 */
export async function modelOfFiles(given: ModelFiles): Promise<FileModel> {
  const all = await collect(given);
  const { folder, name } = chooseModel([...all.keys()]);
  if (folder === '') return { files: all, name };
  const files = new Map<string, Blob | FileSystemFileHandle>();
  for (const [path, file] of all) {
    if (path.startsWith(folder)) files.set(path.slice(folder.length), file);
  }
  return { files, name };
}

/**
 * The files and folders of a drop, for loadModel(). Call it in the event's handler, before any await: the browser
 * empties `event.dataTransfer` when the handler has returned.
 */
export function fromDataTransfer(transfer: DataTransfer): Promise<FileMap> {
  const dropped = [...transfer.items]
    .filter(({ kind }) => kind === 'file')
    .map((item) => ({ entry: item.webkitGetAsEntry(), file: item.getAsFile() }));
  return (async () => {
    const files = new Files();
    for (const { entry, file } of dropped) {
      if (entry?.isDirectory) await addEntry(files, entry);
      else if (file) files.add(file.name, file);
    }
    return files.map;
  })();
}

/** Which path to open. `folder` ends in '/', or is empty; `name` is relative to it. */
export function chooseModel(paths: readonly string[]): { folder: string; name: string } {
  const visible = paths.filter((path) => !/(^|\/)\./.test(path));
  const shown = visible.length > 0 ? visible : paths;
  const [first] = shown;
  if (first === undefined) {
    throw new SluiceError('invalid_argument', 'no files were given', { hint: WHAT_TO_GIVE });
  }
  if (shown.length === 1) {
    const folder = first.slice(0, first.lastIndexOf('/') + 1);
    return { folder, name: first.slice(folder.length) };
  }
  let folder = '';
  let top = namesIn(shown, folder);
  while (top.files.length === 0 && top.folders.size === 1) {
    folder += `${[...top.folders].join('')}/`;
    top = namesIn(shown, folder);
  }
  const name = chooseName(top.files);
  if (name === undefined) {
    throw new SluiceError('not_found', `no model among ${listed(shown)}`, { hint: WHAT_TO_GIVE });
  }
  return { folder, name };
}

/** The names of a folder's files and of its folders. */
function namesIn(
  paths: readonly string[],
  folder: string,
): { files: string[]; folders: Set<string> } {
  const files: string[] = [];
  const folders = new Set<string>();
  for (const path of paths) {
    if (!path.startsWith(folder)) continue;
    const [first = '', ...rest] = path.slice(folder.length).split('/');
    if (rest.length === 0) files.push(first);
    else folders.add(first);
  }
  return { files, folders };
}

function chooseName(names: readonly string[]): string | undefined {
  const known = MANIFESTS.find((name) => names.includes(name));
  if (known !== undefined) return known;
  const index = onlyOne(names.filter((name) => name.endsWith('.safetensors.index.json')));
  if (index !== undefined) return index;
  if (names.includes('model.safetensors')) return 'model.safetensors';
  const safetensors = onlyOne(names.filter((name) => /\.safetensors$/i.test(name)));
  if (safetensors !== undefined) return safetensors;
  const ggufs = new Map<string, string>(); // the first part of each
  for (const name of names.filter((name) => /\.gguf$/i.test(name)).sort()) {
    const part = GGUF_PART.exec(name);
    const model = part ? `${part[1]}-of-${part[3]}` : name;
    if (!ggufs.has(model)) ggufs.set(model, name);
  }
  return onlyOne([...ggufs.values()]);
}

/** The only name, or none; several are an error, since none of them is the better guess. */
function onlyOne(names: readonly string[]): string | undefined {
  if (names.length > 1) {
    throw new SluiceError('invalid_argument', `several models: ${listed(names)}`, {
      hint: names[0]?.endsWith('.safetensors')
        ? 'Give one of them, or add the model.safetensors.index.json that names them all.'
        : 'Give one of them.',
    });
  }
  return names[0];
}

/** "3 files: a, b, c" */
function listed(paths: readonly string[]): string {
  const names = [...paths].sort();
  const more = names.length - NAMES_SHOWN;
  return `${names.length} files: ${names.slice(0, NAMES_SHOWN).join(', ')}${more > 0 ? ` and ${more} more` : ''}`;
}

// ---------------------------------------------------------------------------------------------------------
// Collecting

class Files {
  readonly map = new Map<string, Blob | FileSystemFileHandle>();

  add(path: string, file: Blob | FileSystemFileHandle): void {
    if (this.map.has(path)) {
      throw new SluiceError('invalid_argument', `two of the files are called '${path}'`, {
        file: path,
        hint: 'Give the folder that holds them, or a Map from paths to files.',
      });
    }
    this.map.set(path, file);
    if (this.map.size > MAX_FILES) {
      throw new SluiceError('invalid_argument', `more than ${MAX_FILES} files were given`, {
        hint: 'Give the folder of the model itself.',
      });
    }
  }
}

async function collect(given: ModelFiles): Promise<FileMap> {
  if (given instanceof Map) return given as FileMap;
  const files = new Files();
  if (isBlob(given)) {
    files.add(nameOf(given), given);
  } else if (isHandle(given)) {
    if (given.kind === 'file') files.add(given.name, given);
    else await addFolder(files, given, '');
  } else {
    for (const file of Array.from(given as ArrayLike<File>)) {
      files.add(file.webkitRelativePath || nameOf(file), file);
    }
  }
  return files.map;
}

async function addFolder(
  files: Files,
  folder: FileSystemDirectoryHandle,
  path: string,
): Promise<void> {
  try {
    for await (const [name, handle] of folder.entries()) {
      if (handle.kind === 'file') files.add(path + name, handle as FileSystemFileHandle);
      else if (!name.startsWith('.')) {
        await addFolder(files, handle as FileSystemDirectoryHandle, `${path}${name}/`);
      }
    }
  } catch (error) {
    throw readError(path + folder.name, error);
  }
}

/** A dropped folder's files, by paths that begin with the folder's name. */
async function addEntry(files: Files, entry: FileSystemEntry): Promise<void> {
  const path = entry.fullPath.replace(/^\//, '');
  try {
    if (entry.isFile) {
      const file = await new Promise<File>((resolve, reject) => {
        (entry as FileSystemFileEntry).file(resolve, reject);
      });
      files.add(path, file);
      return;
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    for (;;) {
      // Some at a time, until there are none
      const children = await new Promise<FileSystemEntry[]>((resolve, reject) => {
        reader.readEntries(resolve, reject);
      });
      if (children.length === 0) return;
      for (const child of children) {
        if (!child.isDirectory || !child.name.startsWith('.')) await addEntry(files, child);
      }
    }
  } catch (error) {
    throw readError(path, error);
  }
}

function nameOf(blob: Blob): string {
  return ('name' in blob && typeof blob.name === 'string' && blob.name) || 'blob';
}

// By what they can do: objects of another realm (a frame, Node's own Blob) are as good

function isBlob(given: object): given is Blob {
  return 'slice' in given && 'stream' in given && 'size' in given;
}

function isHandle(given: object): given is FileSystemFileHandle | FileSystemDirectoryHandle {
  return 'kind' in given && (given.kind === 'file' || given.kind === 'directory');
}

function isList(given: object): given is ArrayLike<unknown> {
  return 'length' in given && Array.from(given as ArrayLike<unknown>).every(isBlobLike);
}

function isBlobLike(given: unknown): boolean {
  return typeof given === 'object' && given !== null && isBlob(given);
}
