import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, describe, test } from 'node:test';
import { MessageChannel, Worker } from 'node:worker_threads';
import type { MessagePort } from 'node:worker_threads';

import { SluiceError } from '../../src/errors.js';
import {
  remoteBytes,
  RemoteSink,
  serveSink,
  stagingSlotsFor,
} from '../../src/sinks/remote_sink.js';
import type { ServedSink } from '../../src/sinks/remote_sink.js';
import { RingSink } from '../../src/sinks/ring_sink.js';
import type { BufferPlan, Piece, SlotSink } from '../../src/sinks/sink.js';
import { WriteBufferSink } from '../../src/sinks/write_buffer_sink.js';
import { nodeDevice, readBack } from './node_gpu.js';
import { driveSink, firstDifference } from './upload_check.js';

const TIMEOUT = { timeout: 60_000 };
const PIECE: Piece = { slotOffset: 0, buffer: 0, bufferOffset: 0, nbytes: 64 };

const failsWith =
  (code: string, ...texts: (string | number)[]) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.equal(error.code, code, error.message);
    for (const text of texts) assert.ok(error.message.includes(String(text)), error.message);
    return true;
  };

// Open ports and workers keep the process alive: a failed test must not leave any.
const opened: (() => void)[] = [];
after(() => {
  for (const close of opened) close();
});

function openChannel(): MessageChannel {
  const channel = new MessageChannel();
  opened.push(() => {
    channel.port1.close();
  });
  return channel;
}

/** A sink without a device, whose uploads end when the test says so. */
class ManualSink implements SlotSink {
  readonly kind = 'slots';
  readonly log: string[] = [];
  readonly uploads: { resolve: () => void; reject: (error: Error) => void }[] = [];
  slots: Uint8Array[] = [];
  closed: boolean | undefined;

  async prepare(slots: number, slotBytes: number): Promise<void> {
    this.slots = Array.from({ length: slots }, () => new Uint8Array(slotBytes));
  }
  async allocate(index: number, plan: BufferPlan): Promise<void> {
    if (plan.tensor === 'too large') {
      throw new SluiceError('device_limit', 'tensor "too large": 8 bytes exceed 4', {
        tensor: 'too large',
        expected: 4,
        actual: 8,
        hint: 'get a larger one',
      });
    }
    this.log.push(`allocate ${index}`);
  }
  slot(index: number): Uint8Array {
    const slot = this.slots[index];
    if (slot === undefined) throw new Error(`no slot ${index}`);
    return slot;
  }
  upload(index: number, _pieces: readonly Piece[]): Promise<void> {
    this.log.push(`upload ${this.slot(index)[0]}`);
    return new Promise((resolve, reject) => this.uploads.push({ resolve, reject }));
  }
  async flush(): Promise<void> {
    this.log.push('flush');
  }
  close(keepBuffers: boolean): void {
    this.closed = keepBuffers;
  }
  onEnd(): void {
    // Nothing ends it
  }
}

function join(sink: SlotSink): { remote: RemoteSink; served: ServedSink; ports: MessagePort[] } {
  const { port1, port2 } = openChannel();
  return { served: serveSink(port1, sink), remote: new RemoteSink(port2), ports: [port1, port2] };
}

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));

