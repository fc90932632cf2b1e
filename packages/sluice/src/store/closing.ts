/** What finished loads of this thread still close, after their callers have got their models. */
const closing = new Set<Promise<unknown>>();

/** Lets something of the store close behind the caller's back: a file takes as long as reading a MiB of it. */
export function closeBehind(closed: Promise<unknown>): void {
  const settled = closed
    .catch(() => undefined) // who closes cannot be helped
    .finally(() => closing.delete(settled));
  closing.add(settled);
}

/** Resolves when the loads that have finished so far hold nothing of the store any more. */
export async function allClosed(): Promise<void> {
  await Promise.all(closing);
}
