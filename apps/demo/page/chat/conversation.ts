// Who said what. Nothing here touches the page.
import type { ChatMessage, CompletionUsage, FinishReason } from 'sluice/chat';

export interface Turn {
  role: 'user' | 'assistant';
  text: string;
  /** Left out of what the model is given. */
  forgotten: boolean;
  /** Of an answer that has ended: why, and what it took. `failed`: by an error. `full`: the context window is. */
  end?: { reason: FinishReason | 'failed'; full: boolean; usage?: CompletionUsage };
}

export class Conversation {
  readonly turns: Turn[] = [];

  get last(): Turn | undefined {
    return this.turns.at(-1);
  }

  add(role: Turn['role'], text = ''): Turn {
    const turn: Turn = { role, text, forgotten: false };
    this.turns.push(turn);
    return turn;
  }

  clear(): void {
    this.turns.length = 0;
  }

  /** Takes the last turn away where it is an answer. */
  dropAnswer(): void {
    if (this.last?.role === 'assistant') this.turns.pop();
  }

  /** What the model is given. */
  messages(system: string): ChatMessage[] {
    const said = this.turns.filter(({ text, forgotten }) => text !== '' && !forgotten);
    return [
      ...(system.trim() === '' ? [] : [{ role: 'system' as const, content: system }]),
      ...said.map(({ role, text }) => ({ role, content: text })),
    ];
  }

  get canForget(): boolean {
    return this.turns.slice(0, this.#lastQuestion).some(({ forgotten }) => !forgotten);
  }

  /** Leaves the older half of what stands before the last question out of what the model is given, whole exchanges. */
  forget(): void {
    const kept = this.turns.slice(0, this.#lastQuestion).filter(({ forgotten }) => !forgotten);
    const half = Math.ceil(kept.length / 2);
    const next = kept.findIndex(({ role }, i) => i >= half && role === 'user');
    for (const turn of kept.slice(0, next < 0 ? kept.length : next)) turn.forgotten = true;
  }

  get #lastQuestion(): number {
    return this.turns.findLastIndex(({ role }) => role === 'user');
  }
}
