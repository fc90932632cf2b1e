import assert from 'node:assert/strict';
import { SluiceError, type ErrorCode } from '../../src/errors.js';
import type { ByteStream } from '../../src/sources/source.js';

/** Reads a stream to its end, as a new array. */
export async function readAll(stream: ByteStream): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for (let part = await stream.read(); part; part = await stream.read()) {
    assert.ok(part.length > 0, 'read() gave an empty array');
    parts.push(part.slice());
  }
  return Buffer.concat(parts);
}

/** Awaits a rejection with this code, whose message has all of these parts. */
export async function rejects(
  promise: Promise<unknown>,
  code: ErrorCode,
  ...parts: string[]
): Promise<SluiceError> {
  const error = await promise.then(
    (value) => assert.fail(`expected ${code}, got a value: ${String(value)}`),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof SluiceError, `expected a SluiceError, got ${String(error)}`);
  assert.equal(error.code, code, error.message);
  for (const part of parts)
    assert.ok(error.message.includes(part), `'${part}' is not in '${error.message}'`);
  return error;
}

/** Byte equality without printing megabytes. */
export function sameBytes(actual: Uint8Array, expected: Uint8Array): void {
  assert.equal(actual.length, expected.length, 'length');
  assert.equal(Buffer.compare(actual, expected), 0, 'bytes differ');
}

/** Polls until `done` holds, for at most two seconds. */
export async function until(done: () => boolean, what: string): Promise<void> {
  for (let i = 0; i < 400; i++) {
    if (done()) return;
    await new Promise((next) => setTimeout(next, 5));
  }
  assert.fail(`still not so after 2 s: ${what}`);
}
