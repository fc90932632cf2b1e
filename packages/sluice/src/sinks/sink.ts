import type { SluiceError } from '../errors.js';
import type { Conversion, Expansion } from './conversion.js';

/** One allocation on the device: a large tensor, or several small ones. */
export interface BufferPlan {
  /** Bytes, a multiple of 4. */
  readonly nbytes: number;
  /** The first tensor in it, for error messages. */
  readonly tensor: string;
}

/** Bytes of a staging slot and where they go. Offsets and lengths are multiples of 4. */
export interface Piece {
  slotOffset: number;
  buffer: number;
  bufferOffset: number;
  /** Bytes in the slot, padding included. */
  nbytes: number;
  /** The piece holds whole units, which the device expands; without this it is copied. */
  expand?: Expansion;
}

/**
 * Where tensors are put, through a fixed number of staging slots. One owner, one thread. The slots are
 * all the memory it holds beside the destination: slots() times slotBytes, which the budget covers.
 */
export interface SlotSink {
  readonly kind: 'slots';
  /** Makes the slots, and what the conversions need that pieces will ask for. Called once, before anything else. */
  prepare(slots: number, slotBytes: number, conversions?: readonly Conversion[]): Promise<void>;
  /**
   * Allocates buffer `index`. Rejects with `device_limit`, `out_of_device_memory` or `device_lost`,
   * naming the tensor and the numbers.
   */
  allocate(index: number, plan: BufferPlan): Promise<void>;
  /** The memory of a slot that no upload holds; valid until upload(). */
  slot(index: number): Uint8Array;
  /**
   * True where upload() may have to wait before its bytes are in the device's queue; they are once it resolves.
   * Otherwise they are as soon as the call returns.
   */
  readonly queuesLater?: boolean;
  /** Sends a slot's pieces on their way; resolves once the slot may be filled again. */
  upload(index: number, pieces: readonly Piece[]): Promise<void>;
  /** Resolves when every upload has reached its buffer; rejects if the device failed meanwhile. */
  flush(): Promise<void>;
  /** Frees the slots; with `keepBuffers` false also every buffer. Never rejects. */
  close(keepBuffers: boolean): void;
  /** Calls `listener` once when nothing can be taken any more: the device was lost, or close() was called. */
  onEnd(listener: (error: SluiceError) => void): void;
}

/** Where tensors are put directly, with no slots: CPU memory, or a consumer of pieces. */
export interface DirectSink {
  readonly kind: 'direct';
  allocate(index: number, plan: BufferPlan): Promise<void>;
  /** Takes bytes of buffer `index`; they may be reused once the call, or its promise, is done. */
  write(index: number, offset: number, bytes: Uint8Array): void | Promise<void>;
  /** Where bytes [offset, offset + nbytes) of buffer `index` lie, to be written there instead, if the sink has them. */
  view?(index: number, offset: number, nbytes: number): Uint8Array;
  flush(): Promise<void>;
  close(keepBuffers: boolean): void;
}

export type Sink = SlotSink | DirectSink;
