// How many transfers run at a time, over simulated links and a simulated clock.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { Concurrency } from '../../src/sources/concurrency.js';

const MIB = 2 ** 20;
const STEP_MS = 5;
const SEGMENT = 8 * MIB;

interface Link {
  /** Bytes a millisecond: of one transfer, and of all together. */
  each: number;
  all: number;
  latencyMs: number;
  /** More transfers than that are answered with 503. */
  most: number;
}

interface Outcome {
  milliseconds: number;
  refused: number;
  /** Transfers that ran, by time of step. */
  running: number[];
  control: Concurrency;
}

/** Loads `nbytes`, as the engine does: a stream that was refused waits for 200 ms and asks again. */
function simulate(nbytes: number, max: number, linkAt: (now: number) => Link): Outcome {
  const control = new Concurrency(max);
  const streams = Array.from({ length: max }, () => ({
    ...{ left: 0, answerAt: Infinity, begunAt: 0, waitUntil: 0, runs: false },
  }));
  let unasked = nbytes;
  let arrived = 0;
  let refused = 0;
  const running: number[] = [];
  let now = 0;
  for (; arrived < nbytes; now += STEP_MS) {
    assert.ok(now < 3_600_000, `after an hour ${arrived} of ${nbytes} bytes are there`);
    const link = linkAt(now);
    for (const stream of streams) {
      if (stream.runs || now < stream.waitUntil || !control.free) continue;
      if (stream.left === 0) {
        stream.left = Math.min(SEGMENT, unasked);
        unasked -= stream.left;
        if (stream.left === 0) continue;
      }
      const others = streams.filter(({ runs }) => runs).length;
      control.began();
      if (others >= link.most) {
        refused++;
        stream.waitUntil = now + 200;
        control.ended(now, true);
        continue;
      }
      Object.assign(stream, { runs: true, begunAt: now, answerAt: now + link.latencyMs });
    }
    const open = streams.filter(({ runs, answerAt }) => runs && answerAt <= now);
    for (const stream of open) {
      if (stream.begunAt >= 0) control.answered(now - stream.begunAt);
      stream.begunAt = -1;
      const rate = Math.min(link.each, link.all / open.length);
      const bytes = Math.min(stream.left, Math.floor(rate * STEP_MS));
      stream.left -= bytes;
      arrived += bytes;
      control.received(bytes, now);
      if (stream.left > 0) continue;
      stream.runs = false;
      control.ended(now);
    }
    running.push(streams.filter(({ runs }) => runs).length);
  }
  return { milliseconds: now, refused, running, control };
}

const FREE: Link = { each: 10_000, all: Infinity, latencyMs: 20, most: Infinity };

/** The number that ran most of the last half of the time. */
function settled({ running }: Outcome): number {
  const half = running.slice(running.length / 2).sort((a, b) => a - b);
  return half[(half.length / 2) | 0] ?? 0;
}

describe('how many transfers run at a time', () => {
  test('all that may, where each transfer has a limit of its own', () => {
    for (const max of [5, 6, 12]) {
      const outcome = simulate(1024 * MIB, max, () => FREE);
      assert.equal(settled(outcome), max);
      assert.equal(outcome.control.most, max);
    }
  });

  test('as at first, where they share one limit: more are tried, ever less often', () => {
    const outcome = simulate(4096 * MIB, 12, () => ({ ...FREE, each: 1e6, all: 40_000 }));
    assert.equal(settled(outcome), 4);
    assert.equal(outcome.control.most, 5);
    const more = outcome.running.filter((count) => count > 4).length;
    assert.ok(more < outcome.running.length / 5, `${more} of ${outcome.running.length}`);
    assert.ok(outcome.milliseconds < ((4096 * MIB) / 40_000) * 1.1);
  });

  test('as many as fill the link, where each has a limit and all have one', () => {
    const outcome = simulate(2048 * MIB, 12, () => ({ ...FREE, all: 70_000 }));
    assert.ok([7, 8].includes(settled(outcome)), `${settled(outcome)}`);
  });

  for (const most of [1, 2, 5]) {
    test(`no more than the server bears: ${most}`, () => {
      const outcome = simulate(512 * MIB, 12, () => ({ ...FREE, most }));
      assert.equal(settled(outcome), most);
      // At first, and in trials that become rare
      assert.ok(outcome.refused <= 3 + 8, `${outcome.refused} refused`);
      assert.ok(outcome.milliseconds < ((512 * MIB) / (most * 10_000)) * 1.15 + 1000);
    });
  }

  test('again more, once the server bears more', () => {
    const outcome = simulate(2048 * MIB, 6, (now) => ({ ...FREE, most: now < 5000 ? 1 : 6 }));
    assert.equal(settled(outcome), 6);
  });

  test('more, once the link no longer has a limit of its own', () => {
    const outcome = simulate(4096 * MIB, 6, (now) => ({
      ...{ ...FREE, all: now < 5000 ? 20_000 : Infinity },
    }));
    assert.equal(settled(outcome), 6);
  });

  test('all that may, however long a request takes to be answered', () => {
    for (const latencyMs of [200, 800]) {
      const outcome = simulate(2048 * MIB, 6, () => ({ ...FREE, latencyMs }));
      assert.equal(outcome.control.limit, 6, `${latencyMs} ms`);
    }
  });

  test('one at least, whatever fails', () => {
    const control = new Concurrency(6);
    for (let now = 0; now < 100; now++) {
      assert.ok(control.free);
      control.began();
      control.ended(now, true);
      assert.equal(control.limit, 1);
    }
  });

  test('never more than may', () => {
    for (const max of [1, 2, 3]) {
      assert.equal(simulate(256 * MIB, max, () => FREE).control.most, max);
    }
  });
});
