import { HttpSource, splitFileUrl, type HttpSourceOptions } from './http.js';

/** File names that are a model by themselves; any other location is taken for a folder. */
const MODEL_FILE = /\.(gguf|safetensors|json)$/i;

/**
 * A source for the model at `url`, and the name by which core/formats/open.h knows it: that of a file
 * (`.gguf`, `.safetensors`, a manifest's `.json`), or nothing for a folder. The URL's query goes to every file of
 * the model: a token is often good for all of them, and where it signs one file the others need one each anyway.
 */
export function httpModel(
  url: string,
  given: HttpSourceOptions,
): { source: HttpSource; name: string } {
  const { folderUrl, path } = splitFileUrl(url);
  const hint = pageHint(folderUrl.origin, folderUrl.pathname + encodeURIComponent(path));
  const options = hint === undefined ? given : { ...given, hint };
  if (!MODEL_FILE.test(path)) return { source: new HttpSource(url, options), name: '' };
  folderUrl.search = new URL(url, folderUrl).search;
  return {
    source: new HttpSource(folderUrl, { ...options, fileUrls: { [path]: url } }),
    name: path,
  };
}

/**
 * What to say where nothing was found at a URL that looks like a page of a model hub, which is the address that people
 * copy: `/owner/name`, `/owner/name/tree/main/folder` or `/owner/name/blob/main/file`, where the files are at
 * `/owner/name/resolve/main/…`. By the shape of the path alone, and only a hint: such a URL may be a model as well.
 */
export function pageHint(origin: string, pathname: string): string | undefined {
  const segments = pathname.split('/').filter((segment) => segment !== '');
  const view = segments.findIndex(
    (segment, i) => i >= 2 && i + 1 < segments.length && /^(blob|tree)$/.test(segment),
  );
  let files: string[];
  if (view >= 0) files = [...segments.slice(0, view), 'resolve', ...segments.slice(view + 1)];
  else if (segments.length === 2 && !MODEL_FILE.test(pathname))
    files = [...segments, 'resolve', 'main'];
  else return undefined;
  const end = MODEL_FILE.test(pathname) ? '' : '/';
  return `If this is the address of a page about a model, its files may be at ${origin}/${files.join('/')}${end}`;
}
