// The script that draws: charts have the marks that their figures say, and files of another form are refused.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import { parseHTML } from 'linkedom';

const SCRIPT = fileURLToPath(new URL('plots.mjs', import.meta.url));
const RESULTS = fileURLToPath(new URL('results', import.meta.url));
const FIGURES = fileURLToPath(new URL('../docs/figures', import.meta.url));

const THROUGHPUT = {
  adapter: 'nvidia',
  userAgent: 'Mozilla/5.0 HeadlessChrome/156.0.1.2 Safari/537.36',
  modelBytes: 1e9,
  rows: [
    { name: 'bare loop, ring', gigabytesPerSecond: 2, ratio: 1, milliseconds: [400, 500, 625] },
    { name: 'sluice, all in a worker', gigabytesPerSecond: 1, ratio: 0.5, milliseconds: [1000] },
    {
      name: 'tvmjs 0.27 <its steps>',
      gigabytesPerSecond: 0.25,
      ratio: 0.125,
      milliseconds: [4000],
    },
    { name: 'arrayBuffer()', failure: 'RangeError: Array buffer allocation failed' },
  ],
};
const LOAD = {
  date: '2026-11-22T17:00:13.648Z',
  command: 'node bench/main.mjs --where chromium',
  machine: 'a GPU & 16 cores',
  model: 'synthetic',
  nbytes: 2 ** 30,
  chromium: THROUGHPUT,
};
const storeRun = (date, ratio) => ({
  ...LOAD,
  date,
  chromium: undefined,
  store: {
    chromium: {
      ...THROUGHPUT,
      rows: THROUGHPUT.rows.map((row) => (row.ratio === 0.5 ? { ...row, ratio } : row)),
    },
  },
});

