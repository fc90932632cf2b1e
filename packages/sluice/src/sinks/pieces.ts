import { SluiceError } from '../errors.js';
import { elementBytes, unitOf } from './conversion.js';
import type { BufferPlan, Piece } from './sink.js';

const isSize = (value: number): boolean => Number.isSafeInteger(value) && value >= 0;
const isAligned = (value: number): boolean => isSize(value) && value % 4 === 0;

/** Throws `internal` unless the plan's size is one that WebGPU can hold: whole bytes, a multiple of 4. */
export function checkPlan(index: number, plan: BufferPlan): void {
  if (!isAligned(plan.nbytes)) {
    throw new SluiceError(
      'internal',
      `tensor "${plan.tensor}": buffer ${index} is planned with ${plan.nbytes} bytes, not a multiple of 4`,
      { tensor: plan.tensor, actual: plan.nbytes },
    );
  }
}

/**
 * Throws `internal` unless every piece lies in its slot and in its buffer, aligned to 4 bytes. WebGPU
 * would report the same later, apart from the call that caused it. Returns the bytes in all.
 * `plan` gives the plan of an allocated buffer, or undefined.
 */
export function checkPieces(
  pieces: readonly Piece[],
  slotBytes: number,
  plan: (buffer: number) => BufferPlan | undefined,
): number {
  let total = 0;
  for (const piece of pieces) {
    const { slotOffset, buffer, bufferOffset, nbytes, expand } = piece;
    const target = plan(buffer);
    const fault = (what: string): SluiceError =>
      new SluiceError(
        'internal',
        `${target ? `tensor "${target.tensor}": ` : ''}a piece of ${nbytes} bytes from offset ${slotOffset} of a ` +
          `slot to offset ${bufferOffset} of buffer ${buffer} ${what}`,
        target ? { tensor: target.tensor } : {},
      );
    if (target === undefined) throw fault('has no such buffer');
    if (!isAligned(slotOffset) || !isAligned(bufferOffset) || !isAligned(nbytes)) {
      throw fault('is not aligned to 4 bytes');
    }
    if (slotOffset + nbytes > slotBytes) throw fault(`ends outside the slot's ${slotBytes} bytes`);
    let written = nbytes;
    if (expand !== undefined) {
      const unit = unitOf(expand.from);
      const units = expand.nbytes / elementBytes(expand.to) / (unit?.blockElements ?? 0);
      if (!isSize(units) || units * (unit?.blockBytes ?? 0) > nbytes) {
        throw fault(`does not hold ${expand.nbytes} bytes of ${expand.to} as ${expand.from}`);
      }
      written = Math.ceil(expand.nbytes / 4) * 4;
    }
    if (bufferOffset + written > target.nbytes) {
      throw fault(`ends outside the buffer's ${target.nbytes} bytes`);
    }
    total += nbytes;
  }
  return total;
}

/** Throws `internal` unless [offset, offset + nbytes) lies in the buffer. */
export function checkRange(index: number, plan: BufferPlan, offset: number, nbytes: number): void {
  if (!isSize(offset) || offset + nbytes > plan.nbytes) {
    throw new SluiceError(
      'internal',
      `tensor "${plan.tensor}": ${nbytes} bytes at offset ${offset} end outside buffer ${index} of ` +
        `${plan.nbytes} bytes`,
      { tensor: plan.tensor, expected: plan.nbytes, actual: offset + nbytes },
    );
  }
}

/** Throws `internal` unless slots can be made in these numbers. */
export function checkSlots(slots: number, slotBytes: number): void {
  if (!isSize(slots) || slots === 0 || !isAligned(slotBytes) || slotBytes === 0) {
    throw new SluiceError(
      'internal',
      `${slots} staging slots of ${slotBytes} bytes: both must be positive, and the bytes a multiple of 4`,
    );
  }
}
