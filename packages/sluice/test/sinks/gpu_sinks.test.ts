import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { SluiceError } from '../../src/errors.js';
import { createMappedSlots } from '../../src/sinks/gpu_buffers.js';
import type { GpuSinkOptions, GpuSlotSink } from '../../src/sinks/gpu_buffers.js';
import { RingSink } from '../../src/sinks/ring_sink.js';
import type { Piece } from '../../src/sinks/sink.js';
import { WriteBufferSink } from '../../src/sinks/write_buffer_sink.js';
import { trackBuffers } from '../load/support.js';
import { nodeDevice, readBack } from './node_gpu.js';
import { driveSink, firstDifference } from './upload_check.js';

const GIB = 2 ** 30;
const TIMEOUT = { timeout: 60_000 };

/** A predicate for assert.rejects: the code, and every text in the message. */
const failsWith =
  (code: string, ...texts: (string | number)[]) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.equal(error.code, code, error.message);
    for (const text of texts) {
      assert.ok(error.message.includes(String(text)), `"${error.message}" names ${text}`);
    }
    return true;
  };

const piece = (nbytes: number, bufferOffset = 0, slotOffset = 0, buffer = 0): Piece => ({
  slotOffset,
  buffer,
  bufferOffset,
  nbytes,
});

/** Whether the device still accepts the buffer in a submission. */
async function isAlive(device: GPUDevice, buffer: GPUBuffer): Promise<boolean> {
  const target = device.createBuffer({ size: 4, usage: GPUBufferUsage.COPY_DST });
  device.pushErrorScope('validation');
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, target, 0, 4);
  device.queue.submit([encoder.finish()]);
  const error = await device.popErrorScope();
  target.destroy();
  return error === null;
}

const KINDS: [string, (device: GPUDevice, options?: GpuSinkOptions) => GpuSlotSink][] = [
  ['RingSink', (device, options) => new RingSink(device, options)],
  ['WriteBufferSink', (device, options) => new WriteBufferSink(device, options)],
];

