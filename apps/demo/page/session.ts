// One load: what is asked for, what is known of it while it runs, and how it ends.
import { loadModel } from 'sluice';
import type { LoadOptions, LoadProgress, ManifestTensor, Model, SluiceError } from 'sluice';

import { asSluiceError } from './errors.js';
import type { ModelSource } from './sources.js';
import { TimeSeries } from './time_series.js';

/** What the person chose. */
export interface Settings {
  dtype: NonNullable<LoadOptions['dtype']>;
  device: 'gpu' | 'cpu';
  budgetBytes: number;
  connections: number;
  worker: boolean;
  /** What is fetched is kept on this device, and taken from there. */
  keep: boolean;
}

export type Outcome =
  { kind: 'loaded'; model: Model } | { kind: 'cancelled' } | { kind: 'failed'; error: SluiceError };

/** A load that is running or has ended. Views read it; nothing here touches the page. */
export class Session {
  readonly source: ModelSource;
  readonly settings: Settings;
  /** The model's tensors in its own order; empty until its manifest has been read. */
  tensors: readonly ManifestTensor[] = [];
  /** Parallel to `tensors`: 1 where a tensor is usable. */
  ready = new Uint8Array(0);
  /** The name of the tensor that became usable last. */
  latest: string | undefined;
  progress: LoadProgress | undefined;
  readonly series = new TimeSeries();
  outcome: Outcome | undefined;
  /** Milliseconds from the call to the end, or until now. */
  get elapsed(): number {
    return (this.#end ?? performance.now()) - this.#begin;
  }

  /** The same from the first progress on. */
  get streaming(): number {
    return (this.#end ?? performance.now()) - (this.#firstByte ?? performance.now());
  }

  readonly #begin = performance.now();
  /** When the first progress came: opening and preparing the GPU are not part of the rate. */
  #firstByte: number | undefined;
  #end: number | undefined;
  readonly #aborter = new AbortController();
  #indices = new Map<string, number>();

  constructor(source: ModelSource, settings: Settings) {
    this.source = source;
    this.settings = settings;
  }

  cancel(): void {
    this.#aborter.abort();
  }

  /** Loads; never rejects. */
  async run(): Promise<Outcome> {
    const { device, dtype, budgetBytes, connections, worker, keep } = this.settings;
    const seen: ManifestTensor[] = [];
    try {
      const model = await loadModel(this.source.location, {
        store: keep,
        device,
        dtype,
        budgetBytes,
        connections,
        worker: worker && device === 'gpu',
        signal: this.#aborter.signal,
        // All are wanted: this is how a page learns of the manifest before the bytes
        tensors: (tensor) => {
          seen.push(tensor);
          if (seen.length === 1) queueMicrotask(() => this.#learn(seen));
          return true;
        },
        onProgress: (progress) => this.#note(progress),
        onTensor: (name) => this.#ready(name),
      });
      this.#end = performance.now();
      this.#note({ ...model.report });
      this.series.close(this.streaming);
      this.outcome = { kind: 'loaded', model };
    } catch (error) {
      this.#end = performance.now();
      const known = asSluiceError(error);
      this.outcome =
        known.code === 'aborted' ? { kind: 'cancelled' } : { kind: 'failed', error: known };
    }
    return this.outcome;
  }

  #learn(tensors: readonly ManifestTensor[]): void {
    this.tensors = tensors;
    this.ready = new Uint8Array(tensors.length);
    this.#indices = new Map(tensors.map(({ name }, index) => [name, index]));
  }

  #note(noted: LoadProgress): void {
    this.#firstByte ??= performance.now();
    // The budget is the person's: what the store takes of it for bytes on their way there is no longer in the loader's
    const limit = this.settings.budgetBytes;
    const stores = Math.max(0, limit - noted.budgetLimit);
    const progress = {
      ...noted,
      budgetUsed: noted.budgetUsed === 0 ? 0 : noted.budgetUsed + stores,
      budgetPeak: noted.budgetPeak + stores,
      budgetLimit: limit,
    };
    this.progress = progress;
    this.series.add(this.streaming, progress.sourceBytesDone, progress.budgetUsed);
  }

  #ready(name: string): void {
    const index = this.#indices.get(name);
    if (index === undefined) return;
    this.ready[index] = 1;
    this.latest = name;
  }
}
