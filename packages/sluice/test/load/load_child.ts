// A process that loads once, prints how that ended, and has to end by itself.
import { loadModel, SluiceError } from 'sluice';

const [url = '', ending = ''] = process.argv.slice(2);
const abort = new AbortController();
try {
  await loadModel(url, {
    device: 'cpu',
    signal: abort.signal,
    // A stalled transfer is tried five times
    ...(ending === 'stall' ? { stallTimeoutMs: 100 } : {}),
    onTensor: () => {
      if (ending === 'abort') abort.abort();
    },
  });
  console.log('loaded');
} catch (error) {
  console.log(error instanceof SluiceError ? error.code : String(error));
}