for (const [name, create] of KINDS) {
  describe(name, TIMEOUT, () => {
    for (const [slots, slotBytes, uploads] of [
      [1, 4096, 60],
      [3, 65536, 60],
      [4, 2 ** 20, 12],
    ] as const) {
      test(`${uploads} uploads through ${slots} slots of ${slotBytes} bytes arrive, their neighbours stay`, async () => {
        const device = await nodeDevice();
        const sink = create(device);
        const expected = await driveSink(sink, slots, slotBytes, uploads, slots * 7 + uploads);
        for (const [index, bytes] of expected.entries()) {
          const actual = await readBack(device, sink.buffer(index));
          assert.equal(firstDifference(bytes, actual), undefined, `buffer ${index}`);
        }
        sink.close(false);
        device.destroy();
      });
    }

    test('slots of 4 bytes, the smallest there are, write 4 bytes', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      await sink.prepare(2, 4);
      await sink.allocate(0, { nbytes: 404, tensor: 't' });
      const expected = new Uint8Array(404);
      for (let i = 0; i < 50; i++) {
        sink.slot(i % 2).fill(i + 1);
        expected.fill(i + 1, 8 * i + 4, 8 * i + 8);
        await sink.upload(i % 2, [piece(4, 8 * i + 4)]);
      }
      await sink.flush();
      assert.deepEqual(await readBack(device, sink.buffer(0)), expected);
      sink.close(false);
      device.destroy();
    });

    test('a buffer above maxBufferSize is device_limit, with the tensor and both numbers', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      const limit = device.limits.maxBufferSize;
      await assert.rejects(
        sink.allocate(0, { nbytes: limit + 4, tensor: 'embed.q_weight' }),
        failsWith('device_limit', 'embed.q_weight', limit + 4, limit),
      );
      await sink.allocate(0, { nbytes: 16, tensor: 'next' });
      sink.close(false);
      device.destroy();
    });

    test('memory that runs out is out_of_device_memory, for that buffer alone', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      const results = await Promise.allSettled(
        Array.from({ length: 40 }, (_, index) =>
          sink.allocate(index, { nbytes: index === 20 ? GIB - 4 : 4096, tensor: `t${index}` }),
        ),
      );
      for (const [index, result] of results.entries()) {
        if (index === 20) {
          assert.ok(result.status === 'rejected');
          failsWith('out_of_device_memory', '"t20"', GIB - 4, 20 * 4096)(result.reason);
        } else {
          assert.equal(result.status, 'fulfilled', `allocation ${index}`);
        }
      }
      const first = sink.buffer(0);
      assert.equal(await isAlive(device, first), true);
      assert.throws(() => sink.buffer(20), failsWith('internal', 20));
      // Nothing of the refused buffer stays behind.
      await sink.allocate(20, { nbytes: 16, tensor: 'smaller' });
      assert.equal(sink.buffer(20).size, 16);
      sink.close(false);
      assert.equal(await isAlive(device, first), false);
      device.destroy();
    });

    test('close(true) leaves the buffers, close(false) destroys them', async () => {
      const device = await nodeDevice();
      for (const keep of [true, false]) {
        const sink = create(device);
        await sink.prepare(1, 64);
        await sink.allocate(0, { nbytes: 64, tensor: 't' });
        sink.slot(0).fill(7);
        await sink.upload(0, [piece(64)]);
        await sink.flush();
        const buffer = sink.buffer(0);
        sink.close(keep);
        sink.close(keep);
        assert.equal(await isAlive(device, buffer), keep);
        assert.throws(() => sink.slot(0), failsWith('aborted'));
        await assert.rejects(sink.upload(0, []), failsWith('aborted'));
        await assert.rejects(sink.flush(), failsWith('aborted'));
        await assert.rejects(
          sink.allocate(1, { nbytes: 4, tensor: 'late' }),
          failsWith('aborted', 'late'),
        );
        if (keep) assert.deepEqual(await readBack(device, buffer), new Uint8Array(64).fill(7));
      }
      device.destroy();
    });

    test('close() during uploads and allocations rejects them and releases everything', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      await sink.prepare(3, 2 ** 20);
      await sink.allocate(0, { nbytes: 2 ** 20, tensor: 't' });
      const buffer = sink.buffer(0);
      const pending = [0, 1, 2].map((slot) => sink.upload(slot, [piece(2 ** 20)]));
      pending.push(sink.allocate(1, { nbytes: 64, tensor: 'pending' }), sink.flush());
      sink.close(false);
      for (const result of await Promise.allSettled(pending)) {
        if (result.status === 'rejected') failsWith('aborted')(result.reason);
      }
      await assert.rejects(pending[3] ?? Promise.resolve(), failsWith('aborted', 'pending'));
      await assert.rejects(pending[4] ?? Promise.resolve(), failsWith('aborted'));
      assert.equal(await isAlive(device, buffer), false);
      device.destroy();
    });

    test('a lost device rejects everything pending and everything later with device_lost', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      await sink.prepare(3, 2 ** 20);
      await sink.allocate(0, { nbytes: 2 ** 20, tensor: 't' });
      const uploads = [0, 1, 2].map((slot) => sink.upload(slot, [piece(2 ** 20)]));
      const pending = [sink.allocate(1, { nbytes: 64, tensor: 'pending' }), sink.flush()];
      device.destroy();
      for (const result of await Promise.allSettled(uploads)) {
        // Bytes that writeBuffer has taken count as sent; a mapped slot does not come back.
        if (result.status === 'rejected') failsWith('device_lost', 'destroyed')(result.reason);
        else assert.equal(sink.path, 'writeBuffer');
      }
      for (const result of await Promise.allSettled(pending)) {
        assert.ok(result.status === 'rejected');
        failsWith('device_lost', 'destroyed')(result.reason);
      }
      assert.throws(() => sink.slot(0), failsWith('device_lost'));
      await assert.rejects(sink.upload(0, [piece(4)]), failsWith('device_lost'));
      await assert.rejects(sink.flush(), failsWith('device_lost'));
      await assert.rejects(
        sink.allocate(2, { nbytes: 4, tensor: 'late' }),
        failsWith('device_lost', 'late'),
      );
      sink.close(false);
      await assert.rejects(create(device).prepare(1, 64), failsWith('device_lost'));
    });

    test('pieces that WebGPU would refuse are internal errors that name the numbers', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      await sink.prepare(2, 64);
      await sink.allocate(0, { nbytes: 32, tensor: 'w' });
      for (const [bad, ...texts] of [
        [piece(6), 'w', 6, 'aligned'],
        [piece(4, 2), 'w', 2, 'aligned'],
        [piece(4, 0, 1), 'w', 1, 'aligned'],
        [piece(-4), 'aligned'],
        [piece(NaN), 'aligned'],
        [piece(8, 28), 'w', 28, '32'],
        [piece(8, 0, 60), 60, '64'],
        [piece(4, 0, 0, 9), 'buffer 9'],
      ] as const) {
        await assert.rejects(sink.upload(0, [piece(4), bad]), failsWith('internal', ...texts));
      }
      await assert.rejects(
        sink.allocate(1, { nbytes: 6, tensor: 'odd' }),
        failsWith('internal', 'odd', 6),
      );
      await assert.rejects(
        sink.allocate(0, { nbytes: 8, tensor: 'w2' }),
        failsWith('internal', 'w2'),
      );
      await assert.rejects(sink.upload(2, [piece(4)]), failsWith('internal', 'slot 2 of 2'));
      await assert.rejects(sink.prepare(1, 64), failsWith('internal', 'twice'));
      // None of it spoilt the slot or the sink.
      sink.slot(0).fill(3);
      await sink.upload(0, [piece(32)]);
      await sink.flush();
      assert.deepEqual(await readBack(device, sink.buffer(0)), new Uint8Array(32).fill(3));
      sink.close(false);
      await assert.rejects(create(device).prepare(0, 64), failsWith('internal', '0 staging slots'));
      await assert.rejects(create(device).prepare(1, 6), failsWith('internal', '6 bytes'));
      device.destroy();
    });

    test('buffers have the usage asked for, and COPY_DST', async () => {
      const device = await nodeDevice();
      const sink = create(device, { usage: GPUBufferUsage.VERTEX });
      await sink.allocate(0, { nbytes: 16, tensor: 't' });
      assert.equal(sink.buffer(0).usage, GPUBufferUsage.VERTEX | GPUBufferUsage.COPY_DST);
      sink.close(false);
      device.destroy();
    });
  });
}