describe('bench/plots.mjs', () => {
  let folder;
  before(async () => (folder = await mkdtemp(join(tmpdir(), 'sluice-plots-'))));
  after(() => rm(folder, { recursive: true }));

  /** Runs the script, `out` being a fresh folder; gives its exit status, what it said, and what it drew. */
  async function plot(files, options = []) {
    const out = await mkdtemp(join(folder, 'out-'));
    const paths = [];
    for (const [name, content] of Object.entries(files)) {
      paths.push(join(folder, name));
      await writeFile(
        paths.at(-1),
        typeof content === 'string' ? content : JSON.stringify(content),
      );
    }
    const ran = await new Promise((resolve) =>
      execFile(process.execPath, [SCRIPT, '--out', out, ...options, ...paths], (error, _, stderr) =>
        resolve({ status: error?.code ?? 0, stderr }),
      ),
    );
    const drawings = {};
    for (const name of await readdir(out)) drawings[name] = await readFile(join(out, name), 'utf8');
    return { ...ran, drawings };
  }

  /** The texts of a drawing, and its marks as lists of numbers by their attributes. */
  function read(svg) {
    const { document } = parseHTML(svg);
    const numbers = (selector, ...names) =>
      [...document.querySelectorAll(selector)].map((element) =>
        names.map((name) => Number(element.getAttribute(name))),
      );
    const texts = [...document.querySelectorAll('text')].map(({ textContent }) => textContent);
    return { document, texts, numbers };
  }

  it('draws a bar as long as its rate, a line for its range, and what it was measured with', async () => {
    const { status, stderr, drawings } = await plot({ 'load.json': LOAD });
    assert.equal(stderr, '');
    assert.equal(status, 0);
    assert.deepEqual(Object.keys(drawings), ['load.svg']);
    const { texts, numbers } = read(drawings['load.svg']);
    const bars = numbers('[aria-label="bar"] rect', 'x', 'width', 'y');
    assert.equal(bars.length, 4);
    const [bare, sluice, tvmjs, failed] = bars.map(([, width]) => width);
    assert.ok(Math.abs(bare / sluice - 2) < 0.01, `${bare} is not twice ${sluice}`);
    assert.ok(Math.abs(bare / tvmjs - 8) < 0.05, `${bare} is not eight times ${tvmjs}`);
    assert.equal(failed, 0);
    // 1e9 bytes in 400 to 625 ms: 1.6 to 2.5 GB/s
    const [[low, high]] = numbers('[aria-label="rule"] line', 'x1', 'x2');
    assert.ok(Math.abs((high - low) / (bare / 2) - 0.9) < 0.01, `${low} to ${high} of ${bare}`);
    for (const text of [
      'Loading 1 GiB in the browser',
      'sluice, all in a worker',
      '1.00 (0.50)',
      'failed',
      'tvmjs 0.27 <its steps>',
      '2026-11-22 · headless Chrome 156 · a GPU & 16 cores',
      'node bench/main.mjs --where chromium',
    ]) {
      assert.ok(texts.includes(text), `no '${text}' in ${JSON.stringify(texts)}`);
    }
  });

  it('is XML with a light background over the whole drawing', async () => {
    const { drawings } = await plot({ 'load.json': LOAD });
    const svg = drawings['load.svg'];
    assert.match(svg, /^<svg [^>]*xmlns="http:\/\/www\.w3\.org\/2000\/svg"/);
    assert.match(svg, /tvmjs 0\.27 &lt;its steps&gt;/);
    assert.match(svg, /a GPU &amp; 16 cores/);
    const { document } = read(svg);
    const [paper] = document.querySelectorAll('rect');
    const whole = document.querySelector('svg').getAttribute('width');
    assert.equal(Number(paper.getAttribute('width')) + 1, Number(whole));
    assert.equal(paper.getAttribute('fill'), '#ffffff');
  });

  it('draws pairs on a logarithmic axis, with their ratio', async () => {
    const rows = [
      { name: 'a call', ours: 10, theirs: 100, ratio: 0.1 },
      { name: 'another', ours: 100, theirs: 1000, ratio: 0.1 },
    ];
    const { drawings } = await plot({
      'calls.json': { ...LOAD, chromium: undefined, runtime: { Node: { startupMs: 1, rows } } },
    });
    const { texts, numbers, document } = read(drawings['calls.svg']);
    const dots = numbers('[aria-label="dot"] circle', 'cx').flat();
    assert.equal(dots.length, 4);
    const [theirs, moreTheirs, ours, moreOurs] = dots;
    assert.ok(
      Math.abs(moreTheirs - theirs - (theirs - ours)) < 0.1,
      `${dots} are not at even steps`,
    );
    assert.equal(moreOurs, theirs);
    assert.equal(document.querySelectorAll('[aria-label="link"] path').length, 2);
    assert.equal(texts.filter((text) => text === '0.10').length, 2);
    assert.ok(texts.includes('Node'));
  });

  it('draws memory by the size of the model, and the aim', async () => {
    const measured = (gib, mib) => ({
      nbytes: gib * 2 ** 30,
      budget: 64 * 2 ** 20,
      browser: [{ name: 'sluice, main thread and worker', above: { total: mib * 2 ** 20 } }],
    });
    const memory = [measured(1, 64), measured(8, 256)];
    const { drawings } = await plot({ 'memory.json': { ...LOAD, chromium: undefined, memory } });
    const { texts, numbers } = read(drawings['memory.svg']);
    const [[left, one], [, eight]] = numbers('[aria-label="bar"] rect', 'x', 'width');
    assert.ok(Math.abs(eight / one - 4) < 0.02, `${eight} is not four times ${one}`);
    const aim = numbers('[aria-label="rule"][stroke-dasharray] line', 'x1').flat();
    assert.equal(aim.length, 1);
    assert.ok(Math.abs((aim[0] - left) / one - 2) < 0.02, `128 MiB is not at ${aim}`);
    assert.ok(texts.includes('64') && texts.includes('256') && texts.includes('8 GiB'));
  });

  it('draws the ratios of several runs as one drawing, the latest filled', async () => {
    const { drawings, stderr } = await plot(
      {
        'b.json': storeRun('2026-11-22T20:00:00.000Z', 0.75),
        'a.json': storeRun('2026-11-21T20:00:00.000Z', 0.5),
      },
      ['--ratios', 'ratios'],
    );
    assert.equal(stderr, '');
    assert.deepEqual(Object.keys(drawings), ['ratios.svg']);
    const { texts, document } = read(drawings['ratios.svg']);
    const dots = [...document.querySelectorAll('[aria-label="dot"]')].map((group) => [
      group.getAttribute('fill'),
      Number(group.querySelector('circle').getAttribute('cx')),
    ]);
    assert.equal(dots.length, 2);
    const [[earlierFill, earlier], [latestFill, latest]] = dots;
    assert.ok(earlierFill === '#ffffff' && latestFill !== '#ffffff');
    assert.ok(earlier < latest, 'the latest run has the larger ratio');
    assert.ok(texts.includes('0.50 to 0.75'));
  });

  it('leaves out a part whose rows are empty, and says that a contestant failed', async () => {
    const { status, drawings } = await plot({
      'part.json': {
        ...LOAD,
        chromium: { ...THROUGHPUT, rows: THROUGHPUT.rows.slice(-1) },
        runtime: { Node: { rows: [] } },
      },
    });
    assert.equal(status, 0);
    assert.deepEqual(Object.keys(drawings), ['part.svg']);
    assert.ok(read(drawings['part.svg']).texts.includes('failed'));
  });

  it('names a drawing after the part where a file has several', async () => {
    const rows = [{ name: 'a call', ours: 1, theirs: 2 }];
    const { drawings } = await plot({ 'all.json': { ...LOAD, runtime: { Node: { rows } } } });
    assert.deepEqual(Object.keys(drawings).sort(), ['all-chromium.svg', 'all-runtime.svg']);
  });

  for (const [what, content, message] of [
    ['text that is no JSON', '{"date": ', /bad\.json: not JSON: /],
    ['a list', [], /bad\.json: no figures: an object is expected/],
    ['another file of the project', { name: 'sluice' }, /bad\.json: date is missing, not a date/],
    [
      'figures without a part that is drawn',
      { date: '2026-11-22', size: {} },
      /bad\.json: nothing to draw: it has no rows of chromium, node, store\.chromium, .*dispatch/,
    ],
    [
      'a rate that is a text',
      { ...LOAD, chromium: { modelBytes: 1, rows: [{ name: 'a', gigabytesPerSecond: '2' }] } },
      /bad\.json: chromium\.rows\[0\]\.gigabytesPerSecond is "2", not a number/,
    ],
    [
      'a time of nothing',
      { ...LOAD, runtime: { Node: { rows: [{ name: 'a', ours: 0, theirs: 1 }] } } },
      /bad\.json: runtime\.Node\.rows\[0\]\.ours is 0, not above 0/,
    ],
    [
      'no rows at all',
      { ...LOAD, chromium: { modelBytes: 1, rows: [] } },
      /bad\.json: nothing to draw/,
    ],
    [
      'rows that are none',
      { ...LOAD, chromium: { modelBytes: 1, rows: {} } },
      /bad\.json: chromium\.rows is \{\}, not a list/,
    ],
    [
      'times that are none',
      {
        ...LOAD,
        chromium: { modelBytes: 1, rows: [{ ...THROUGHPUT.rows[0], milliseconds: [] }] },
      },
      /bad\.json: chromium\.rows\[0\]\.milliseconds is empty/,
    ],
    [
      'memory without its total',
      { ...LOAD, memory: [{ nbytes: 1, budget: 1, browser: [{ name: 'a' }] }] },
      /bad\.json: memory\[0\]\.browser\[0\]\.above\.total is missing, not a number/,
    ],
  ]) {
    it(`refuses ${what}, and draws nothing of the file`, async () => {
      const { status, stderr, drawings } = await plot({ 'bad.json': content });
      assert.equal(status, 1);
      assert.match(stderr, message);
      assert.equal(stderr.trim().split('\n').length, 1, stderr);
      assert.deepEqual(drawings, {});
    });
  }

  it('says which file is not there, and what of a run is missing', async () => {
    const missing = await plot({}, [join(folder, 'nowhere.json')]);
    assert.equal(missing.status, 1);
    assert.match(missing.stderr, /nowhere\.json/);
    const noStore = await plot({ 'load.json': LOAD }, ['--ratios', 'ratios']);
    assert.equal(noStore.status, 1);
    assert.match(noStore.stderr, /load\.json: store\.chromium\.modelBytes is missing/);
  });

  it('draws the results of the project as docs/figures has them (make plots)', async () => {
    const paths = [];
    for (const name of await readdir(RESULTS)) {
      if (name.endsWith('.json')) paths.push(join(RESULTS, name));
    }
    const { status, stderr, drawings } = await plot({}, paths);
    assert.equal(stderr, '');
    assert.equal(status, 0);
    assert.ok(paths.length > 0);
    for (const [name, svg] of Object.entries(drawings)) {
      assert.ok(svg === (await readFile(join(FIGURES, name), 'utf8')), `${name} is another`);
    }
  });
});
