import assert from 'node:assert/strict';
import { type LoadedTensor, type Model, SluiceError } from 'sluice';
import type { ErrorCode } from 'sluice';
import type { TestTensor } from '../support/models.js';

/** A tensor as it must come out of a load. */
export interface Expected {
  name: string;
  dtype: string;
  shape: readonly number[];
  bytes: Uint8Array;
}

/** Safetensors' and ggml's names of plain types, as a loaded tensor has them. */
const LOADED_NAMES: Record<string, string> = {
  ...{ BOOL: 'bool', U8: 'uint8', I8: 'int8', U16: 'uint16', I16: 'int16', U32: 'uint32' },
  ...{ I32: 'int32', U64: 'uint64', I64: 'int64', F16: 'float16', BF16: 'bfloat16' },
  ...{ F32: 'float32', F64: 'float64', f32: 'float32', f16: 'float16', bf16: 'bfloat16' },
  ...{ i8: 'int8', i16: 'int16', i32: 'int32' },
};

/** What a test tensor must be once loaded as stored. */
export function asStored({ name, dtype, shape, bytes }: TestTensor): Expected {
  return { name, dtype: LOADED_NAMES[dtype] ?? dtype, shape, bytes };
}

/** Every tensor of the model, byte by byte; those on the GPU are read back. */
export async function expectModel(model: Model, expected: readonly Expected[]): Promise<void> {
  assert.deepEqual(
    [...model.tensors.keys()],
    expected.map(({ name }) => name),
  );
  const buffers = new Map<GPUBuffer, Uint8Array>();
  for (const { name, dtype, shape, bytes } of expected) {
    const tensor = model.get(name);
    assert.ok(tensor);
    assert.equal(tensor.name, name);
    assert.equal(tensor.dtype, dtype, name);
    assert.deepEqual(tensor.shape, shape, name);
    assert.equal(tensor.nbytes, bytes.length, name);
    const actual = await bytesOf(model, tensor, buffers);
    assert.equal(actual.length, bytes.length, name);
    assert.equal(Buffer.compare(actual, bytes), 0, `bytes of ${name} differ`);
  }
  const { report } = model;
  assert.equal(report.budgetUsed, 0);
  assert.equal(report.tensorsDone, expected.length);
  assert.equal(report.tensors, expected.length);
  assert.equal(report.sourceBytesDone, report.sourceBytes);
  assert.equal(report.outputBytesDone, report.outputBytes);
  assert.equal(
    report.outputBytes,
    expected.reduce((sum, { bytes }) => sum + bytes.length, 0),
  );
}

async function bytesOf(
  model: Model,
  tensor: LoadedTensor,
  buffers: Map<GPUBuffer, Uint8Array>,
): Promise<Uint8Array> {
  if (tensor.location === 'cpu') return tensor.data;
  assert.equal(tensor.location, 'gpu');
  const { buffer, offset, nbytes } = tensor;
  assert.equal(offset % 256, 0);
  let bytes = buffers.get(buffer);
  if (!bytes) {
    assert.ok(model.device);
    bytes = await readBuffer(model.device, buffer);
    buffers.set(buffer, bytes);
  }
  return bytes.subarray(offset, offset + nbytes);
}

async function readBuffer(device: GPUDevice, buffer: GPUBuffer): Promise<Uint8Array> {
  const usage = GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ;
  const staging = device.createBuffer({ size: buffer.size, usage });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, buffer.size);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(GPUMapMode.READ);
  const bytes = new Uint8Array(staging.getMappedRange()).slice();
  staging.destroy();
  return bytes;
}

/** Buffers of a device that were created since trackBuffers() and are not destroyed. */
export interface TrackedBuffers {
  readonly count: number;
  readonly bytes: number;
  /** Created so far. */
  readonly created: number;
}

export function trackBuffers(device: GPUDevice): TrackedBuffers {
  const live = new Map<GPUBuffer, number>();
  const create = device.createBuffer.bind(device);
  let created = 0;
  device.createBuffer = (descriptor) => {
    const buffer = create(descriptor);
    created++;
    live.set(buffer, descriptor.size);
    const destroy = buffer.destroy.bind(buffer);
    buffer.destroy = () => {
      live.delete(buffer);
      destroy();
    };
    return buffer;
  };
  return {
    get count() {
      return live.size;
    },
    get bytes() {
      return [...live.values()].reduce((sum, size) => sum + size, 0);
    },
    get created() {
      return created;
    },
  };
}

/** Awaits a SluiceError of this code whose message has all of these parts. */
export async function rejects(
  promise: Promise<unknown>,
  code: ErrorCode,
  ...parts: (string | number)[]
): Promise<SluiceError> {
  const error = await promise.then(
    () => assert.fail(`expected ${code}, but it was resolved`),
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof SluiceError, `expected a SluiceError, got ${String(error)}`);
  assert.equal(error.code, code, error.message);
  for (const part of parts) {
    assert.ok(error.message.includes(String(part)), `'${part}' is not in '${error.message}'`);
  }
  return error;
}