describe('slots', TIMEOUT, () => {
  test('a ring hands out no slot that an upload holds', async () => {
    const device = await nodeDevice();
    const sink = new RingSink(device);
    await sink.prepare(2, 2 ** 20);
    await sink.allocate(0, { nbytes: 2 ** 20, tensor: 't' });
    const upload = sink.upload(0, [piece(2 ** 20)]);
    assert.throws(() => sink.slot(0), failsWith('internal', 'slot 0'));
    await assert.rejects(sink.upload(0, [piece(4)]), failsWith('internal', 'slot 0'));
    assert.equal(sink.slot(1).length, 2 ** 20);
    await upload;
    assert.equal(sink.slot(0).length, 2 ** 20);
    sink.close(false);
    device.destroy();
  });

  test('writeBuffer keeps its bytes in flight within the bound', async () => {
    const device = await nodeDevice();
    const sink = new WriteBufferSink(device, { inFlightBytes: 3 * 2 ** 20 });
    await sink.prepare(4, 2 ** 20);
    await sink.allocate(0, { nbytes: 2 ** 20, tensor: 't' });
    let held = 0;
    await Promise.all(
      [0, 1, 2, 3].map(async (slot) => {
        for (let i = 0; i < 8; i++) {
          const upload = sink.upload(slot, [piece(2 ** 20)]);
          try {
            sink.slot(slot);
          } catch (error) {
            failsWith('internal', `slot ${slot}`)(error);
            held++;
          }
          await upload;
        }
      }),
    );
    await sink.flush();
    assert.equal(sink.peakInFlightBytes, 3 * 2 ** 20);
    assert.ok(held > 0, 'some upload had to wait, and held its slot meanwhile');
    // One upload above the bound is let through rather than waiting for ever.
    const narrow = new WriteBufferSink(device, { inFlightBytes: 4 });
    await narrow.prepare(1, 64);
    await narrow.allocate(0, { nbytes: 64, tensor: 't' });
    await narrow.upload(0, [piece(64)]);
    await narrow.upload(0, [piece(64)]);
    await narrow.flush();
    sink.close(false);
    narrow.close(false);
    device.destroy();
  });

  test('close() destroys staging slots that are still being made, at once', async () => {
    const device = await nodeDevice();
    const destroyed: string[] = [];
    const create = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      const buffer = create(descriptor);
      const destroy = buffer.destroy.bind(buffer);
      buffer.destroy = () => {
        destroyed.push(buffer.label);
        destroy();
      };
      return buffer;
    };
    const sink = new RingSink(device);
    const preparing = sink.prepare(2, 4096);
    sink.close(false);
    assert.deepEqual(destroyed, ['sluice staging 0', 'sluice staging 1']);
    await preparing;
    assert.throws(() => sink.slot(0), failsWith('aborted'));
    device.destroy();
  });

  test('slots made ahead are taken where prepare() asks for such, and else released', async () => {
    const device = await nodeDevice();
    const buffers = trackBuffers(device);
    for (const [ahead, aheadBytes, slots, slotBytes, made] of [
      [2, 4096, 2, 4096, 2],
      [2, 4096, 3, 4096, 3],
      [3, 4096, 1, 4096, 3],
      [2, 4096, 2, 8192, 4],
    ] as const) {
      const sink = new RingSink(device);
      const before = buffers.created;
      sink.makeSlots(ahead, aheadBytes);
      assert.equal(buffers.count, ahead);
      const expected = await driveSink(sink, slots, slotBytes, 8, ahead + slots);
      const staging = buffers.created - before - expected.length;
      assert.equal(staging, made);
      assert.equal(buffers.count, slots + expected.length);
      for (const [index, bytes] of expected.entries()) {
        const actual = await readBack(device, sink.buffer(index));
        assert.equal(firstDifference(bytes, actual), undefined, `buffer ${index}`);
      }
      sink.makeSlots(ahead, aheadBytes); // comes too late
      sink.close(false);
      assert.equal(buffers.count, 0);
    }
    const unused = new RingSink(device);
    unused.makeSlots(2, device.limits.maxBufferSize + 4);
    await assert.rejects(unused.prepare(1, 64), failsWith('device_limit'));
    device.destroy();
  });

  test('staging that cannot be had is device_limit or out_of_device_memory, and is released', async () => {
    const device = await nodeDevice();
    const limit = device.limits.maxBufferSize;
    await assert.rejects(
      new RingSink(device).prepare(2, limit + 4),
      failsWith('device_limit', limit, limit + 4),
    );
    device.destroy();

    // Both ways in which WebGPU reports it, from a device that plays them: the real ones take seconds.
    for (const way of ['scope', 'throw']) {
      let alive = 0;
      const scopes: string[] = [];
      const fake = {
        limits: { maxBufferSize: GIB },
        pushErrorScope: (filter: string) => void scopes.push(filter),
        popErrorScope: async () =>
          scopes.pop() === 'out-of-memory' && way === 'scope' ? { message: 'no room' } : null,
        createBuffer: () => {
          if (way === 'throw' && alive === 1) throw new RangeError('no room');
          alive++;
          return {
            destroy: () => {
              alive--;
            },
          };
        },
      } as unknown as GPUDevice;
      await assert.rejects(
        async () => createMappedSlots(fake, 2, 4096).made,
        failsWith('out_of_device_memory', '2 staging slots', 4096, 'no room'),
      );
      assert.equal(alive, 0);
      assert.equal(scopes.length, 0);
    }
  });
});
