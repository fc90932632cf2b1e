import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { loadModel } from 'sluice';
import { SluiceError } from '../../src/errors.js';
import {
  chooseModel,
  fromDataTransfer,
  isModelFiles,
  modelOfFiles,
  type ModelFiles,
} from '../../src/sources/model_files.js';
import {
  gguf,
  randomTensor,
  safetensors,
  safetensorsIndexFiles,
  tensorCacheFiles,
  type Files,
} from '../support/models.js';
import { asStored, expectModel, rejects } from '../load/support.js';
import { rejects as rejectsHere } from './support.js';

/** What chooseModel() refuses with. */
function refused(paths: string[]): SluiceError {
  try {
    const { folder, name } = chooseModel(paths);
    return assert.fail(`chose '${folder}' '${name}' of ${paths.join(', ')}`);
  } catch (error) {
    assert.ok(error instanceof SluiceError, String(error));
    assert.ok(error.hint);
    return error;
  }
}

const part = (stem: string, number: number, count: number) =>
  `${stem}-0000${number}-of-0000${count}.gguf`;

/** Handles over files in memory, as a browser has them. */
function folderHandle(name: string, files: Files): FileSystemDirectoryHandle {
  return {
    kind: 'directory',
    name,

    async *entries() {
      const below = new Map<string, Files>();
      for (const [path, body] of Object.entries(files)) {
        const [first = '', ...rest] = path.split('/');
        if (rest.length === 0) yield [first, fileHandle(first, body)];
        else below.set(first, { ...below.get(first), [rest.join('/')]: body });
      }
      for (const [folder, inside] of below) yield [folder, folderHandle(folder, inside)];
    },
  } as unknown as FileSystemDirectoryHandle;
}

function fileHandle(name: string, body: Uint8Array | string): FileSystemFileHandle {
  const getFile = () => Promise.resolve(new File([body as BlobPart], name));
  return { kind: 'file', name, getFile } as unknown as FileSystemFileHandle;
}

/** Files as an `<input type=file webkitdirectory>` gives them. */
function chosenFolder(name: string, files: Files): File[] {
  return Object.entries(files).map(([path, body]) =>
    Object.defineProperty(
      new File([body as BlobPart], path.slice(path.lastIndexOf('/') + 1)),
      'webkitRelativePath',
      { value: `${name}/${path}` },
    ),
  );
}

/** An entry of a dropped folder, which gives its children a few at a time. */
function fileEntry(path: string, files: Files): FileSystemEntry {
  const name = path.slice(path.lastIndexOf('/') + 1);
  const body = files[path.slice(1)];
  if (body !== undefined) {
    return {
      ...{ isFile: true, isDirectory: false, name, fullPath: path },
      file: (give: (file: File) => void) => {
        give(new File([body as BlobPart], name));
      },
    } as unknown as FileSystemEntry;
  }
  const inside = `${path.slice(1)}/`;
  const names = Object.keys(files)
    .filter((other) => other.startsWith(inside))
    .map((other) => other.slice(inside.length).split('/')[0] ?? '');
  const children = [...new Set(names)].map((child) => fileEntry(`${path}/${child}`, files));
  return {
    ...{ isFile: false, isDirectory: true, name, fullPath: path },
    createReader: () => {
      let at = 0;
      return {
        readEntries: (give: (entries: FileSystemEntry[]) => void) => {
          give(children.slice(at, (at += 2)));
        },
      };
    },
  } as unknown as FileSystemEntry;
}

