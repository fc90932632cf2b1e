// What is shown of a load while it runs and after.
import { byId } from './dom.js';
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatPercent,
  formatRate,
  formatShape,
} from './format.js';
import { Plot } from './plot.js';
import type { Session } from './session.js';
import { TensorGrid } from './tensor_grid.js';

/** The rate shown and the time left go by the last so many milliseconds. */
const RATE_WINDOW_MS = 2000;
/** Redraws a second are plenty for people, and leave the time to the load. */
const DRAW_INTERVAL_MS = 100;
const ANNOUNCE_INTERVAL_MS = 5000;

export class ProgressView {
  readonly #section = byId('progress', HTMLElement);
  readonly #title = byId('progress-title', HTMLElement);
  readonly #stage = byId('stage', HTMLElement);
  readonly #storeLine = byId('store-line', HTMLElement);
  readonly #bar = byId('progress-bar', HTMLProgressElement);
  readonly #live = byId('live', HTMLElement);
  readonly #gridLine = byId('grid-line', HTMLElement);
  readonly #rate = new Plot(byId('plot-rate', SVGSVGElement));
  readonly #memory = new Plot(byId('plot-memory', SVGSVGElement));
  readonly #grid: TensorGrid;
  #session: Session | undefined;
  #pointed: number | undefined;
  #timer: number | undefined;
  #announced = 0;

  /** `choose` is told of a tensor whose cell was clicked. */
  constructor(choose: (name: string) => void) {
    this.#grid = new TensorGrid(
      byId('grid', HTMLCanvasElement),
      (index) => {
        this.#pointed = index;
        this.#drawGridLine();
      },
      (index) => {
        const name = this.#session?.tensors[index]?.name;
        if (name !== undefined) choose(name);
      },
    );
  }

  /** Follows a load until end(). */
  begin(session: Session): void {
    this.end();
    this.#session = session;
    this.#pointed = undefined;
    this.#section.hidden = false;
    this.#announced = performance.now();
    this.announce(`Loading ${session.source.name}`);
    this.#timer = window.setInterval(() => {
      this.#draw();
      this.#announceProgress();
    }, DRAW_INTERVAL_MS);
    this.#draw();
  }

  /** Shows the load's last state, which it keeps. */
  end(): void {
    window.clearInterval(this.#timer);
    this.#timer = undefined;
    if (this.#session) this.#draw();
  }

  hide(): void {
    this.end();
    this.#session = undefined;
    this.#section.hidden = true;
  }

  /** Says it to screen readers, when they have finished what they are saying. */
  announce(text: string): void {
    this.#live.textContent = text;
  }

  #announceProgress(): void {
    const now = performance.now();
    const progress = this.#session?.progress;
    if (!progress || now - this.#announced < ANNOUNCE_INTERVAL_MS) return;
    this.#announced = now;
    const left = this.#timeLeft();
    this.announce(
      `${formatPercent(progress.sourceBytesDone, progress.sourceBytes)}, ` +
        `${progress.tensorsDone} of ${progress.tensors} tensors` +
        (left === undefined ? '' : `, ${formatDuration(left)} left`),
    );
  }

  #draw(): void {
    const session = this.#session;
    if (!session) return;
    const { progress, outcome } = session;
    const elapsed =
      outcome?.kind === 'loaded' ? outcome.model.report.milliseconds : session.elapsed;
    this.#title.textContent = session.source.name;
    this.#stage.textContent = this.#stageText(session);
    const kept = storeWords(session);
    this.#storeLine.textContent = kept?.line ?? '';
    if (progress) this.#bar.value = fraction(progress.sourceBytesDone, progress.sourceBytes);
    else this.#bar.removeAttribute('value');
    const over = outcome !== undefined;
    this.#section.dataset['state'] = outcome?.kind ?? 'loading';

    const rates = session.series.rates();
    const seconds = elapsed / 1000;
    const recent = session.series.recentRate(session.streaming, RATE_WINDOW_MS);
    const average = progress && progress.sourceBytesDone / seconds;
    const left = this.#timeLeft();
    this.#tile(
      'bytes',
      progress && formatBytes(progress.sourceBytesDone),
      progress && `of ${formatBytes(progress.sourceBytes)}`,
    );
    byId('tile-rate-label', HTMLElement).textContent = over ? 'Average rate' : 'Rate';
    this.#tile(
      'rate',
      over ? average && formatRate(average) : recent === undefined ? undefined : formatRate(recent),
      over
        ? `${formatRate(Math.max(0, ...rates.map(({ value }) => value)))} at most`
        : average && `${formatRate(average)} on average`,
    );
    byId('tile-time-label', HTMLElement).textContent = over ? 'Time' : 'Time left';
    this.#tile(
      'time',
      over ? formatDuration(elapsed) : left === undefined ? undefined : formatDuration(left),
      over ? '' : `${formatDuration(elapsed)} so far`,
    );
    this.#tile(
      'tensors',
      progress && formatCount(progress.tensorsDone),
      progress && `of ${formatCount(progress.tensors)}`,
    );
    byId('tile-memory-label', HTMLElement).textContent = over ? 'Budget used' : 'Budget in use';
    this.#tile(
      'memory',
      progress && formatBytes(over ? progress.budgetPeak : progress.budgetUsed),
      progress && `${over ? 'at most, ' : ''}of ${formatBytes(progress.budgetLimit)}`,
    );

    this.#tile('device', kept?.fromDevice, kept?.fetched);

    const most = Math.max(0, ...rates.map(({ value }) => value));
    this.#rate.show({
      points: rates,
      format: (rate) => `${formatTick(rate)}/s`,
      description: progress
        ? `Throughput over ${formatDuration(elapsed)}: ${formatRate(most)} at most`
        : 'Throughput: nothing yet',
    });
    const limit = progress?.budgetLimit ?? session.settings.budgetBytes;
    this.#memory.show({
      points: session.series.held(),
      format: formatTick,
      limit: { value: limit, label: `budget of ${formatTick(limit)}` },
      description: progress
        ? `Memory held over time: ${formatBytes(progress.budgetPeak)} at most, of ${formatBytes(limit)}`
        : 'Memory held: nothing yet',
    });
    this.#grid.show({ ready: session.ready, count: session.tensors.length });
    this.#drawGridLine();
  }

  #stageText(session: Session): string {
    const { progress, outcome, tensors } = session;
    if (outcome) {
      switch (outcome.kind) {
        case 'loaded': {
          const { upload, thread, store } = outcome.model.report;
          const fetched = store === undefined || store.storedBytes > 0 ? 'fetched' : 'read';
          const retries = progress?.retries ?? 0;
          return [
            upload === undefined
              ? 'Loaded to CPU memory'
              : `Loaded to the GPU by ${uploadName(upload)}`,
            thread === 'worker' ? `${fetched} in a worker` : `${fetched} in the page`,
            ...(retries > 0 ? [`${retries} transfers opened again`] : []),
          ].join(', ');
        }
        case 'cancelled':
          return 'Cancelled; everything it had taken is free again';
        case 'failed':
          return 'Failed; everything it had taken is free again';
      }
    }
    if (!progress) {
      return tensors.length === 0 ? 'Reading the manifest…' : 'Preparing memory…';
    }
    const retries = progress.retries > 0 ? `, ${progress.retries} transfers opened again` : '';
    return `Loading, ${formatPercent(progress.sourceBytesDone, progress.sourceBytes)}${retries}`;
  }

  /** Milliseconds at the present rate; undefined when that says nothing. */
  #timeLeft(): number | undefined {
    const session = this.#session;
    if (!session?.progress || session.streaming < 500) return undefined;
    const rate = session.series.recentRate(session.streaming, RATE_WINDOW_MS);
    if (rate === undefined || rate <= 0) return undefined;
    const { sourceBytes, sourceBytesDone } = session.progress;
    return (1000 * (sourceBytes - sourceBytesDone)) / rate;
  }

  #tile(name: string, value: string | number | undefined, of: string | number | undefined): void {
    byId(`tile-${name}`, HTMLElement).textContent = value ? String(value) : '–';
    byId(`tile-${name}-of`, HTMLElement).textContent = of ? String(of) : '\u00a0';
  }

  #drawGridLine(): void {
    const session = this.#session;
    if (!session) return;
    const pointed = this.#pointed === undefined ? undefined : session.tensors[this.#pointed];
    let text = '\u00a0';
    if (pointed && this.#pointed !== undefined) {
      const state = session.ready[this.#pointed] === 1 ? 'loaded' : 'waiting';
      text = `${pointed.name} · ${pointed.storedDtype} · ${formatShape(pointed.shape)} · ${state}`;
    } else if (session.latest !== undefined && !session.outcome) {
      text = `Latest: ${session.latest}`;
    } else if (session.outcome?.kind === 'loaded') {
      text = 'Point at a cell for its tensor; click to look into it.';
    }
    this.#gridLine.textContent = text;
  }
}

