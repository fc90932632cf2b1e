/** More than V8 lets a heap grow by before it collects. Never touched, so that it takes address space and no memory. */
const BYTES = 2 ** 27;

/**
 * Has the calling thread's garbage collected soon. What each read and each message leaves behind is a little of V8's heap
 * and more that hangs on it (Blink's objects, copies of what was sent), of which V8's limits know nothing: a thread that
 * only passes bytes on keeps it for gigabytes (docs/benchmarks.md, "Memory"). To be called now and then, in a worker of
 * ours: other threads' heaps are their owners'.
 */
export function collectGarbage(): void {
  try {
    new ArrayBuffer(BYTES);
  } catch {
    // Where so much is not to be had, everything has been collected
  }
}
