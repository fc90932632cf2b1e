// The visitor's own files in Chromium: what a page makes, what OPFS holds, what was chosen and what was dropped.
import assert from 'node:assert/strict';
import { appendFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import type * as Sluice from 'sluice';
import { startChromium, type Chromium, type ChromiumPage } from '../support/chromium.js';
import {
  gguf,
  randomTensor,
  safetensors,
  safetensorsIndexFiles,
  tensorCacheFiles,
  type Files,
} from '../support/models.js';

/** What the page says of a load: the thread it ran in, and every tensor's bytes. */
interface Loaded {
  thread: string;
  tensors: Record<string, number[]>;
}

/** What the page says of a load that failed. */
interface Failed {
  code: string;
  message: string;
  hint: string | undefined;
}

/** The package and the helpers below, in the page. */
interface Tools {
  sluice: typeof Sluice;
  file: (path: string) => Promise<File>;
  load: (
    given: Parameters<typeof Sluice.loadModel>[0],
    options?: Sluice.LoadOptions,
  ) => Promise<Loaded>;
  fails: (given: Parameters<typeof Sluice.loadModel>[0]) => Promise<Failed>;
}
declare global {
  var tools: Tools;
  var given: unknown;
}

/** Runs in a page or in a worker: defines `tools`. */
async function install(origin: string): Promise<void> {
  const sluice = (await import(`${origin}/dist/index.js`)) as typeof Sluice;
  const read = async (model: Sluice.Model, tensor: Sluice.LoadedTensor): Promise<number[]> => {
    if (tensor.location === 'cpu') return [...tensor.data];
    const device = model.device;
    if (!device || tensor.location !== 'gpu') throw new Error('not on a device');
    const size = Math.ceil(tensor.nbytes / 4) * 4;
    const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;
    const staging = device.createBuffer({ size, usage });
    const encoder = device.createCommandEncoder();
    encoder.copyBufferToBuffer(tensor.buffer, tensor.offset, staging, 0, size);
    device.queue.submit([encoder.finish()]);
    await staging.mapAsync(GPUMapMode.READ);
    return [...new Uint8Array(staging.getMappedRange(), 0, tensor.nbytes)];
  };
  globalThis.tools = {
    sluice,
    file: async (path) => {
      const response = await fetch(`${origin}/files/${path}`);
      return new File([await response.blob()], path.slice(path.lastIndexOf('/') + 1));
    },
    load: async (given, options = { device: 'gpu' }) => {
      const model = await sluice.loadModel(given, options);
      const tensors: Record<string, number[]> = {};
      for (const [name, tensor] of model.tensors) tensors[name] = await read(model, tensor);
      const { thread } = model.report;
      model.device?.destroy();
      return { thread, tensors };
    },
    fails: async (given) => {
      try {
        await sluice.loadModel(given, { device: 'gpu' });
      } catch (error) {
        if (!(error instanceof sluice.SluiceError)) throw error;
        const { code, message, hint } = error;
        return { code, message, hint };
      }
      throw new Error('it was loaded');
    },
  };
}

const tensors = [randomTensor('a', 'float32', [33, 5], 1), randomTensor('b', 'uint8', [70_001], 2)];
const plain = tensors.map((tensor, i) => ({ ...tensor, dtype: ['F32', 'U8'][i] ?? '' }));
const files: Files = {
  'x.safetensors': safetensors(plain),
  'notes.txt': 'not a model',
  ...Object.fromEntries(
    tensors.map(({ name, shape, bytes }, no) => [
      `split/m-0000${no + 1}-of-00002.gguf`,
      gguf([{ name, dtype: ['f32', 'i8'][no] ?? '', shape, bytes }], {
        ...{ 'split.no': no, 'split.count': 2, 'split.tensors.count': 2 },
      }),
    ]),
  ),
};
for (const [path, body] of Object.entries({
  ...tensorCacheFiles(tensors.map((tensor) => [tensor])),
  'sub/README.md': '',
})) {
  files[`cache/${path}`] = body;
}
for (const [path, body] of Object.entries(safetensorsIndexFiles(plain.map((tensor) => [tensor])))) {
  files[`index/${path}`] = body;
}

function expectLoaded({ thread, tensors: loaded }: Loaded, expectedThread: string): void {
  assert.equal(thread, expectedThread);
  assert.deepEqual(
    Object.keys(loaded),
    tensors.map(({ name }) => name),
  );
  for (const { name, bytes } of tensors) {
    assert.equal(Buffer.compare(Buffer.from(loaded[name] ?? []), bytes), 0, `bytes of ${name}`);
  }
}

describe('files in Chromium', { timeout: 180_000 }, () => {
  let folder: string;
  let browser: Chromium;
  let page: ChromiumPage;

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'sluice-files-'));
    for (const [path, body] of Object.entries(files)) {
      await mkdir(dirname(join(folder, path)), { recursive: true });
      await writeFile(join(folder, path), body);
    }
    browser = await startChromium({
      handler: (request, response) => {
        const path = decodeURIComponent(request.url ?? '').replace(/^\/files\//, '');
        const body = files[path];
        if (body === undefined) return false;
        response.writeHead(200).end(body);
        return true;
      },
    });
    page = await browser.newPage();
    await page.evaluate(install, browser.origin);
    await page.page.evaluate(() => {
      document.body.innerHTML = `<input id=one type=file><input id=folder type=file webkitdirectory>
        <div id=drop style="width: 100px; height: 100px">drop here</div>`;
      const drop = document.querySelector<HTMLElement>('#drop');
      drop?.addEventListener('dragover', (event) => {
        event.preventDefault();
      });
      drop?.addEventListener('drop', (event) => {
        event.preventDefault();
        if (event.dataTransfer) {
          globalThis.given = tools.sluice.fromDataTransfer(event.dataTransfer);
        }
      });
    });
  });
  after(async () => {
    await browser.close();
    await rm(folder, { recursive: true });
  });

  test('a File and a Blob made by the page, read in the worker', async () => {
    for (const named of [true, false]) {
      const loaded = await page.page.evaluate(async (named) => {
        const file = await tools.file('x.safetensors');
        return tools.load(named ? file : file.slice());
      }, named);
      expectLoaded(loaded, 'worker');
    }
  });

  test('the Files of a tensor cache; without a shard, not_found names it', async () => {
    const names = ['tensor-cache.json', 'params_shard_0.bin', 'params_shard_1.bin'];
    expectLoaded(
      await page.page.evaluate(
        async (names) => tools.load(await Promise.all(names.map((n) => tools.file(`cache/${n}`)))),
        names,
      ),
      'worker',
    );
    const failed = await page.page.evaluate(
      async (names) => tools.fails(await Promise.all(names.map((n) => tools.file(`cache/${n}`)))),
      names.slice(0, 2),
    );
    assert.equal(failed.code, 'not_found');
    assert.match(failed.message, /params_shard_1\.bin/);
    assert.ok(failed.hint, 'the hint crosses from the worker');
  });

  test('OPFS: a directory handle and file handles, in the worker and in a worker of the caller', async () => {
    const paths = ['split/m-00001-of-00002.gguf', 'split/m-00002-of-00002.gguf'];
    const loaded = await page.page.evaluate(async (paths) => {
      const root = await navigator.storage.getDirectory();
      const folder = await root.getDirectoryHandle('model', { create: true });
      const inner = await folder.getDirectoryHandle('split', { create: true });
      const handles = new Map<string, FileSystemFileHandle>();
      for (const path of paths) {
        const file = await tools.file(path);
        const handle = await inner.getFileHandle(file.name, { create: true });
        const writable = await handle.createWritable();
        await writable.write(file);
        await writable.close();
        handles.set(path, handle);
      }
      return [await tools.load(folder), await tools.load(inner), await tools.load(handles)];
    }, paths);
    for (const each of loaded) expectLoaded(each, 'worker');

    const source = `(${install.toString()})`;
    const there = await page.evaluateInWorker(
      async ({ source, origin }) => {
        const installHere = (0, eval)(source) as typeof install;
        await installHere(origin);
        const root = await navigator.storage.getDirectory();
        const folder = await root.getDirectoryHandle('model');
        return [await tools.load(folder), await tools.load(folder, { device: 'cpu' })];
      },
      { source, origin: browser.origin },
    );
    for (const each of there) expectLoaded(each, 'caller');
  });

  test('OPFS: a file that is written to after it was first read', async () => {
    const failed = await page.page.evaluate(async () => {
      const root = await navigator.storage.getDirectory();
      const handle = await root.getFileHandle('changing', { create: true });
      const write = async (file: Blob): Promise<void> => {
        const writable = await handle.createWritable();
        await writable.write(file);
        await writable.close();
      };
      const file = await tools.file('x.safetensors');
      await write(file);
      const snapshot = await handle.getFile();
      await write(new Blob([file, 'more']));
      return tools.fails(snapshot);
    });
    assert.equal(failed.code, 'source_changed', failed.message);
    assert.match(failed.message, /^changing: /);
    assert.ok(failed.hint);
  });

  test('chosen: one file, and a folder', async () => {
    await page.page.setInputFiles('#one', join(folder, 'x.safetensors'));
    const one = () => document.querySelector<HTMLInputElement>('#one')?.files ?? [];
    expectLoaded(await page.page.evaluate(`tools.load((${one.toString()})())`), 'worker');
    for (const name of ['cache', 'index', 'split']) {
      await page.page.setInputFiles('#folder', join(folder, name));
      expectLoaded(
        await page.page.evaluate(`tools.load(document.querySelector('#folder').files)`),
        'worker',
      );
    }
  });

  test('chosen, then changed or deleted on disk', async () => {
    const path = join(folder, 'changing.safetensors');
    const chosen = `tools.fails(document.querySelector('#one').files)`;
    await writeFile(path, files['x.safetensors'] ?? '');
    await page.page.setInputFiles('#one', path);
    await appendFile(path, 'more');
    const changed: Failed = await page.page.evaluate(chosen);
    assert.equal(changed.code, 'source_changed', changed.message);
    assert.match(changed.message, /changing\.safetensors/);
    assert.ok(changed.hint);

    await page.page.setInputFiles('#one', []);
    await page.page.setInputFiles('#one', path);
    await rm(path);
    const gone: Failed = await page.page.evaluate(chosen);
    assert.equal(gone.code, 'not_found', gone.message);
    assert.match(gone.message, /changing\.safetensors/);
  });

  test('dropped: a folder, then several files', async () => {
    const session = await browser.context.newCDPSession(page.page);
    const box = await page.page.locator('#drop').boundingBox();
    assert.ok(box);
    const drop = async (paths: string[]): Promise<void> => {
      await page.page.evaluate(() => (globalThis.given = undefined));
      for (const type of ['dragEnter', 'dragOver', 'drop'] as const) {
        await session.send('Input.dispatchDragEvent', {
          ...{ type, x: box.x + 10, y: box.y + 10 },
          data: { items: [], files: paths, dragOperationsMask: 1 },
        });
      }
      await page.page.waitForFunction(() => globalThis.given !== undefined);
    };
    await drop([join(folder, 'cache')]);
    assert.deepEqual(await page.page.evaluate(`given.then((map) => [...map.keys()].sort())`), [
      'cache/params_shard_0.bin',
      'cache/params_shard_1.bin',
      'cache/sub/README.md',
      'cache/tensor-cache.json',
    ]);
    expectLoaded(await page.page.evaluate(`given.then((map) => tools.load(map))`), 'worker');

    await drop([1, 2].map((n) => join(folder, `split/m-0000${n}-of-00002.gguf`)));
    expectLoaded(await page.page.evaluate(`given.then((map) => tools.load(map))`), 'worker');

    await drop([join(folder, 'notes.txt'), join(folder, 'cache/sub')]);
    const failed: Failed = await page.page.evaluate(`given.then((map) => tools.fails(map))`);
    assert.equal(failed.code, 'not_found');
    assert.match(failed.message, /2 files: notes\.txt, sub\/README\.md/);
  });

  test('a DataTransfer of the page', async () => {
    const loaded = await page.page.evaluate(async () => {
      const file = await tools.file('x.safetensors');
      const transfer = new DataTransfer();
      transfer.items.add(file);
      transfer.items.add('text', 'text/plain');
      const refused = await tools.fails(transfer as unknown as File);
      return { refused, loaded: await tools.load(await tools.sluice.fromDataTransfer(transfer)) };
    });
    expectLoaded(loaded.loaded, 'worker');
    assert.equal(loaded.refused.code, 'invalid_argument');
    assert.match(loaded.refused.hint ?? '', /fromDataTransfer/);
  });

  test('nothing was logged as an error', () => {
    assert.deepEqual(page.errors, []);
  });
});
