/** A stored model's files out to a folder and in from one, for pages that let a person do so. */
import { SluiceError } from '../errors.js';
import { readError } from '../sources/blob.js';
import { httpModel } from '../sources/http_model.js';
import { modelOfFiles, type ModelFiles } from '../sources/model_files.js';
import type { FileTarget } from './model_store.js';
import { fileError } from './opfs.js';

/** What a load asks a folder's URL for, in this order: core/formats/open.h. */
const FOLDER_NAMES = [
  'tensor-cache.json',
  'ndarray-cache.json',
  'model.safetensors.index.json',
  'model.safetensors',
];
/** A model that is one file; of a split GGUF (core/formats/gguf/split.h) each is a part. */
const ONE_FILE = /(?<!-\d{5}-of-\d{5})\.(safetensors|gguf)$/i;

/**
 * For ModelStore.exportTo(): a folder that the page may write to, as showDirectoryPicker({ mode: 'readwrite' }) and OPFS
 * have them. A file is there under its name once it is whole.
 */
export function handleTarget(directory: FileSystemDirectoryHandle): FileTarget {
  return {
    async create(path) {
      const failed = (cause: unknown): never => {
        throw fileError(`${directory.name}/${path}`, 'written', cause);
      };
      const writable = await openWritable(directory, path).catch(failed);
      return {
        // The store's bytes are never in shared memory, which the type allows
        write: (bytes) => writable.write(bytes as Uint8Array<ArrayBuffer>).catch(failed),
        close: () => writable.close().catch(failed),
        abort: () => writable.abort().catch(() => undefined), // it has failed already
      };
    },
  };
}

async function openWritable(
  directory: FileSystemDirectoryHandle,
  path: string,
): Promise<FileSystemWritableFileStream> {
  const folders = path.split('/');
  const name = folders.pop() ?? '';
  let folder = directory;
  for (const each of folders) folder = await folder.getDirectoryHandle(each, { create: true });
  const file: Partial<FileSystemFileHandle> = await folder.getFileHandle(name, { create: true });
  if (file.createWritable) return file.createWritable();
  throw new Error('this browser has no createWritable()');
}

/**
 * For ModelStore.importFrom(): the files of the model among those that a person chose, a list or a folder as loadModel()
 * takes them, under the names by which a load of `url` asks for them. A model of one file takes the name that the URL
 * has; with a manifest go all files of its folder but hidden ones. Errors: those of modelOfFiles(), and
 * `invalid_argument` where a load of `url` would ask for what is not there.
 */
export async function filesForImport(
  url: string | URL,
  from: ModelFiles,
): Promise<AsyncIterable<{ path: string; file: Blob }>> {
  const { files, name } = await modelOfFiles(from);
  const { source, name: wanted } = httpModel(String(url), {});
  source.close();
  const only = ONE_FILE.test(name) || files.size === 1 ? files.get(name) : undefined;
  if (only && wanted !== '') {
    const ending = /\.[^.]*$/.exec(wanted)?.[0].toLowerCase() ?? '';
    if (!name.toLowerCase().endsWith(ending)) throw another(url, wanted, name);
    return opened([[wanted, only]]);
  }
  if (wanted === '' ? !FOLDER_NAMES.includes(name) : !files.has(wanted)) {
    throw another(url, wanted, name);
  }
  return opened(only ? [[name, only]] : [...files].filter(([path]) => !/(^|\/)\./.test(path)));
}

async function* opened(
  files: readonly (readonly [string, Blob | FileSystemFileHandle])[],
): AsyncGenerator<{ path: string; file: Blob }> {
  for (const [path, file] of files) {
    try {
      yield { path, file: 'getFile' in file ? await file.getFile() : file };
    } catch (cause) {
      throw readError(path, cause);
    }
  }
}

function another(url: string | URL, wanted: string, name: string): SluiceError {
  const asks = wanted === '' ? `one of ${FOLDER_NAMES.join(', ')}` : wanted;
  return new SluiceError(
    'invalid_argument',
    `a load of ${String(url)} asks for ${asks}, and the model that was chosen is ${name}`,
    { file: name, hint: `give the address that ends in '${name}', or choose that model's files` },
  );
}
