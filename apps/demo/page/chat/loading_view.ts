// What is shown of the model's start while it runs.
import { byId } from '../dom.js';
import { formatBytes, formatDuration, formatPercent } from '../format.js';
import type { Start } from './engine.js';

const DRAW_INTERVAL_MS = 100;
const ANNOUNCE_INTERVAL_MS = 10_000;

interface Phase {
  done: number;
  /** 0 where it is not known yet. */
  total: number;
  text: string;
}

export class LoadingView {
  readonly #section = byId('loading', HTMLElement);
  readonly #stage = byId('loading-stage', HTMLElement);
  readonly #say: (announcement: string) => void;
  #timer: number | undefined;
  #announced = 0;

  /** `say` tells screen readers. */
  constructor(say: (announcement: string) => void) {
    this.#say = say;
  }

  /** Follows a start until end(). */
  begin(start: Start, name: string): void {
    byId('loading-title', HTMLElement).textContent = `Loading ${name}`;
    this.#section.hidden = false;
    this.#announced = performance.now();
    this.#draw(start);
    this.#timer = window.setInterval(() => {
      this.#draw(start);
      this.#announce(start);
    }, DRAW_INTERVAL_MS);
  }

  end(): void {
    window.clearInterval(this.#timer);
    this.#section.hidden = true;
  }

  #draw(start: Start): void {
    const { wasmBytesDone, wasmBytes, weights, pipelinesDone, pipelines } = start.progress;
    const { dtype, software } = start.build;
    const size = weights?.sourceBytes ?? start.build.weightBytes;
    this.#stage.textContent =
      `${dtype}${software ? ', for software' : ''}, ${formatBytes(size)}; ` +
      `${formatDuration(start.elapsed)} so far`;
    this.#show('wasm', {
      done: wasmBytesDone,
      total: wasmBytes,
      text: bytesText(wasmBytesDone, wasmBytes),
    });
    this.#show('weights', {
      done: weights?.sourceBytesDone ?? 0,
      total: weights?.sourceBytes ?? 0,
      text: weights ? bytesText(weights.sourceBytesDone, weights.sourceBytes) : 'waiting',
    });
    this.#show('pipelines', {
      done: pipelinesDone,
      total: pipelines,
      text: pipelines > 0 ? `${pipelinesDone} of ${pipelines}` : 'waiting',
    });
  }

  #announce({ progress: { weights, pipelinesDone, pipelines } }: Start): void {
    const now = performance.now();
    if (now - this.#announced < ANNOUNCE_INTERVAL_MS || !weights) return;
    this.#announced = now;
    const percent = formatPercent(weights.sourceBytesDone, weights.sourceBytes);
    this.#say(`${percent} of the weights, ${pipelinesDone} of ${pipelines} pipelines`);
  }

  #show(name: string, { done, total, text }: Phase): void {
    const item = this.#section.querySelector<HTMLElement>(`[data-phase=${name}]`);
    const line = item?.querySelector('.muted');
    const bar = item?.querySelector('progress');
    if (!item || !line || !bar) return;
    item.dataset['state'] = total > 0 && done >= total ? 'done' : 'running';
    line.textContent = text;
    bar.value = total > 0 ? done / total : 0;
  }
}

function bytesText(done: number, total: number): string {
  if (done >= total) return formatBytes(total);
  return `${formatBytes(done)} of ${formatBytes(total)}, ${formatPercent(done, total)}`;
}
