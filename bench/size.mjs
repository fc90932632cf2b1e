// Sizes of what a page downloads, and how long the loader's wasm takes to start.
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { brotliCompressSync, constants, gzipSync } from 'node:zlib';

const RUNS = 200;

export const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

function compressed(bytes) {
  const params = { [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length };
  return {
    raw: bytes.length,
    gzip: gzipSync(bytes, { level: 9 }).length,
    brotli: brotliCompressSync(bytes, { params }).length,
  };
}

export async function wasmFigures(dist) {
  const bytes = await readFile(join(dist, 'sluice_loader.wasm'));
  const imports = {
    sluice: {
      panic() {
        throw new Error('the loader panicked');
      },
    },
  };
  const compiling = [];
  const instantiating = [];
  for (let i = 0; i < RUNS; i++) {
    const begin = performance.now();
    const module = await WebAssembly.compile(bytes);
    const compiled = performance.now();
    const { exports } = await WebAssembly.instantiate(module, imports);
    exports._initialize();
    exports.sluice_initialize();
    const end = performance.now();
    compiling.push(end - begin);
    instantiating.push(end - compiled);
  }
  return {
    ...compressed(bytes),
    // Fetched beside it by loads that keep models, which is what they do unless told otherwise
    store: compressed(await readFile(join(dist, 'sluice_store.wasm'))),
    runs: RUNS,
    compileAndInstantiateMs: median(compiling),
    instantiateMs: median(instantiating),
  };
}

/** The files that `entry` reaches by imports and by `new URL(…, import.meta.url)`. */
async function reachedFiles(entry, found = new Map()) {
  if (found.has(entry)) return found;
  const text = await readFile(entry, 'utf8');
  found.set(entry, text);
  const links = /(?:from|import)\s*\(?\s*'(\.[^']+\.js)'|new URL\('(\.[^']+\.js)'/g;
  for (const [, imported, url] of text.matchAll(links)) {
    await reachedFiles(join(dirname(entry), imported ?? url), found);
  }
  return found;
}

/** The browser entry's JavaScript: as built, and minified into one file a thread where esbuild is there. */
export async function scriptFigures(dist) {
  const files = await reachedFiles(join(dist, 'index.js'));
  const text = [...files.values()].join('\n');
  const figures = { files: files.size, ...compressed(Buffer.from(text)) };
  const esbuild = await import('esbuild').catch(() => undefined);
  if (esbuild) {
    const bundle = async (name) => {
      const { outputFiles } = await esbuild.build({
        entryPoints: [join(dist, name)],
        bundle: true,
        minify: true,
        format: 'esm',
        write: false,
        logLevel: 'error',
      });
      return compressed(outputFiles[0].contents);
    };
    figures.minified = {
      index: await bundle('index.js'),
      worker: await bundle('worker.js'),
      storeWorker: await bundle('store_worker.js'),
    };
  }
  return figures;
}
