// The worker of the bare loop whose device lives on the page's thread: reads a model's files into the blocks it is
// given, and hands them over.
import { opfsFiles } from './opfs_files.mjs';

let job;
let open;
let index = 0;
let at = 0;

globalThis.onmessage = ({ data: { model, blockBytes, block } }) => {
  if (model) {
    job = { model, blockBytes };
    open = opfsFiles(model);
    return;
  }
  void open.then((files) => {
    const file = job.model.files[index];
    if (!file) return;
    const count = Math.min(job.blockBytes, file.nbytes - at);
    const read = files[index].read(new Uint8Array(block, 0, count), at);
    if (read !== count) throw new Error(`${read} of ${count} bytes could be read`);
    globalThis.postMessage({ block, index, at, count }, [block]);
    at += count;
    if (at < file.nbytes) return;
    files[index++].close();
    at = 0;
  });
};
globalThis.postMessage({ ready: true });
