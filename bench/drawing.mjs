// Forms of charts as SVG that stands alone. The background is light and their own: an image in a page does not know
// whether the page is dark. Rows are `{header}`, or `{label, …}` with what the form takes;
// where there are none, there is no chart: undefined.
import * as Plot from '@observablehq/plot';
import { parseHTML } from 'linkedom';

// Pixels. GitHub shows a page's text some 850 wide
const WIDTH = 860;
const ROW = 24;
const LINE = 18;
const EDGE = 16;
const TOP = 70;
const AXIS = 58;
const VALUES = 130;
/** Of a letter, on average; what a viewer's font takes is not known here. */
const LETTER = 6.9;
const CAPTION_LETTERS = 130;

const FONT = 'font: 13px system-ui, -apple-system, "Segoe UI", sans-serif';
const INK = { text: '#1f2328', faint: '#59636e', grid: '#d8dee4', paper: '#ffffff' };
const ROLES = { sluice: '#1f6feb', limit: '#8c959f', other: '#d4762a' };
/** Text that a line may cross. */
const HALO = { stroke: INK.paper, strokeWidth: 4, fill: INK.text };
const DASHED = { stroke: INK.text, strokeDasharray: '4 3' };

/**
 * A bar for each `{label, role, value, text}`, with a line from `low` to `high` where there are such. `legend`:
 * `[role, text]`, shown where a bar has the role. `aim` is a dashed line.
 */
export function barChart({ title, legend, rows, label, aim, caption }) {
  if (rows.length === 0) return undefined;
  const marked = keyed(rows);
  const bars = marked.filter(({ value }) => value !== undefined);
  const ranged = bars.filter(({ low }) => low !== undefined);
  const end = ({ value, high = 0 }) => Math.max(value, high);
  const roles = new Set(bars.map(({ role }) => role));
  const inset = { insetTop: 3, insetBottom: 3 };
  return draw({
    title,
    legend: legend.filter(([role]) => role === undefined || roles.has(role)),
    caption,
    rows: marked,
    x: { label, ticks: 6, domain: [0, 1.01 * Math.max(aim ?? 0, ...bars.map(end)) || 1] },
    marks: [
      Plot.barX(bars, { x: 'value', y: 'key', fill: ({ role }) => ROLES[role], ...inset }),
      Plot.ruleY(ranged, { x1: 'low', x2: 'high', y: 'key', stroke: INK.text, strokeWidth: 1.5 }),
      Plot.ruleX([0], { stroke: INK.text }),
      Plot.ruleX(aim === undefined ? [] : [aim], DASHED),
      Plot.text(bars, { x: end, y: 'key', text: 'text', dx: 7, textAnchor: 'start', ...HALO }),
    ],
  });
}

/** Two dots for each `{label, ours, theirs}`, on a logarithmic axis, and their ratio. */
export function pairChart({ title, legend, rows, label, caption }) {
  if (rows.length === 0) return undefined;
  const marked = keyed(rows);
  const pairs = marked.filter(({ ours }) => ours !== undefined);
  const ends = pairs.flatMap(({ ours, theirs }) => [ours, theirs]);
  // Room for the numbers beside the dots
  const domain = [Math.min(...ends) / 2, Math.max(...ends) * 2];
  const side = (x, other, role) => [
    Plot.dot(pairs, { x, y: 'key', r: 5, fill: ROLES[role] }),
    ...[-1, 1].map((direction) =>
      Plot.text(
        pairs.filter((row) => (row[x] < row[other] ? -1 : 1) === direction),
        {
          ...HALO,
          x,
          y: 'key',
          text: (row) => threeDigits(row[x]),
          dx: 9 * direction,
          textAnchor: direction < 0 ? 'end' : 'start',
        },
      ),
    ),
  ];
  return draw({
    title,
    legend: [...legend, [undefined, 'at the right: the ratio']],
    caption,
    rows: marked,
    x: { type: 'log', domain, label, ticks: logarithmicTicks(domain), tickText: String },
    marks: [
      Plot.link(pairs, { x1: 'ours', x2: 'theirs', y: 'key', stroke: ROLES.limit, strokeWidth: 2 }),
      ...side('theirs', 'ours', 'other'),
      ...side('ours', 'theirs', 'sluice'),
      Plot.text(pairs, {
        frameAnchor: 'right',
        y: 'key',
        text: ({ ours, theirs }) => (ours / theirs).toFixed(2),
        dx: VALUES - EDGE,
        textAnchor: 'end',
        fontWeight: 600,
        fill: INK.text,
      }),
    ],
  });
}

