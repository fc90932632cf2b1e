// Drives a slot sink with random pieces and keeps beside it what its buffers must then hold. Runs in Node,
// in pages and in workers, so it imports types only.
import type { Piece, SlotSink } from '../../src/sinks/sink.js';

/** mulberry32: a uniform integer in [0, below). */
function randomNumbers(seed: number): (below: number) => number {
  let state = seed >>> 0;
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}

export const BUFFER_BYTES = [4, 8, 64, 4100, 65536, 300_000, 1_048_576 + 12, 8];
export const POISON = 0xa5;

/**
 * Prepares the sink, allocates BUFFER_BYTES, poisons every byte, then writes `uploads` slots of random
 * pieces of 4 bytes and more, some over each other and some bytes never. Flushes, and returns what each
 * buffer must hold.
 */
export async function driveSink(
  sink: SlotSink,
  slots: number,
  slotBytes: number,
  uploads: number,
  seed: number,
): Promise<Uint8Array<ArrayBuffer>[]> {
  const random = randomNumbers(seed);
  await sink.prepare(slots, slotBytes);
  await Promise.all(
    BUFFER_BYTES.map((nbytes, index) => sink.allocate(index, { nbytes, tensor: `t${index}` })),
  );
  const expected = BUFFER_BYTES.map((nbytes) => new Uint8Array(nbytes).fill(POISON));

  function* poison(): Generator<Piece[]> {
    for (const [buffer, nbytes] of BUFFER_BYTES.entries()) {
      for (let at = 0; at < nbytes; at += slotBytes) {
        const length = Math.min(slotBytes, nbytes - at);
        yield [{ slotOffset: 0, buffer, bufferOffset: at, nbytes: length }];
      }
    }
  }
  await run(poison(), (slot) => slot.fill(POISON));

  function* scatter(): Generator<Piece[]> {
    for (let i = 0; i < uploads; i++) {
      const pieces: Piece[] = [];
      let slotOffset = 4 * random(4);
      const large = random(3) === 0;
      while (slotOffset + 4 <= slotBytes && pieces.length < 40) {
        const buffer = random(BUFFER_BYTES.length);
        const size = BUFFER_BYTES[buffer] ?? 0;
        const most = Math.min(size, slotBytes - slotOffset, large ? slotBytes : 256);
        const nbytes = 4 * (1 + random(most / 4));
        const bufferOffset = 4 * random((size - nbytes) / 4 + 1);
        pieces.push({ slotOffset, buffer, bufferOffset, nbytes });
        slotOffset += nbytes + 4 * random(3);
      }
      yield pieces;
    }
  }
  await run(scatter(), (slot) => {
    for (let i = 0; i < slot.length; i++) slot[i] = random(256);
  });
  return expected;

  /** One loop a slot; uploads are called in the order of `jobs`, so the last write to a byte wins. */
  async function run(jobs: Generator<Piece[]>, fill: (slot: Uint8Array) => void): Promise<void> {
    const held = new Set<Uint8Array>();
    await Promise.all(
      Array.from({ length: slots }, async (_, index) => {
        for (const pieces of jobs) {
          const slot = sink.slot(index);
          if (slot.length !== slotBytes) throw new Error(`slot ${index} has ${slot.length} bytes`);
          for (const other of held) {
            if (other.buffer === slot.buffer) throw new Error(`slot ${index} was handed out twice`);
          }
          held.add(slot);
          fill(slot);
          for (const { slotOffset, buffer, bufferOffset, nbytes } of pieces) {
            expected[buffer]?.set(slot.subarray(slotOffset, slotOffset + nbytes), bufferOffset);
          }
          const done = sink.upload(index, pieces);
          held.delete(slot);
          await done;
        }
      }),
    );
    await sink.flush();
  }
}

/** Where a buffer differs from what it must hold; undefined if nowhere. */
export function firstDifference(expected: Uint8Array, actual: Uint8Array): string | undefined {
  if (expected.length !== actual.length) return `${actual.length} bytes, not ${expected.length}`;
  const at = expected.findIndex((byte, i) => byte !== actual[i]);
  return at < 0 ? undefined : `byte ${at} is ${actual[at]}, not ${expected[at]}`;
}
