// Pieces that a sink expands: beside others, in parts, through the worker's half, and what can go wrong.
import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';
import { MessageChannel } from 'node:worker_threads';
import { SluiceError } from '../../src/errors.js';
import type { Conversion } from '../../src/sinks/conversion.js';
import { expandShader } from '../../src/sinks/expand_wgsl.js';
import { expandsOnDevice, isExpansionFaster } from '../../src/sinks/expand_where.js';
import type { GpuSlotSink } from '../../src/sinks/gpu_buffers.js';
import { RemoteSink, serveSink } from '../../src/sinks/remote_sink.js';
import { RingSink } from '../../src/sinks/ring_sink.js';
import type { Piece, SlotSink } from '../../src/sinks/sink.js';
import { WriteBufferSink } from '../../src/sinks/write_buffer_sink.js';
import { randomBytes } from '../support/models.js';
import { nodeAdapter, nodeDevice, readBack } from './node_gpu.js';

const TIMEOUT = { timeout: 60_000 };
const SLOT_BYTES = 65_536;
const BF16: Conversion = { from: 'bfloat16', to: 'float32' };
const NARROW: Conversion = { from: 'float32', to: 'bfloat16' };

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

const KINDS: [string, (device: GPUDevice) => GpuSlotSink][] = [
  ['RingSink', (device) => new RingSink(device)],
  ['WriteBufferSink', (device) => new WriteBufferSink(device)],
];

/** bfloat16 as float32. */
function widened(bytes: Uint8Array): Uint8Array {
  const halves = new Uint16Array(bytes.slice().buffer);
  return new Uint8Array(Uint32Array.from(halves, (half) => half * 65_536).buffer);
}

/**
 * Fills one buffer through slots of random bytes, each a copied piece, an expanded one and a copied one, that leave 4
 * bytes between them; gives what the buffer must hold.
 */
async function driveMixed(sink: SlotSink, uploads: number): Promise<Uint8Array> {
  const each = 4096;
  const bytes = 4 * each + 16;
  await sink.prepare(3, SLOT_BYTES, [BF16]);
  await sink.allocate(0, { nbytes: uploads * bytes, tensor: 'mixed' });
  const expected = new Uint8Array(uploads * bytes);
  const free = [0, 1, 2];
  const waiting: Promise<void>[] = [];
  for (let i = 0; i < uploads; i++) {
    if (free.length === 0) await Promise.all(waiting.splice(0));
    const slot = free.pop() ?? 0;
    const stored = randomBytes(SLOT_BYTES, i);
    sink.slot(slot).set(stored);
    const at = i * bytes + 4;
    const begin = 4 * (i % 7);
    // An odd number of elements: the piece's last two bytes are padding
    const expand = { ...BF16, nbytes: 2 * each - 4 };
    const pieces: Piece[] = [
      { slotOffset: begin, buffer: 0, bufferOffset: at, nbytes: each },
      {
        slotOffset: begin + each + 8,
        buffer: 0,
        bufferOffset: at + each + 4,
        nbytes: each,
        expand,
      },
      { slotOffset: begin + 3 * each, buffer: 0, bufferOffset: at + 3 * each + 4, nbytes: each },
    ];
    expected.set(stored.subarray(begin, begin + each), at);
    const packed = stored.subarray(begin + each + 8, begin + 2 * each + 6);
    expected.set(widened(packed), at + each + 4);
    expected.set(stored.subarray(begin + 3 * each, begin + 4 * each), at + 3 * each + 4);
    waiting.push(
      sink.upload(slot, pieces).then(() => {
        free.push(slot);
      }),
    );
  }
  await Promise.all(waiting);
  await sink.flush();
  return expected;
}

