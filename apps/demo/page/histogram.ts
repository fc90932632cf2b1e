// The distribution of a tensor's values as bars.
import { create, createSvg } from './dom.js';
import { formatCount, formatNumber } from './format.js';
import type { Statistics } from './statistics.js';

const WIDTH = 400;
const HEIGHT = 100;

/** Bars that fill their place, and the ends of their scale below. */
export function histogram({ bins, min, max }: Statistics): HTMLElement[] {
  const edge = (i: number): number => min + (i * (max - min)) / bins.length;
  const most = Math.max(1, ...bins);
  const width = WIDTH / bins.length;
  const svg = createSvg('svg', {
    class: 'histogram',
    role: 'img',
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: 'none',
  });
  bins.forEach((count, i) => {
    // A bin that is not empty is seen
    const height = count === 0 ? 0 : Math.max(1.5, (count / most) * HEIGHT);
    const bar = createSvg('rect', {
      x: (i * width + 0.5).toFixed(2),
      y: (HEIGHT - height).toFixed(2),
      width: Math.max(1, width - 1).toFixed(2),
      height: height.toFixed(2),
    });
    const range =
      min === max ? formatNumber(min) : `${formatNumber(edge(i))} to ${formatNumber(edge(i + 1))}`;
    bar.append(createSvg('title', {}, `${range}: ${formatCount(count)}`));
    svg.append(bar);
  });
  svg.append(createSvg('line', { class: 'axis', x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
  const scale = create('div', { class: 'histogram-scale', 'aria-hidden': 'true' });
  scale.append(create('span', {}, formatNumber(min)));
  if (min !== max) {
    const zero = -min / (max - min);
    // Where there is room for its label
    if (zero > 0.25 && zero < 0.75) {
      const x = zero * WIDTH;
      svg.append(createSvg('line', { class: 'zero', x1: x, x2: x, y1: 0, y2: HEIGHT }));
      const label = create('span', { class: 'zero' }, '0');
      label.style.left = `${100 * zero}%`;
      scale.append(label);
    }
    scale.append(create('span', {}, formatNumber(max)));
  }
  const peak = bins.indexOf(most);
  svg.setAttribute(
    'aria-label',
    min === max
      ? `Histogram: every value is ${formatNumber(min)}`
      : `Histogram of values from ${formatNumber(min)} to ${formatNumber(max)}; ` +
          `the fullest of ${bins.length} bars is from ${formatNumber(edge(peak))} to ${formatNumber(edge(peak + 1))}`,
  );
  return [create('div', {}, svg), scale];
}
