/**
 * Writers of small models for tests, in every format that is read: tensor cache, safetensors, GGUF. Their
 * bytes are generated, so that a test knows what must come out.
 */

/** A tensor of a test model: its element type as the format spells it, and the bytes that are stored. */
export interface TestTensor {
  name: string;
  dtype: string;
  shape: number[];
  /** The stored bytes. */
  bytes: Uint8Array;
  /** Tensor cache: the record's format ("raw"). */
  format?: string;
}

/** Files by path, relative to the model's folder. */
export type Files = Record<string, Uint8Array | string>;

/** The files as a server has them, below `folder` ('/' to '/a/b/'). */
export function served(files: Files, folder = '/'): Files {
  return Object.fromEntries(Object.entries(files).map(([path, body]) => [folder + path, body]));
}

/** Reproducible bytes: xorshift32. */
export function randomBytes(nbytes: number, seed: number): Uint8Array {
  const out = new Uint8Array(nbytes);
  let state = Math.imul(seed + 1, 0x9e3779b9) | 1;
  for (let i = 0; i < nbytes; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    out[i] = state >>> 11;
  }
  return out;
}

export const elementsOf = (shape: readonly number[]): number =>
  shape.reduce((product, extent) => product * extent, 1);

/** Bytes of one element of the types that the test models use, by the name of any format. */
const ELEMENT_BYTES: Record<string, number> = {
  ...{ bool: 1, uint8: 1, int8: 1, uint16: 2, int16: 2, uint32: 4, int32: 4, uint64: 8, int64: 8 },
  ...{ float16: 2, bfloat16: 2, float32: 4, float64: 8 },
  ...{ BOOL: 1, U8: 1, I8: 1, U16: 2, I16: 2, U32: 4, I32: 4, U64: 8, I64: 8 },
  ...{ F16: 2, BF16: 2, F32: 4, F64: 8 },
};

/** A tensor with random bytes. */
export function randomTensor(
  name: string,
  dtype: string,
  shape: number[],
  seed: number,
): TestTensor {
  const size = ELEMENT_BYTES[dtype];
  if (size === undefined) throw new Error(`test models know no dtype ${dtype}`);
  return { name, dtype, shape, bytes: randomBytes(size * elementsOf(shape), seed) };
}

// --- Tensor cache

export interface CacheRecord {
  name: string;
  shape: unknown[];
  dtype: string;
  format: string;
  nbytes: number;
  byteOffset: number;
}

export interface CacheShard {
  dataPath: string;
  format: string;
  nbytes: number;
  md5sum?: string;
  records: CacheRecord[];
}

/** The manifest of a tensor cache; tests of bad input change it before it is written. */
export interface CacheManifest {
  metadata: Record<string, unknown>;
  records: CacheShard[];
}

/** One shard for each list of tensors, laid out one behind the other as TVM does, `gap` bytes between. */
export function tensorCache(
  shards: readonly (readonly TestTensor[])[],
  gap = 0,
): { manifest: CacheManifest; data: Record<string, Uint8Array> } {
  const manifest: CacheManifest = { metadata: { ParamSize: 0, ParamBytes: 0 }, records: [] };
  const data: Record<string, Uint8Array> = {};
  for (const [i, tensors] of shards.entries()) {
    const dataPath = `params_shard_${i}.bin`;
    const records: CacheRecord[] = [];
    let at = 0;
    for (const { name, shape, dtype, format = 'raw', bytes } of tensors) {
      records.push({ name, shape, dtype, format, nbytes: bytes.length, byteOffset: at });
      at += bytes.length + gap;
    }
    const shard = new Uint8Array(at);
    for (const [j, { bytes }] of tensors.entries()) shard.set(bytes, records[j]?.byteOffset);
    data[dataPath] = shard;
    manifest.records.push({ dataPath, format: 'raw-shard', nbytes: at, records });
  }
  return { manifest, data };
}

/** The same as files, under either name of the manifest. */
export function tensorCacheFiles(
  shards: readonly (readonly TestTensor[])[],
  manifestName: 'tensor-cache.json' | 'ndarray-cache.json' = 'tensor-cache.json',
): Files {
  const { manifest, data } = tensorCache(shards);
  return { [manifestName]: JSON.stringify(manifest), ...data };
}

// --- safetensors (https://huggingface.co/docs/safetensors)

/** A file with this header text and this data. */
export function safetensorsFile(header: string, data: Uint8Array): Uint8Array {
  const text = new TextEncoder().encode(header);
  const out = new Uint8Array(8 + text.length + data.length);
  new DataView(out.buffer).setBigUint64(0, BigInt(text.length), true);
  out.set(text, 8);
  out.set(data, 8 + text.length);
  return out;
}

