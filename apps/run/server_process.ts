import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

export interface ModelServer {
  origin: string;
  /** Bytes that it has sent so far, headers and all. */
  sentBytes(): Promise<number>;
  stop(): void;
}

/** serve.ts in a process of its own. */
export async function serve(root: string): Promise<ModelServer> {
  const script = fileURLToPath(new URL('serve.ts', import.meta.url));
  const child = spawn(process.execPath, ['--import', 'tsx', script, root], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const lines = createInterface({ input: child.stdout });
  const line = async (): Promise<string> => ((await once(lines, 'line')) as [string])[0];
  return {
    origin: await line(),
    async sentBytes() {
      const answer = line();
      child.stdin.write('\n');
      return Number(await answer);
    },
    stop: () => child.stdin.end(),
  };
}
