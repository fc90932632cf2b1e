// The device that is asked for where the caller brings none.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { detectDevice } from '../../../src/runtime/webgpu/detect.js';
import { nodeAdapter } from '../../sinks/node_gpu.js';
import { failsWith } from './support.js';

describe('detecting a device', { timeout: 30_000 }, () => {
  test('it has what the adapter has', async () => {
    const given = await nodeAdapter();
    const { adapter, adapterInfo, device } = await detectDevice(given);
    assert.equal(adapter, given);
    assert.equal(typeof adapterInfo.vendor, 'string');
    for (const limit of [
      'maxBufferSize',
      'maxStorageBufferBindingSize',
      'maxStorageBuffersPerShaderStage',
      'maxComputeWorkgroupStorageSize',
      'maxComputeInvocationsPerWorkgroup',
      'maxComputeWorkgroupSizeX',
    ] as const) {
      assert.equal(device.limits[limit], adapter.limits[limit], limit);
    }
    for (const feature of ['shader-f16', 'subgroups', 'timestamp-query'] as const) {
      assert.equal(device.features.has(feature), adapter.features.has(feature), feature);
    }
    device.destroy();
  });

  test('no WebGPU, no adapter, no device: each an error that says what', async () => {
    await assert.rejects(detectDevice(), failsWith('invalid_argument', 'no WebGPU'));
    const refusing = {
      limits: { maxBufferSize: 7 },
      features: new Set(),
      requestDevice: () => Promise.reject(new Error('used up')),
    };
    await assert.rejects(
      detectDevice(refusing as unknown as GPUAdapter),
      failsWith('invalid_argument', 'gave no device', 'used up'),
    );
  });
});
