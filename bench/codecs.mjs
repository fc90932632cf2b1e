// Speeds of the codecs beside memcpy: natively, from their own benchmark, and in the loader's wasm.
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';

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

export async function codecFigures({ executable }) {
  const native = await nativeFigures(executable);
  const wasm = { title: 'codecs, wasm', missing: 'the loader exports no codec by itself' };
  return { native, wasm };
}
