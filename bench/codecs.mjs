// Speeds of the codecs beside memcpy: natively, from their own benchmark, and in the loader's wasm.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { median } from './size.mjs';

/** Figures of the native benchmark (core/load/codec_bench.cc), of the fastest implementations. */
async function nativeFigures(executable) {
  const title = 'codecs, native';
  if (!existsSync(executable)) return { title, missing: `there is no ${executable}` };
  const { stdout } = await promisify(execFile)(
    executable,
    ['--benchmark_format=json', '--benchmark_min_time=0.2', '--benchmark_filter=-^scalar/'],
    { maxBuffer: 2 ** 26 },
  );
  const sizes = [];
  const rows = new Map();
  for (const result of JSON.parse(stdout).benchmarks) {
    const [implementation, codec, size] = result.name.split('/');
    const name = `${implementation}/${codec}`;
    if (!sizes.includes(size)) sizes.push(size);
    if (!rows.has(name)) rows.set(name, { name, figures: [] });
    rows
      .get(name)
      .figures.push(figure(result.moved_per_second, result.memcpy_per_second, result.of_memcpy));
  }
  return { title, sizes, rows: withMemcpy([...rows.values()]) };
}

const figure = (speed, memcpy, ratio) => ({
  gigabytesPerSecond: speed / 1e9,
  memcpyGigabytesPerSecond: memcpy / 1e9,
  ratio,
});

/** The rows, and before them the median of what memcpy reached beside each. */
function withMemcpy(rows) {
  const figures = rows[0].figures.map((_, i) => ({
    gigabytesPerSecond: median(rows.map((row) => row.figures[i].memcpyGigabytesPerSecond)),
    ratio: 1,
  }));
  return [{ name: 'memcpy', figures }, ...rows];
}

// GGUF's types (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): elements and bytes of a block
const GGUF_TYPES = [
  { type: 0, name: 'float32', elements: 1, nbytes: 4 },
  { type: 1, name: 'float16', elements: 1, nbytes: 2 },
  { type: 30, name: 'bfloat16', elements: 1, nbytes: 2 },
  { type: 2, name: 'q4_0', elements: 32, nbytes: 18 },
  { type: 3, name: 'q4_1', elements: 32, nbytes: 20 },
  { type: 6, name: 'q5_0', elements: 32, nbytes: 22 },
  { type: 7, name: 'q5_1', elements: 32, nbytes: 24 },
  { type: 8, name: 'q8_0', elements: 32, nbytes: 34 },
  { type: 12, name: 'q4_k', elements: 256, nbytes: 144 },
  { type: 13, name: 'q5_k', elements: 256, nbytes: 176 },
  { type: 14, name: 'q6_k', elements: 256, nbytes: 210 },
];
const PIECE_BYTES = 2 ** 18; // of output: what the loader decodes at a time
const LARGE_BYTES = 2 ** 28; // of output: far more than most caches hold
const ELEMENTS = PIECE_BYTES / 2;
const WARM_UP_MILLISECONDS = 100;
const MEASURED_MILLISECONDS = 300;
const LARGE_RUNS = 3;

/** A GGUF file with one tensor of zeros of each type. */
function ggufFile() {
  const parts = [Buffer.from('GGUF'), u32(3), u64(GGUF_TYPES.length), u64(0)];
  let offset = 0;
  for (const { type, elements, nbytes } of GGUF_TYPES) {
    const name = Buffer.from(`t${type}`);
    parts.push(u64(name.length), name, u32(1), u64(ELEMENTS), u32(type), u64(offset));
    offset += (ELEMENTS / elements) * nbytes; // a multiple of the alignment, 32
  }
  const header = Buffer.concat(parts);
  const begin = Math.ceil(header.length / 32) * 32;
  return Buffer.concat([header], begin + offset);
}

const u32 = (value) => Buffer.from(Uint32Array.of(value).buffer);
const u64 = (value) => Buffer.from(BigUint64Array.of(BigInt(value)).buffer);

/** Random bits, the same each time (https://en.wikipedia.org/wiki/Xorshift, 32 bits). */
function randomBits() {
  let state = 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
}

/**
 * Values as weights have them, as core/load/codec_bench.cc makes them: a normal distribution of deviation
 * 0.02 for plain types; for blocks random quants and factors around 2^-9.
 */
