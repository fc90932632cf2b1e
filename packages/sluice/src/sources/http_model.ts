import { HttpSource, splitFileUrl, type HttpSourceOptions } from './http.js';

/** File names that are a model by themselves; any other location is taken for a folder. */
const MODEL_FILE = /\.(gguf|safetensors|json)$/i;

/**
 * A source for the model at `url`, and the name by which core/formats/open.h knows it: that of a file
 * (`.gguf`, `.safetensors`, a manifest's `.json`), or nothing for a folder. A query, as signed URLs have
 * it, stays with a file's own URL.
 */
export function httpModel(
  url: string,
  options: HttpSourceOptions,
): { source: HttpSource; name: string } {
  const { folderUrl, path } = splitFileUrl(url);
  if (!MODEL_FILE.test(path)) return { source: new HttpSource(url, options), name: '' };
  return {
    source: new HttpSource(folderUrl, { ...options, fileUrls: { [path]: url } }),
    name: path,
  };
}
