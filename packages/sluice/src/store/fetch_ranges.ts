import { aborted } from '../util/abort.js';
import { waitToRetry } from '../util/retry.js';
import type { ModelSession } from './session.js';
import type { StoredSource } from './stored_source.js';

/** Bytes [begin, end) of a file. */
export interface FileRange {
  path: string;
  begin: number;
  end: number;
}

const PIECE_BYTES = 16 * 2 ** 20;

/**
 * Sees to it that ranges lie in the store, verified: fetches what is missing, `connections` at a time, and looks at
 * what is there. Rejects with the source's errors, and with `aborted`.
 */
export async function fetchRanges(
  session: ModelSession,
  source: StoredSource,
  ranges: readonly FileRange[],
  options: {
    connections: number;
    signal?: AbortSignal | undefined;
    onBytes?: ((nbytes: number) => void) | undefined;
  },
): Promise<void> {
  const pieces = ranges.flatMap(({ path, begin, end }) =>
    Array.from({ length: Math.ceil((end - begin) / PIECE_BYTES) }, (_, i) => ({
      path,
      begin: begin + i * PIECE_BYTES,
      end: Math.min(begin + (i + 1) * PIECE_BYTES, end),
    })),
  );
  let next = 0;
  let failed = false;
  const lane = async (): Promise<void> => {
    for (let piece = pieces[next++]; piece && !failed; piece = pieces[next++]) {
      await fetchPiece(session, source, piece, options.signal);
      options.onBytes?.(piece.end - piece.begin);
    }
  };
  const lanes = Array.from({ length: Math.max(options.connections, 1) }, () =>
    lane().catch((error: unknown) => {
      failed = true;
      throw error;
    }),
  );
  const outcomes = await Promise.allSettled(lanes);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}

async function fetchPiece(
  session: ModelSession,
  source: StoredSource,
  { path, begin, end }: FileRange,
  signal: AbortSignal | undefined,
): Promise<void> {
  let at = begin;
  let attempts = 0;
  while (at < end) {
    if (signal?.aborted) throw aborted(signal);
    const run = session.find(path, at);
    if (run.stored && !session.mustValidate(path) && (await session.verify(path, run))) {
      at = Math.min(run.end, end);
      continue;
    }
    try {
      const stream = await source.open(path, at, end);
      try {
        // The first chunk that lies in the store ends the gap
        for (let chunk = await stream.read(); chunk; chunk = await stream.read()) {
          at += chunk.byteLength;
          attempts = 0;
          if (signal?.aborted) throw aborted(signal);
        }
      } finally {
        stream.cancel();
      }
      return;
    } catch (cause) {
      await waitToRetry(cause, ++attempts, signal);
    }
  }
}