/** What of a load came from this device and what was fetched; undefined until that is known. */
function storeWords({
  outcome,
  settings,
  source,
}: Session): { line: string; fromDevice: string; fetched: string } | undefined {
  if (outcome?.kind !== 'loaded') return undefined;
  const { store, sourceBytes } = outcome.model.report;
  if (typeof source.location !== 'string') {
    return {
      line: 'From files of this device; nothing was fetched.',
      fromDevice: formatBytes(sourceBytes),
      fetched: 'nothing fetched',
    };
  }
  if (!store) {
    const why = settings.keep ? 'this browser has no room for models here' : 'as you chose';
    return {
      line: `All of it was fetched, and none of it is kept: ${why}.`,
      fromDevice: formatBytes(0),
      fetched: `${formatBytes(sourceBytes)} fetched`,
    };
  }
  const { storedBytes, readBytes, damagedBytes, problem } = store;
  // Where not all could be stored, what did not come from the store was fetched
  const fetched =
    problem === undefined ? storedBytes : Math.max(storedBytes, sourceBytes - readBytes);
  // Headers are read from the store again once they are kept: that is no byte of the tensors
  const fromDevice = fetched === 0 ? sourceBytes : Math.max(0, sourceBytes - fetched);
  const words =
    fetched === 0
      ? ['All of it came from this device; nothing was fetched']
      : fromDevice === 0
        ? [`${formatBytes(fetched)} were fetched`]
        : [
            `${formatBytes(fromDevice)} came from this device, ${formatBytes(fetched)} were fetched`,
          ];
  if (damagedBytes > 0) words.push(`${formatBytes(damagedBytes)} of that in place of damaged ones`);
  if (problem !== undefined) words.push(`not all of it is kept: ${problem}`);
  else if (fetched > 0) words.push('the next load takes all of it from this device');
  return {
    line: `${words.join('; ')}.`,
    fromDevice: formatBytes(fromDevice),
    fetched: fetched === 0 ? 'nothing fetched' : `${formatBytes(fetched)} fetched`,
  };
}

const fraction = (part: number, whole: number): number => (whole === 0 ? 1 : part / whole);

const uploadName = (path: 'ring' | 'writeBuffer'): string =>
  path === 'ring' ? 'a ring of mapped buffers' : 'writeBuffer';

/** Ticks are round numbers: "64 MiB" rather than "64.00 MiB". */
const formatTick = (nbytes: number): string => formatBytes(nbytes).replace(/\.0+(?=\u00a0)/, '');
