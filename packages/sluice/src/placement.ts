import { asSluiceError, SluiceError } from './errors.js';
import { checkOf, integrityNeedsStore, type StoreOpener } from './load.js';
import { Model, type LoadedTensor, type LoadReport } from './model.js';
import { openModel } from './open.js';
import { selectTensors, type LoadOptions, type Placement } from './options.js';
import type { Source } from './sources/source.js';
import { DiskRows, tensorRange } from './store/disk_tensor.js';
import { warnUnavailable, type StoreUse } from './store/store_use.js';
import type { LoadProgress, ManifestTensor, ModelManifest } from './wasm/loader_module.js';

/** What a placed load is made of; the entries, index.ts and node.ts, know how. */
export interface PlacedParts {
  readonly module: Promise<WebAssembly.Module>;
  /** A fresh source of the model, and its name in it. */
  source(): Promise<{ source: Source; name: string }>;
  readonly openStore: StoreOpener | undefined;
  /** A load of some of the tensors to one place. */
  load(options: LoadOptions): Promise<Model>;
}

/**
 * Loads each tensor to where `options.placement` says: first what stays on disk, then the GPU's, then the CPU's. One
 * model comes of it, tensors in the manifest's order. Rejects as loadModel() does, and frees everything then.
 */
export async function loadPlaced(parts: PlacedParts, options: LoadOptions): Promise<Model> {
  const begin = performance.now();
  const { placement, ...rest } = options;
  const { source, name } = await parts.source();
  let use: StoreUse | undefined;
  let rows: DiskRows | undefined;
  const loaded: Model[] = [];
  try {
    use = await parts.openStore?.(source, warnUnavailable);
    if (options.integrity !== undefined && !use) throw integrityNeedsStore();
    const loader = await openModel(
      await parts.module,
      use?.source ?? source,
      name,
      options.signal,
      checkOf(use),
    );
    const manifest = loader.manifest();
    const selected = selectTensors(options.tensors, manifest);
    const placed = new Map<Placement, ManifestTensor[]>();
    for (const tensor of selected) {
      const place = placeOf(placement, tensor);
      placed.set(place, [...(placed.get(place) ?? []), tensor]);
    }
    const progress = new PhaseProgress(selected, options.onProgress);
    const onDisk = placed.get('disk') ?? [];
    if (onDisk.length > 0) {
      if (!use) throw noStore(onDisk[0]);
      await keepOnDisk(use, manifest, onDisk, progress, options);
      rows = new DiskRows(use.session);
      progress.tensors(onDisk.length);
    } else {
      await use?.close();
    }
    source.close();

    for (const place of ['gpu', 'cpu'] as const) {
      const tensors = placed.get(place);
      if (!tensors) continue;
      progress.next();
      const model = await parts.load({
        ...rest,
        ...(place === 'cpu' ? { device: 'cpu' as const } : {}),
        tensors: tensors.map((tensor) => tensor.name),
        onProgress: (report) => {
          progress.report(report);
        },
      });
      loaded.push(model);
    }
    const tensors = new Map<string, LoadedTensor>();
    for (const entry of selected) {
      const tensor = onDisk.includes(entry)
        ? rows?.tensor(manifest, entry)
        : loaded.map((model) => model.get(entry.name)).find((found) => found !== undefined);
      if (tensor) tensors.set(entry.name, tensor);
    }
    const device = loaded.find((model) => model.device)?.device;
    const kept = rows;
    return new Model({
      format: manifest.format,
      metadata: manifest.metadata,
      tensors,
      device,
      ownsDevice: false,
      report: reportOf(loaded, progress, use, performance.now() - begin),
      release: () => {
        for (const model of loaded) model.destroy();
        void kept?.close();
      },
    });
  } catch (error) {
    for (const model of loaded) model.destroy();
    source.close();
    await rows?.close();
    await use?.close();
    throw asSluiceError(error);
  }
}

function placeOf(placement: LoadOptions['placement'], tensor: ManifestTensor): Placement {
  const place: unknown = typeof placement === 'function' ? placement(tensor) : placement;
  if (place === 'gpu' || place === 'cpu' || place === 'disk') return place;
  throw new SluiceError(
    'invalid_argument',
    `option placement gives ${JSON.stringify(place)} for tensor "${tensor.name}"; expected 'gpu', 'cpu' or 'disk'`,
    { tensor: tensor.name },
  );
}

