import type { StoreFolder } from './files.js';
import type { StoredModel, StoreModule } from './store_module.js';

/**
 * The files that a model's journal may lie in. It is compacted into the one in which it does not lie, and moves there
 * by the last record of the new journal (CompactedRecord in core/store/journal.h): until that is written the old one
 * counts. It stays as it is until the next session that writes, so that whoever reads meanwhile finds one of them whole.
 */
const SLOTS = ['journal', 'journal.1'] as const;
export type JournalSlot = (typeof SLOTS)[number];
/** Where a model's journal begins. */
export const FIRST_SLOT = SLOTS[0];
/** No journal is longer: that of 3 TB in extents of 4 MiB. */
const MAX_JOURNAL_BYTES = 64 * 2 ** 20;

/** A model as its journal has it. */
export interface Journal {
  /** To be freed by who asked for it. */
  readonly model: StoredModel;
  /** Bytes of the journal that hold: what is appended goes behind them. */
  readonly validBytes: number;
  readonly slot: JournalSlot;
  /** The journal, of which more than `validBytes` may have been read. */
  readonly bytes: Uint8Array;
  /** Something was lost: records at the end, or a later journal. */
  readonly damaged: boolean;
  /** Bytes of the other slot, of which nothing is wanted. */
  readonly otherBytes: number;
}

type Replayed = Omit<Journal, 'damaged' | 'otherBytes'>;

/** Where a journal that lies in this slot is compacted to. */
export function otherSlot(slot: JournalSlot): JournalSlot {
  return slot === FIRST_SLOT ? SLOTS[1] : FIRST_SLOT;
}

/** The journal in a model's folder; undefined where there is none that names a model, or not that of `key`. */
export async function readJournal(
  module: StoreModule,
  folder: StoreFolder,
  key?: string,
): Promise<Journal | undefined> {
  const read = await Promise.all(
    SLOTS.map(async (slot) => ({ slot, bytes: await folder.peek(slot, MAX_JOURNAL_BYTES) })),
  );
  let latest: { journal: Replayed; generation: number } | undefined;
  let damaged = false;
  let nbytes = 0;
  for (const { slot, bytes } of read) {
    if (bytes === undefined || bytes.byteLength === 0) continue;
    nbytes += bytes.byteLength;
    const journal = replay(module, slot, bytes);
    damaged ||= journal === undefined || journal.validBytes < bytes.byteLength;
    if (!journal) continue;
    const { key: name, generation } = journal.model.snapshot();
    // The second slot is written by compactions alone: one that was interrupted has no generation
    const counts = (key === undefined || name === key) && (slot === FIRST_SLOT || generation > 0);
    if (counts && (!latest || generation > latest.generation)) {
      latest?.journal.model.free();
      latest = { journal, generation };
    } else {
      damaged ||= !counts;
      journal.model.free();
    }
  }
  return (
    latest && {
      ...latest.journal,
      damaged,
      otherBytes: nbytes - latest.journal.bytes.byteLength,
    }
  );
}

function replay(module: StoreModule, slot: JournalSlot, bytes: Uint8Array): Replayed | undefined {
  try {
    return { ...module.replay(bytes), slot, bytes };
  } catch {
    return undefined; // not a journal of ours: what is stored beside it is not known
  }
}
