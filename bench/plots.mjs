// Draws the figures that bench/main.mjs wrote. Unlike the measurements, it needs the packages of package.json.
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { chartsOf, ratiosOf } from './charts.mjs';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const HELP = `Usage: node bench/plots.mjs [options] [FILE...]

Draws what bench/main.mjs measured: FILE.json becomes FILE.svg, or FILE-<part>.svg where it holds several parts.

  FILE           figures (build/bench/bench.json)
  --out FOLDER   where the drawings go (beside build/bench/bench.json)
  --ratios NAME  one drawing, NAME.svg, of all files: the store's ratios to the bare loop
`;

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    out: { type: 'string', default: resolve(ROOT, 'build/bench') },
    ratios: { type: 'string' },
    help: { type: 'boolean', default: false },
  },
});

async function read(path) {
  const text = await readFile(path, 'utf8');
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${path}: not JSON: ${error.message}`, { cause: error });
  }
}

async function write(name, svg) {
  const path = join(options.out, `${name}.svg`);
  await writeFile(path, svg);
  console.log(relative(process.cwd(), path));
}

async function draw() {
  const paths = positionals.length > 0 ? positionals : [resolve(ROOT, 'build/bench/bench.json')];
  const files = [];
  for (const path of paths) files.push({ name: path, figures: await read(path) });
  await mkdir(options.out, { recursive: true });
  if (options.ratios !== undefined) {
    await write(options.ratios, ratiosOf(files));
    return;
  }
  for (const { name: path, figures } of files) {
    const charts = chartsOf(figures, path);
    const name = basename(path, '.json');
    for (const chart of charts) {
      await write(charts.length === 1 ? name : `${name}-${chart.name}`, chart.svg);
    }
  }
}

if (options.help) console.log(HELP);
else {
  try {
    await draw();
  } catch (error) {
    console.error(`plots: ${error.message}`);
    process.exitCode = 1;
  }
}
