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
  return {
    startupMs: median(startup),
    rows: rows
      .filter(({ name }) => name.includes(only))
      .map(({ name, ...times }) => {
        const [ours, theirs] = [median(times.ours), median(times.theirs)];
        return { name, ours, theirs, ratio: ours / theirs };
      }),
  };
}

export function runtimeText(title, { startupMs, rows }) {
  const body = rows.map(({ name, ours, theirs, ratio }) => [
    name,
    ours.toFixed(0),
    theirs.toFixed(0),
    ratio.toFixed(2),
  ]);
  const worst = Math.max(...rows.map(({ ratio }) => ratio));
  return (
    `${table([`${title}: nanoseconds a call`, 'sluice/runtime', 'tvmjs', 'ratio'], body)}\n\n` +
    `Each at most ${TARGET_RATIO} of tvmjs: ${verdict(worst <= TARGET_RATIO)}. Compiled and instantiated in ` +
    `${startupMs.toFixed(1)} ms; at most ${TARGET_STARTUP_MS} ms: ${verdict(startupMs <= TARGET_STARTUP_MS)}.`
  );
}
