import { SluiceError, type ErrorDetails } from '../errors.js';
import { fromBase64, hex } from '../util/bytes.js';
import type { ByteStream, Source } from './source.js';

// ---------------------------------------------------------------------------------------------------------
// Transports: one request, one response. fetch here, node:http in node_http.ts.

/** One request of a transport. */
export interface HttpRequest {
  readonly url: URL;
  /** Lower-case names. */
  readonly headers: Record<string, string>;
  readonly credentials: RequestCredentials;
  /** True where a redirect must come back as a response instead of being followed. */
  readonly manualRedirect: boolean;
  readonly signal: AbortSignal;
}

/** The body of a response, decoded from its Content-Encoding. */
export interface HttpBody {
  /** The next bytes, or null at the end: as ByteStream.read(). */
  read(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array | null>;
  /** Stops the transfer; never throws. */
  cancel(): void;
}

export interface HttpResponse {
  readonly status: number;
  header(name: string): string | null;
  /** The platform may have hidden headers (CORS shows only those that the server exposes). */
  readonly filtered: boolean;
  /** Where the response came from, after what redirects the transport has followed. */
  readonly url: string;
  /** A redirect whose target the platform does not tell (`manual` in browsers). */
  readonly opaqueRedirect: boolean;
  readonly body: HttpBody;
}

export interface HttpTransport {
  /** Bodies are taken in at the reader's pace whatever the server says. */
  readonly unbuffered?: boolean;
  /** Rejects with whatever the platform rejects with; the source makes a SluiceError of it. */
  request(request: HttpRequest): Promise<HttpResponse>;
  /** Drops idle connections. */
  close?(): void;
}

/** Requests by fetch. */
export function fetchTransport(fetchFunction?: typeof fetch): HttpTransport {
  const spare: ArrayBuffer[] = [];
  return {
    async request({ url, headers, credentials, manualRedirect, signal }) {
      const response = await (fetchFunction ?? fetch)(url.href, {
        headers,
        credentials,
        signal,
        redirect: manualRedirect ? 'manual' : 'follow',
        // Chrome lets one request at a time write its HTTP cache entry of a URL, which would make ranges of
        // one file wait for each other; and gigabytes have no business in that cache.
        cache: 'no-store',
      });
      return {
        status: response.status,
        header: (name) => response.headers.get(name),
        filtered: response.type === 'cors',
        url: response.url === '' ? url.href : response.url,
        opaqueRedirect: response.type === 'opaqueredirect',
        body: response.body
          ? streamReader(response.body, spare)
          : { read: () => Promise.resolve(null), cancel: () => undefined },
      };
    },
  };
}

/** TypeScript's DOM library does not know `min` yet; nor do browsers of before 2024, which pass it over. */
interface ByobReader {
  read(
    view: Uint8Array<ArrayBuffer>,
    options: { min: number },
  ): Promise<{ done: boolean; value?: Uint8Array<ArrayBuffer> | undefined }>;
  cancel(): Promise<void>;
}

/**
 * Reads into one array again and again where the stream can, which saves allocating one for each chunk. It is taken
 * from `spare`, and left there for the next response: what is dropped is collected late.
 */
function streamReader(
  stream: ReadableStream<Uint8Array<ArrayBuffer>>,
  spare: ArrayBuffer[],
): HttpBody {
  let reader: ByobReader;
  try {
    reader = stream.getReader({ mode: 'byob' });
  } catch {
    // Not a stream of bytes: Safari's, or one of the caller's own
    const plain = stream.getReader();
    return {
      async read() {
        const { done, value } = await plain.read();
        return done ? null : value;
      },
      cancel() {
        plain.cancel().catch(() => undefined);
      },
    };
  }
  let buffer: ArrayBuffer | undefined;
  let fast = false;
  let ended = false;
  const finish = (): null => {
    if (buffer && spare.length < MAX_SPARE) spare.push(buffer);
    buffer = undefined;
    return null;
  };
  return {
    async read(into) {
      if (ended) return finish();
      const view = into ?? new Uint8Array(buffer ?? spare.pop() ?? new ArrayBuffer(READ_BYTES));
      if (!into) buffer = undefined; // the stream's until it answers
      const begin = performance.now();
      // From a fast connection all at once: each answer takes time of its own
      const { done, value } = await reader.read(view, { min: fast ? view.byteLength : 1 });
      fast =
        performance.now() - begin < FAST_READ_MS && (value?.byteLength ?? 0) >= FAST_READ_BYTES;
      ended = done;
      // Of a stream that has ended these may be the last, and one that was cancelled keeps the array
      if (!into && value) ({ buffer } = value);
      return value && value.byteLength > 0 ? value : finish();
    },
    cancel() {
      reader.cancel().catch(() => undefined);
    },
  };
}

// ---------------------------------------------------------------------------------------------------------
// The source

/** Gives the headers of a request to this URL: for tokens that live shorter than a load may take. */
export type HeadersFunction = (url: string) => HeadersInit | Promise<HeadersInit>;

export interface HttpSourceOptions {
  /** Used instead of the global fetch. */
  fetch?: typeof fetch;
  /** Used instead of fetch altogether; Node's entry passes nodeHttpTransport(). */
  transport?: HttpTransport;
  /**
   * Headers for requests to the folder's origin. They never reach another one. In browsers, where a redirect's
   * target cannot be seen beforehand, any header but Authorization (which fetch itself drops across origins)
   * makes every redirect an error. A function is called before each request to that origin.
   */
  headers?: HeadersInit | HeadersFunction;
  /** Cookies, as for fetch ('same-origin'). */
  credentials?: RequestCredentials;
  /** Stops everything, like close(). */
  signal?: AbortSignal;
  /** Milliseconds without a byte, while bytes are awaited, after which a request is given up (30000). */
  stallTimeoutMs?: number;
  /**
   * URLs of particular paths, used as they stand: signed URLs, of any origin (`headers` go to the folder's
   * alone). Other paths are resolved against the folder and carry the folder URL's query, if it has one.
   */
  fileUrls?: Record<string, string | URL>;
  /** What to add to the hint of an error that says there is no model. */
  hint?: string;
}

/** The folder of a file's URL, without the query, and the file's path in it. */
export function splitFileUrl(fileUrl: string | URL): { folderUrl: URL; path: string } {
  const url = parseUrl(fileUrl);
  const name = url.pathname.slice(url.pathname.lastIndexOf('/') + 1);
  let path: string;
  try {
    path = decodeURIComponent(name);
  } catch (cause) {
    throw new SluiceError(
      'invalid_argument',
      `${withoutQuery(url)}: the file's name is not valid percent-encoding`,
      {
        file: withoutQuery(url),
        cause,
      },
    );
  }
  return { folderUrl: new URL('.', url), path };
}

/** One read at most; no more than a transfer's share of a budget of 4 MiB. */
const READ_BYTES = 256 * 1024;
/** A connection that gives so much within so little time is asked for all that the next read has room for. */
const FAST_READ_BYTES = 64 * 1024;
const FAST_READ_MS = 20;
/** Arrays kept for the next responses: as many as transfers may be at once unless more are asked for. */
const MAX_SPARE = 4;
const MAX_REDIRECTS = 20;
const MAX_RETRY_AFTER_MS = 300_000;
/** The stall timer's ticks in one stall timeout. */
const STALL_TICKS = 4;
/** A timer asked for more fires at once; 24 days are as good as never. */
const MAX_TIMER_MS = 2 ** 31 - 1;
const REDIRECTS = new Set([301, 302, 303, 307, 308]);
const RETRYABLE_STATUSES = new Set([408, 425, 429]);

/** What is remembered of a path's first response, to notice that the file was replaced. */
interface Version {
  fileBytes?: number;
  /**
   * By content coding, since a compressed variant has a validator of its own; and by the origin that answered,
   * since a redirect may lead to one server or another, and each names the same bytes in its own way.
   */
  validators: Map<string, Validators>;
}

interface Validators {
  etag: string | undefined;
  lastModified: string | undefined;
}

/**
 * Files of a folder on a web server. Any number of streams may be open at once.
 *
 * Errors, besides those of `Source`: `truncated`, when a body ends before what its headers promised;
 * `invalid_argument`, for a path that leaves the folder. Messages name URLs without their query, which may be a
 * secret.
 */
export class HttpSource implements Source {
  readonly hint: string | undefined;
  readonly #folder: URL;
  readonly #fileUrls: Map<string, URL>;
  readonly #headers: Record<string, string> | HeadersFunction;
  readonly #credentials: RequestCredentials;
  readonly #transport: HttpTransport;
  readonly #stallTimeoutMs: number;
  readonly #versions = new Map<string, Version>();
  readonly #transfers = new Set<Transfer>();
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort = () => this.close();
  #closed = false;
  #noStore = false;
  #timer: ReturnType<typeof setInterval> | undefined;
  #tick = 0;

