/** Values that one side pushes and the other reads in its own time, once. */
export class Channel<T> implements AsyncIterableIterator<T> {
  readonly #left: () => void;
  #values: T[] = [];
  #end: { error?: unknown } | undefined;
  #waiting: { resolve: (result: IteratorResult<T>) => void; reject: (error: unknown) => void }[] =
    [];

  /** `left` is called where the reader goes before the end. */
  constructor(left: () => void) {
    this.#left = left;
  }

  push(value: T): void {
    if (this.#end) return;
    const reader = this.#waiting.shift();
    if (reader) reader.resolve({ value, done: false });
    else this.#values.push(value);
  }

  /** What was pushed is read before the end, or the error, is. */
  close(end: { error?: unknown } = {}): void {
    if (this.#end) return;
    this.#end = end;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const reader of waiting) this.next().then(reader.resolve, reader.reject);
  }

  next(): Promise<IteratorResult<T>> {
    if (this.#values.length > 0) {
      return Promise.resolve({ value: this.#values.shift() as T, done: false });
    }
    const end = this.#end;
    if (!end) return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
    if ('error' in end) {
      this.#end = {};
      // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- as it came
      return Promise.reject(end.error);
    }
    return Promise.resolve({ value: undefined, done: true });
  }

  return(): Promise<IteratorResult<T>> {
    const early = !this.#end;
    this.#values = [];
    this.close();
    if (early) this.#left();
    return Promise.resolve({ value: undefined, done: true });
  }

  [Symbol.asyncIterator](): this {
    return this;
  }
}
