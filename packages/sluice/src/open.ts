import { asSluiceError, SluiceError } from './errors.js';
import type { ModelSource } from './sources/source.js';
import { aborted } from './util/abort.js';
import { waitToRetry } from './util/retry.js';
import { LoaderModel } from './wasm/loader_module.js';

/** No manifest is longer: core/formats/open.h refuses one that is. */
const MAX_MANIFEST_BYTES = 256 * 2 ** 20 + 1;

/**
 * Opens the model `name` of `source`: reads its manifest or headers and nothing else. Rejects with
 * `not_found`, `manifest_invalid`, … of core/formats/open.h, and with the source's errors.
 */
export async function openModel(
  module: WebAssembly.Module,
  source: ModelSource,
  name: string,
  signal?: AbortSignal,
  check?: (path: string, bytes: Uint8Array<ArrayBuffer>) => Promise<void>,
): Promise<LoaderModel> {
  const model = await LoaderModel.create(module, name);
  // Also what a server leaves unanswered ends with the abort, and what is read ahead with an error
  const ended = new AbortController();
  const onAbort = (): void => {
    ended.abort();
    source.close();
  };
  if (signal?.aborted) onAbort();
  else signal?.addEventListener('abort', onAbort, { once: true });
  const ahead = new Map<string, Promise<Found | undefined>>();
  try {
    for (let request = model.request(); request; request = model.request()) {
      const { path, begin, end, upcoming = [] } = request;
      const read = (file: string): Promise<Found | undefined> =>
        readRange(source, file, begin, end, ended.signal);
      const reading = (begin === 0 ? ahead.get(path) : undefined) ?? read(path);
      ahead.delete(path);
      for (const file of upcoming) {
        if (ahead.has(file)) continue;
        const early = read(file);
        early.catch(() => undefined); // reported when its turn comes
        ahead.set(file, early);
      }
      const found = await reading;
      if (found === undefined) {
        missing(model, source.describe(path));
      } else {
        await check?.(path, found.bytes);
        model.provide(found.bytes, found.fileBytes);
      }
    }
    return model;
  } catch (error) {
    throw signal?.aborted ? aborted(signal) : withHint(error, source.hint);
  } finally {
    signal?.removeEventListener('abort', onAbort);
    ended.abort();
  }
}

/** Says that there is no such file. The core knows paths; the place as a person would name it is added here. */
function missing(model: LoaderModel, place: string): void {
  try {
    model.missing();
  } catch (error) {
    if (!(error instanceof SluiceError)) throw error;
    throw new SluiceError(error.code, `${error.message}; looked last at ${place}`, error.toJSON());
  }
}

/** Errors that a wrong location gives rise to: nothing there, not for everyone, or something else there. */
const WRONG_PLACE = new Set(['not_found', 'http_status', 'network', 'manifest_invalid']);

/** The error with the source's hint behind its own. */
function withHint(error: unknown, hint: string | undefined): unknown {
  if (hint === undefined || !(error instanceof SluiceError)) return error;
  if (!WRONG_PLACE.has(error.code)) return error;
  const { code, message, cause, retryable, retryAfterMs } = error;
  return new SluiceError(code, message, {
    ...error.toJSON(),
    hint: error.hint === undefined ? hint : `${error.hint}. ${hint}`,
    retryable,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
    cause,
  });
}

interface Found {
  bytes: Uint8Array<ArrayBuffer>;
  fileBytes: number | undefined;
}

/** Bytes [begin, end) of a file, fewer where it ends; undefined where there is no such file. */
async function readRange(
  source: ModelSource,
  path: string,
  begin: number,
  end: number | undefined,
  signal: AbortSignal | undefined,
): Promise<Found | undefined> {
  for (let attempt = 1; ; attempt++) {
    if (signal?.aborted) throw aborted(signal);
    try {
      return await readOnce(source, path, begin, end);
    } catch (cause) {
      const error = asSluiceError(cause);
      if (error.code === 'not_found') return undefined;
      if (error.code === 'range_out_of_bounds' && begin > 0) {
        return { bytes: new Uint8Array(0), fileBytes: undefined };
      }
      await waitToRetry(error, attempt, signal);
    }
  }
}

async function readOnce(
  source: ModelSource,
  path: string,
  begin: number,
  end: number | undefined,
): Promise<Found> {
  const stream = await source.open(path, begin, end);
  const chunks: Uint8Array[] = [];
  const stop = end ?? MAX_MANIFEST_BYTES;
  let length = 0;
  let at = stream.begin;
  try {
    while (at < stop) {
      const given = await stream.read();
      if (given === null) break;
      const chunk = given instanceof Uint8Array ? given : new Uint8Array(given.byteLength);
      if (!(given instanceof Uint8Array)) given.readInto(chunk, 0);
      // A server without ranges begins earlier and goes on for longer than asked
      const from = Math.max(begin - at, 0);
      const to = Math.min(stop - at, chunk.byteLength);
      at += chunk.byteLength;
      if (from >= to) continue;
      chunks.push(chunk.slice(from, to));
      length += to - from;
    }
  } finally {
    stream.cancel();
  }
  const bytes = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, offset);
    offset += chunk.byteLength;
  }
  return { bytes, fileBytes: stream.fileBytes };
}
