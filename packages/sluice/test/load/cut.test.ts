// The connection is cut before every byte of every file of a small model, in every format: once, and the
// load goes on to the right bytes; always, and it fails with an error that says where.
import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';
import { loadModel, Model, SluiceError, type LoadOptions } from 'sluice';
import { nodeDevice } from '../sinks/node_gpu.js';
import { until } from '../sources/support.js';
import {
  gguf,
  randomBytes,
  randomTensor,
  safetensors,
  safetensorsIndexFiles,
  tensorCacheFiles,
  type Files,
} from '../support/models.js';
import { startServer, type Fault } from '../support/server.js';
import {
  asStored,
  expectModel,
  rejects,
  trackBuffers,
  type Expected,
  type TrackedBuffers,
} from './support.js';

interface SmallModel {
  format: string;
  /** The file of the location, or nothing for the folder. */
  name: string;
  files: Files;
  expected: Expected[];
  /** Its weights are files as another model has them: loaded to the CPU only. */
  alike?: boolean;
  /** Bytes at the end of a file that are no tensor's. */
  padding?: number;
}

const plain = [randomTensor('a', 'F32', [3, 5], 1), randomTensor('b', 'U8', [7], 2)];
const cached = [randomTensor('a', 'float32', [3, 5], 1), randomTensor('b', 'uint8', [7], 2)];
const blocks = [
  { name: 'a', dtype: 'q4_0', shape: [2, 32], bytes: randomBytes(36, 3) },
  { name: 'b', dtype: 'f32', shape: [5], bytes: randomBytes(20, 4) },
];

const MODELS: SmallModel[] = [
  {
    format: 'a tensor cache',
    name: '',
    files: tensorCacheFiles([cached]),
    expected: cached.map(asStored),
  },
  {
    format: 'safetensors',
    name: 'm.safetensors',
    files: { 'm.safetensors': safetensors(plain) },
    expected: plain.map(asStored),
  },
  {
    format: 'a safetensors index',
    name: 'model.safetensors.index.json',
    files: safetensorsIndexFiles([plain.slice(0, 1), plain.slice(1)]),
    expected: plain.map(asStored),
    alike: true,
  },
  {
    format: 'GGUF',
    name: 'm.gguf',
    files: { 'm.gguf': gguf(blocks, { 'general.architecture': 'x' }) },
    expected: blocks.map(asStored),
    padding: 32 - 20,
  },
];

/** A model with what goes wrong at one byte of one file. */
interface Case {
  file: string;
  at: number;
  faults: Omit<Fault, 'path'>[];
}

/** Loads at a time: most of a load is the pause before it tries again. */
const AT_A_TIME = 400;
/** Small slots, since so many loads have theirs at the same time. */
const BUDGET_BYTES = 100_000;

/** Sockets of this process, the server's and the loads'. */
const sockets = (): number =>
  process.getActiveResourcesInfo().filter((name) => name === 'TCPSocketWrap').length;

/**
 * One case for each byte. A manifest is asked for as a whole, and before a load asks where its bytes go: one way is
 * enough for it.
 */
const casesOf = (
  { files }: SmallModel,
  faults: (at: number) => Omit<Fault, 'path'>[],
  manifests = true,
): Case[] =>
  Object.entries(files)
    .filter(([file]) => manifests || !file.endsWith('.json'))
    .flatMap(([file, body]) =>
      Array.from({ length: body.length }, (_, at) => ({ file, at, faults: faults(at) })),
    );

/** Loads the model once for each case, each from a folder of its own. */
async function eachCase(
  model: SmallModel,
  cases: readonly Case[],
  options: LoadOptions,
  check: (load: ReturnType<typeof loadModel>, cut: Case, url: string) => Promise<void>,
): Promise<void> {
  assert.ok(cases.length > 0);
  const server = await startServer();
  try {
    let next = 0;
    const work = async (): Promise<void> => {
      for (let i = next++; i < cases.length; i = next++) {
        const cut = cases[i] ?? assert.fail();
        const folder = `/${i}/`;
        for (const [path, body] of Object.entries(model.files)) server.files[folder + path] = body;
        for (const fault of cut.faults) server.addFault({ ...fault, path: folder + cut.file });
        const load = loadModel(server.origin + folder + model.name, {
          budgetBytes: BUDGET_BYTES,
          ...options,
        });
        try {
          await check(load, cut, server.origin + folder + cut.file);
        } catch (error) {
          throw new Error(`${cut.file}, cut before byte ${cut.at}: ${String(error)}`, {
            cause: error,
          });
        }
      }
    };
    await Promise.all(Array.from({ length: AT_A_TIME }, work));
    await until(() => server.openResponses === 0, 'no response is open');
  } finally {
    await server.close();
  }
}

