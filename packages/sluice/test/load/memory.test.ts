// A record far larger than the budget, streamed through a process whose memory stays within it.
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { LoadReport } from 'sluice';
import { patternBytes } from '../support/server.js';

const MIB = 2 ** 20;
const SHAPE = [262_144, 1120];
const NBYTES = 4 * 262_144 * 1120; // 1,120 MiB
const SEED = 7;
const BUDGET = 64 * MIB;

interface Outcome {
  idle: number;
  peak: number;
  milliseconds: number;
  report: LoadReport;
  digests: Record<string, string>;
}

const program = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

describe('memory', { timeout: 120_000 }, () => {
  test('a record of 1,120 MiB under a budget of 64 MiB: at most 64 MiB above that', async () => {
    const name = 'model.embed_tokens_per_layer.q_weight';
    const record = { name, shape: SHAPE, dtype: 'uint32', format: 'raw', nbytes: NBYTES };
    const manifest = {
      metadata: {},
      records: [
        {
          dataPath: 'params_shard_0.bin',
          format: 'raw-shard',
          nbytes: NBYTES,
          records: [{ ...record, byteOffset: 0 }],
        },
      ],
    };
    const files = {
      '/tensor-cache.json': JSON.stringify(manifest),
      '/params_shard_0.bin': { nbytes: NBYTES, seed: SEED },
    };
    const server = spawn(
      process.execPath,
      ['--import', 'tsx', program('../support/server.ts'), JSON.stringify({ files })],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    );
    try {
      const [origin] = (await once(createInterface(server.stdout), 'line')) as [string];
      const child = promisify(execFile)(process.execPath, [
        ...['--import', 'tsx', '--expose-gc', program('./digest_child.ts')],
        ...[`${origin}/tensor-cache.json`, String(BUDGET)],
      ]);
      const expected = createHash('sha256');
      for (let at = 0; at < NBYTES; at += 4 * MIB) {
        expected.update(patternBytes(SEED, at, at + 4 * MIB));
        if (at % (64 * MIB) === 0) await new Promise((next) => setImmediate(next));
      }
      const { idle, peak, milliseconds, report, digests } = JSON.parse(
        (await child).stdout,
      ) as Outcome;
      console.log(
        `idle ${(idle / MIB).toFixed(1)} MiB, peak ${(peak / MIB).toFixed(1)} MiB, budget peak ` +
          `${(report.budgetPeak / MIB).toFixed(1)} MiB, ${(milliseconds / 1000).toFixed(1)} s`,
      );
      assert.deepEqual(digests, { [name]: expected.digest('hex') });
      assert.equal(report.outputBytesDone, NBYTES);
      assert.equal(report.budgetUsed, 0);
      assert.ok(report.budgetPeak <= BUDGET, `${report.budgetPeak} bytes of the budget`);
      assert.ok(peak >= idle, 'the peak was not measured');
      assert.ok(peak - idle <= BUDGET + 64 * MIB, `${idle} bytes at rest, ${peak} at the peak`);
    } finally {
      server.kill();
      await once(server, 'close');
    }
  });
});
