// What of the figures that bench/main.mjs writes is drawn, and how.
import { barChart, pairChart, ratioChart } from './drawing.mjs';
import { median } from './size.mjs';
import { TARGET_RATIO } from './store.mjs';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** Of memory above the budget, at most. */
const MEMORY_AIM_BYTES = 64 * MIB;

const SECTIONS = [
  {
    keys: ['chromium'],
    chart: (part, path, figures) =>
      throughputChart(part, path, `Loading ${modelText(figures)} in the browser`, figures),
  },
  {
    keys: ['node'],
    chart: (part, path, figures) =>
      throughputChart(part, path, `Loading ${modelText(figures)} in Node`, figures),
  },
  {
    keys: ['store', 'chromium'],
    chart: (part, path, figures) =>
      throughputChart(
        part,
        path,
        `${modelText(figures)} and the local store, in the browser`,
        figures,
      ),
  },
  {
    keys: ['store', 'node'],
    chart: (part, path, figures) =>
      throughputChart(part, path, `${modelText(figures)} from the local store, in Node`, figures),
  },
  { keys: ['store', 'gatherRows'], chart: gatherChart },
  { keys: ['expand'], chart: expandChart },
  { keys: ['memory'], chart: memoryChart },
  { keys: ['runtime'], chart: runtimeChart },
  { keys: ['dispatch'], chart: dispatchChart },
];

/**
 * What `figures` of the file `name` hold that can be drawn: `[{name, svg}]`. Throws, with the file and the place in
 * it, where they are of another form.
 */
export function chartsOf(figures, name) {
  checkFigures(figures, name);
  const charts = [];
  for (const { keys, chart } of SECTIONS) {
    const part = keys.reduce((within, key) => within?.[key], figures);
    // `node` is Node's version where nothing was measured in it
    if (part === undefined || typeof part === 'string') continue;
    const svg = chart(part, `${name}: ${keys.join('.')}`, figures);
    if (svg !== undefined) charts.push({ name: keys.join('-'), svg });
  }
  if (charts.length === 0) {
    const known = SECTIONS.map(({ keys }) => keys.join('.')).join(', ');
    throw new Error(`${name}: nothing to draw: it has no rows of ${known}`);
  }
  return charts;
}

/** Sluice's ratios to the bare loop in several runs of `--where store`: `[{name, figures}]`. */
export function ratiosOf(runs) {
  const rows = new Map();
  for (const { name, figures } of runs) checkFigures(figures, name);
  const inOrder = runs.toSorted((a, b) => a.figures.date.localeCompare(b.figures.date));
  for (const { name, figures } of inOrder) {
    const list = throughputRows(figures.store?.chromium, `${name}: store.chromium`);
    for (const row of list) {
      if (roleOf(row) !== 'sluice' || row.ratio === undefined) continue;
      const model = modelText(figures);
      const key = JSON.stringify([model, row.name]);
      if (!rows.has(key)) rows.set(key, { model, label: row.name, values: [] });
      rows.get(key).values.push(row.ratio);
    }
  }
  return ratioChart({
    title: 'The local store: Sluice beside the bare loop of the same run',
    legend: [
      ['sluice', `a dot for each of ${runs.length} runs; filled: the latest`],
      [undefined, `dashed: the aim, ${TARGET_RATIO}`],
    ],
    rows: underHeaders([...rows.values()], ({ model }) => model),
    label: 'of the fastest bare loop of its kind; cold, of fetching and discarding',
    aim: TARGET_RATIO,
    caption: captionOf(inOrder.map(({ figures }) => figures)),
  });
}

// The parts of the figures

const KINDS = {
  'warm, worker': 'Warm, the device in a worker',
  'warm, main thread': 'Warm, the device on the main thread',
  cold: 'Cold',
  cpu: 'Warm, to CPU memory',
  device: 'Warm, to the device',
};

function throughputChart(part, path, title, figures) {
  const rows = throughputRows(part, path).map((row) => {
    const { name, kind, failure, gigabytesPerSecond: value, ratio } = row;
    // The rest of it the header says
    const label = kind === undefined ? name : name.replace(/^(warm|cold): /, '');
    const role = roleOf(row);
    if (failure !== undefined) return { kind, label, role, value: 0, text: 'failed' };
    const text = value.toFixed(2) + (ratio === undefined ? '' : ` (${ratio.toFixed(2)})`);
    return { kind, label, role, value, text, ...rangeOf(row, part.modelBytes) };
  });
  return barChart({
    title,
    legend: [
      ['sluice', 'Sluice'],
      ['limit', 'without a library (in parentheses: of the best bare loop)'],
      ['other', 'common ways and tvmjs'],
    ],
    rows: underHeaders(rows, ({ kind }) => KINDS[kind] ?? kind),
    label: 'GB/s, median; line: slowest to fastest',
    caption: captionOf([figures]),
  });
}