for (const [name, create] of KINDS) {
  describe(`${name}, pieces that are expanded`, TIMEOUT, () => {
    test('beside pieces that are copied, and nothing else is written', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      const expected = await driveMixed(sink, 40);
      assert.deepEqual(await readBack(device, sink.buffer(0)), expected);
      sink.close(false);
      device.destroy();
    });

    test('sent by the half of a sink that a worker has', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      const { port1, port2 } = new MessageChannel();
      const served = serveSink(port1, sink);
      const remote = new RemoteSink(port2);
      const expected = await driveMixed(remote, 40);
      assert.deepEqual(await readBack(device, sink.buffer(0)), expected);
      remote.close(false);
      await served.finished;
      device.destroy();
    });

    test('many small ones in one upload', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      const count = 1000;
      await sink.prepare(1, SLOT_BYTES, [BF16]);
      await sink.allocate(0, { nbytes: count * 8, tensor: 'many' });
      const stored = randomBytes(count * 4, 1);
      sink.slot(0).set(stored);
      const expand = { ...BF16, nbytes: 8 };
      const pieces = Array.from({ length: count }, (_, i): Piece => ({
        slotOffset: 4 * i,
        buffer: 0,
        // Backwards, so that none may be taken for another
        bufferOffset: 8 * (count - 1 - i),
        nbytes: 4,
        expand,
      }));
      await sink.upload(0, pieces);
      await sink.flush();
      const actual = await readBack(device, sink.buffer(0));
      for (let i = 0; i < count; i++) {
        const at = 8 * (count - 1 - i);
        assert.deepEqual(actual.slice(at, at + 8), widened(stored.subarray(4 * i, 4 * i + 4)));
      }
      sink.close(false);
      device.destroy();
    });

    test('an odd number of 16-bit elements ends in zeros', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      await sink.prepare(1, SLOT_BYTES, [NARROW]);
      await sink.allocate(0, { nbytes: 16, tensor: 'odd' });
      sink.slot(0).fill(0xff);
      // So that something lies behind the next upload's bytes
      const before = { ...NARROW, nbytes: 8 };
      await sink.upload(0, [
        { slotOffset: 0, buffer: 0, bufferOffset: 8, nbytes: 16, expand: before },
      ]);
      new Uint16Array(sink.slot(0).buffer, 0, 6).set([0, 0x3f80, 0, 0x4000, 0, 0x4040]);
      const expand = { ...NARROW, nbytes: 6 };
      const piece = { slotOffset: 0, buffer: 0, nbytes: 12, expand };
      await sink.upload(0, [{ ...piece, bufferOffset: 0 }]);
      await sink.flush();
      const halves = new Uint16Array((await readBack(device, sink.buffer(0))).buffer);
      assert.deepEqual([...halves], [0x3f80, 0x4000, 0x4040, 0, 0xffff, 0xffff, 0xffff, 0xffff]);
      sink.close(false);
      device.destroy();
    });

    test('in parts, where one binding cannot hold all of it', async () => {
      const device = await nodeDevice();
      const { limits } = device;
      const maxStorageBufferBindingSize = SLOT_BYTES;
      Object.defineProperty(device, 'limits', {
        value: { maxStorageBufferBindingSize, maxBufferSize: limits.maxBufferSize },
      });
      let largest = 0;
      const bind = device.createBindGroup.bind(device);
      device.createBindGroup = (descriptor) => {
        for (const { resource } of descriptor.entries) {
          largest = Math.max(largest, (resource as GPUBufferBinding).size ?? 0);
        }
        return bind(descriptor);
      };
      const sink = create(device);
      await sink.prepare(2, SLOT_BYTES, [BF16]);
      await sink.allocate(0, { nbytes: 2 * SLOT_BYTES + 4, tensor: 'wide' });
      const stored = randomBytes(SLOT_BYTES, 3);
      sink.slot(0).set(stored);
      const expand = { ...BF16, nbytes: 2 * SLOT_BYTES };
      await sink.upload(0, [
        { slotOffset: 0, buffer: 0, bufferOffset: 4, nbytes: SLOT_BYTES, expand },
      ]);
      await sink.flush();
      const actual = await readBack(device, sink.buffer(0));
      assert.deepEqual(actual.subarray(4), widened(stored));
      assert.ok(largest > 0 && largest <= maxStorageBufferBindingSize, String(largest));
      sink.close(false);
      await assert.rejects(
        create(device).prepare(2, SLOT_BYTES + 4, [BF16]),
        failsWith('device_limit', SLOT_BYTES + 4, SLOT_BYTES, 'maxStorageBufferBindingSize'),
      );
      device.destroy();
    });

    test('pieces that cannot be are refused, with the tensor and the numbers', async () => {
      const device = await nodeDevice();
      const sink = create(device);
      await sink.prepare(1, SLOT_BYTES, [BF16]);
      await sink.allocate(0, { nbytes: 64, tensor: 'small' });
      const good = { slotOffset: 0, buffer: 0, bufferOffset: 0, nbytes: 32 };
      for (const [bad, ...texts] of [
        [{ ...good, bufferOffset: 4, expand: { ...BF16, nbytes: 64 } }, 'outside', 64],
        [{ ...good, expand: { ...BF16, nbytes: 68 } }, '68 bytes of float32 as bfloat16'],
        [{ ...good, expand: { ...BF16, nbytes: 6 } }, '6 bytes of float32'],
        [{ ...good, expand: { ...BF16, from: 'q4_0', nbytes: 64 } }, '64 bytes of float32 as q4_0'],
        [{ ...good, expand: { ...BF16, from: 'nothing', nbytes: 64 } }, 'as nothing'],
        [{ ...good, nbytes: 30, expand: { ...BF16, nbytes: 60 } }, 'aligned'],
      ] as const) {
        await assert.rejects(sink.upload(0, [bad]), failsWith('internal', 'small', ...texts));
      }
      const unforeseen: Piece = { ...good, expand: { ...NARROW, nbytes: 16 } };
      await assert.rejects(
        sink.upload(0, [unforeseen]),
        failsWith('internal', 'not prepared', 'float32 to bfloat16'),
      );
      sink.close(false);
      device.destroy();
    });

    test('what no shader does cannot be prepared', async () => {
      const device = await nodeDevice();
      const none: Conversion = { from: 'q2_k', to: 'float32' };
      await assert.rejects(
        create(device).prepare(1, SLOT_BYTES, [BF16, none]),
        failsWith('internal', 'q2_k to float32'),
      );
      device.destroy();
    });

    test('a device without memory for the packed bytes is out_of_device_memory', async () => {
      const device = await nodeDevice();
      const { limits } = device;
      const sink = create(device);
      // The software adapter has no gibibyte; the limit would be said first
      Object.defineProperty(device, 'limits', {
        value: { maxStorageBufferBindingSize: 2 ** 31, maxBufferSize: limits.maxBufferSize },
      });
      const slotBytes = 2 ** 30 - 4;
      await assert.rejects(
        sink.prepare(1, slotBytes, [BF16]),
        failsWith('out_of_device_memory', slotBytes),
      );
      sink.close(false);
      device.destroy();
    });

    test('a device that is lost before, while preparing and after', async () => {
      const lost = await nodeDevice();
      lost.destroy();
      await lost.lost;
      await assert.rejects(
        create(lost).prepare(2, SLOT_BYTES, [BF16]),
        failsWith('device_lost', 'destroyed'),
      );
      const device = await nodeDevice();
      const preparing = create(device).prepare(2, SLOT_BYTES, [BF16]);
      device.destroy();
      await assert.rejects(preparing, failsWith('device_lost', 'destroyed'));
      const doomed = await nodeDevice();
      const sink = create(doomed);
      await sink.prepare(1, SLOT_BYTES, [BF16]);
      await sink.allocate(0, { nbytes: 64, tensor: 't' });
      const expand = { ...BF16, nbytes: 64 };
      const upload = sink.upload(0, [
        { slotOffset: 0, buffer: 0, bufferOffset: 0, nbytes: 32, expand },
      ]);
      const flushed = sink.flush();
      doomed.destroy();
      await upload.catch(() => undefined);
      await assert.rejects(flushed, failsWith('device_lost', 'destroyed'));
      sink.close(false);
    });

    test('close() while it prepares leaves no buffer', async () => {
      const device = await nodeDevice();
      let live = 0;
      const createBuffer = device.createBuffer.bind(device);
      device.createBuffer = (descriptor) => {
        const buffer = createBuffer(descriptor);
        const destroy = buffer.destroy.bind(buffer);
        live++;
        buffer.destroy = () => {
          live--;
          buffer.destroy = destroy;
          destroy();
        };
        return buffer;
      };
      for (let wait = 0; wait < 4; wait++) {
        const sink = create(device);
        const preparing = sink.prepare(2, SLOT_BYTES, [BF16, NARROW]);
        const settled = preparing.catch((error: unknown) => failsWith('aborted', 'closed')(error));
        for (let i = 0; i < wait; i++) await new Promise(setImmediate);
        sink.close(false);
        await settled;
        assert.equal(live, 0, `after ${wait} turns`);
      }
      device.destroy();
    });
  });
}

