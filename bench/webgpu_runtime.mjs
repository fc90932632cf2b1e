// The JS half of the runtime's WebGPU device beside the incumbent's, on one device: microseconds a step until the last
// call has returned, which is what JS has to do, and until the GPU is done.
import { table } from './rounds.mjs';
import { median } from './size.mjs';

const KINDS = [
  ['chain', 'a dispatch, 1,000 small ones that depend on each other'],
  ['layers', 'a dispatch, 1,000 of 16 kernels on 24 buffers'],
  ['uploads', '256 bytes to a buffer in use, then 4 dispatches'],
  ['temporaries', 'allocate, dispatch, free'],
  ['reads', 'dispatch, read 4 bytes, sync'],
];
const SIDES = ['sluice', 'tvmjs'];

/** Interleaved rounds on one host; what both have made of their buffers is compared in each. */
export async function webgpuRuntimeFigures({ host, url, rounds, only }) {
  const each = { url, thread: 'main' };
  const { adapter } = await host.run({ ...each, contestant: 'prepare' });
  const rows = KINDS.filter(([, name]) => name.includes(only)).map(([work, name]) => ({
    work,
    name,
    sluice: { call: [], done: [] },
    tvmjs: { call: [], done: [] },
  }));
  for (let round = 0; round <= rounds; round++) {
    for (const row of rows) {
      const results = [];
      for (let i = 0; i < SIDES.length; i++) {
        const side = SIDES[(i + round) % SIDES.length];
        const task = { ...each, contestant: `webgpu runtime: ${side}`, work: row.work };
        const { call, done, result } = (await host.run(task)).figures;
        results.push(result);
        if (round === 0) continue; // warms up
        row[side].call.push(call);
        row[side].done.push(done);
      }
      if (results[0] !== results[1]) throw new Error(`${row.name}: the results differ`);
    }
  }
  for (const row of rows) {
    for (const side of SIDES) {
      row[side] = { call: median(row[side].call), done: median(row[side].done) };
    }
    row.ratios = { call: row.sluice.call / row.tvmjs.call, done: row.sluice.done / row.tvmjs.done };
  }
  return { adapter, rows };
}

export function webgpuRuntimeText(title, { adapter, rows }) {
  const head = [
    `${title} (${adapter}): microseconds`,
    'JS: sluice',
    'tvmjs',
    'ratio',
    'to the end: sluice',
    'tvmjs',
    'ratio',
  ];
  const body = rows.map(({ name, sluice, tvmjs, ratios }) => [
    name,
    sluice.call.toFixed(2),
    tvmjs.call.toFixed(2),
    ratios.call.toFixed(2),
    sluice.done.toFixed(2),
    tvmjs.done.toFixed(2),
    ratios.done.toFixed(2),
  ]);
  return table(head, body);
}