export function safetensors(
  tensors: readonly TestTensor[],
  metadata?: Record<string, string>,
): Uint8Array {
  const header: Record<string, unknown> = {};
  if (metadata) header['__metadata__'] = metadata;
  let at = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
  }
  return safetensorsFile(JSON.stringify(header), concat(tensors.map(({ bytes }) => bytes)));
}

/** `model.safetensors.index.json` and its files, one for each list of tensors. */
export function safetensorsIndexFiles(shards: readonly (readonly TestTensor[])[]): Files {
  const files: Files = {};
  const weightMap: Record<string, string> = {};
  let total = 0;
  for (const [i, tensors] of shards.entries()) {
    const name = `model-${i + 1}-of-${shards.length}.safetensors`;
    files[name] = safetensors(tensors);
    for (const tensor of tensors) {
      weightMap[tensor.name] = name;
      total += tensor.bytes.length;
    }
  }
  files['model.safetensors.index.json'] = JSON.stringify({
    metadata: { total_size: total },
    weight_map: weightMap,
  });
  return files;
}

// --- GGUF (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)

/** Numbers of ggml's types. */
export const GGML_TYPES: Record<string, number> = {
  ...{ f32: 0, f16: 1, q4_0: 2, q4_1: 3, q5_0: 6, q5_1: 7, q8_0: 8, q4_k: 12, q5_k: 13, q6_k: 14 },
  ...{ i8: 24, i16: 25, i32: 26, bf16: 30 },
};

const GGUF_STRING = 8;
const GGUF_UINT32 = 4;

/** A GGUF file; the tensors' dtypes are ggml's names, their shapes outermost dimension first. */
export function gguf(
  tensors: readonly TestTensor[],
  metadata: Record<string, string | number> = {},
  version: 2 | 3 = 3,
): Uint8Array {
  const alignment = 32;
  const parts: Uint8Array[] = [];
  const u32 = (value: number): void => {
    parts.push(new Uint8Array(Uint32Array.of(value).buffer));
  };
  const u64 = (value: number): void => {
    parts.push(new Uint8Array(BigUint64Array.of(BigInt(value)).buffer));
  };
  const text = (value: string): void => {
    const bytes = new TextEncoder().encode(value);
    u64(bytes.length);
    parts.push(bytes);
  };
  parts.push(new TextEncoder().encode('GGUF'));
  u32(version);
  u64(tensors.length);
  u64(Object.keys(metadata).length);
  for (const [key, value] of Object.entries(metadata)) {
    text(key);
    if (typeof value === 'string') {
      u32(GGUF_STRING);
      text(value);
    } else {
      u32(GGUF_UINT32);
      u32(value);
    }
  }
  const padded = (nbytes: number): number => Math.ceil(nbytes / alignment) * alignment;
  let offset = 0;
  for (const { name, dtype, shape, bytes } of tensors) {
    const type = GGML_TYPES[dtype];
    if (type === undefined) throw new Error(`test models know no ggml type ${dtype}`);
    text(name);
    u32(shape.length);
    for (const extent of [...shape].reverse()) u64(extent);
    u32(type);
    u64(offset);
    offset += padded(bytes.length);
  }
  const header = concat(parts);
  const begin = padded(header.length);
  const out = new Uint8Array(begin + offset);
  out.set(header);
  let at = begin;
  for (const { bytes } of tensors) {
    out.set(bytes, at);
    at += padded(bytes.length);
  }
  return out;
}

export function concat(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** A tensor cache of one uint32 tensor of 1,120 MiB, which tvmjs cannot load; its bytes are patternBytes(seed, …). */
export const largeRecord = {
  name: 'model.embed_tokens_per_layer.q_weight',
  nbytes: 1120 * 2 ** 20,
  seed: 3,
  /** As a server's files, below `path`, which ends with a slash. */
  files(path: string): Record<string, string | { nbytes: number; seed: number }> {
    const { name, nbytes, seed } = this;
    const record = { name, shape: [262144, 1120], dtype: 'uint32', format: 'raw', nbytes };
    const shard = { dataPath: 'large.bin', format: 'raw-shard', nbytes };
    const list = { metadata: {}, records: [{ ...shard, records: [{ ...record, byteOffset: 0 }] }] };
    return {
      [`${path}tensor-cache.json`]: JSON.stringify(list),
      [`${path}large.bin`]: { nbytes, seed },
    };
  },
};