describe('a connection that is cut before any byte', { timeout: 300_000 }, () => {
  let device: GPUDevice;
  let buffers: TrackedBuffers;
  let baseline: number;
  before(async () => {
    device = await nodeDevice();
  });
  after(() => {
    device.destroy();
  });
  beforeEach(() => {
    buffers = trackBuffers(device);
    baseline = sockets();
  });
  afterEach(async () => {
    assert.equal(buffers.count, 0, `${buffers.bytes} bytes stay`);
    await until(() => sockets() <= baseline, `no more than ${baseline} sockets are open`);
  });

  const ways: [string, () => LoadOptions][] = [
    ['the CPU', () => ({ device: 'cpu' })],
    ['a GPU by the ring', () => ({ device, upload: 'ring', shareBelowBytes: 0 })],
    ['a GPU by writeBuffer', () => ({ device, upload: 'writeBuffer' })],
  ];
  for (const model of MODELS) {
    for (const [way, options] of ways.slice(0, model.alike ? 1 : 3)) {
      test(`once: ${model.format}, to ${way}`, async () => {
        const once = (at: number) => [{ cutAt: at, times: 1 }];
        const cases = casesOf(model, once, way === 'the CPU');
        await eachCase(model, cases, options(), async (load) => {
          const loaded = await load;
          await expectModel(loaded, model.expected);
          loaded.destroy();
        });
      });
    }

    test(`once: ${model.format}, from a server that knows no ranges and tells no length`, async () => {
      const always = { noRange: true, noLength: true };
      const once = (at: number) => [{ ...always, cutAt: at, times: 1 }, always];
      const cases = casesOf(model, once, false);
      await eachCase(model, cases, { device: 'cpu' }, async (load) => {
        await expectModel(await load, model.expected);
      });
    });

    test(`a file that ends early, at every length: ${model.format}`, async () => {
      const cases = casesOf(model, (at) => [{ endAfter: at, noRange: true }]);
      await eachCase(model, cases, { device: 'cpu' }, async (load, { file, at }, url) => {
        const outcome = await load.catch((error: unknown) => error);
        if (outcome instanceof Model) {
          // Nobody misses what stands behind the last tensor
          assert.ok(at >= (model.files[file]?.length ?? 0) - (model.padding ?? 0), 'it was loaded');
          await expectModel(outcome, model.expected);
          return;
        }
        assert.ok(outcome instanceof SluiceError, String(outcome));
        assert.match(outcome.code, /^(truncated|manifest_invalid)$/, outcome.message);
        assert.ok(outcome.message.includes(file), outcome.message);
        assert.ok([file, url].includes(outcome.file ?? ''), outcome.file);
        if (outcome.code === 'truncated') {
          assert.match(outcome.message, new RegExp(`\\b${at}\\b`));
        }
      });
    });
  }

  /** An error that says where the connection broke, and of what. */
  async function checkBroken(
    load: Promise<unknown>,
    model: SmallModel,
    { file, at }: Case,
    url: string,
  ): Promise<void> {
    const error = await rejects(load, 'network', url);
    assert.equal(error.file, url);
    const [, done, whole, from] =
      /after (\d+) of (\d+) bytes from offset (\d+)/.exec(error.message)?.map(Number) ?? [];
    assert.ok(done !== undefined && whole !== undefined && from !== undefined, error.message);
    assert.equal(from + done, at, error.message);
    assert.ok(from + whole <= (model.files[file]?.length ?? 0), error.message);
    assert.deepEqual([error.actual, error.expected], [done, whole]);
  }

  // All at the same time, since nearly all of it is pauses
  test('always: every format to the CPU, and one to a GPU', async () => {
    await Promise.all(
      MODELS.flatMap((model) =>
        ways.slice(0, model === MODELS[0] ? 2 : 1).map(async ([way, options]) => {
          const cases = casesOf(model, (at) => [{ cutAt: at }], way === 'the CPU');
          await eachCase(model, cases, options(), (load, cut, url) =>
            checkBroken(load, model, cut, url),
          );
        }),
      ),
    );
  });
});