describe('shaders', TIMEOUT, () => {
  const opened: GPUDevice[] = [];
  after(() => {
    for (const device of opened) device.destroy();
  });

  test('each is made once a device', async () => {
    const device = await nodeDevice();
    opened.push(device);
    let made = 0;
    const create = device.createComputePipelineAsync.bind(device);
    device.createComputePipelineAsync = (descriptor) => {
      made++;
      return create(descriptor);
    };
    for (let i = 0; i < 3; i++) {
      const sinks = [new RingSink(device), new WriteBufferSink(device)];
      await Promise.all(sinks.map((sink) => sink.prepare(1, 4096, [BF16, NARROW])));
      for (const sink of sinks) sink.close(false);
    }
    assert.equal(made, 2);
  });

  test('there is one for each pair of types that has a codec, and for no other', () => {
    const plain = ['float32', 'float16', 'bfloat16'];
    const blocks = ['q4_0', 'q4_1', 'q5_0', 'q5_1', 'q8_0', 'q4_k', 'q5_k', 'q6_k'];
    for (const to of plain) {
      for (const from of [...plain, ...blocks]) {
        assert.equal(expandShader({ from, to }) !== undefined, from !== to, `${from} to ${to}`);
      }
      for (const from of ['q2_k', 'int8', 'q8_1', 'float64']) {
        assert.equal(expandShader({ from, to }), undefined);
      }
    }
    assert.equal(expandShader({ from: 'float32', to: 'q4_0' }), undefined);
  });
});

