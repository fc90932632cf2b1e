/** One file, read and written synchronously by the thread that opened it. Offsets and counts are bytes. */
export interface SyncFile {
  /** Reads from offset `at` on; gives how many bytes there were, fewer than asked at the file's end. */
  read(into: Uint8Array, at: number): number;
  /** Writes all of `from` at offset `at`. Throws `quota_exceeded` or `io`. */
  write(from: Uint8Array, at: number): void;
  /** Sets the size: what is beyond is cut off, what is missing reads as zeros. Throws like write(). */
  truncate(nbytes: number): void;
  size(): number;
  flush(): void;
  /** Safe to call again. */
  close(): void;
}

/**
 * A folder of the store: in the browser one of the origin private file system, in Node one of the disk. Names are
 * single path segments. Errors are SluiceErrors: `not_found`, `quota_exceeded`, `io`.
 */
export interface StoreFolder {
  /** Opens a file, which must be there unless `create`. */
  file(name: string, create: boolean): Promise<SyncFile>;
  /** Opens a folder, which must be there unless `create`. */
  folder(name: string, create: boolean): Promise<StoreFolder>;
  /** Names of the files and folders in it, and how many bytes each file has. */
  entries(): Promise<{ name: string; kind: 'file' | 'folder'; nbytes: number }[]>;
  /** The first `limit` bytes of a file that another thread may have open; undefined where there is none. */
  peek(name: string, limit: number): Promise<Uint8Array | undefined>;
  /**
   * Bytes [begin, end) of a file that another tab may hold so that file() cannot open it here, fewer where it ends. Slower
   * than a file that is open. Absent where file() can always be had.
   */
  slice?(name: string, begin: number, end: number): Promise<Uint8Array>;
  /** Removes a file or a folder with all that is in it; nothing happens where it is not there. */
  remove(name: string): Promise<void>;
}
