// A line over time as SVG: axes with round numbers of KiB, MiB and GiB, an area under the line, a limit where there is one.
import { createSvg } from './dom.js';
import { formatDuration } from './format.js';
import type { Point } from './time_series.js';

export interface PlotData {
  points: readonly Point[];
  format: (value: number) => string;
  /** A line across, and its name. */
  limit?: { value: number; label: string };
  /** What the picture shows, for those who do not see it. */
  description: string;
}

const MARGIN = { top: 8, right: 8, bottom: 22, left: 80 };

/** Draws into an SVG element, again whenever its width changes. */
export class Plot {
  readonly #svg: SVGSVGElement;
  #data: PlotData | undefined;

  constructor(svg: SVGSVGElement) {
    this.#svg = svg;
    new ResizeObserver(() => {
      this.#draw();
    }).observe(svg);
  }

  show(data: PlotData): void {
    this.#data = data;
    this.#svg.setAttribute('aria-label', data.description);
    this.#draw();
  }

  #draw(): void {
    const { clientWidth: width, clientHeight: height } = this.#svg;
    if (!this.#data || width === 0) return;
    const { points, format, limit } = this.#data;
    const right = width - MARGIN.right;
    const bottom = height - MARGIN.bottom;
    const most = Math.max(1, limit?.value ?? 0, ...points.map(({ value }) => value));
    const step = 2 ** Math.ceil(Math.log2(most / 4));
    // Room above for the name of the limit
    const top = most * (limit ? 1.2 : 1.05);
    const end = Math.max(1, points.at(-1)?.at ?? 1);
    const x = (at: number): number => MARGIN.left + (at / end) * (right - MARGIN.left);
    const y = (value: number): number => bottom - (value / top) * (bottom - MARGIN.top);

    const parts: SVGElement[] = [];
    for (let value = 0; value <= top; value += step) {
      const at = y(value).toFixed(1);
      parts.push(createSvg('line', { class: 'axis', x1: MARGIN.left, x2: right, y1: at, y2: at }));
      const label = {
        class: 'tick',
        x: MARGIN.left - 8,
        y: at,
        'text-anchor': 'end',
        dy: '0.32em',
      };
      parts.push(createSvg('text', label, value === 0 ? '0' : format(value)));
    }
    for (const [at, anchor] of [
      [0, 'start'],
      [end, 'end'],
    ] as const) {
      const label = { class: 'tick', x: x(at), y: height - 4, 'text-anchor': anchor };
      if (points.length > 0) {
        parts.push(createSvg('text', label, at === 0 ? '0 s' : formatDuration(at)));
      }
    }
    if (points.length > 0) {
      // The first value holds from the beginning on
      const first = points[0]?.value ?? 0;
      const line = [{ at: 0, value: first }, ...points]
        .map(({ at, value }) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`)
        .join('L');
      const area = `M${x(0).toFixed(1)} ${bottom}L${line}L${x(end).toFixed(1)} ${bottom}Z`;
      parts.push(createSvg('path', { class: 'area', d: area }));
      parts.push(createSvg('path', { class: 'line', d: `M${line}` }));
    }
    if (limit) {
      const at = y(limit.value);
      parts.push(createSvg('line', { class: 'limit', x1: MARGIN.left, x2: right, y1: at, y2: at }));
      const label = { class: 'limit-label', x: right - 4, y: at - 5, 'text-anchor': 'end' };
      parts.push(createSvg('text', label, limit.label));
    }
    this.#svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.#svg.replaceChildren(...parts);
  }
}
