// Bundles modules of packages/sluice/dist with what they import, in their place: those that import libraries, since a
// browser knows no bare module names, and the workers, which start sooner from one file. Usage: node tools/bundle.mjs
// FILE...
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
    sourcemap: 'linked',
    legalComments: 'inline',
    logLevel: 'warning',
  });
}
