// Contestants against each other in interleaved rounds.
import { setTimeout as sleep } from 'node:timers/promises';
import { processTreeSeconds } from './hosts.mjs';
import { median } from './size.mjs';

const MAY_FAIL = new Set(['common', 'fetchTensorCache', 'cachedFetchTensorCache']);
/** Records that are compared after the first round; an eighth of that after each other. */
const CHECKED_RECORDS = 64;
/** What one leaves behind, files that it closes and GPU memory that is freed, is not in the next one's time. */
const SETTLE_MS = 200;

/**
 * Interleaved rounds, each beginning with another contestant; the medians, as rates and ratios. A contestant with
 * `limit` is what the others of its `kind` are compared with, the fastest of several; unless told, a bare loop is.
 */
export async function throughput(hosts, list, model, rounds) {
  const prepare = { contestant: 'prepare', url: model.url, thread: 'main' };
  const [{ adapter, userAgent }] = await Promise.all(hosts.map((host) => host.run(prepare)));
  const times = list.map(() => []);
  const processor = list.map(() => []);
  const more = list.map(() => []);
  const notes = [];
  const failures = [];
  for (let round = 0; round <= rounds; round++) {
    for (let i = 0; i < list.length; i++) {
      const index = (i + round) % list.length;
      const { name, ...task } = list[index];
      const warmUp = round === 0;
      const check = warmUp ? CHECKED_RECORDS : CHECKED_RECORDS / 8;
      const host = hosts[index % hosts.length];
      if (failures[index]) continue;
      await sleep(SETTLE_MS);
      const before = await processTreeSeconds(host.pid);
      let result;
      try {
        result = await host.run({ ...task, url: model.url, check });
      } catch (error) {
        // What a browser refuses to another way of loading is a result, too; the others' figures are kept at any rate
        if (!MAY_FAIL.has(task.contestant) || /differs near/.test(error.message)) {
          process.exitCode = 1;
        }
        failures[index] = error.message.split('\n')[0];
        process.stderr.write(`  round ${round}: ${name}: ${failures[index]}\n`);
        continue;
      }
      const { milliseconds, note, figures } = result;
      const seconds = (await processTreeSeconds(host.pid)) - before;
      if (!warmUp) {
        times[index].push(milliseconds);
        processor[index].push(seconds);
        if (figures) more[index].push(figures);
      }
      notes[index] = note;
      process.stderr.write(`  round ${round}: ${name}: ${Math.round(milliseconds)} ms\n`);
    }
  }
  const rows = list.map((given, index) => {
    const { name, contestant, kind, limit = contestant === 'bare' } = given;
    if (failures[index]) return { name, contestant, kind, failure: failures[index] };
    const milliseconds = median(times[index]);
    const rate = model.nbytes / milliseconds / 1e6;
    return {
      name,
      contestant,
      limit,
      kind,
      note: notes[index],
      gigabytesPerSecond: rate,
      processorSecondsPerGigabyte: median(processor[index]) / (model.nbytes / 1e9),
      milliseconds: times[index],
      ...(more[index].length > 0 ? { figures: more[index] } : {}),
    };
  });
  for (const row of rows) {
    const limits = rows.filter((each) => each.limit && !each.failure && each.kind === row.kind);
    if (row.failure || limits.length === 0) continue;
    row.ratio =
      row.gigabytesPerSecond / Math.max(...limits.map((limit) => limit.gigabytesPerSecond));
  }
  return { adapter, userAgent, modelBytes: model.nbytes, rows };
}

export function table(head, rows) {
  return [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');
}

export const verdict = (good) => (good ? 'met' : 'NOT met');

/** `target`: the ratio at which Sluice aims. */
export function throughputText(title, { adapter, modelBytes, rows }, target) {
  const body = rows.map((row) => {
    const { name, note, failure, gigabytesPerSecond, ratio, milliseconds } = row;
    if (failure) return [`${name} (${failure})`, 'failed', '', '', ''];
    const rate = (ms) => (modelBytes / ms / 1e6).toFixed(2);
    const spread = `${rate(Math.max(...milliseconds))} - ${rate(Math.min(...milliseconds))}`;
    const label = note ? `${name} (${note})` : name;
    const processor = row.processorSecondsPerGigabyte.toFixed(1);
    return [label, gigabytesPerSecond.toFixed(2), spread, ratio?.toFixed(2) ?? '', processor];
  });
  const ours = rows.filter(({ name, ratio }) => /^sluice/.test(name) && ratio !== undefined);
  const aim = ours
    .map(({ name, ratio }) => `${name}: ${ratio.toFixed(2)} ${verdict(ratio >= target)}`)
    .join('; ');
  const head = [
    `${title} (${adapter})`,
    'GB/s, median',
    'slowest - fastest',
    'of the best bare loop',
    'CPU s/GB',
  ];
  const said = aim && `\n\nAim ${target} of the bare loop: ${aim}.`;
  return `${table(head, body)}${said}`;
}
