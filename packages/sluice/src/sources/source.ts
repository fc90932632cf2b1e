/** Bytes that the store has, in a file of this device or read ahead of time: they go from there straight to their place. */
export interface StoredBytes {
  readonly byteLength: number;
  /** Fills `target` with the bytes from `from` on. Throws a SluiceError. */
  readInto(target: Uint8Array, from: number): void;
  /** Gives back the memory that they lie in, where they lie in any: nothing can be read afterwards. */
  release?(): void;
}

/** What tells one version of a file from another; '' for what is not known. */
export interface Validators {
  readonly etag: string;
  readonly lastModified: string;
  /** SHA-256 of the whole file in lower-case hexadecimal digits, where the source tells. */
  readonly sha256?: string | undefined;
}

/** Bytes of one file, arriving in order. */
export interface ByteStream<Chunk = Uint8Array> {
  /** Offset in the file of the first byte that read() gives. A server without Range makes it 0. */
  readonly begin: number;
  /** Whether this is the range that was asked for; false where the whole file comes whatever is asked. */
  readonly ranged: boolean;
  /** Size of the whole file in bytes, where the source knows it. */
  readonly fileBytes: number | undefined;
  /** Which version of the file this is, where the source can tell. */
  readonly validators?: Validators | undefined;
  /**
   * The next bytes, of any positive length, or null at the end. They are the caller's until the next
   * read(). Rejects with a SluiceError; `retryable` says whether opening again may help. A stream that can takes the
   * buffer of `into`, so that it is detached, and gives the bytes at its beginning, in its place; it is lost at the end
   * and with an error.
   */
  read(into?: Uint8Array<ArrayBuffer>): Promise<Chunk | null>;
  /** Stops the transfer; safe at any time and more than once. */
  cancel(): void;
}

/** Where a model's files come from. Paths are relative to the model's folder, '/'-separated. */
export interface Source<Chunk = Uint8Array> {
  /** What the person may have meant by this place, to be said where there is no model. */
  readonly hint?: string | undefined;
  /**
   * What has been opened so far was taken in at the reader's pace, by all that is known: nothing holds bytes that nobody
   * has read yet.
   */
  readonly unbuffered?: boolean | undefined;
  /** The place of `path` as a person would name it: a URL or a file path. */
  describe(path: string): string;
  /**
   * Opens bytes [begin, end) of a file; `end` undefined reads to the end. The stream may begin earlier
   * and reach further than asked (no Range): the caller skips and cancels. Rejects with a SluiceError:
   * `not_found`, `http_status`, `network`, `source_changed`, `range_out_of_bounds`, `io`, `aborted`.
   */
  open(path: string, begin: number, end: number | undefined): Promise<ByteStream<Chunk>>;
  /** Stops everything that is open. */
  close(): void;
}

/** A stream, and a source, whose bytes may lie in files of this device. */
export type ModelStream = ByteStream<Uint8Array | StoredBytes>;
export type ModelSource = Source<Uint8Array | StoredBytes>;
