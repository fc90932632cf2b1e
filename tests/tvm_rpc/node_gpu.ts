// WebGPU in Node: Dawn on the software adapter that Chromium ships, unless VK_ICD_FILENAMES names another driver.
import { existsSync } from 'node:fs';
import { create, globals } from 'webgpu';

const SOFTWARE_ADAPTER = '/usr/lib/chromium/vk_swiftshader_icd.json';

export function nodeGpu(): GPU {
  if (process.env['VK_ICD_FILENAMES'] === undefined && existsSync(SOFTWARE_ADAPTER)) {
    process.env['VK_ICD_FILENAMES'] = SOFTWARE_ADAPTER;
  }
  Object.assign(globalThis, globals);
  return create([]);
}