describe('which of the files is the model', () => {
  const cases: [string, string[], string, string][] = [
    ['a single file, whatever its name', ['some.thing'], '', 'some.thing'],
    ['a single file below', ['a/b/x.gguf'], 'a/b/', 'x.gguf'],
    ['a single file beside hidden ones', ['.DS_Store', 'a/.x', 'weights'], '', 'weights'],
    [
      'the manifests in turn',
      ['model.gguf', 'model.safetensors', 'model.safetensors.index.json', 'tensor-cache.json'],
      '',
      'tensor-cache.json',
    ],
    ['the older name', ['ndarray-cache.json', 'model.safetensors'], '', 'ndarray-cache.json'],
    [
      'an index before its files',
      ['model-1.safetensors', 'model-2.safetensors', 'model.safetensors.index.json'],
      '',
      'model.safetensors.index.json',
    ],
    [
      'the only index of another name',
      ['x-1.safetensors', 'x.safetensors.index.json'],
      '',
      'x.safetensors.index.json',
    ],
    [
      'model.safetensors among others',
      ['adapter.safetensors', 'model.safetensors'],
      '',
      'model.safetensors',
    ],
    ['the only safetensors', ['README.md', 'weights.safetensors'], '', 'weights.safetensors'],
    ['safetensors before GGUF', ['a.gguf', 'b.safetensors'], '', 'b.safetensors'],
    ['the only GGUF', ['config.json', 'b.GGUF'], '', 'b.GGUF'],
    ['a split GGUF', [part('m', 2, 3), part('m', 3, 3), part('m', 1, 3)], '', part('m', 1, 3)],
    [
      'a split GGUF whose first is missing',
      [part('m', 3, 3), part('m', 2, 3)],
      '',
      part('m', 2, 3),
    ],
    ['a chosen folder', ['m/config.json', 'm/x.gguf'], 'm/', 'x.gguf'],
    ['the top before what is below', ['m/x.gguf', 'm/old/tensor-cache.json'], 'm/', 'x.gguf'],
    ['one nested folder', ['m/.git', 'm/q4/a.gguf', 'm/q4/notes.txt'], 'm/q4/', 'a.gguf'],
  ];
  for (const [what, paths, folder, name] of cases) {
    test(what, () => {
      assert.deepEqual(chooseModel(paths), { folder, name });
      assert.deepEqual(chooseModel([...paths].reverse()), { folder, name });
    });
  }

  test('none: the message lists what was found, the hint what to give', () => {
    assert.equal(refused([]).code, 'invalid_argument');
    const error = refused(['b.txt', 'a.bin']);
    assert.equal(error.code, 'not_found');
    assert.match(error.message, /2 files: a\.bin, b\.txt$/);
    assert.match(error.hint ?? '', /tensor-cache\.json.*\.gguf/);
    const many = refused(Array.from({ length: 30 }, (_, i) => `file${i}.txt`));
    assert.match(many.message, /30 files: .* and 20 more$/);
    assert.equal(refused(['readme', 'a/x.gguf']).code, 'not_found', 'not everything is below');
    assert.equal(refused(['a/x.gguf', 'b/y.gguf']).code, 'not_found');
  });

  test('several that are as good: no guess', () => {
    for (const names of [
      ['a.gguf', 'b.gguf'],
      [part('m', 1, 2), part('m', 2, 2), 'other.gguf'],
      [part('m', 1, 2), part('m', 1, 3)],
      ['model-1.safetensors', 'model-2.safetensors'],
    ]) {
      const error = refused(names);
      assert.equal(error.code, 'invalid_argument');
      assert.ok(error.message.includes('several models'), error.message);
      assert.ok(error.message.includes(names[0] ?? ''), error.message);
    }
    assert.match(refused(['a-1.safetensors', 'a-2.safetensors']).hint ?? '', /index\.json/);
  });
});

