// SmolLM2 as `make run` serves it, a tensor cache in float32, and the digests of its tensors.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { DigestedTensor } from '../../packages/sluice/test/browser/page_tvmjs.js';
import { startServer } from '../../packages/sluice/test/support/server.js';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const COMMAND = join(ROOT, 'build/native/hosts/native/sluice');
const MODEL = join(ROOT, 'build/models/SmolLM2-135M-Instruct.Q4_1.gguf');

export interface PackedModel {
  /** Ends with a slash. */
  url: string;
  /** From the published file, not from what was packed. */
  expected: Record<string, DigestedTensor>;
  close(): Promise<void>;
}

export async function servePackedModel(): Promise<PackedModel> {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-packed-'));
  const remove = (): void => {
    rmSync(folder, { recursive: true });
  };
  try {
    const digests = join(folder, 'digests.json');
    const packed = join(folder, 'packed');
    const run = (...given: string[]): void => {
      execFileSync(COMMAND, [...given, '--quiet', '--dtype', 'float32', MODEL]);
    };
    run('load', '--discard', '--digests', digests);
    run('pack', '--output', packed);
    const { tensors } = JSON.parse(readFileSync(digests, 'utf8')) as {
      tensors: Record<string, DigestedTensor>;
    };
    const expected = Object.fromEntries(
      Object.entries(tensors).map(([name, { dtype, shape, sha256 }]) => [
        name,
        { dtype, shape, sha256 },
      ]),
    );
    const server = await startServer({ root: packed, cors: true });
    return {
      url: `${server.origin}/`,
      expected,
      close: async () => {
        await server.close();
        remove();
      },
    };
  } catch (error) {
    remove();
    throw error;
  }
}
