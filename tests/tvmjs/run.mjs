// Runs tvmjs's own node tests, of a checkout of https://github.com/apache/tvm, on this library's runtime: with their JavaScript,
// and with `sluice/tvmjs` in place of theirs. The last line is `N passed, M failed`.
//
//   node tests/tvmjs/run.mjs CHECKOUT
//
// The seven files of web/tests/node that need no compiled model. What they import of `dist/` is the npm package
// @mlc-ai/web-runtime, or the entry `sluice/tvmjs`; what they import of `src/` is compiled from the checkout, or the module of
// that name beside the entry. In either case tvmjs_runtime.wasm is sluice_runtime.wasm.
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import vm from 'node:vm';
import * as jest from './jest_shim.mjs';

const FILES = [
  'test_memory.js',
  'test_object.js',
  'test_packed_func.js',
  'test_random_generator.js',
  'test_tensor.js',
  'test_tensor_cache.js',
  'test_webgpu.js',
];
const SIDES = { theirs: "tvmjs's JavaScript", ours: 'sluice/tvmjs' };
const TIMEOUT_MS = 60_000;
const DIST = resolve(dirname(fileURLToPath(import.meta.url)), '../../packages/sluice/dist');
const require = createRequire(import.meta.url);

/** `fs`, in which their wasm module is ours. */
const fileSystem = {
  ...fs,
  readFileSync: (path, ...rest) =>
    basename(path) === 'tvmjs_runtime.wasm'
      ? fs.readFileSync(join(DIST, 'sluice_runtime.wasm'))
      : fs.readFileSync(path, ...rest),
};

/** A module of the checkout's src, compiled, with those it imports. */
function sourceModule(web, name, loaded = new Map()) {
  const known = loaded.get(name);
  if (known) return known.exports;
  const ts = require('typescript');
  const file = join(web, 'src', `${name}.ts`);
  const { outputText } = ts.transpileModule(fs.readFileSync(file, 'utf8'), {
    fileName: file,
    compilerOptions: { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022 },
  });
  const module = { exports: {} };
  loaded.set(name, module);
  const load = (wanted) => {
    // Emscripten's output, which a checkout does not have and an instance without WASI does not need
    if (wanted.endsWith('tvmjs_runtime_wasi')) return { default: undefined };
    return wanted.startsWith('./') ? sourceModule(web, wanted.slice(2), loaded) : require(wanted);
  };
  vm.compileFunction(outputText, ['module', 'exports', 'require'], { filename: file })(
    module,
    module.exports,
    load,
  );
  return module.exports;
}

/** What a test file's require() gives. The modules of `ours` are loaded beforehand, since require() is synchronous. */
async function requireOf(side, web, source) {
  const names = [...source.matchAll(/require\("\.\.\/\.\.\/src\/(\w+)"\)/g)].map(
    ([, name]) => name,
  );
  const modules = new Map();
  if (side === 'ours') {
    const load = (path) => import(pathToFileURL(join(DIST, 'tvmjs', path)).href);
    modules.set('dist', await load('node.js'));
    for (const name of names) modules.set(`src/${name}`, await load(`${name}.js`));
  } else {
    modules.set('dist', require('@mlc-ai/web-runtime'));
    for (const name of names) modules.set(`src/${name}`, sourceModule(web, name));
  }
  return (wanted) => {
    if (wanted === 'fs') return fileSystem;
    if (!wanted.startsWith('../../')) return require(wanted);
    const found = modules.get(wanted.slice('../../'.length).replace(/^dist.*/, 'dist'));
    if (!found) throw new Error(`no module for ${wanted}`);
    return found;
  };
}

/** The outcome of each test of one file, on standard output, one JSON a line behind a mark. */
const MARK = '\u0001';

async function runFile(side, web, file) {
  const path = join(web, 'tests/node', file);
  const source = fs.readFileSync(path, 'utf8');
  const tests = [];
  const given = {
    require: await requireOf(side, web, source),
    test: jest.collector(tests),
    expect: jest.expect,
    jest: { fn: jest.fn },
  };
  vm.compileFunction(source, Object.keys(given), { filename: path })(...Object.values(given));
  for (const { name, act } of tests) {
    let error;
    try {
      await act();
    } catch (cause) {
      error = String(cause?.stack ?? cause);
    }
    process.stdout.write(`\n${MARK}${JSON.stringify({ name, error })}\n`);
  }
  process.stdout.write(`\n${MARK}${JSON.stringify({ done: tests.length })}\n`);
}

/** Runs one file in a process of its own: the tests set globals, and some make an instance. */
async function outcomes(side, web, file) {
  const args = [fileURLToPath(import.meta.url), '--file', side, web, file];
  const { stdout, stderr, failure } = await promisify(execFile)(process.execPath, args, {
    timeout: TIMEOUT_MS,
  }).catch((error) => ({ ...error, failure: error.killed ? 'took too long' : error.message }));
  const lines = stdout.split('\n').filter((line) => line.startsWith(MARK));
  const results = lines.map((line) => JSON.parse(line.slice(MARK.length)));
  const done = results.at(-1)?.done;
  const tests = results.filter(({ name }) => name !== undefined);
  if (failure || done !== tests.length || done === 0) {
    tests.push({ name: '(the file)', error: `${failure ?? 'no tests ran to the end'}\n${stderr}` });
  }
  return tests;
}

async function main(checkout) {
  const web = resolve(checkout, 'web');
  const missing = FILES.filter((file) => !fs.existsSync(join(web, 'tests/node', file)));
  if (missing.length > 0) {
    throw new Error(`${checkout} is no checkout of apache/tvm: it has no ${missing.join()}`);
  }
  let passed = 0;
  let failed = 0;
  for (const [side, title] of Object.entries(SIDES)) {
    for (const file of FILES) {
      const tests = await outcomes(side, web, file);
      const wrong = tests.filter(({ error }) => error !== undefined);
      passed += tests.length - wrong.length;
      failed += wrong.length;
      console.log(`${title}: ${file}: ${tests.length - wrong.length} of ${tests.length}`);
      for (const { name, error } of wrong) console.log(`  ${name}\n    ${error}`);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed > 0 ? 1 : 0;
}

const [first, ...rest] = process.argv.slice(2);
if (first === '--file') {
  await runFile(...rest);
} else if (first === undefined || first.startsWith('-')) {
  console.error('Usage: node tests/tvmjs/run.mjs CHECKOUT-OF-APACHE-TVM');
  process.exitCode = 2;
} else {
  await main(first);
}
