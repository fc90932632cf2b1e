// What a crossing between JavaScript and C++ costs, beside tvmjs's JavaScript on the same wasm module, and how long
// the runtime takes to start.
import { table, verdict } from './rounds.mjs';
import { median } from './size.mjs';

/** Of tvmjs's time, at most. */
const TARGET_RATIO = 0.5;
const TARGET_STARTUP_MS = 15;

/** Rounds of either in turn, on one host. */
export async function runtimeFigures({ host, url, rounds, only }) {
  const task = { contestant: 'runtime calls', url, thread: 'main', rounds };
  const { startup, rows } = (await host.run(task)).figures;
  const wanted = rows.filter(({ name }) => name.includes(only));
  const against = (side) =>
    wanted.map(({ name, theirs: given, ...times }) => {
      const [ours, theirs] = [median(times[side]), median(given)];
      return { name, ours, theirs, ratio: ours / theirs };
    });
  return { startupMs: median(startup), rows: against('ours'), dropInRows: against('dropIn') };
}

export function runtimeText(title, { startupMs, rows, dropInRows }) {
  const body = rows.map(({ name, ours, theirs, ratio }, i) => {
    const dropIn = dropInRows[i];
    const times = [ours, dropIn.ours, theirs].map((ns) => ns.toFixed(0));
    return [name, ...times, ratio.toFixed(2), dropIn.ratio.toFixed(2)];
  });
  const head = [
    `${title}: nanoseconds a call`,
    ...['sluice/runtime', 'sluice/tvmjs', 'tvmjs', 'ratio of runtime', 'of sluice/tvmjs'],
  ];
  const worst = Math.max(...[...rows, ...dropInRows].map(({ ratio }) => ratio));
  return (
    `${table(head, body)}\n\n` +
    `Each at most ${TARGET_RATIO} of tvmjs: ${verdict(worst <= TARGET_RATIO)}. Compiled and instantiated in ` +
    `${startupMs.toFixed(1)} ms; at most ${TARGET_STARTUP_MS} ms: ${verdict(startupMs <= TARGET_STARTUP_MS)}.`
  );
}
