// A compiled model's folder as the server has it: its files, or, where the weights are not there, weights of the same
// shapes, made of their names. Small ones about 0, and 1 for those of one dimension: so no logits overflow.
import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

const SCALE = 0.05;
/** Numbers that made weights repeat: a prime, so that no two rows of a matrix are the same. */
const NUMBERS = 1_048_573;

/** The folder's manifest and whether its weights are there. */
export async function openFolder(folder) {
  const manifest = JSON.parse(await readFile(join(folder, 'tensor-cache.json'), 'utf8'));
  const sizes = await Promise.all(
    manifest.records.map(({ dataPath }) => stat(join(folder, dataPath)).catch(() => undefined)),
  );
  const made = sizes.some((each, i) => each?.size !== manifest.records[i].nbytes);
  // What they are in the file, made ones are not
  if (made) for (const record of manifest.records) delete record.md5sum;
  manifest.metadata = { made };
  return { folder, made, manifest, text: JSON.stringify(manifest) };
}

/** The bytes of a file from `begin` to `end`, as a stream or, of made weights, at once; undefined for a file that it has not. */
export function fileBytes({ folder, made, manifest }, name, begin, end) {
  const file = manifest.records.find(({ dataPath }) => dataPath === name);
  if (!file) return undefined;
  if (!made) return createReadStream(join(folder, name), { start: begin, end: end - 1 });
  return madeBytes(file, begin, end);
}

const tables = new Map();

/** Random numbers from -SCALE to SCALE, in bytes. */
function table(dtype) {
  if (!tables.has(dtype)) {
    const numbers = new Float32Array(NUMBERS);
    let state = 1;
    for (let i = 0; i < NUMBERS; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      numbers[i] = SCALE * (state / 2 ** 31 - 1);
    }
    tables.set(dtype, dtype === 'float16' ? toFloat16(numbers) : Buffer.from(numbers.buffer));
  }
  return tables.get(dtype);
}

/** Normal numbers of 16 bits, cut off. */
function toFloat16(numbers) {
  const words = new Uint32Array(numbers.buffer);
  const halves = Uint16Array.from(words, (word) => {
    const exponent = ((word >>> 23) & 0xff) - 127 + 15;
    return (
      ((word >>> 16) & 0x8000) | (exponent <= 0 ? 0 : (exponent << 10) | ((word >>> 13) & 0x3ff))
    );
  });
  return Buffer.from(halves.buffer);
}

const ONE = { float32: [0, 0, 0x80, 0x3f], float16: [0, 0x3c] };

function madeBytes({ records }, begin, end) {
  const bytes = Buffer.alloc(end - begin);
  for (const { name, dtype, shape, byteOffset, nbytes } of records) {
    const first = Math.max(begin, byteOffset);
    const last = Math.min(end, byteOffset + nbytes);
    if (first >= last) continue;
    const target = bytes.subarray(first - begin, last - begin);
    const source = shape.length === 1 ? Buffer.from(ONE[dtype]) : table(dtype);
    const seed = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % NUMBERS, 7);
    const width = ONE[dtype].length;
    let at = (first - byteOffset + seed * width) % source.length;
    for (let done = 0; done < target.length;) {
      const count = source.copy(
        target,
        done,
        at,
        Math.min(source.length, at + target.length - done),
      );
      done += count;
      at = (at + count) % source.length;
    }
  }
  return bytes;
}