/** Figures that were taken from a table have no times, but their range. */
function rangeOf({ milliseconds, slowest, fastest }, bytes) {
  if (milliseconds === undefined) return { low: slowest, high: fastest };
  const rate = (ms) => bytes / ms / 1e6;
  return { low: rate(Math.max(...milliseconds)), high: rate(Math.min(...milliseconds)) };
}

function roleOf({ name }) {
  if (/\bsluice\b/.test(name)) return 'sluice';
  return /tvmjs|arrayBuffer/.test(name) ? 'other' : 'limit';
}

function gatherChart(part, path, figures) {
  const rows = list(part, path).map((row, at) => {
    const label = text(row.name, `${path}[${at}].name`);
    const times = positives(row.milliseconds, `${path}[${at}].milliseconds`);
    const value = median(times);
    const [low, high] = [Math.min(...times), Math.max(...times)];
    return { label, role: roleOf(row), value, low, high, text: value.toFixed(1) };
  });
  const rowBytes = positive(part[0].rowBytes, `${path}[0].rowBytes`);
  const size = sizeText(positive(part[0].tensorBytes, `${path}[0].tensorBytes`));
  return barChart({
    title: `gatherRows(): 512 rows of ${rowBytes} bytes of a tensor of ${size} on disk`,
    legend: [
      ['sluice', 'Sluice'],
      ['limit', 'without a library'],
    ],
    rows,
    label: 'milliseconds, median; line: fastest to slowest',
    caption: captionOf([figures]),
  });
}

const ROLES_BY = { device: 'sluice', cpu: 'other' };

function expandChart(part, path, figures) {
  const rows = hostRows(part, path).map(({ host, row, path: at }) => {
    const label = text(row.name, `${at}.name`);
    const value = positive(row.outputGigabytesPerSecond, `${at}.outputGigabytesPerSecond`);
    const bytes = positive(row.outputBytes, `${at}.outputBytes`);
    const milliseconds = positives(row.milliseconds, `${at}.milliseconds`);
    const role = ROLES_BY[row.by] ?? 'limit';
    const range = rangeOf({ milliseconds }, bytes);
    return { host, label, role, value, text: value.toFixed(2), ...range };
  });
  return barChart({
    title: 'From memory to the GPU, expanded on the way',
    legend: [
      ['sluice', 'expanded by the GPU'],
      ['other', 'by the codecs, on the CPU'],
      ['limit', 'copied as stored'],
    ],
    rows: underHeaders(rows, ({ host }) => host),
    label: 'GB/s of output, median; line: slowest to fastest',
    caption: captionOf([figures]),
  });
}

function memoryChart(part, path, figures) {
  const rows = list(part, path).flatMap(({ nbytes, budget, browser, node }, at) => {
    const label = sizeText(positive(nbytes, `${path}[${at}].nbytes`));
    positive(budget, `${path}[${at}].budget`);
    const row = (load, bytes) => ({
      load,
      label,
      role: roleOf({ name: load }),
      value: Math.max(0, bytes / MIB),
      text: (bytes / MIB).toFixed(0),
    });
    const rows = array(browser, `${path}[${at}].browser`).map(({ name, above }, index) => {
      const place = `${path}[${at}].browser[${index}]`;
      return row(text(name, `${place}.name`), number(above?.total, `${place}.above.total`));
    });
    if (node === undefined) return rows;
    const bytes = number(node.above, `${path}[${at}].node.above`);
    return [...rows, row('sluice in Node, bytes dropped', bytes)];
  });
  const aim = (part[0].budget + MEMORY_AIM_BYTES) / MIB;
  return barChart({
    title: `Peak memory above idle, with a budget of ${sizeText(part[0].budget)}`,
    legend: [
      ['sluice', 'Sluice, by size of the model'],
      ['limit', 'without a library'],
      [undefined, `dashed: the aim, ${aim.toFixed(0)} MiB`],
    ],
    rows: underHeaders(rows, ({ load }) => load),
    label: 'MiB',
    aim,
    caption: captionOf([figures]),
  });
}

const PAIR = [
  ['sluice', 'Sluice'],
  ['other', "tvmjs's JavaScript"],
];

function runtimeChart(part, path, figures) {
  const rows = hostRows(part, path).map(({ host, row, path: at }) => ({
    host,
    label: text(row.name, `${at}.name`),
    ours: positive(row.ours, `${at}.ours`),
    theirs: positive(row.theirs, `${at}.theirs`),
  }));
  return pairChart({
    title: 'Calls across the boundary of JavaScript and wasm',
    legend: PAIR,
    rows: underHeaders(rows, ({ host }) => host),
    label: 'nanoseconds a call, median, logarithmic',
    caption: captionOf([figures]),
  });
}

const UNTIL = { call: 'until the last call returns', done: 'until the GPU is done' };

