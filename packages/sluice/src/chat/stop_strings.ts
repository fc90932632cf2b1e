/** Finds texts that end an answer in text that comes in pieces. */
export class StopStrings {
  readonly #stops: readonly string[];
  #held = '';

  constructor(stops: readonly string[]) {
    this.#stops = stops;
  }

  /**
   * Takes more text and gives what may be shown of all that is there: nothing from a stop string on, nor from what may become
   * one. `found` once there is one; nothing comes after that.
   */
  push(text: string): { text: string; found: boolean } {
    const all = this.#held + text;
    let end = -1;
    for (const stop of this.#stops) {
      const at = all.indexOf(stop);
      if (at >= 0 && (end < 0 || at < end)) end = at;
    }
    if (end >= 0) {
      this.#held = '';
      return { text: all.slice(0, end), found: true };
    }
    const shown = all.length - this.#begun(all);
    this.#held = all.slice(shown);
    return { text: all.slice(0, shown), found: false };
  }

  /** What was held back, now that no more text comes. */
  end(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }

  /** How many characters at the end of `text` begin a stop string. */
  #begun(text: string): number {
    const longest = Math.max(0, ...this.#stops.map((stop) => stop.length - 1));
    for (let n = Math.min(longest, text.length); n > 0; n--) {
      const ending = text.slice(-n);
      if (this.#stops.some((stop) => stop.startsWith(ending))) return n;
    }
    return 0;
  }
}
