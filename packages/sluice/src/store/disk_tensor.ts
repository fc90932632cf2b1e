import { SluiceError } from '../errors.js';
import type { DType, TensorBase } from '../model.js';
import { MappedWriter } from '../sinks/mapped_writer.js';
import type { ManifestTensor, ModelManifest } from '../wasm/loader_module.js';
import type { FileRange } from './fetch_ranges.js';
import type { ModelSession } from './session.js';

/** Bytes of rows that are kept in memory, of each tensor. */
const CACHE_BYTES = 4 * 2 ** 20;
/** So much of what is asked for is missing that all of it is read. */
const MOSTLY = 0.75;

/** Where gathered rows go instead of into an array of their own. */
export interface RowTarget {
  readonly device: GPUDevice;
  readonly buffer: GPUBuffer;
  /** Bytes from the buffer's start, a multiple of 4; 0 unless given. */
  readonly offset?: number;
}

/** A tensor that stays in the local store and is read by rows. Belongs to its model: destroy() of that ends it. */
export interface DiskTensor extends TensorBase {
  readonly location: 'disk';
  /** Bytes of one row: everything behind the first dimension. */
  readonly rowBytes: number;
  /**
   * Reads rows, in the order asked; a row may be asked more than once. Gives their bytes one behind the other, or, with
   * a target, writes them to a GPU buffer in its queue's order and gives an empty array. Rejects with
   * `invalid_argument` (a row that is not there, a target that is too small), `store_corrupt`, `aborted` (destroyed).
   */
  gatherRows(rows: ArrayLike<number>, target?: RowTarget): Promise<Uint8Array<ArrayBuffer>>;
}

/** Where a tensor lies in its file. Throws `invalid_argument` where it has no rows. */
export function tensorRange(manifest: ModelManifest, tensor: ManifestTensor): FileRange {
  const path = manifest.files[tensor.file]?.path ?? '';
  rowBytesOf(tensor);
  return { path, begin: tensor.offset, end: tensor.offset + tensor.storedBytes };
}

function rowBytesOf({ name, shape, storedBytes }: ManifestTensor): number {
  const [rows = 0] = shape;
  const rowBytes = storedBytes / rows;
  if (Number.isInteger(rowBytes)) return rowBytes;
  throw new SluiceError(
    'invalid_argument',
    `tensor "${name}" of shape [${shape.join(', ')}] has no rows of whole bytes, so it cannot be placed on disk`,
    { tensor: name, hint: "place it on 'gpu' or 'cpu'" },
  );
}

/** The rows of one model's tensors on disk, through one session, which close() ends. */
export class DiskRows {
  readonly #session: ModelSession;
  readonly #cacheBytes: number;
  readonly #writer = new MappedWriter();
  #closed = false;

  constructor(session: ModelSession, cacheBytes: number = CACHE_BYTES) {
    this.#session = session;
    this.#cacheBytes = cacheBytes;
  }

  tensor(manifest: ModelManifest, entry: ManifestTensor): DiskTensor {
    const { name, shape, storedBytes: nbytes } = entry;
    const range = tensorRange(manifest, entry);
    const rowBytes = rowBytesOf(entry);
    const cache = new RowCache(rowBytes, Math.min(this.#cacheBytes, nbytes));
    return {
      location: 'disk',
      name,
      dtype: entry.storedDtype as DType,
      shape,
      nbytes,
      rowBytes,
      gatherRows: async (rows, target) => {
        checkRows(name, rows, shape[0] ?? 0);
        checkTarget(name, rows.length * rowBytes, target);
        const bytes = await this.#gather(name, range, rowBytes, rows, cache);
        if (!target) return bytes;
        const { device, buffer, offset = 0 } = target;
        await this.#writer.write(device, buffer, offset, bytes);
        return new Uint8Array();
      },
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#writer.close();
    await this.#session.close();
  }

  async #gather(
    name: string,
    { path, begin }: FileRange,
    rowBytes: number,
    rows: ArrayLike<number>,
    cache: RowCache,
  ): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#closed) {
      throw new SluiceError('aborted', `tensor "${name}": its model was destroyed`, {
        tensor: name,
      });
    }
    const missing: number[] = [];
    for (let i = 0; i < rows.length; i++) if (!cache.has(rows[i] ?? 0)) missing.push(i);
    // Where few are kept, putting them between the others takes longer than reading them as well
    if (missing.length > rows.length * MOSTLY) {
      const all = Uint32Array.from(rows);
      const read = await this.#session.rows(path, begin, rowBytes, all);
      cache.put(all, read);
      return read;
    }
    const gathered = new Uint8Array(rows.length * rowBytes);
    for (let i = 0; i < rows.length; i++) {
      const kept = cache.get(rows[i] ?? 0);
      if (kept) gathered.set(kept, i * rowBytes);
    }
    if (missing.length === 0) return gathered;
    const wanted = Uint32Array.from(missing, (i) => rows[i] ?? 0);
    const read = await this.#session.rows(path, begin, rowBytes, wanted);
    cache.put(wanted, read);
    for (const [k, i] of missing.entries()) {
      gathered.set(read.subarray(k * rowBytes, (k + 1) * rowBytes), i * rowBytes);
    }
    return gathered;
  }
}

