// A process that loads into a store of the disk when told so, and prints what came of it as JSON. Plain JavaScript,
// since hundreds of them are started.
import { createHash } from 'node:crypto';
import { loadModel, openStore, SluiceError } from 'sluice';

const [url, directory] = process.argv.slice(2);
const store = await openStore(directory);
console.log('ready');
await new Promise((go) => process.stdin.once('data', go));
process.stdin.destroy();
try {
  const model = await loadModel(url, { device: 'cpu', store });
  const hash = createHash('sha256');
  for (const { data } of model.tensors.values()) hash.update(data);
  console.log(JSON.stringify({ digest: hash.digest('hex'), store: model.report.store }));
} catch (error) {
  const { code, message } =
    error instanceof SluiceError ? error : { code: '', message: String(error) };
  console.log(JSON.stringify({ error: { code, message } }));
}
