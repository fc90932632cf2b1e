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
    ['--benchmark_format=json', '--benchmark_min_time=0.1', '--benchmark_filter=-^scalar/'],
    { maxBuffer: 2 ** 26 },
  );
  const speeds = new Map(); // by codec: by size: bytes per second
  for (const { name, bytes_per_second: speed } of JSON.parse(stdout).benchmarks) {
    const at = name.lastIndexOf('/');
    const codec = name.slice(0, at);
    if (!speeds.has(codec)) speeds.set(codec, new Map());
    speeds.get(codec).set(name.slice(at + 1), speed);
  }
  const memcpy = speeds.get('memcpy');
  const sizes = [...memcpy.keys()];
  const rows = [...speeds].map(([name, bySize]) => ({
    name,
    figures: sizes.map((size) => ({
      gigabytesPerSecond: bySize.get(size) / 1e9,
      ratio: bySize.get(size) / memcpy.get(size),
    })),
  }));
  return { title, sizes, rows };
}

// GGUF's types (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): elements and bytes of a block
const GGUF_TYPES = [
  { type: 0, elements: 1, nbytes: 4 }, // F32
  { type: 1, elements: 1, nbytes: 2 }, // F16
  { type: 30, elements: 1, nbytes: 2 }, // BF16
  { type: 2, elements: 32, nbytes: 18 }, // Q4_0
  { type: 3, elements: 32, nbytes: 20 }, // Q4_1
  { type: 6, elements: 32, nbytes: 22 }, // Q5_0
  { type: 7, elements: 32, nbytes: 24 }, // Q5_1
  { type: 8, elements: 32, nbytes: 34 }, // Q8_0
  { type: 12, elements: 256, nbytes: 144 }, // Q4_K
  { type: 13, elements: 256, nbytes: 176 }, // Q5_K
  { type: 14, elements: 256, nbytes: 210 }, // Q6_K
];
const ELEMENTS = 65536; // as float32, what the loader decodes at a time
const WARM_UP_MILLISECONDS = 100;
const MEASURED_MILLISECONDS = 200;

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

/** Bytes per second of `work`, which moves `moved` bytes: the median of many short measurements. */
function speedOf(work, moved) {
  const end = performance.now() + WARM_UP_MILLISECONDS;
  while (performance.now() < end) work();
  const milliseconds = [];
  while (performance.now() < end + MEASURED_MILLISECONDS) {
    const begin = performance.now();
    for (let i = 0; i < 8; i++) work();
    milliseconds.push((performance.now() - begin) / 8);
  }
  return (moved / median(milliseconds)) * 1000;
}

/** Speeds of decode() as the package calls it, and without the copy of its input into wasm memory. */
async function wasmFigures(dist) {
  const { LoaderModel } = await import(pathToFileURL(join(dist, 'wasm/loader_module.js')).href);
  const module = await WebAssembly.compile(await readFile(join(dist, 'sluice_loader.wasm')));
  const file = ggufFile();
  const from = new Uint8Array(2 ** 18).fill(1);
  const to = new Uint8Array(2 ** 18);
  const memcpy = speedOf(() => to.set(from), 2 * from.length);
  const rows = [{ name: 'Uint8Array.set', speeds: [memcpy, memcpy] }];
  for (const dtype of ['float32', 'float16', 'bfloat16']) {
    const model = await LoaderModel.create(module, 'model.gguf');
    for (let asked; (asked = model.request());) {
      model.provide(file.subarray(asked.begin, asked.end), file.length);
    }
    const { tensors } = model.manifest();
    const { placements } = model.plan({ dtype });
    model.start();
    for (const [tensor, { storedDtype, storedBytes }] of tensors.entries()) {
      const output = placements[tensor].nbytes;
      if (storedDtype === dtype) continue;
      // 0.01 as float32 and bfloat16, 1.06 as float16 and as a block's factor: no subnormal numbers
      const input = new Uint8Array(storedBytes).fill(0x3c);
      const inPlace = { length: 0, byteLength: storedBytes }; // what was copied before
      const speeds = [input, inPlace].map((bytes) =>
        speedOf(() => model.decode({ stream: 0, tensor, output }, bytes), storedBytes + output),
      );
      rows.push({ name: `${storedDtype}-${dtype}`, speeds: speeds.reverse() });
    }
  }
  return {
    title: `codecs, wasm in Node, ${ELEMENTS} elements`,
    sizes: ['alone', 'with the copy of the input'],
    rows: rows.map(({ name, speeds }) => ({
      name,
      figures: speeds.map((speed) => ({
        gigabytesPerSecond: speed / 1e9,
        ratio: speed / memcpy,
      })),
    })),
  };
}

export async function codecFigures({ dist, executable }) {
  return { native: await nativeFigures(executable), wasm: await wasmFigures(dist) };
}