describe('RemoteSink', TIMEOUT, () => {
  for (const Sink of [RingSink, WriteBufferSink]) {
    test(`bytes arrive through a ${Sink.name} in the same thread`, async () => {
      const device = await nodeDevice();
      const sink = new Sink(device);
      const { remote, served } = join(sink);
      const expected = await driveSink(remote, 3, 65536, 60, 11);
      for (const [index, bytes] of expected.entries()) {
        const actual = await readBack(device, sink.buffer(index));
        assert.equal(firstDifference(bytes, actual), undefined, `buffer ${index}`);
      }
      remote.close(true);
      await served.finished;
      assert.equal(sink.buffer(0).size, 4);
      device.destroy();
    });

    test(`bytes arrive through a ${Sink.name} from a worker`, async () => {
      const device = await nodeDevice();
      const sink = new Sink(device);
      const { port1, port2 } = openChannel();
      const served = serveSink(port1, sink);
      const worker = startWorker(port2, false);
      const [expected] = (await once(worker, 'message')) as [Uint8Array[]];
      await served.finished;
      assert.equal(expected.length, 8);
      for (const [index, bytes] of expected.entries()) {
        const actual = await readBack(device, sink.buffer(index));
        assert.equal(firstDifference(bytes, actual), undefined, `buffer ${index}`);
      }
      await worker.terminate();
      device.destroy();
    });
  }

  test('a worker that dies ends the sink and releases its buffers', async () => {
    const device = await nodeDevice();
    const sink = new RingSink(device);
    const { port1, port2 } = openChannel();
    const served = serveSink(port1, sink);
    const worker = startWorker(port2, true);
    await assert.rejects(served.finished, failsWith('aborted', 'the worker ended'));
    assert.throws(() => sink.buffer(0), failsWith('internal'));
    await worker.terminate();
    device.destroy();
  });

  test('a lost device rejects what is pending in the worker, and what comes later', async () => {
    const device = await nodeDevice();
    const { remote, served } = join(new RingSink(device));
    await remote.prepare(2, 2 ** 20);
    await remote.allocate(0, { nbytes: 2 ** 20, tensor: 't' });
    device.destroy();
    await remote.upload(0, [{ ...PIECE, nbytes: 2 ** 20 }]).catch(failsWith('device_lost'));
    await assert.rejects(remote.flush(), failsWith('device_lost', 'destroyed'));
    await assert.rejects(
      remote.allocate(1, { nbytes: 4, tensor: 'late' }),
      (error) => failsWith('device_lost')(error) && (error as SluiceError).hint !== undefined,
    );
    await assert.rejects(served.finished, failsWith('device_lost'));
  });

  test('a block comes back as soon as it is copied, and waits for a free staging slot', async () => {
    const sink = new ManualSink();
    const { remote, served } = join(sink);
    await remote.prepare(6, 64);
    assert.equal(remoteBytes(6, 64), (6 + 3) * 64);
    await remote.allocate(0, { nbytes: 64, tensor: 't' });
    assert.equal(sink.slots.length, stagingSlotsFor(6));
    const freed: number[] = [];
    const uploads = [0, 1, 2, 3, 4, 5].map((slot) => {
      remote.slot(slot).fill(slot);
      const upload = remote.upload(slot, [PIECE]).then(() => freed.push(slot));
      assert.throws(() => remote.slot(slot), failsWith('internal', `slot ${slot}`));
      return upload;
    });
    const flush = remote.flush();
    await turn();
    assert.deepEqual(freed, [0, 1, 2]);
    assert.equal(remote.slot(2).length, 64);
    assert.deepEqual(sink.log.slice(1), ['upload 0', 'upload 1', 'upload 2']);
    sink.uploads[0]?.resolve();
    sink.uploads[1]?.resolve();
    sink.uploads[2]?.resolve();
    await Promise.all(uploads);
    await flush;
    // The flush reached the sink after every upload before it.
    assert.deepEqual(sink.log.slice(4), ['upload 3', 'upload 4', 'upload 5', 'flush']);
    remote.close(false);
    await served.finished;
    assert.equal(sink.closed, false);
  });

  test('a block comes back only once its bytes are in the queue of the device', async () => {
    const device = await nodeDevice();
    let release: () => void = () => undefined;
    const gate = new Promise<undefined>((resolve) => {
      release = () => {
        resolve(undefined);
      };
    });
    const { queue } = device;
    let written = 0;
    const done = queue.onSubmittedWorkDone.bind(queue);
    const write = queue.writeBuffer.bind(queue);
    queue.onSubmittedWorkDone = () => gate.then(done);
    queue.writeBuffer = (...given: Parameters<typeof write>) => {
      written++;
      write(...given);
    };
    const { remote, served } = join(new WriteBufferSink(device));
    await remote.prepare(8, 64);
    await remote.allocate(0, { nbytes: 64, tensor: 't' });
    let back = 0;
    const uploads = Array.from({ length: 8 }, async (_, slot) => {
      await remote.upload(slot, [PIECE]);
      back++;
    });
    for (let i = 0; i < 5; i++) await turn();
    assert.equal(written, stagingSlotsFor(8));
    assert.equal(back, written);
    release();
    await Promise.all(uploads);
    assert.equal(written, 8);
    remote.close(false);
    await served.finished;
    device.destroy();
  });

  test('errors cross with their fields, and a refused buffer ends nothing', async () => {
    const sink = new ManualSink();
    const { remote } = join(sink);
    await remote.prepare(1, 64);
    await assert.rejects(remote.allocate(0, { nbytes: 8, tensor: 'too large' }), (error) => {
      assert.ok(error instanceof SluiceError);
      assert.deepEqual(error.toJSON(), {
        code: 'device_limit',
        message: 'tensor "too large": 8 bytes exceed 4',
        tensor: 'too large',
        expected: 4,
        actual: 8,
        hint: 'get a larger one',
      });
      return true;
    });
    await assert.rejects(
      remote.upload(0, [PIECE]),
      failsWith('internal', 'buffer 0', 'no such buffer'),
    );
    await remote.allocate(0, { nbytes: 64, tensor: 't' });
    await assert.rejects(
      remote.upload(0, [{ ...PIECE, nbytes: 6 }]),
      failsWith('internal', 'aligned'),
    );
    await remote.upload(0, [PIECE]);
    remote.close(false);
  });

  test('a failed upload ends both halves with its error', async () => {
    const sink = new ManualSink();
    const { remote, served } = join(sink);
    await remote.prepare(2, 64);
    await remote.allocate(0, { nbytes: 64, tensor: 't' });
    await remote.upload(0, [PIECE]);
    sink.uploads[0]?.reject(new SluiceError('out_of_device_memory', 'no staging'));
    await assert.rejects(served.finished, failsWith('out_of_device_memory', 'no staging'));
    await turn();
    await assert.rejects(remote.flush(), failsWith('out_of_device_memory', 'no staging'));
    assert.throws(() => remote.slot(1), failsWith('out_of_device_memory'));
    assert.equal(sink.closed, false);
  });

  test('fail() rejects everything that waits on either side', async () => {
    const sink = new ManualSink();
    const { remote, served } = join(sink);
    await remote.prepare(1, 64);
    await remote.allocate(0, { nbytes: 64, tensor: 't' });
    await remote.upload(0, [PIECE]);
    const waiting = remote.upload(0, [PIECE]); // no staging slot becomes free
    const flush = remote.flush();
    await turn();
    served.fail(new Error('worker.onerror: out of memory'));
    served.fail(new Error('a second call does nothing'));
    await assert.rejects(waiting, failsWith('internal', 'worker.onerror'));
    await assert.rejects(flush, failsWith('internal', 'worker.onerror'));
    await assert.rejects(served.finished, failsWith('internal', 'worker.onerror'));
    assert.equal(sink.closed, false);
  });

  test('close() rejects what waits and closes the other half, keeping the buffers or not', async () => {
    for (const keep of [true, false]) {
      const sink = new ManualSink();
      const { remote, served, ports } = join(sink);
      const closed = ports.map((port) => once(port, 'close'));
      await remote.prepare(1, 64);
      await remote.allocate(0, { nbytes: 64, tensor: 't' });
      await remote.upload(0, [PIECE]);
      const flush = remote.upload(0, [PIECE]);
      remote.close(keep);
      remote.close(!keep);
      await assert.rejects(flush, failsWith('aborted'));
      await served.finished;
      assert.equal(sink.closed, keep);
      await Promise.all(closed);
      await assert.rejects(remote.allocate(1, { nbytes: 4, tensor: 'late' }), failsWith('aborted'));
    }
  });

  test('a serving half that cannot be prepared ends both, with its reason', async () => {
    const sink = new ManualSink();
    sink.prepare = () =>
      Promise.reject(new SluiceError('out_of_device_memory', '1 staging slots of 64 bytes'));
    const { remote, served } = join(sink);
    await remote.prepare(1, 64);
    const allocate = remote.allocate(0, { nbytes: 64, tensor: 't' });
    const upload = allocate.then(() => remote.upload(0, [PIECE]));
    await assert.rejects(upload, failsWith('out_of_device_memory', '64 bytes'));
    await assert.rejects(served.finished, failsWith('out_of_device_memory'));
    assert.equal(sink.closed, false);
  });

  test('a serving half that goes away rejects what waits', async () => {
    const { port1, port2 } = openChannel();
    const remote = new RemoteSink(port2);
    await remote.prepare(1, 64);
    const allocate = remote.allocate(0, { nbytes: 64, tensor: 't' });
    port1.close();
    await assert.rejects(allocate, failsWith('aborted', 'GPU thread'));
  });
});

function startWorker(port: MessagePort, die: boolean): Worker {
  // Workers do not take over the loader for TypeScript, so the first lines register it.
  const entry = new URL('./remote_worker.ts', import.meta.url).href;
  const code = `import('tsx/esm/api').then(({ register }) => { register(); return import('${entry}'); });`;
  const worker = new Worker(code, {
    eval: true,
    workerData: { port, die },
    transferList: [port],
  });
  opened.push(() => void worker.terminate());
  return worker;
}
