import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { SluiceError } from '../../src/errors.js';
import { requestDevice } from '../../src/sinks/device.js';
import { createUploadSink, measureUpload } from '../../src/sinks/measure_upload.js';
import { nodeAdapter, nodeDevice } from './node_gpu.js';

const MIB = 2 ** 20;

/** Counts buffers that createBuffer gave and destroy() has not taken back. */
function countBuffers(device: GPUDevice): () => number {
  const create = device.createBuffer.bind(device);
  let alive = 0;
  device.createBuffer = (descriptor) => {
    const buffer = create(descriptor);
    const destroy = buffer.destroy.bind(buffer);
    let destroyed = false;
    alive++;
    buffer.destroy = () => {
      if (!destroyed) alive--;
      destroyed = true;
      return destroy();
    };
    return buffer;
  };
  return () => alive;
}

describe('measureUpload', { timeout: 60_000 }, () => {
  test('gives the rate of both paths, once a device, and leaves no buffer', async () => {
    const device = await nodeDevice();
    const alive = countBuffers(device);
    const first = measureUpload(device);
    assert.ok(alive() > 0, 'the counter sees buffers');
    const result = await first;
    assert.ok(result.ringBytesPerSecond > 0);
    assert.ok(result.writeBufferBytesPerSecond > 0);
    const ringWins = result.ringBytesPerSecond * 1.25 > result.writeBufferBytesPerSecond;
    assert.equal(result.path, ringWins ? 'ring' : 'writeBuffer');
    assert.equal(result.fallback, undefined);
    assert.equal(alive(), 0);
    assert.equal(await measureUpload(device), result);
    const sink = await createUploadSink(device);
    assert.equal(sink.path, result.path);
    sink.close(false);
    device.destroy();
  });

  test('a ring that is slow only at first is not given up', async () => {
    const device = await nodeDevice();
    const create = device.createBuffer.bind(device);
    const until = performance.now() + 60;
    device.createBuffer = (descriptor) => {
      const buffer = create(descriptor);
      const map = buffer.mapAsync.bind(buffer);
      buffer.mapAsync = async (...given) => {
        // As while the GPU's process does something else
        const slow = until - performance.now();
        if (slow > 0) await new Promise((resume) => setTimeout(resume, slow));
        return map(...given);
      };
      return buffer;
    };
    const write = device.queue.writeBuffer.bind(device.queue);
    device.queue.writeBuffer = (...given: Parameters<typeof write>) => {
      const stop = performance.now() + 8; // a slow path, whatever the adapter
      while (performance.now() < stop);
      write(...given);
    };
    assert.equal((await measureUpload(device)).path, 'ring');
    device.destroy();
  });

  test('out of memory falls back to writeBuffer and says why', async () => {
    const device = await nodeDevice();
    const create = device.createBuffer.bind(device);
    device.createBuffer = (descriptor) => {
      if (descriptor.mappedAtCreation) throw new RangeError('no room for staging');
      return create(descriptor);
    };
    const result = await measureUpload(device);
    assert.equal(result.path, 'writeBuffer');
    assert.equal(result.fallback?.code, 'out_of_device_memory');
    assert.match(result.fallback.message, /no room for staging/);
    device.destroy();
  });

  test('a lost device rejects with device_lost', async () => {
    const device = await nodeDevice();
    const measuring = measureUpload(device);
    device.destroy();
    const lost = (error: unknown): boolean =>
      error instanceof SluiceError && error.code === 'device_lost';
    await assert.rejects(measuring, lost);
    await assert.rejects(createUploadSink(device), lost);
  });

  test('createUploadSink takes the path it is told', async () => {
    const device = await nodeDevice();
    for (const path of ['ring', 'writeBuffer'] as const) {
      const sink = await createUploadSink(device, { path, usage: GPUBufferUsage.INDEX });
      assert.equal(sink.path, path);
      await sink.allocate(0, { nbytes: 4, tensor: 't' });
      assert.equal(sink.buffer(0).usage, GPUBufferUsage.INDEX | GPUBufferUsage.COPY_DST);
      sink.close(false);
    }
    device.destroy();
  });
});

describe('requestDevice', { timeout: 60_000 }, () => {
  test('asks for what the model needs, in steps, and for no less than every device has', async () => {
    for (const [bytes, buffer, binding] of [
      [0, 256 * MIB, 128 * MIB],
      [200 * MIB, 256 * MIB, 256 * MIB],
      [300 * MIB + 4, 320 * MIB, 320 * MIB],
    ] as const) {
      const device = await requestDevice(await nodeAdapter(), { largestBufferBytes: bytes });
      assert.equal(device.limits.maxBufferSize, buffer);
      assert.equal(device.limits.maxStorageBufferBindingSize, binding);
      device.destroy();
    }
    const device = await requestDevice(await nodeAdapter(), {
      largestBufferBytes: 512 * MIB,
      largestBindingBytes: 4 * MIB,
    });
    assert.equal(device.limits.maxBufferSize, 512 * MIB);
    assert.equal(device.limits.maxStorageBufferBindingSize, 128 * MIB);
    device.destroy();
  });

  test('the whole of what the adapter has can be had, and 4 bytes more is device_limit', async () => {
    const { maxBufferSize, maxStorageBufferBindingSize } = (await nodeAdapter()).limits;
    const largestBindingBytes = maxStorageBufferBindingSize;
    const device = await requestDevice(await nodeAdapter(), {
      largestBufferBytes: maxBufferSize,
      largestBindingBytes,
    });
    assert.equal(device.limits.maxBufferSize, maxBufferSize);
    assert.equal(device.limits.maxStorageBufferBindingSize, maxStorageBufferBindingSize);
    device.destroy();
    for (const [needs, most] of [
      [{ largestBufferBytes: maxBufferSize + 4, largestBindingBytes: 4 }, maxBufferSize],
      [
        { largestBufferBytes: 4, largestBindingBytes: largestBindingBytes + 4 },
        maxStorageBufferBindingSize,
      ],
    ] as const) {
      await assert.rejects(
        requestDevice(await nodeAdapter(), { ...needs, tensor: 'embed' }),
        (error) => {
          assert.ok(error instanceof SluiceError);
          assert.equal(error.code, 'device_limit');
          assert.equal(error.tensor, 'embed');
          assert.equal(error.expected, most);
          assert.equal(error.actual, most + 4);
          for (const text of ['embed', String(most), String(most + 4)]) {
            assert.ok(error.message.includes(text), error.message);
          }
          return true;
        },
      );
    }
  });

  test('no WebGPU, a missing feature and an adapter used up are invalid_argument', async () => {
    const invalid = (text: string) => (error: unknown) =>
      error instanceof SluiceError &&
      error.code === 'invalid_argument' &&
      error.message.includes(text);
    await assert.rejects(requestDevice(undefined, { largestBufferBytes: 4 }), invalid('no WebGPU'));
    const adapter = await nodeAdapter();
    await assert.rejects(
      requestDevice(adapter, {
        largestBufferBytes: 4,
        requiredFeatures: ['no-such-feature' as GPUFeatureName],
      }),
      invalid('no-such-feature'),
    );
    const device = await requestDevice(adapter, { largestBufferBytes: 4 });
    await assert.rejects(requestDevice(adapter, { largestBufferBytes: 4 }), invalid('refused'));
    device.destroy();
  });
});