function dispatchChart(part, path, figures) {
  const rows = hostRows(part, path).flatMap(({ host, row, path: at }) =>
    Object.keys(UNTIL).map((until) => ({
      until: `${host}, ${UNTIL[until]}`,
      label: text(row.name, `${at}.name`),
      ours: positive(row.sluice?.[until], `${at}.sluice.${until}`),
      theirs: positive(row.tvmjs?.[until], `${at}.tvmjs.${until}`),
    })),
  );
  return pairChart({
    title: 'Work for the WebGPU device',
    legend: PAIR,
    rows: underHeaders(rows, ({ until }) => until),
    label: 'microseconds a step, median, logarithmic',
    caption: captionOf([figures]),
  });
}

/** The rows, each group of them after its header; those whose header is undefined without. */
function underHeaders(rows, headerOf) {
  const groups = new Map();
  for (const row of rows) {
    const header = headerOf(row);
    if (!groups.has(header)) groups.set(header, header === undefined ? [] : [{ header }]);
    groups.get(header).push(row);
  }
  return [...groups.values()].flat();
}

/** When, with what and where, and the commands. */
function captionOf(runs) {
  const each = (of) => [...new Set(runs.map(of).filter(Boolean))];
  const day = ({ date }) => date.slice(0, 10);
  const origin = [day, softwareOf, machineOf].flatMap(each).join(' · ');
  return [origin, ...each(({ command }) => command)];
}

function softwareOf({ software, userAgent, node, chromium, store }) {
  if (software !== undefined) return software;
  const agent = userAgent ?? chromium?.userAgent ?? store?.chromium?.userAgent ?? '';
  const [, headless, version] = /(Headless)?Chrome\/(\d+)/.exec(agent) ?? [];
  const browser = version && `${headless ? 'headless ' : ''}Chrome ${version}`;
  return [browser, typeof node === 'string' && `Node ${node.slice(1)}`].filter(Boolean).join(', ');
}

function machineOf({ machine, cpus, chromium, node, store, expand, dispatch }) {
  if (machine !== undefined) return machine;
  const parts = [chromium, node, store?.chromium, store?.node];
  for (const hosts of [expand, dispatch]) parts.push(...Object.values(hosts ?? {}));
  const adapter = parts.find((part) => part?.adapter)?.adapter;
  return [adapter && `GPU: ${adapter}`, cpus && `${cpus} processor cores`]
    .filter(Boolean)
    .join(', ');
}

const sizeText = (bytes) =>
  bytes >= GIB ? `${Number((bytes / GIB).toFixed(2))} GiB` : `${(bytes / MIB).toFixed(0)} MiB`;

const modelText = ({ model = 'synthetic', nbytes }) =>
  model === 'synthetic' ? sizeText(nbytes) : `${model} (${(nbytes / 1e9).toFixed(2)} GB)`;

// Their form. Each gives what it was given, or throws with its place

const shown = (value) => JSON.stringify(value)?.slice(0, 60) ?? 'missing';

function number(value, path) {
  if (Number.isFinite(value)) return value;
  throw new Error(`${path} is ${shown(value)}, not a number`);
}

function positive(value, path) {
  if (number(value, path) > 0) return value;
  throw new Error(`${path} is ${value}, not above 0`);
}

function text(value, path) {
  if (typeof value === 'string' && value !== '') return value;
  throw new Error(`${path} is ${shown(value)}, not a text`);
}

/** It is empty where `--only` left nothing. */
function array(value, path) {
  if (Array.isArray(value)) return value;
  throw new Error(`${path} is ${shown(value)}, not a list`);
}

function list(value, path) {
  if (array(value, path).length > 0) return value;
  throw new Error(`${path} is empty`);
}

const positives = (values, path) =>
  list(values, path).map((value, at) => positive(value, `${path}[${at}]`));

/** The rows of each host's figures, `{Node: {rows}, Chromium: {rows}}`, with their places. */
const hostRows = (part, path) =>
  Object.entries(part).flatMap(([host, figures]) =>
    array(figures?.rows, `${path}.${host}.rows`).map((row, at) => ({
      host,
      row,
      path: `${path}.${host}.rows[${at}]`,
    })),
  );

function checkFigures(figures, name) {
  if (figures === null || typeof figures !== 'object' || Array.isArray(figures)) {
    throw new Error(`${name}: no figures: an object is expected, as bench/main.mjs writes it`);
  }
  if (!/^\d{4}-\d\d-\d\d/.test(figures.date)) {
    throw new Error(`${name}: date is ${shown(figures.date)}, not a date such as 2026-11-22`);
  }
}

/** The rows that bench/rounds.mjs measured. */
function throughputRows(part, path) {
  positive(part?.modelBytes, `${path}.modelBytes`);
  array(part.rows, `${path}.rows`).forEach((row, at) => {
    const place = `${path}.rows[${at}]`;
    text(row.name, `${place}.name`);
    if (row.failure !== undefined) return;
    positive(row.gigabytesPerSecond, `${place}.gigabytesPerSecond`);
    if (row.ratio !== undefined) positive(row.ratio, `${place}.ratio`);
    if (row.milliseconds !== undefined) positives(row.milliseconds, `${place}.milliseconds`);
  });
  return part.rows;
}
