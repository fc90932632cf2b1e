// An abort at every step of a load: each request, response and piece of a body, each call of the GPU and each of
// its answers, each callback, each turn of the event loop. The load rejects with `aborted`, and all that it had
// is given back.
import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import { dirname } from 'node:path';
import { after, afterEach, before, beforeEach, describe, mock, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { loadModel, Model, SluiceError, type LoadOptions } from 'sluice';
import { LoaderModel } from '../../dist/wasm/loader_module.js';
import { nodeDevice } from '../sinks/node_gpu.js';
import { until } from '../sources/support.js';
import {
  gguf,
  randomBytes,
  randomTensor,
  safetensorsIndexFiles,
  served,
  tensorCacheFiles,
  type TestTensor,
} from '../support/models.js';
import { startServer, type TestServer } from '../support/server.js';
import { asStored, expectModel, rejects, trackBuffers, type TrackedBuffers } from './support.js';

// Of several slots, one slot and less, in two files
const cached = [
  randomTensor('a', 'float32', [3, 700], 1),
  randomTensor('b', 'bfloat16', [1000], 2),
  randomTensor('c', 'uint8', [7], 3),
];
const plain: TestTensor[] = [
  randomTensor('a', 'F32', [3, 700], 1),
  randomTensor('b', 'BF16', [1000], 2),
];
const blocks: TestTensor[] = [
  { name: 'a', dtype: 'q4_1', shape: [5, 1024], bytes: randomBytes(5 * 32 * 20, 3) },
  { name: 'b', dtype: 'f32', shape: [33], bytes: randomBytes(132, 4) },
];
const FILES = {
  ...served(tensorCacheFiles([cached.slice(0, 1), cached.slice(1)]), '/cache/'),
  ...served(safetensorsIndexFiles([plain.slice(0, 1), plain.slice(1)]), '/plain/'),
  '/blocks.gguf': gguf(blocks, { 'general.architecture': 'x' }),
};
const MODELS: [string, TestTensor[]][] = [
  ['/cache/tensor-cache.json', cached],
  ['/plain/model.safetensors.index.json', plain],
  ['/blocks.gguf', blocks],
];
/** Bodies come in pieces of so many bytes. */
const PIECE_BYTES = 700;

/** Sockets or timers of this process, the server's and the loads'. */
const resources = (kind: 'TCPSocketWrap' | 'Timeout'): number =>
  process.getActiveResourcesInfo().filter((name) => name === kind).length;

/** Counts steps, and aborts at one of them. */
class Steps {
  readonly abort = new AbortController();
  readonly at: number;
  taken = 0;
  /** The load has settled. */
  over = false;
  /** Calls of the caller's functions after that. */
  late: string[] = [];
  readonly #only: string | undefined;

  /** Counts everything, or only what is called `only`. */
  constructor(at: number, only?: string) {
    this.at = at;
    this.#only = only;
  }

  take(what: string): void {
    if (this.#only !== undefined && what !== this.#only) return;
    if (this.taken++ === this.at) this.abort.abort(new Error(`at step ${this.at}, ${what}`));
  }

  callback(what: string): void {
    if (this.over) this.late.push(what);
    this.take(what);
  }
}

/** Makes every call of the device a step, and every answer. */
function stepsOfDevice(device: GPUDevice, take: (what: string) => void): void {
  const answered = async <T>(what: string, work: Promise<T>): Promise<T> => {
    try {
      return await work;
    } finally {
      take(what);
    }
  };
  const create = device.createBuffer.bind(device);
  device.createBuffer = (descriptor) => {
    take('createBuffer');
    const buffer = create(descriptor);
    const map = buffer.mapAsync.bind(buffer);
    buffer.mapAsync = (...given) => {
      take('mapAsync');
      return answered('mapped', map(...given));
    };
    return buffer;
  };
  const pop = device.popErrorScope.bind(device);
  device.popErrorScope = () => answered('popErrorScope', pop());
  const { queue } = device;
  const submit = queue.submit.bind(queue);
  queue.submit = (commands) => {
    take('submit');
    submit(commands);
  };
  const done = queue.onSubmittedWorkDone.bind(queue);
  queue.onSubmittedWorkDone = () => {
    take('onSubmittedWorkDone');
    return answered('work done', done());
  };
  Object.defineProperty(device, 'queue', { value: queue });
}

describe('an abort at every step', { timeout: 300_000 }, () => {
  let server: TestServer;
  let device: GPUDevice;
  let steps: Steps;
  let buffers: TrackedBuffers;
  /** Bodies of responses that are neither read to their end nor cancelled. */
  const bodies = new Set<symbol>();
  /** What loads held of their budgets when they ended. */
  let budgets: number[];
  let baseline: number;

  before(async () => {
    server = await startServer({ files: FILES });
    device = await nodeDevice();
    stepsOfDevice(device, (what) => {
      steps.take(what);
    });
    buffers = trackBuffers(device);
    // The loader's last word, which the engine asks for when everything has settled
    const check = Object.getOwnPropertyDescriptor(LoaderModel.prototype, 'check')?.value as (
      this: LoaderModel,
    ) => void;
    mock.method(LoaderModel.prototype, 'check', function (this: LoaderModel) {
      budgets.push(this.progress().budgetUsed);
      check.call(this);
    });
  });
  after(async () => {
    mock.restoreAll();
    device.destroy();
    await server.close();
  });
  beforeEach(() => {
    budgets = [];
    baseline = resources('TCPSocketWrap');
    bodies.clear();
    assert.equal(buffers.count, 0);
  });
  afterEach(async () => {
    await until(() => server.openResponses === 0, 'no response is open');
  });

  /** fetch() whose bodies come in small pieces. */
  const fetchInPieces: typeof fetch = async (input, init) => {
    const mine = steps;
    mine.take('request');
    const response = await fetch(input, init);
    mine.take('response');
    const rest = new Uint8Array(await response.arrayBuffer());
    let at = 0;
    const body = Symbol('body');
    bodies.add(body);
    const stream = new ReadableStream<Uint8Array>({
      async pull(controller) {
        await new Promise((next) => setImmediate(next));
        mine.take('piece');
        if (!bodies.has(body)) return;
        if (at === rest.length) {
          bodies.delete(body);
          controller.close();
          return;
        }
        controller.enqueue(rest.slice(at, at + PIECE_BYTES));
        at = Math.min(at + PIECE_BYTES, rest.length);
        mine.take('piece given');
      },
      cancel() {
        bodies.delete(body);
      },
    });
    const { status, headers } = response;
    return new Response(stream, { status, headers });
  };

  /** One load, aborted at step `at`, and what must hold afterwards. Undefined where it was not aborted. */
  async function loadAborted(
    mine: Steps,
    path: string,
    given: LoadOptions,
  ): Promise<Model | undefined> {
    steps = mine;
    const { signal } = mine.abort;
    const loading = loadModel(server.origin + path, {
      budgetBytes: 40_000,
      connections: 2,
      ...given,
      signal,
      onProgress: () => {
        mine.callback('onProgress');
      },
      onTensor: () => {
        mine.callback('onTensor');
      },
    });
    const outcome = await loading.catch((error: unknown) => error);
    mine.over = true;
    assert.equal(getEventListeners(signal, 'abort').length, 0, 'listeners stay');
    if (!signal.aborted) {
      assert.ok(outcome instanceof Model, String(outcome));
      return outcome;
    }
    const { message: why } = signal.reason as Error;
    assert.ok(outcome instanceof SluiceError, `${why}: ${String(outcome)}`);
    assert.equal(outcome.code, 'aborted', `${why}: ${outcome.message}`);
    assert.equal(outcome.cause, signal.reason, why);
    await until(() => buffers.count === 0, `${why}: no buffer stays`);
    await until(() => bodies.size === 0, `${why}: no body stays open`);
    await until(() => server.openResponses === 0, `${why}: no response is open`);
    assert.deepEqual(mine.late, [], why);
    assert.ok(
      budgets.every((used) => used === 0),
      `${why}: ${budgets.join()} bytes of the budget stay`,
    );
    return undefined;
  }

  const ways: [string, () => LoadOptions][] = [
    ['to the CPU', () => ({ device: 'cpu' })],
    ['to a GPU by the ring', () => ({ device, upload: 'ring' })],
    ['to a GPU by writeBuffer', () => ({ device, upload: 'writeBuffer' })],
    [
      'to a GPU, converted',
      () => ({ device, upload: 'ring', dtype: 'float32', budgetBytes: 2 ** 20 }),
    ],
    [
      'to a consumer',
      () => ({
        consume: async () => {
          const mine = steps;
          mine.callback('consume');
          await new Promise((next) => setImmediate(next));
          mine.take('consumed');
        },
      }),
    ],
  ];

  /** Loads until one is not aborted any more: its tensors, and how many steps it took. */
  async function abortEach(
    path: string,
    tensors: readonly TestTensor[],
    given: LoadOptions,
    only?: string,
    begin?: (mine: Steps) => void,
  ): Promise<number> {
    for (let at = 0; ; at++) {
      const mine = new Steps(at, only);
      begin?.(mine);
      const model = await loadAborted(mine, path, given);
      if (!model) continue;
      if (given.device !== undefined && given.dtype === undefined) {
        await expectModel(model, tensors.map(asStored));
      }
      model.destroy();
      assert.equal(buffers.count, 0);
      assert.ok(budgets.length >= 2, `only ${budgets.length} loads had begun`);
      return at;
    }
  }

  for (const [path, tensors] of MODELS) {
    // Of both kinds of tensors in several files, one all the ways
    for (const [way, options] of tensors === plain ? ways.slice(0, 2) : ways) {
      test(`${path} ${way}, fetched in pieces`, async () => {
        const at = await abortEach(path, tensors, { ...options(), fetch: fetchInPieces });
        assert.ok(at >= 20, `only ${at} steps`);
      });
    }
  }

  // By node:http, whose steps cannot be counted from outside
  for (const [path, tensors] of MODELS) {
    for (const [way, options] of ways.slice(0, 3)) {
      test(`${path} ${way}, at every turn of the event loop`, async () => {
        const at = await abortEach(path, tensors, options(), 'turn', (mine) => {
          const turn = (): void => {
            mine.take('turn');
            if (!mine.over) setImmediate(turn);
          };
          setImmediate(turn);
        });
        assert.ok(at >= 2, `only ${at} turns`);
        await until(
          () => resources('TCPSocketWrap') <= baseline,
          `no more than ${baseline} sockets are open`,
        );
      });
    }
  }

  for (const path of Object.keys(FILES)) {
    test(`in the pause before ${path} is asked for again`, async () => {
      const busy = { path, status: 503, headers: { 'Retry-After': '30' } };
      const broken = await startServer({ files: FILES, faults: [busy] });
      try {
        const [manifest = ''] = MODELS.find(([name]) => dirname(name) === dirname(path)) ?? [];
        const timers = resources('Timeout');
        const abort = new AbortController();
        const load = loadModel(broken.origin + manifest, { device: 'cpu', signal: abort.signal });
        load.catch(() => undefined);
        const asked = (): boolean => broken.requests.some((request) => request.path === path);
        await until(() => asked() && broken.openResponses === 0, `${path} is refused`);
        await sleep(50);
        const begin = performance.now();
        abort.abort(new Error('enough'));
        const error = await rejects(load, 'aborted');
        assert.ok(performance.now() - begin < 2000);
        assert.equal(error.cause, abort.signal.reason);
        assert.equal(broken.requests.filter((request) => request.path === path).length, 1);
        await until(() => resources('Timeout') <= timers, 'no timer is left');
      } finally {
        await broken.close();
      }
      await until(() => resources('TCPSocketWrap') <= baseline, `${baseline} sockets are open`);
    });
  }
});
