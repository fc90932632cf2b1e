// Bundles one module of packages/sluice/dist with the libraries it imports, in its place, so that the package can be
// served as it is: a browser knows no bare module names. Usage: node tools/bundle.mjs FILE...
import { build } from 'esbuild';

for (const file of process.argv.slice(2)) {
  await build({
    entryPoints: [file],
    outfile: file,
    allowOverwrite: true,
    bundle: true,
    format: 'esm',
    target: 'es2022',
    minify: true,
    legalComments: 'inline',
    logLevel: 'warning',
  });
}
