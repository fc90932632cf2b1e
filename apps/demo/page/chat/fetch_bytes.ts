import { SluiceError } from 'sluice';

/**
 * The bytes of a file, with word of how far it is; `total` is undefined where the server does not say. Rejects with a
 * SluiceError, or with what the signal was aborted with.
 */
export async function fetchBytes(
  url: string,
  signal: AbortSignal,
  onProgress: (done: number, total: number | undefined) => void,
): Promise<Uint8Array<ArrayBuffer>> {
  try {
    const response = await fetch(url, { signal });
    if (!response.ok) {
      throw new SluiceError('http_status', `${url}: HTTP status ${response.status}`, {
        file: url,
        status: response.status,
      });
    }
    const length = response.headers.get('content-length');
    const total = length === null ? undefined : Number(length);
    const parts: Uint8Array<ArrayBuffer>[] = [];
    let done = 0;
    const reader = response.body?.getReader();
    for (;;) {
      const part = await reader?.read();
      if (!part || part.done) break;
      parts.push(part.value);
      done += part.value.byteLength;
      onProgress(done, total);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  } catch (cause) {
    if (cause instanceof SluiceError || signal.aborted) throw cause;
    const message = cause instanceof Error ? cause.message : String(cause);
    throw new SluiceError('network', `${url} could not be fetched: ${message}`, {
      file: url,
      cause,
    });
  }
}
