import { DTYPES } from '../generated/abi.js';

/** From what is stored to what is asked for: names of element types, as the loader's codecs have them. */
export interface Conversion {
  readonly from: string;
  readonly to: string;
}

/** How a piece's stored bytes become a tensor's on the device. */
export interface Expansion extends Conversion {
  /** Bytes in the buffer; zeros follow them up to a multiple of 4. */
  readonly nbytes: number;
}

/** Elements and bytes of a unit of a type: a block, or one element. Undefined for no such type. */
export function unitOf(dtype: string): { blockElements: number; blockBytes: number } | undefined {
  return dtype in DTYPES ? DTYPES[dtype as keyof typeof DTYPES] : undefined;
}

/** Bytes of an element of a type that is converted to. */
export const elementBytes = (dtype: string): number => (dtype === 'float32' ? 4 : 2);