describe('loadModel() from files', () => {
  const tensors = [
    randomTensor('a', 'float32', [33, 5], 1),
    randomTensor('b', 'uint8', [70_001], 2),
  ];
  const plain = [randomTensor('a', 'F32', [33, 5], 1), randomTensor('b', 'U8', [70_001], 2)];
  const cache = tensorCacheFiles(tensors.map((tensor) => [tensor]));
  const index = safetensorsIndexFiles(plain.map((tensor) => [tensor]));
  const ggufTensor = (name: string, seed: number) => randomTensor(name, 'float32', [33, 5], seed);
  const parts: Files = Object.fromEntries(
    [3, 4, 5].map((seed, no) => [
      part('m', no + 1, 3),
      gguf([{ ...ggufTensor(`t${seed}`, seed), dtype: 'f32' }], {
        'split.no': no,
        'split.count': 3,
        'split.tensors.count': 3,
      }),
    ]),
  );
  const ofParts = [3, 4, 5].map((seed) => asStored(ggufTensor(`t${seed}`, seed)));
  const all = tensors.map(asStored);
  const single = safetensors(plain);
  const nested = { '.DS_Store': 'x', 'deep/er/notes.txt': '', ...cache };

  const sources: [string, ModelFiles, typeof all][] = [
    ['a File', new File([single as BlobPart], 'x.safetensors'), all],
    ['a Blob of no name', new Blob([single as BlobPart]), all],
    ['a list of one File of no known name', [new File([single as BlobPart], 'weights')], all],
    ['a file handle', fileHandle('x.safetensors', single), all],
    ['a chosen folder', chosenFolder('model', nested), all],
    [
      'something like a FileList',
      Object.assign(
        Object.create({ item: () => null }) as object,
        { length: 3 },
        chosenFolder('m', index),
      ),
      all,
    ],
    ['a folder handle', folderHandle('model', nested), all],
    ['a folder handle with one folder', folderHandle('model', { 'x/y.safetensors': single }), all],
    [
      'a Map from paths to Files and handles',
      new Map<string, File | FileSystemFileHandle>(
        Object.entries(index).map(([path, body], i) => [
          `some/${path}`,
          i % 2 === 0 ? fileHandle(path, body) : new File([body as BlobPart], 'any'),
        ]),
      ),
      all,
    ],
    ['the parts of a split GGUF', chosenFolder('m', parts), ofParts],
  ];
  for (const [what, given, expected] of sources) {
    test(what, async () => {
      assert.ok(isModelFiles(given));
      const model = await loadModel(given, { device: 'cpu' });
      await expectModel(model, expected);
    });
  }

  test('a drop of files and folders', async () => {
    const dropped: Files = Object.fromEntries(
      Object.entries(index).map(([path, body]) => [`model/${path}`, body]),
    );
    dropped['model/.git/HEAD'] = 'x';
    const items = [
      { kind: 'string', webkitGetAsEntry: () => null, getAsFile: () => null },
      {
        kind: 'file',
        webkitGetAsEntry: () => fileEntry('/model', dropped),
        getAsFile: () => null,
      },
    ];
    const transfer = { items } as unknown as DataTransfer;
    const files = fromDataTransfer(transfer);
    items.length = 0; // as the browser does when the handler returns
    assert.deepEqual([...(await files).keys()].sort(), [
      'model/model-1-of-2.safetensors',
      'model/model-2-of-2.safetensors',
      'model/model.safetensors.index.json',
    ]);
    await expectModel(await loadModel(await files, { device: 'cpu' }), all);

    const file = new File([single as BlobPart], 'x.safetensors');
    const one = await fromDataTransfer({
      items: [{ kind: 'file', webkitGetAsEntry: () => null, getAsFile: () => file }],
    } as unknown as DataTransfer);
    await expectModel(await loadModel(one, { device: 'cpu' }), all);
  });

  test('a part or a shard that was left out is named', async () => {
    const { [part('m', 2, 3)]: second, ...rest } = parts;
    assert.ok(second);
    const error = await rejects(
      loadModel(chosenFolder('m', rest), { device: 'cpu' }),
      'not_found',
      part('m', 2, 3),
    );
    assert.ok(error.hint);
    const { 'params_shard_1.bin': shard, ...others } = cache;
    assert.ok(shard);
    await rejects(
      loadModel(chosenFolder('m', others), { device: 'cpu' }),
      'not_found',
      'params_shard_1.bin',
    );
  });

  test('what is no model', async () => {
    await rejects(loadModel([], { device: 'cpu' }), 'invalid_argument', 'no files');
    await rejectsHere(
      modelOfFiles([new File([], 'a.gguf'), new File([], 'a.gguf')]),
      'invalid_argument',
      "'a.gguf'",
    );
    await rejectsHere(
      modelOfFiles(Array.from({ length: 10_001 }, (_, i) => new File([], `${i}`))),
      'invalid_argument',
      '10000 files',
    );
    for (const given of [undefined, null, 5, {}, [1], { [Symbol.toStringTag]: 'DataTransfer' }]) {
      assert.equal(isModelFiles(given), false);
      const error = await rejects(
        loadModel(given as unknown as string),
        'invalid_argument',
        'cannot be loaded from',
      );
      assert.ok(error.hint);
    }
    const denied = {
      ...{ kind: 'directory', name: 'models' },
      entries() {
        throw new DOMException('not allowed by the user agent', 'NotAllowedError');
      },
    } as unknown as FileSystemDirectoryHandle;
    const error = await rejects(loadModel(denied, { device: 'cpu' }), 'io', 'models', 'allow');
    assert.match(error.hint ?? '', /requestPermission/);
  });
});
