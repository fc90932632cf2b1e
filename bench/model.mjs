// The synthetic model of the benchmark: a tensor cache whose bytes are computed, not stored.

const MIB = 2 ** 20;
const SHARD_BYTES = 32 * MIB;
const SMALL_BYTES = 8 * 1024;

/** A period of pseudo-random bytes; a prime, so that no power of two maps the pattern onto itself. */
const PERIOD = 4_194_319;
let table;

/** A view of bytes of file `index` from `offset` on: at most `nbytes` and at most a period. */
export function pattern(index, offset, nbytes) {
  if (!table) {
    table = new Uint8Array(2 * PERIOD);
    let x = 0x9e3779b9;
    for (let i = 0; i < PERIOD; i++) {
      // xorshift32 (Marsaglia 2003)
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      table[i] = x >>> 8;
    }
    table.copyWithin(PERIOD, 0, PERIOD);
  }
  const at = (index * 1_000_003 + offset) % PERIOD;
  return table.subarray(at, at + Math.min(nbytes, PERIOD));
}

/**
 * A model of about `nbytes` bytes: a quarter of it one record in a file of its own, as embeddings are, the rest
 * in shards of 32 MiB with weights of 2 to 10 MiB and eight small vectors each.
 */
export function syntheticModel(nbytes) {
  const shards = Math.max(1, Math.round((nbytes * 0.75) / SHARD_BYTES));
  const large = Math.max(SHARD_BYTES, Math.round((nbytes - shards * SHARD_BYTES) / MIB) * MIB);
  const files = [{ path: 'params_shard_0.bin', nbytes: large, records: [] }];
  addRecord(files[0], 'embed_tokens.weight', large);
  for (let i = 1; i <= shards; i++) {
    const file = { path: `params_shard_${i}.bin`, nbytes: SHARD_BYTES, records: [] };
    for (let j = 0; j < 8; j++) addRecord(file, `layers.${i}.norm.${j}`, SMALL_BYTES);
    for (const mib of [10, 8, 6, 4, 2]) addRecord(file, `layers.${i}.weight.${mib}`, mib * MIB);
    addRecord(file, `layers.${i}.weight.rest`, SHARD_BYTES - file.used);
    files.push(file);
  }
  return { files, nbytes: files.reduce((sum, file) => sum + file.nbytes, 0) };
}

function addRecord(file, name, nbytes) {
  file.used ??= 0;
  const dtype = nbytes <= SMALL_BYTES ? 'float32' : 'uint32';
  const shape = nbytes % 4096 === 0 ? [nbytes / 4096, 1024] : [nbytes / 4];
  file.records.push({ name, shape, dtype, format: 'raw', nbytes, byteOffset: file.used });
  file.used += nbytes;
}

/** The text of its tensor-cache.json. */
export function tensorCache(model) {
  return JSON.stringify({
    metadata: {},
    records: model.files.map(({ path, nbytes, records }) => ({
      dataPath: path,
      format: 'raw-shard',
      nbytes,
      records,
    })),
  });
}

/** The model of a server, as its tensor-cache.json has it; `url` is the manifest's folder. */
export async function fetchModel(url) {
  const response = await fetch(`${url}/tensor-cache.json`);
  if (!response.ok) throw new Error(`${url}/tensor-cache.json: status ${response.status}`);
  const { records } = await response.json();
  const files = records.map(({ dataPath, ...file }) => ({ path: dataPath, ...file }));
  return { url, files, nbytes: files.reduce((sum, file) => sum + file.nbytes, 0) };
}

/** Where the benchmark's server sends the same model with Cache-Control: no-store; any other URL as it is. */
export function noStoreUrl(url) {
  return url.replace('/model/', '/model-no-store/');
}