/** A dot for each of `{label, values}`, the last one filled, and their range; `aim` is a dashed line, 1 a line. */
export function ratioChart({ title, legend, rows, label, aim, caption }) {
  if (rows.length === 0) return undefined;
  const marked = keyed(rows);
  const measured = marked.filter(({ values }) => values !== undefined);
  const last = measured.map(({ key, values }) => ({ key, value: values.at(-1) }));
  const earlier = measured.flatMap(({ key, values }) =>
    values.slice(0, -1).map((value) => ({ key, value })),
  );
  const dot = { x: 'value', y: 'key', r: 5, stroke: ROLES.sluice };
  return draw({
    title,
    legend,
    caption,
    rows: marked,
    x: {
      label,
      ticks: 6,
      domain: [0, Math.max(1.05, ...measured.flatMap(({ values }) => values))],
    },
    marks: [
      Plot.ruleX([1], { stroke: INK.text }),
      Plot.ruleX([aim], DASHED),
      Plot.dot(earlier, { ...dot, fill: INK.paper }),
      Plot.dot(last, { ...dot, fill: ROLES.sluice }),
      Plot.text(measured, {
        frameAnchor: 'right',
        y: 'key',
        text: ({ values }) => rangeText(values),
        dx: VALUES - EDGE,
        textAnchor: 'end',
        fill: INK.text,
      }),
    ],
  });
}

/** Rows with a key each: labels may repeat, once under each header. */
const keyed = (rows) => rows.map((row, key) => ({ ...row, key }));

const threeDigits = (value) => (value < 99.95 ? value.toPrecision(3) : value.toFixed(0));

function rangeText(values) {
  const [low, high] = [Math.min(...values).toFixed(2), Math.max(...values).toFixed(2)];
  return low === high ? low : `${low} to ${high}`;
}

/** 1, 2, 5, 10, … within the domain. */
function logarithmicTicks([low, high]) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
    for (const digit of [1, 2, 5]) ticks.push(digit * 10 ** power);
  }
  return ticks.filter((tick) => tick >= low && tick <= high);
}

/** Plot's drawing of the rows, the title and the legend above it, the axis' label and the caption below. */
function draw({ title, legend, caption, rows, x, marks }) {
  const { document } = parseHTML('<html><body></body></html>');
  const captionLines = caption.flatMap(wrapped);
  const longest = Math.max(...rows.map(({ label = '' }) => label.length));
  const margins = {
    marginLeft: Math.max(90, Math.ceil(longest * LETTER) + 28),
    marginRight: VALUES,
    marginTop: TOP,
    marginBottom: AXIS + LINE * captionLines.length,
  };
  const height = TOP + ROW * rows.length + margins.marginBottom;
  // A tick's format leaves out some of a logarithmic axis, `text` does not
  const { label, ticks, tickText, ...scale } = x;
  const axis = {
    anchor: 'bottom',
    label: null,
    tickSize: 0,
    ticks,
    text: tickText,
    fill: INK.faint,
  };
  const named = { y: 'key', frameAnchor: 'left' };
  const svg = Plot.plot({
    document,
    className: 'chart',
    width: WIDTH,
    height,
    ...margins,
    x: { ...scale, axis: null },
    y: { type: 'band', domain: rows.map(({ key }) => key), padding: 0, axis: null },
    marks: [
      Plot.gridX({ ticks, stroke: INK.grid, strokeOpacity: 1 }),
      Plot.axisX(axis),
      ...marks,
      Plot.text(
        rows.filter((row) => row.label !== undefined),
        { ...named, text: 'label', dx: -10, textAnchor: 'end', fill: INK.text },
      ),
      Plot.text(
        rows.filter(({ header }) => header !== undefined),
        {
          ...named,
          ...HALO,
          text: 'header',
          dx: EDGE - margins.marginLeft,
          dy: 2,
          textAnchor: 'start',
          fontWeight: 600,
        },
      ),
    ],
  });
  svg.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
  svg.setAttribute('role', 'img');
  svg.setAttribute('style', FONT);
  const element = (name, attributes, text = '') => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  const write = (left, y, text, attributes) =>
    svg.append(
      element('text', { x: left, y, 'text-anchor': 'start', fill: INK.faint, ...attributes }, text),
    );
  const paper = { x: 0.5, y: 0.5, width: WIDTH - 1, height: height - 1, rx: 6 };
  svg.prepend(
    element('title', {}, title),
    element('rect', { ...paper, fill: INK.paper, stroke: INK.grid }),
  );
  write(EDGE, 28, title, { 'font-size': 16, 'font-weight': 600, fill: INK.text });
  let left = EDGE;
  for (const [role, text] of legend) {
    if (role !== undefined) {
      const square = { x: left, y: 41, width: 11, height: 11, rx: 2, fill: ROLES[role] };
      svg.append(element('rect', square));
      left += 17;
    }
    write(left, 51, text);
    left += text.length * LETTER + 20;
  }
  const foot = height - margins.marginBottom + 38;
  write(margins.marginLeft, foot, label);
  for (const [at, line] of captionLines.entries()) {
    write(EDGE, foot + LINE * at + 28, line, { 'font-size': 12 });
  }
  return `${svg.toString()}\n`;
}

function wrapped(text) {
  const lines = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + word.length >= CAPTION_LETTERS) lines.push(word);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}
