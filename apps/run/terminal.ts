/** A progress bar on stderr: drawn over itself on a terminal, silent in a pipe. */
export class ProgressBar {
  readonly #begin = performance.now();
  readonly #live = process.stderr.isTTY;
  #shown = false;

  update(done: number, total: number): void {
    if (!this.#live || total === 0) return;
    const width = 30;
    const filled = Math.round((width * done) / total);
    const seconds = (performance.now() - this.#begin) / 1000;
    const rate = done / 1e9 / seconds;
    this.#shown = true;
    process.stderr.write(
      `\r[${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ` +
        `${((100 * done) / total).toFixed(0).padStart(3)}%  ` +
        `${formatBytes(done)} of ${formatBytes(total)}  ${rate.toFixed(2)} GB/s \x1b[K`,
    );
  }

  end(): void {
    if (this.#shown) process.stderr.write('\n');
  }
}

/** "256.6 MiB" */
export function formatBytes(nbytes: number): string {
  return `${(nbytes / 2 ** 20).toFixed(1)} MiB`;
}