/** The rows of one tensor that were read last, in one piece of memory, which is filled again and again from its start. */
class RowCache {
  readonly #rowBytes: number;
  readonly #limit: number;
  #memory: Uint8Array | undefined;
  /** Which place in memory a row has, and the other way round. */
  readonly #places = new Map<number, number>();
  readonly #rows: number[] = [];
  #next = 0;

  /** Keeps at most `nbytes` bytes, which are taken at the first row. */
  constructor(rowBytes: number, nbytes: number) {
    this.#rowBytes = rowBytes;
    this.#limit = rowBytes === 0 ? 0 : Math.floor(nbytes / rowBytes);
  }

  has(row: number): boolean {
    return this.#places.has(row);
  }

  /** The row's bytes, which stay so until the next put(). */
  get(row: number): Uint8Array | undefined {
    const place = this.#places.get(row);
    if (place === undefined) return undefined;
    return this.#memory?.subarray(place * this.#rowBytes, (place + 1) * this.#rowBytes);
  }

  /** Keeps rows whose bytes lie one behind the other; of more than there is room for the last. */
  put(rows: Uint32Array, bytes: Uint8Array): void {
    const size = this.#rowBytes;
    this.#memory ??= new Uint8Array(this.#limit * size);
    for (let i = Math.max(rows.length - this.#limit, 0); i < rows.length;) {
      const place = this.#next;
      const count = Math.min(rows.length - i, this.#limit - place);
      this.#memory.set(bytes.subarray(i * size, (i + count) * size), place * size);
      for (let n = 0; n < count; n++) this.#keep(rows[i + n] ?? 0, place + n);
      this.#next = (place + count) % this.#limit;
      i += count;
    }
  }

  #keep(row: number, place: number): void {
    const before = this.#rows[place];
    // It may have come a second time, to another place
    if (before !== undefined && this.#places.get(before) === place) this.#places.delete(before);
    this.#rows[place] = row;
    this.#places.set(row, place);
  }
}

function checkRows(name: string, rows: ArrayLike<number>, count: number): void {
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i] ?? -1;
    if (Number.isInteger(row) && row >= 0 && row < count) continue;
    throw new SluiceError(
      'invalid_argument',
      `tensor "${name}" has ${count} rows, and row ${row} was asked for`,
      { tensor: name, expected: count, actual: row },
    );
  }
}

function checkTarget(name: string, nbytes: number, target: RowTarget | undefined): void {
  if (!target) return;
  const { buffer, offset = 0 } = target;
  if (offset % 4 === 0 && nbytes % 4 === 0 && offset + nbytes <= buffer.size) return;
  throw new SluiceError(
    'invalid_argument',
    `tensor "${name}": ${nbytes} bytes of rows cannot be written at ${offset} of a buffer of ${buffer.size} bytes; both must be multiples of 4, and fit`,
    { tensor: name, expected: buffer.size, actual: offset + nbytes },
  );
}
