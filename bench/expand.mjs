// Where tensors are best converted: bytes that lie in memory are uploaded as stored and expanded by the GPU, or
// decoded by the loader's codecs and uploaded as they come out.
import { table, verdict } from './rounds.mjs';
import { median } from './size.mjs';

/** Output of the GPU's bf16 to f32, of the rate at which bytes are loaded that need no conversion. */
const TARGET = 1.6;

const SOFTWARE = /swiftshader/i;
/** Bytes of float32, at most, on an adapter that runs shaders on the CPU. */
const SOFTWARE_BYTES = 32 * 2 ** 20;

const LIST = [
  ['float32', 'float16'],
  ['bfloat16', 'float32'],
  ['q4_k', 'float32'],
].flatMap(([stored, to]) => [
  { name: `${stored}, as stored`, stored },
  { name: `${stored} to ${to} by the GPU`, stored, to, by: 'device' },
  { name: `${stored} to ${to} by the codecs`, stored, to, by: 'cpu' },
]);

/** Interleaved rounds on one host, each beginning with another; `nbytes`: of every type as float32. */
export async function expandFigures({ host, url, nbytes, rounds, only }) {
  const each = { contestant: 'expand', url, thread: 'worker' };
  const { adapter, userAgent } = await host.run({ ...each, contestant: 'prepare' });
  // Shaders of a software adapter take a minute for what takes a GPU a millisecond
  if (SOFTWARE.test(adapter)) nbytes = Math.min(nbytes, SOFTWARE_BYTES);
  // A block of q4_k has 144 bytes for 1,024 of float32
  const sizes = { bfloat16: nbytes / 2, q4_k: (nbytes * 144) / 1024, float32: nbytes };
  const list = LIST.filter(({ name }) => name.includes(only));
  const rows = list.map((given) => ({ ...given, milliseconds: [] }));
  for (let round = 0; round <= rounds; round++) {
    for (let i = 0; i < rows.length; i++) {
      const row = rows[(i + round) % rows.length];
      const { stored, to, by } = row;
      const storedBytes = sizes[stored];
      // The first is not measured, and read back
      const task = { ...each, stored, to, by, storedBytes, verify: round === 0 };
      const { milliseconds, figures, note } = await host.run(task);
      process.stderr.write(`  round ${round}: ${row.name}: ${Math.round(milliseconds)} ms\n`);
      if (round > 0) row.milliseconds.push(milliseconds);
      Object.assign(row, figures, { upload: note });
    }
  }
  for (const row of rows) {
    const milliseconds = median(row.milliseconds);
    row.storedGigabytesPerSecond = row.storedBytes / milliseconds / 1e6;
    row.outputGigabytesPerSecond = row.outputBytes / milliseconds / 1e6;
  }
  const raw = rows.find(({ stored, by }) => stored === 'float32' && !by);
  for (const row of rows) {
    if (raw) row.ratio = row.outputGigabytesPerSecond / raw.outputGigabytesPerSecond;
  }
  return { adapter, userAgent, rows };
}

export function expandText(title, { adapter, rows }) {
  const head = [
    `${title} (${adapter})`,
    'stored GB/s',
    'output GB/s, median',
    'slowest - fastest',
    'of float32 as stored',
  ];
  const body = rows.map((row) => {
    const { name, upload, outputBytes, milliseconds, ratio } = row;
    const rate = (ms) => (outputBytes / ms / 1e6).toFixed(2);
    return [
      `${name} (${upload})`,
      row.storedGigabytesPerSecond.toFixed(2),
      row.outputGigabytesPerSecond.toFixed(2),
      `${rate(Math.max(...milliseconds))} - ${rate(Math.min(...milliseconds))}`,
      ratio?.toFixed(2) ?? '',
    ];
  });
  const aimed = rows.find(({ stored, by }) => stored === 'bfloat16' && by === 'device');
  const said =
    aimed?.ratio === undefined || SOFTWARE.test(adapter)
      ? ''
      : `\n\nAim ${TARGET} for bfloat16 by the GPU: ${aimed.ratio.toFixed(2)} ` +
        `${verdict(aimed.ratio >= TARGET)}.`;
  return `${table(head, body)}${said}`;
}
