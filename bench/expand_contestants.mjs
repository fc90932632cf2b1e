// Loads whose bytes lie in memory already, through the package's own loader, slots and uploads: as they are stored,
// and converted by the GPU or by the loader's codecs.
import { USAGE } from './contestants.mjs';

// GGUF's types (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): number, elements and bytes of a block
const TYPES = {
  float32: { type: 0, elements: 1, nbytes: 4 },
  bfloat16: { type: 30, elements: 1, nbytes: 2 },
  q8_0: { type: 8, elements: 32, nbytes: 34 },
  q4_k: { type: 12, elements: 256, nbytes: 144 },
};
const TENSORS = 16;
/** Of memory that is read again and again: more than most caches hold. */
const BLOCK_BYTES = 256 * 2 ** 20;
const CHUNK_BYTES = 2 ** 20;
const BUDGET_BYTES = 64 * 2 ** 20;
const CHECKED_BYTES = 64 * 2 ** 10;

const u32 = (value) => new Uint8Array(Uint32Array.of(value).buffer);
const u64 = (value) => new Uint8Array(BigUint64Array.of(BigInt(value)).buffer);

/** A GGUF file of TENSORS tensors of one type with about `storedBytes` bytes, as a source. */
function memoryModel(name, storedBytes) {
  const { type, elements, nbytes } = TYPES[name];
  // Tensors begin at multiples of 32 bytes
  const blocks = Math.floor(storedBytes / TENSORS / nbytes / 32) * 32;
  const text = new TextEncoder();
  const parts = [text.encode('GGUF'), u32(3), u64(TENSORS), u64(0)];
  for (let i = 0; i < TENSORS; i++) {
    const label = text.encode(`t${i}`);
    parts.push(u64(label.length), label, u32(1), u64(blocks * elements), u32(type));
    parts.push(u64(i * blocks * nbytes));
  }
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const header = new Uint8Array(Math.ceil(length / 32) * 32);
  let at = 0;
  for (const part of parts) {
    header.set(part, at);
    at += part.length;
  }
  const fileBytes = header.length + TENSORS * blocks * nbytes;
  const source = {
    describe: (path) => path,
    async open(path, begin, end = fileBytes) {
      let position = begin;
      return {
        begin,
        ranged: true,
        fileBytes,
        async read() {
          if (position === end) return null;
          const bytes = part(position, Math.min(end, position + CHUNK_BYTES));
          position += bytes.length;
          return bytes;
        },
        cancel() {},
      };
    },
    close() {},
  };
  /** Bytes of the file from `begin` on, at most up to `end`. */
  function part(begin, end) {
    if (begin < header.length) return header.subarray(begin, end);
    const from = (begin - header.length) % BLOCK_BYTES;
    return block().subarray(from, Math.min(from + end - begin, BLOCK_BYTES));
  }
  /** A copy of bytes [begin, end) of the file. */
  function slice(begin, end) {
    const bytes = new Uint8Array(Math.min(end, fileBytes) - begin);
    for (let done = 0; done < bytes.length;) {
      const piece = part(begin + done, begin + bytes.length);
      bytes.set(piece, done);
      done += piece.length;
    }
    return bytes;
  }
  return { source, slice, fileBytes };
}

let random;
/** Random bits, the same each time (https://en.wikipedia.org/wiki/Xorshift, 32 bits). */
function block() {
  if (random) return random;
  const words = new Uint32Array(BLOCK_BYTES / 4);
  let state = 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  random = new Uint8Array(words.buffer);
  return random;
}

let compiled;

/** The model, opened and planned. */
async function planned({ dist }, { stored, storedBytes }, options) {
  const { LoaderModel } = await dist.module('wasm/loader_module.js');
  compiled ??= WebAssembly.compile(await dist.bytes('sluice_loader.wasm'));
  const memory = memoryModel(stored, storedBytes);
  const loader = await LoaderModel.create(await compiled, 'model.gguf');
  for (let asked; (asked = loader.request());) {
    loader.provide(memory.slice(asked.begin, asked.end), memory.fileBytes);
  }
  const manifest = loader.manifest();
  return { ...memory, loader, manifest, plan: loader.plan(options) };
}

async function run({ dist }, { loader, manifest, plan, source }, sink) {
  const { runLoad } = await dist.module('engine.js');
  await runLoad(loader, manifest, plan, source, sink);
}

/** `stored`: a type of TYPES; `by`: 'device' or 'cpu' converts `to`, float32 unless given; without it nothing is. */
export const EXPAND_CONTESTANTS = {
  expand: {
    async prepare(environment, options) {
      block();
      const { dist, device } = environment;
      const { by, to = 'float32' } = options;
      const model = await planned(environment, options, {
        budgetBytes: BUDGET_BYTES,
        slotCopies: 2,
        staged: true,
        expandOnDevice: by === 'device',
        ...(by ? { dtype: to } : {}),
      });
      const { createUploadSink } = await dist.module('sinks/measure_upload.js');
      return { model, sink: await createUploadSink(device, { path: options.path ?? 'auto' }) };
    },
    async load(environment, options, { model, sink }) {
      await run(environment, model, sink);
      const { sourceBytes, outputBytes } = model.plan;
      if (options.verify) await verify(environment, options, model, sink);
      return {
        note: sink.path,
        figures: { storedBytes: sourceBytes, outputBytes },
        destroy: () => sink.close(false),
      };
    },
  },
};

/** Compares both ends of the last tensor with what the codecs give. */
async function verify(environment, options, { plan, loader }, sink) {
  const last = TENSORS - 1;
  const { by, to = 'float32' } = options;
  const reference = await planned(environment, options, {
    staged: false,
    shareBelowBytes: 0,
    selected: [last],
    ...(by ? { dtype: to } : {}),
  });
  if (!loader.finished) throw new Error('the load has not ended');
  const { CpuSink } = await environment.dist.module('sinks/cpu_sink.js');
  const cpu = new CpuSink();
  await run(environment, reference, cpu);
  const expected = new Uint8Array(cpu.buffer(0));
  const { buffer, offset, nbytes } = plan.placements[last];
  if (expected.length !== nbytes) throw new Error(`${nbytes} bytes, not ${expected.length}`);
  const { device } = environment;
  for (const at of [0, nbytes - CHECKED_BYTES]) {
    const usage = USAGE.MAP_READ | USAGE.COPY_DST;
    const readback = device.createBuffer({ size: CHECKED_BYTES, usage });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(sink.buffer(buffer), offset + at, readback, 0, CHECKED_BYTES);
    device.queue.submit([encoder.finish()]);
    await readback.mapAsync(1);
    const actual = new Uint8Array(readback.getMappedRange());
    const wrong = actual.findIndex((byte, i) => byte !== expected[at + i]);
    if (wrong >= 0) throw new Error(`${options.stored} differs at byte ${at + wrong}`);
    readback.destroy();
  }
}