  constructor(folderUrl: string | URL, options: HttpSourceOptions = {}) {
    this.#folder = parseUrl(folderUrl);
    if (!this.#folder.pathname.endsWith('/')) this.#folder.pathname += '/';
    this.#fileUrls = new Map(
      Object.entries(options.fileUrls ?? {}).map(([path, url]) => [path, parseUrl(url)]),
    );
    this.hint = options.hint;
    const { headers } = options;
    this.#headers = typeof headers === 'function' ? headers : checkHeaders(headers);
    this.#credentials = options.credentials ?? 'same-origin';
    this.#transport = options.transport ?? fetchTransport(options.fetch);
    this.#stallTimeoutMs = options.stallTimeoutMs ?? 30_000;
    if (!(this.#stallTimeoutMs > 0)) {
      throw new SluiceError(
        'invalid_argument',
        `stallTimeoutMs must be positive, not ${this.#stallTimeoutMs}`,
      );
    }
    this.#signal = options.signal;
    if (this.#signal?.aborted) this.close();
    else this.#signal?.addEventListener('abort', this.#onAbort, { once: true });
  }

  /** Chromium reads the whole of a response ahead, in memory, unless it says `Cache-Control: no-store`. */
  get unbuffered(): boolean {
    return this.#transport.unbuffered ?? this.#noStore;
  }

  describe(path: string): string {
    try {
      return withoutQuery(this.#resolve(path));
    } catch {
      return path;
    }
  }

  async open(path: string, begin: number, end: number | undefined): Promise<ByteStream> {
    const url = this.#resolve(path);
    const file = withoutQuery(url);
    checkRange(file, begin, end);
    if (this.#closed) throw this.#abortError(file);
    if (begin === end) return new Transfer(this, file, begin);

    const transfer = new Transfer(this, file, begin);
    this.#transfers.add(transfer);
    this.#startTimer();
    transfer.waitingSince = this.#tick;
    try {
      // The race serves a fetch that does not heed its signal; what such a one brings late is cancelled.
      const responding = this.#follow(url, begin, end, transfer.signal, file);
      responding.then(
        (response) => transfer.error && response.body.cancel(),
        () => undefined,
      );
      const response = await Promise.race([responding, transfer.failed]);
      this.#noStore = /\bno-store\b/i.test(response.header('cache-control') ?? '');
      try {
        transfer.accept(response.body, this.#check(path, file, response, begin, end));
      } catch (error) {
        response.body.cancel(); // the signal alone may not end it
        throw error;
      }
      transfer.waitingSince = -1;
      return transfer;
    } catch (error) {
      throw transfer.fail(error instanceof SluiceError ? error : networkError(file, url, error));
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#signal?.removeEventListener('abort', this.#onAbort);
    for (const transfer of [...this.#transfers]) transfer.fail(this.#abortError(transfer.file));
    this.#transport.close?.();
  }

  /** The stall timer's count; for transfers. */
  get tick(): number {
    return this.#tick;
  }

  /** Forgets a transfer that has ended; for transfers. */
  ended(transfer: Transfer): void {
    this.#transfers.delete(transfer);
    if (this.#transfers.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #abortError(file: string): SluiceError {
    return new SluiceError('aborted', `${file}: the transfer was aborted`, {
      file,
      ...(this.#signal?.aborted ? { cause: this.#signal.reason as unknown } : {}),
    });
  }

  #resolve(path: string): URL {
    const given = this.#fileUrls.get(path);
    if (given) return given;
    let url: URL | undefined;
    try {
      url = new URL(path.split('/').map(encodeURIComponent).join('/'), this.#folder);
    } catch {
      // A lone surrogate, or no URL at all.
    }
    const folder = this.#folder.pathname;
    if (
      !url ||
      url.origin !== this.#folder.origin ||
      !url.pathname.startsWith(folder) ||
      url.pathname === folder
    ) {
      throw new SluiceError(
        'invalid_argument',
        `'${path}' is not a file in ${withoutQuery(this.#folder)}`,
        {
          file: path,
          hint: 'Paths are relative to the folder of the model and stay in it.',
        },
      );
    }
    url.search = this.#folder.search;
    return url;
  }

  /** One timer for all transfers. It counts its own ticks, so a computer that slept has stalled nothing. */
  #startTimer(): void {
    if (this.#timer !== undefined) return;
    this.#timer = setInterval(
      () => {
        this.#tick++;
        for (const transfer of [...this.#transfers]) {
          if (transfer.waitingSince < 0 || this.#tick - transfer.waitingSince <= STALL_TICKS)
            continue;
          transfer.fail(
            new SluiceError(
              'network',
              `${transfer.file}: no bytes for ${this.#stallTimeoutMs / 1000} s, ${transfer.received} bytes after offset ${transfer.begin}`,
              {
                file: transfer.file,
                retryable: true,
                hint: 'The connection or the server stalled.',
              },
            ),
          );
        }
      },
      Math.min(this.#stallTimeoutMs / STALL_TICKS, MAX_TIMER_MS),
    );
    // Node's timers are objects; one that only watches must not keep the process alive.
    if (typeof this.#timer === 'object') this.#timer.unref();
  }

  /** Requests, and follows the redirects that the transport does not; the caller's headers stay at their origin. */
  async #follow(
    first: URL,
    begin: number,
    end: number | undefined,
    signal: AbortSignal,
    file: string,
  ): Promise<HttpResponse> {
    let url = first;
    let trusted = url.origin === this.#folder.origin;
    for (let hop = 0; hop <= MAX_REDIRECTS; hop++) {
      const own = trusted ? await this.#ownHeaders(url, file) : {};
      const headers = { ...own };
      if (begin > 0 || end !== undefined)
        headers['range'] = `bytes=${begin}-${end === undefined ? '' : end - 1}`;
      const response = await this.#transport.request({
        url,
        headers,
        credentials: trusted ? this.#credentials : 'omit',
        manualRedirect: Object.keys(own).some((name) => name !== 'authorization'),
        signal,
      });
      if (response.opaqueRedirect) {
        response.body.cancel();
        throw new SluiceError(
          'http_status',
          `${file}: the server redirects, and the request carries headers of yours`,
          {
            file,
            hint: "A browser cannot keep headers other than Authorization from a redirect's target: give the final URL, or only Authorization.",
          },
        );
      }
      const location = REDIRECTS.has(response.status) ? response.header('location') : null;
      if (location === null) return response;
      response.body.cancel();
      let next: URL;
      try {
        next = new URL(location, url);
      } catch {
        next = new URL('invalid:');
      }
      if (next.protocol !== 'http:' && next.protocol !== 'https:') {
        throw new SluiceError(
          'http_status',
          `${file}: status ${response.status} redirects to '${location}', which is no http URL`,
          {
            file,
            status: response.status,
          },
        );
      }
      if (next.origin !== url.origin) trusted = false;
      url = next;
    }
    throw new SluiceError('http_status', `${file}: more than ${MAX_REDIRECTS} redirects`, { file });
  }

  async #ownHeaders(url: URL, file: string): Promise<Record<string, string>> {
    if (typeof this.#headers !== 'function') return this.#headers;
    try {
      return checkHeaders(await this.#headers(url.href));
    } catch (cause) {
      if (cause instanceof SluiceError) throw cause;
      throw new SluiceError(
        'invalid_argument',
        `${file}: the function that gives the request's headers failed: ${reason(cause)}`,
        { file, cause },
      );
    }
  }

  /** What the response's status and headers promise; throws where they do not answer what was asked. */
  #check(
    path: string,
    file: string,
    response: HttpResponse,
    begin: number,
    end: number | undefined,
  ): BodyTerms {
    const { status } = response;
    const ranged = begin > 0 || end !== undefined;
    if (status !== 200 && status !== 206) throw statusError(file, response, begin, end);

    const encodingHeader = response.header('content-encoding')?.trim().toLowerCase() ?? '';
    const encoding = encodingHeader === '' ? 'identity' : encodingHeader;
    let terms: BodyTerms;
    if (status === 206) {
      if (encoding !== 'identity') {
        throw new SluiceError(
          'http_status',
          `${file}: status 206 with Content-Encoding ${encoding}, of which no offset is known`,
          {
            file,
            status,
            hint: 'Have the server send ranges uncompressed.',
          },
        );
      }
      terms = checkContentRange(file, response, begin, end);
    } else {
      // fetch decodes, but Content-Length is of the encoded body; and CORS hides Content-Encoding.
      const known = encoding === 'identity' && !response.filtered;
      const fileBytes = known ? parseCount(response.header('content-length')) : undefined;
      terms = { begin: 0, ranged: false, fileBytes, promised: fileBytes, limit: Infinity };
    }
    // A request with Range asks for no compression; of any other, CORS may hide that it was compressed.
    const variant = encoding === 'identity' && response.filtered && !ranged ? 'unknown' : encoding;
    const from = `${variant} ${new URL(response.url).origin}`;
    const { etag = '', lastModified = '' } = this.#checkVersion(
      path,
      file,
      response,
      from,
      terms.fileBytes,
    );
    const sha256 = encoding === 'identity' ? reprDigest(response) : undefined;
    return { ...terms, validators: { etag, lastModified, sha256 } };
  }

  #checkVersion(
    path: string,
    file: string,
    response: HttpResponse,
    variant: string,
    fileBytes: number | undefined,
  ): Validators {
    let version = this.#versions.get(path);
    if (!version) this.#versions.set(path, (version = { validators: new Map() }));
    const changed = (what: string, before: string | number, after: string | number) =>
      new SluiceError(
        'source_changed',
        `${file}: the file was replaced while it was loading: ${what} was ${before}, now ${after}`,
        {
          file,
          ...(typeof before === 'number' && typeof after === 'number'
            ? { expected: before, actual: after }
            : {}),
          hint: 'Load the model again.',
        },
      );

    const now = validatorsOf(response);
    const first = version.validators.get(variant);
    if (!first) {
      version.validators.set(variant, now);
    } else if (first.etag !== undefined && now.etag !== undefined) {
      if (first.etag !== now.etag) throw changed('ETag', first.etag, now.etag);
    } else if (first.lastModified !== undefined && now.lastModified !== undefined) {
      if (first.lastModified !== now.lastModified)
        throw changed('Last-Modified', first.lastModified, now.lastModified);
    }
    if (fileBytes === undefined) return now;
    version.fileBytes ??= fileBytes;
    if (version.fileBytes !== fileBytes)
      throw changed('the size in bytes', version.fileBytes, fileBytes);
    return now;
  }
}

/** What a response's headers say about its body. */
interface BodyTerms {
  begin: number;
  ranged: boolean;
  fileBytes: number | undefined;
  /** Bytes the decoded body must have, where known. */
  promised: number | undefined;
  /** Bytes after which the body is cut off. */
  limit: number;
  validators?: { etag: string; lastModified: string; sha256: string | undefined };
}

/** One request and its body. */
class Transfer implements ByteStream {
  readonly #source: HttpSource;
  readonly #controller = new AbortController();
  readonly file: string;
  /** Rejects with the first error; handled, so that nobody needs to wait for it. */
  readonly failed: Promise<never>;
  #rejectFailed: (error: SluiceError) => void = () => undefined;
  error: SluiceError | undefined;
  /** The source's tick when the wait for bytes began, or -1. */
  waitingSince = -1;
  /** Body bytes given to the caller. */
  received = 0;
  begin: number;
  ranged = true;
  fileBytes: number | undefined;
  validators: BodyTerms['validators'];
  #body: HttpBody | undefined;
  #promised: number | undefined;
  #limit = Infinity;

  constructor(source: HttpSource, file: string, begin: number) {
    this.#source = source;
    this.file = file;
    this.begin = begin;
    this.failed = new Promise((_, reject) => (this.#rejectFailed = reject));
    this.failed.catch(() => undefined);
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  accept(body: HttpBody, terms: BodyTerms): void {
    this.#body = body;
    this.begin = terms.begin;
    this.ranged = terms.ranged;
    this.fileBytes = terms.fileBytes;
    this.validators = terms.validators;
    this.#promised = terms.promised;
    this.#limit = terms.limit;
  }

  /** Ends the transfer with this error, unless it has one; gives the one it has. */
  fail(error: SluiceError): SluiceError {
    if (!this.error) {
      this.error = error;
      this.#rejectFailed(error);
      this.#body?.cancel();
      this.#controller.abort();
      this.#source.ended(this);
    }
    return this.error;
  }

  async read(into?: Uint8Array<ArrayBuffer>): Promise<Uint8Array | null> {
    for (;;) {
      if (this.error) throw this.error;
      const body = this.#body;
      if (!body) return null;
      if (this.received === this.#limit) {
        this.#drain(body);
        return null;
      }
      this.waitingSince = this.#source.tick;
      let chunk: Uint8Array | null;
      try {
        chunk = await body.read(into);
      } catch (cause) {
        throw this.fail(
          new SluiceError(
            'network',
            `${this.file}: the connection broke after ${this.#progress()}: ${reason(cause)}`,
            {
              file: this.file,
              ...this.#numbers(),
              retryable: true,
              cause,
            },
          ),
        );
      }
      this.waitingSince = -1;
      // A cancelled body may end as if it were complete. fail() may have run during the await.
      const error = this.error as SluiceError | undefined;
      if (error) throw error;
      if (chunk === null) {
        if (this.#promised !== undefined && this.received < this.#promised) {
          throw this.fail(
            new SluiceError(
              'truncated',
              `${this.file}: the response ended after ${this.#progress()}`,
              {
                file: this.file,
                ...this.#numbers(),
                retryable: true,
              },
            ),
          );
        }
        this.#body = undefined;
        this.#source.ended(this);
        return null;
      }
      if (chunk.length === 0) continue;
      const room = this.#limit - this.received;
      if (chunk.length > room) chunk = chunk.subarray(0, room);
      this.received += chunk.length;
      return chunk;
    }
  }

  cancel(): void {
    if (this.#body)
      this.fail(
        new SluiceError('aborted', `${this.file}: the transfer was cancelled`, { file: this.file }),
      );
  }

  /** All asked bytes are there: lets the response end, so that its connection can be used again. */
  #drain(body: HttpBody): void {
    this.#body = undefined;
    this.waitingSince = this.#source.tick;
    body.read().then(
      (chunk) => {
        if (chunk !== null) {
          body.cancel();
          this.#controller.abort();
        }
        this.#source.ended(this);
      },
      () => this.#source.ended(this),
    );
  }

  #progress(): string {
    const of = this.#promised === undefined ? '' : ` of ${this.#promised}`;
    return `${this.received}${of} bytes from offset ${this.begin}`;
  }

  #numbers(): ErrorDetails {
    return this.#promised === undefined ? {} : { expected: this.#promised, actual: this.received };
  }
}

// ---------------------------------------------------------------------------------------------------------
// Headers

/** The caller's headers, by lower-case names. */
function checkHeaders(headers: HeadersInit | undefined): Record<string, string> {
  const checked = Object.fromEntries(new Headers(headers));
  for (const name of ['range', 'if-range', 'accept-encoding']) {
    if (name in checked) {
      throw new SluiceError('invalid_argument', `headers: '${name}' is set by the source itself`);
    }
  }
  return checked;
}

/** Content-Range (RFC 9110, 14.4) against what was asked. */
function checkContentRange(
  file: string,
  response: HttpResponse,
  begin: number,
  end: number | undefined,
): BodyTerms {
  const asked = `bytes ${begin}-${end === undefined ? '' : end - 1}`;
  const limit = end === undefined ? Infinity : end - begin;
  const header = response.header('content-range');
  const wrong = (what: string) =>
    // Not range_out_of_bounds, which says that the file ends before the range
    new SluiceError(
      'http_status',
      `${file}: asked for ${asked}, and the server answered with ${what}`,
      {
        file,
        status: response.status,
        hint: "The server's answers to Range requests are wrong.",
      },
    );
  if (/^multipart\//i.test(response.header('content-type') ?? '')) throw wrong('a multipart body');
  if (header === null) {
    if (!response.filtered) throw wrong('status 206 and no Content-Range');
    // CORS hides Content-Range unless the server exposes it, but never Content-Length
    const length = parseCount(response.header('content-length'));
    if (length !== undefined && length > limit) {
      throw wrong(`status 206 and ${length} bytes, ${length - limit} more than that`);
    }
    return { begin, ranged: true, fileBytes: undefined, promised: undefined, limit };
  }
  const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/i.exec(header.trim());
  const first = Number(match?.[1] ?? NaN);
  const last = Number(match?.[2] ?? NaN);
  const size = match?.[3] === '*' ? undefined : Number(match?.[3] ?? NaN);
  if (
    !Number.isSafeInteger(first) ||
    !Number.isSafeInteger(last) ||
    (size !== undefined && (!Number.isSafeInteger(size) || last >= size)) ||
    first !== begin ||
    last < first ||
    (end !== undefined && last >= end)
  ) {
    throw wrong(`Content-Range '${header}'`);
  }
  const promised = last + 1 - first;
  return { begin, ranged: true, fileBytes: size, promised, limit: promised };
}

function statusError(
  file: string,
  response: HttpResponse,
  begin: number,
  end: number | undefined,
): SluiceError {
  const { status } = response;
  if (status === 404 || status === 410) {
    return new SluiceError('not_found', `${file}: status ${status}, no such file`, {
      file,
      status,
      hint: "Check the URL; the model's files must lie beside each other.",
    });
  }
  if (status === 416) {
    const size = parseCount(
      /^bytes \*\/(\d+)$/i.exec(response.header('content-range') ?? '')?.[1] ?? null,
    );
    const of = size === undefined ? 'the file is shorter' : `the file has ${size} bytes`;
    return new SluiceError(
      'range_out_of_bounds',
      `${file}: status 416, bytes [${begin}, ${end ?? 'end'}) were asked and ${of}`,
      { file, status, expected: end ?? begin + 1, ...(size === undefined ? {} : { actual: size }) },
    );
  }
  if (status === 401 || status === 403) {
    return new SluiceError('http_status', `${file}: status ${status}, access denied`, {
      file,
      status,
      hint: 'The server wants credentials, or a signed URL has expired: pass `headers` or `credentials`, or a fresh URL.',
    });
  }
  const retryable = RETRYABLE_STATUSES.has(status) || status >= 500;
  const retryAfterMs = retryable ? parseRetryAfter(response.header('retry-after')) : undefined;
  return new SluiceError('http_status', `${file}: status ${status}`, {
    file,
    status,
    retryable,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  });
}

/** Retry-After (RFC 9110, 10.2.3): seconds or a date; at most five minutes. */
function parseRetryAfter(header: string | null): number | undefined {
  if (header === null) return undefined;
  const ms = /^\d+$/.test(header.trim()) ? Number(header) * 1000 : Date.parse(header) - Date.now();
  return Number.isNaN(ms) ? undefined : Math.min(Math.max(ms, 0), MAX_RETRY_AFTER_MS);
}

/** The SHA-256 of Repr-Digest (RFC 9530, 3), which is of the whole file also with a range of it. */
function reprDigest(response: HttpResponse): string | undefined {
  const header = response.header('repr-digest') ?? '';
  const [, base64] = /(?:^|[,\s])sha-256=:([A-Za-z0-9+/]{43}=):/.exec(header) ?? [];
  return base64 === undefined ? undefined : hex(fromBase64(base64));
}

/** Only what changes whenever the bytes do: a strong ETag; a Last-Modified older than its response (RFC 9110, 8.8.2.2). */
function validatorsOf(response: HttpResponse): Validators {
  const etag = response.header('etag') ?? undefined;
  const lastModified = response.header('last-modified') ?? undefined;
  const age = Date.parse(response.header('date') ?? '') - Date.parse(lastModified ?? '');
  return {
    etag: etag?.startsWith('"') ? etag : undefined,
    lastModified: age < 1000 ? undefined : lastModified,
  };
}

function parseCount(text: string | null): number | undefined {
  if (text === null || !/^\d+$/.test(text)) return undefined;
  const count = Number(text);
  return Number.isSafeInteger(count) ? count : undefined;
}

// ---------------------------------------------------------------------------------------------------------
// URLs and errors

function parseUrl(text: string | URL): URL {
  let url: URL;
  try {
    // A page may give a URL relative to itself.
    url = new URL(text, typeof location === 'undefined' ? undefined : location.href);
  } catch (cause) {
    throw new SluiceError('invalid_argument', `'${String(text)}' is not a URL`, { cause });
  }
  url.hash = '';
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new SluiceError(
      'invalid_argument',
      `'${url.protocol}' URLs cannot be loaded, only http: and https:`,
    );
  }
  if (url.username !== '' || url.password !== '') {
    throw new SluiceError(
      'invalid_argument',
      `${withoutQuery(url)}: a URL with a user name or password`,
      {
        hint: 'Pass an Authorization header in `headers`.',
      },
    );
  }
  return url;
}

function withoutQuery(url: URL): string {
  return url.origin + url.pathname;
}

/** [begin, end) as open() takes it. */
function checkRange(file: string, begin: number, end: number | undefined): void {
  if (
    Number.isSafeInteger(begin) &&
    begin >= 0 &&
    (end === undefined || (Number.isSafeInteger(end) && end >= begin))
  )
    return;
  throw new SluiceError(
    'invalid_argument',
    `${file}: bytes [${begin}, ${end ?? 'end'}) are not a range`,
    {
      file,
    },
  );
}

/** What the platform says went wrong, down to the cause. */
function reason(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  const own = error.message === '' ? code || error.name : error.message;
  return error.cause instanceof Error ? `${own}: ${reason(error.cause)}` : own;
}

function networkError(file: string, url: URL, cause: unknown): SluiceError {
  const foreign = typeof location !== 'undefined' && location.origin !== url.origin;
  return new SluiceError('network', `${file}: the request failed: ${reason(cause)}`, {
    file,
    retryable: true,
    hint: foreign
      ? `Check the connection, and that ${url.origin} allows this page (CORS: Access-Control-Allow-Origin).`
      : 'Check the connection, and that the server is running.',
    cause,
  });
}
