import { SluiceError } from '../errors.js';
import type { DType, TensorBase } from '../model.js';
import type { ManifestTensor, ModelManifest } from '../wasm/loader_module.js';
import type { FileRange } from './fetch_ranges.js';
import type { ModelSession } from './session.js';

/** Bytes of rows that are kept in memory, of all tensors of a model together. */
const CACHE_BYTES = 4 * 2 ** 20;

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
  readonly #cache: RowCache;
  #closed = false;

  constructor(session: ModelSession, cacheBytes: number = CACHE_BYTES) {
    this.#session = session;
    this.#cache = new RowCache(cacheBytes);
  }

  tensor(manifest: ModelManifest, entry: ManifestTensor): DiskTensor {
    const { name, shape, storedBytes: nbytes } = entry;
    const range = tensorRange(manifest, entry);
    const rowBytes = rowBytesOf(entry);
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
        const bytes = await this.#gather(name, range, rowBytes, rows);
        if (!target) return bytes;
        target.device.queue.writeBuffer(target.buffer, target.offset ?? 0, bytes);
        return new Uint8Array();
      },
    };
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#session.close();
  }

  async #gather(
    name: string,
    { path, begin }: FileRange,
    rowBytes: number,
    rows: ArrayLike<number>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#closed) {
      throw new SluiceError('aborted', `tensor "${name}": its model was destroyed`, {
        tensor: name,
      });
    }
    const gathered = new Uint8Array(rows.length * rowBytes);
    const missing: number[] = [];
    for (let i = 0; i < rows.length; i++) {
      const kept = this.#cache.get(`${name}\n${rows[i] ?? 0}`);
      if (kept) gathered.set(kept, i * rowBytes);
      else missing.push(i);
    }
    if (missing.length === 0) return gathered;
    const wanted = Uint32Array.from(missing, (i) => rows[i] ?? 0);
    const read = await this.#session.rows(path, begin, rowBytes, wanted);
    missing.forEach((i, k) => {
      const row = read.subarray(k * rowBytes, (k + 1) * rowBytes);
      gathered.set(row, i * rowBytes);
      this.#cache.put(`${name}\n${rows[i] ?? 0}`, row);
    });
    return gathered;
  }
}

/** The rows that were read last. */
class RowCache {
  readonly #limit: number;
  readonly #rows = new Map<string, Uint8Array>();
  #nbytes = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get(key: string): Uint8Array | undefined {
    const row = this.#rows.get(key);
    if (!row) return undefined;
    // A Map gives its keys in the order of insertion: the first is the one not used for longest
    this.#rows.delete(key);
    this.#rows.set(key, row);
    return row;
  }

  put(key: string, row: Uint8Array): void {
    if (row.byteLength > this.#limit || this.#rows.has(key)) return;
    this.#rows.set(key, row.slice());
    this.#nbytes += row.byteLength;
    for (const [oldest, { byteLength }] of this.#rows) {
      if (this.#nbytes <= this.#limit) break;
      this.#rows.delete(oldest);
      this.#nbytes -= byteLength;
    }
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
