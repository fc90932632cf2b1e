import { SluiceError } from '../errors.js';
import { aborted } from '../util/abort.js';

/** Gives the bytes of a file, by its URL or, in Node, its path. Rejects with a SluiceError. */
export type FileReader = (
  location: string | URL,
  signal?: AbortSignal,
) => Promise<Uint8Array<ArrayBuffer>>;

/** By fetch. */
export const fetchBytes: FileReader = async (location, signal) => {
  const file = String(location);
  try {
    const response = await fetch(location, signal ? { signal } : {});
    if (!response.ok) {
      throw new SluiceError('http_status', `${file}: HTTP status ${response.status}`, {
        file,
        status: response.status,
      });
    }
    return new Uint8Array(await response.arrayBuffer());
  } catch (cause) {
    if (cause instanceof SluiceError) throw cause;
    if (signal?.aborted) throw aborted(signal);
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new SluiceError('network', `${file} could not be fetched: ${message}`, { file, cause });
  }
};

/** The content of a JSON file, or what was given as such. Rejects with a SluiceError. */
export async function readJson(
  read: FileReader,
  from: string | URL | object,
  signal?: AbortSignal,
): Promise<unknown> {
  if (typeof from === 'object' && !(from instanceof URL)) return from;
  const bytes = await read(from, signal);
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as unknown;
  } catch (cause) {
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new SluiceError('invalid_argument', `${String(from)} is no JSON: ${message}`, {
      file: String(from),
      cause,
    });
  }
}