function weights(dtype, nbytes) {
  const next = randomBits();
  if (dtype.startsWith('q')) {
    const { nbytes: blockBytes } = GGUF_TYPES.find(({ name }) => name === dtype);
    const bytes = Uint8Array.from({ length: nbytes }, () => next() >>> 24);
    const hasMin = /^(q[45]_1|q[45]_k)$/.test(dtype);
    for (let at = 0; at < nbytes; at += blockBytes) {
      bytes[at + (dtype === 'q6_k' ? 209 : 1)] = 0x18;
      if (hasMin) bytes[at + 3] = 0x18;
    }
    return bytes;
  }
  const uniform = () => (next() + 1) / 2 ** 32;
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const values = Float32Array.from({ length: ELEMENTS }, () => 0.02 * normal());
  if (dtype === 'float32') return new Uint8Array(values.buffer, 0, nbytes);
  const bits = new Uint32Array(values.buffer);
  const halves = Uint16Array.from(bits, (word, i) => {
    if (dtype === 'bfloat16') return word >>> 16;
    const magnitude = Math.abs(values[i]); // all below 1; rounded towards zero
    const half =
      magnitude < 2 ** -14 ? magnitude * 2 ** 24 : (word & 0x7fffffff) / 2 ** 13 - (112 << 10);
    return ((word >>> 31) << 15) | half;
  });
  return new Uint8Array(halves.buffer, 0, nbytes);
}

/** Milliseconds of one of `runs` runs of `work`. */
function millisecondsOf(work, runs) {
  const begin = performance.now();
  for (let i = 0; i < runs; i++) work();
  return (performance.now() - begin) / runs;
}

/** `decode` beside `copy`, which takes turns with it; they move `moved` and `copyMoved` bytes. */
function compared(decode, copy, moved, copyMoved = moved) {
  const end = performance.now() + WARM_UP_MILLISECONDS;
  while (performance.now() < end) decode();
  const [decoding, copying] = [[], []];
  while (performance.now() < end + MEASURED_MILLISECONDS || copying.length < LARGE_RUNS) {
    const runs = moved < PIECE_BYTES * 4 ? 8 : 1;
    decoding.push(millisecondsOf(decode, runs));
    copying.push(millisecondsOf(copy, runs));
  }
  const speed = (moved / median(decoding)) * 1000;
  const copySpeed = (copyMoved / median(copying)) * 1000;
  return figure(speed, copySpeed, speed / copySpeed);
}

/**
 * Speeds of decode() as the package calls it: of one piece whose input lies in wasm memory already, and of
 * many pieces that are copied in from one large array, decoded and copied out to another.
 */
async function wasmFigures(dist) {
  const load = async (file) => import(pathToFileURL(join(dist, file)).href);
  const { LoaderModel } = await load('wasm/loader_module.js');
  const { DECODE_INPUT_BYTES } = await load('generated/abi.js');
  const module = await WebAssembly.compile(await readFile(join(dist, 'sluice_loader.wasm')));
  const file = ggufFile();
  const stored = new Uint8Array(2 * LARGE_BYTES); // no codec reads more than twice what it writes
  const wanted = new Uint8Array(2 * LARGE_BYTES); // memcpy writes as much as it reads
  const rows = [];
  for (const dtype of ['float32', 'float16', 'bfloat16']) {
    const model = await LoaderModel.create(module, 'model.gguf');
    for (let asked; (asked = model.request());) {
      model.provide(file.subarray(asked.begin, asked.end), file.length);
    }
    const { tensors } = model.manifest();
    const { placements } = model.plan({ dtype });
    model.start();
    for (const [tensor, { storedDtype, storedBytes }] of tensors.entries()) {
      if (storedDtype === dtype) continue;
      const output = PIECE_BYTES;
      const input = (storedBytes * output) / placements[tensor].nbytes;
      const moved = input + output;
      const piece = weights(storedDtype, input);
      const command = { stream: 0, tensor, nbytes: input, output };
      const inPlace = () => {}; // what was copied before
      const decoded = model.decode(command, (into) => into.set(piece));
      const heap = new Uint8Array(decoded.buffer);
      const copied = Math.min(moved / 2, output); // there is room for `output`
      const inputAt = decoded.byteOffset - DECODE_INPUT_BYTES;
      const alone = compared(
        () => model.decode(command, inPlace),
        () => heap.set(heap.subarray(inputAt, inputAt + copied), decoded.byteOffset),
        moved,
        2 * copied,
      );
      const pieces = LARGE_BYTES / output;
      for (let i = 0; i < pieces; i++) stored.set(piece, i * input);
      const large = compared(
        () => {
          for (let i = 0; i < pieces; i++) {
            const part = stored.subarray(i * input, (i + 1) * input);
            wanted.set(
              model.decode(command, (into) => into.set(part)),
              i * output,
            );
          }
        },
        () => wanted.set(stored.subarray(0, (pieces * moved) / 2)),
        pieces * moved,
      );
      rows.push({ name: `${storedDtype}-${dtype}`, figures: [alone, large] });
    }
  }
  return {
    title: 'codecs, wasm in Node',
    sizes: [`${PIECE_BYTES / 1024}KiB`, `${LARGE_BYTES / 1024}KiB by pieces, copied in and out`],
    rows: withMemcpy(rows),
  };
}

export async function codecFigures({ dist, executable }) {
  return { native: await nativeFigures(executable), wasm: await wasmFigures(dist) };
}
