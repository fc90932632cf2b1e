import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { SluiceError } from '../../src/errors.js';
import { ConsumerSink, type Consumer } from '../../src/sinks/consumer_sink.js';
import { CpuSink } from '../../src/sinks/cpu_sink.js';

const failsWith =
  (code: string, ...texts: (string | number)[]) =>
  (error: unknown): boolean => {
    assert.ok(error instanceof SluiceError, String(error));
    assert.equal(error.code, code, error.message);
    for (const text of texts) assert.ok(error.message.includes(String(text)), error.message);
    return true;
  };

describe('CpuSink', () => {
  test('each buffer is an ArrayBuffer of exactly its size, with the bytes written', async () => {
    const sink = new CpuSink();
    await sink.allocate(0, { nbytes: 8, tensor: 'a' });
    await sink.allocate(1, { nbytes: 0, tensor: 'empty' });
    sink.write(0, 5, Uint8Array.of(1, 2, 3));
    sink.write(0, 0, Uint8Array.of(9));
    await sink.flush();
    sink.close(true);
    assert.deepEqual([...new Uint8Array(sink.buffer(0))], [9, 0, 0, 0, 0, 1, 2, 3]);
    assert.equal(sink.buffer(1).byteLength, 0);
    assert.throws(() => {
      sink.write(0, 0, Uint8Array.of(1));
    }, failsWith('aborted'));
  });

  test('memory that cannot be had names the tensor and the numbers', async () => {
    const sink = new CpuSink();
    await sink.allocate(0, { nbytes: 64, tensor: 'a' });
    await assert.rejects(
      sink.allocate(1, { nbytes: 2 ** 52, tensor: 'huge' }),
      failsWith('out_of_device_memory', 'huge', 2 ** 52, 64),
    );
    assert.equal(sink.buffer(0).byteLength, 64);
  });

  test('writes outside a buffer are refused', async () => {
    const sink = new CpuSink();
    await sink.allocate(0, { nbytes: 8, tensor: 'a' });
    const bytes = new Uint8Array(4);
    for (const offset of [5, -1, 0.5, 2 ** 53]) {
      assert.throws(
        () => {
          sink.write(0, offset, bytes);
        },
        failsWith('internal', '"a"', 4, offset),
      );
    }
    assert.throws(
      () => {
        sink.write(1, 0, bytes);
      },
      failsWith('internal', 'buffer 1'),
    );
    await assert.rejects(
      sink.allocate(0, { nbytes: 8, tensor: 'b' }),
      failsWith('internal', '"b"'),
    );
    sink.close(false);
    assert.throws(() => sink.buffer(0), failsWith('internal'));
  });
});

describe('ConsumerSink', () => {
  test('a consumer may return anything', async () => {
    let seen = 0;
    const count = (_index: number, _offset: number, bytes: Uint8Array): unknown =>
      (seen += bytes.length);
    const sink = new ConsumerSink(count as Consumer);
    await sink.allocate(0, { nbytes: 4, tensor: 'a' });
    assert.equal(sink.write(0, 0, Uint8Array.of(7, 8)), undefined);
    await sink.flush();
    assert.equal(seen, 2);
  });

  test('passes every piece on, and waits for what the consumer returns', async () => {
    const seen: [number, number, number[]][] = [];
    let release: () => void = () => undefined;
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    const sink = new ConsumerSink((index, offset, bytes) => {
      seen.push([index, offset, [...bytes]]);
      return index === 1 ? gate : undefined;
    });
    await sink.allocate(0, { nbytes: 4, tensor: 'a' });
    await sink.allocate(1, { nbytes: 4, tensor: 'b' });
    assert.equal(sink.write(0, 1, Uint8Array.of(7, 8)), undefined);
    const write = sink.write(1, 0, Uint8Array.of(1));
    let flushed = false;
    const flush = sink.flush().then(() => {
      flushed = true;
    });
    await new Promise((resolve) => setTimeout(resolve, 5));
    assert.equal(flushed, false);
    release();
    await Promise.all([write, flush]);
    assert.deepEqual(seen, [
      [0, 1, [7, 8]],
      [1, 0, [1]],
    ]);
    assert.throws(() => sink.write(0, 3, Uint8Array.of(1, 2)), failsWith('internal', '"a"'));
  });

  for (const way of ['throws', 'rejects']) {
    test(`a consumer that ${way} ends the sink with its error`, async () => {
      const cause = new Error('disk on fire');
      let calls = 0;
      const sink = new ConsumerSink(() => {
        calls++;
        if (way === 'throws') throw cause;
        return Promise.reject(cause);
      });
      await sink.allocate(0, { nbytes: 4, tensor: 'a' });
      await assert.rejects(
        async () => {
          await sink.write(0, 0, Uint8Array.of(1));
        },
        (error) => failsWith('internal', 'disk on fire')(error) && (error as Error).cause === cause,
      );
      assert.throws(
        () => sink.write(0, 0, Uint8Array.of(1)),
        failsWith('internal', 'disk on fire'),
      );
      await assert.rejects(sink.flush(), failsWith('internal', 'disk on fire'));
      assert.equal(calls, 1);
    });
  }

  test('close() rejects a write whose consumer never answers', async () => {
    const sink = new ConsumerSink(() => new Promise(() => undefined));
    await sink.allocate(0, { nbytes: 4, tensor: 'a' });
    const write = sink.write(0, 0, Uint8Array.of(1));
    sink.close(false);
    await assert.rejects(async () => {
      await write;
    }, failsWith('aborted'));
  });
});
