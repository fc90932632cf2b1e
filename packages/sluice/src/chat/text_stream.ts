const REPLACEMENT = '\uFFFD';

/**
 * The text of tokens that come one by one. A token may hold a part of a character, and what a token reads may depend on the
 * one before it: so the last tokens are read together, and a character is shown once it is whole. One that never becomes
 * whole is not shown where it is the last.
 */
export class TextStream {
  readonly #decode: (tokens: number[]) => string;
  /** The tokens that are read together, and how many characters of their text were shown. */
  #tokens: number[] = [];
  #shown = 0;
  /** Where the tokens begin that came after the text was last whole. */
  #fresh = 0;

  constructor(decode: (tokens: number[]) => string) {
    this.#decode = decode;
  }

  /** What is new to show with this token, which may be nothing. */
  push(token: number): string {
    this.#tokens.push(token);
    const text = this.#decode(this.#tokens);
    // Of a character that is not whole, one replacement stands at the end
    const whole = !text.endsWith(REPLACEMENT);
    const end = whole ? text.length : text.length - 1;
    const fresh = text.slice(this.#shown, end);
    this.#shown = Math.max(this.#shown, end);
    if (whole && fresh === '') {
      // A special token, which is no text for the next one to go on from
      this.#tokens.pop();
    } else if (whole) {
      this.#tokens = this.#tokens.slice(this.#fresh);
      this.#fresh = this.#tokens.length;
      this.#shown = this.#decode(this.#tokens).length;
    }
    return fresh;
  }
}