async function keepOnDisk(
  use: StoreUse,
  manifest: ModelManifest,
  tensors: readonly ManifestTensor[],
  progress: PhaseProgress,
  { connections = 4, signal }: LoadOptions,
): Promise<void> {
  await use.keep(
    manifest,
    tensors.map((tensor) => tensorRange(manifest, tensor)),
    {
      connections,
      signal,
      onBytes: (nbytes) => {
        progress.bytes(nbytes);
      },
    },
  );
  const { problem } = use.report;
  if (problem === undefined) return;
  throw new SluiceError(
    'quota_exceeded',
    `tensor "${tensors[0]?.name ?? ''}" cannot be kept on disk: ${problem}`,
    { hint: "free space on this device, or place it on 'gpu' or 'cpu'" },
  );
}

function noStore(tensor: ManifestTensor | undefined): SluiceError {
  const name = tensor?.name ?? '';
  return new SluiceError('io', `tensor "${name}" is placed on disk, and there is no local store`, {
    tensor: name,
    hint: 'pass the option store, and a URL; private windows have no store',
  });
}

/** Progress over several loads, told as that of one. */
class PhaseProgress {
  readonly #onProgress: ((progress: LoadProgress) => void) | undefined;
  readonly #total: LoadProgress;
  #before: LoadProgress;
  #now: LoadProgress;

  constructor(
    tensors: readonly ManifestTensor[],
    onProgress: ((progress: LoadProgress) => void) | undefined,
  ) {
    this.#onProgress = onProgress;
    const nbytes = tensors.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
    const none = {
      sourceBytesDone: 0,
      outputBytesDone: 0,
      tensorsDone: 0,
      retries: 0,
      budgetUsed: 0,
      budgetPeak: 0,
      budgetLimit: 0,
    };
    this.#total = { ...none, sourceBytes: nbytes, outputBytes: nbytes, tensors: tensors.length };
    this.#before = this.#total;
    this.#now = this.#total;
  }

  get progress(): LoadProgress {
    return this.#now;
  }

  /** A load has ended; the next adds to what it did. */
  next(): void {
    this.#before = this.#now;
  }

  bytes(nbytes: number): void {
    this.#now = {
      ...this.#now,
      sourceBytesDone: this.#now.sourceBytesDone + nbytes,
      outputBytesDone: this.#now.outputBytesDone + nbytes,
    };
    this.#onProgress?.(this.#now);
  }

  tensors(count: number): void {
    this.#now = { ...this.#now, tensorsDone: this.#now.tensorsDone + count };
    this.#onProgress?.(this.#now);
  }

  report(part: LoadProgress): void {
    const before = this.#before;
    this.#now = {
      sourceBytesDone: before.sourceBytesDone + part.sourceBytesDone,
      sourceBytes: before.sourceBytes,
      outputBytesDone: before.outputBytesDone + part.outputBytesDone,
      // Tensors that are converted become larger or smaller than they are stored
      outputBytes: before.outputBytes + part.outputBytes - part.sourceBytes,
      tensorsDone: before.tensorsDone + part.tensorsDone,
      tensors: before.tensors,
      retries: before.retries + part.retries,
      budgetUsed: part.budgetUsed,
      budgetPeak: Math.max(before.budgetPeak, part.budgetPeak),
      budgetLimit: part.budgetLimit,
    };
    this.#onProgress?.(this.#now);
  }
}

function reportOf(
  loaded: readonly Model[],
  { progress }: PhaseProgress,
  use: StoreUse | undefined,
  milliseconds: number,
): LoadReport {
  const reports = loaded.map(({ report }) => report);
  const stores = [use?.report, ...reports.map(({ store }) => store)].filter(
    (store) => store !== undefined,
  );
  const sum = (field: 'readBytes' | 'storedBytes' | 'damagedBytes'): number =>
    stores.reduce((total, store) => total + store[field], 0);
  const problem = stores.find((store) => store.problem !== undefined)?.problem;
  return {
    ...progress,
    budgetUsed: 0,
    milliseconds,
    upload: reports.find(({ upload }) => upload !== undefined)?.upload,
    thread: reports.find(({ thread }) => thread === 'worker')?.thread ?? 'caller',
    connections: reports.reduce((most, report) => Math.max(most, report.connections), 0),
    expandedOnDevice: reports.reduce((total, report) => total + report.expandedOnDevice, 0),
    store:
      stores.length === 0
        ? undefined
        : {
            readBytes: sum('readBytes'),
            storedBytes: sum('storedBytes'),
            damagedBytes: sum('damagedBytes'),
            ...(problem === undefined ? {} : { problem }),
          },
  };
}