describe('where tensors are expanded', () => {
  test('on GPUs; not on adapters that run on the CPU', async () => {
    const gpu = {
      vendor: 'nvidia',
      architecture: 'hopper',
      device: '',
      description: 'NVIDIA H100',
    };
    assert.equal(isExpansionFaster(gpu), true);
    assert.equal(isExpansionFaster({}), true);
    assert.equal(isExpansionFaster(undefined), true);
    assert.equal(isExpansionFaster({ ...gpu, isFallbackAdapter: true }), false);
    assert.equal(isExpansionFaster({ vendor: 'google', architecture: 'swiftshader' }), false);
    assert.equal(isExpansionFaster({ description: 'llvmpipe (LLVM 15.0.6)' }), false);
    assert.equal(isExpansionFaster({ description: 'Microsoft Basic Render Driver' }), false);
    const adapter = await nodeAdapter();
    const software = process.env['VK_ICD_FILENAMES']?.includes('swiftshader') ?? false;
    assert.equal(isExpansionFaster(adapter.info), !software);
  });

  test("as the option says; 'auto' asks the device, but not for buffers that no shader can write", async () => {
    let asked = 0;
    const gpu = async (): Promise<{ vendor: string }> => {
      asked++;
      return { vendor: 'nvidia' };
    };
    const { STORAGE, COPY_DST } = GPUBufferUsage;
    assert.equal(await expandsOnDevice('cpu', STORAGE, gpu), false);
    assert.equal(await expandsOnDevice('device', STORAGE, gpu), true);
    assert.equal(await expandsOnDevice('auto', COPY_DST, gpu), false);
    assert.equal(asked, 0);
    assert.equal(await expandsOnDevice('auto', undefined, gpu), true);
    assert.equal(await expandsOnDevice('auto', STORAGE | COPY_DST, gpu), true);
    assert.equal(asked, 2);
    await assert.rejects(
      expandsOnDevice('device', COPY_DST, gpu),
      failsWith('invalid_argument', 'STORAGE', COPY_DST),
    );
  });
});
