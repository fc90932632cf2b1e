/** More than V8 lets a heap grow by before it collects. Never touched, so that it takes address space and no memory. */
const BYTES = 2 ** 27;

/**
 * Has the calling thread's garbage collected soon, and then regularly. V8 gives a new thread a high limit and lowers it
 * at the first full collection, which in a thread that only passes bytes on comes after gigabytes; until then it keeps
 * what each read and each message leaves behind (docs/benchmarks.md, "Memory"). To be called once, in a worker of ours:
 * other threads' heaps are their owners'.
 */
export function collectEarly(): void {
  try {
    new ArrayBuffer(BYTES);
  } catch {
    // Where so much is not to be had, everything has been collected
  }
}
