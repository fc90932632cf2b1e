// The conversation on the page.
import { byId, copyText, create } from '../dom.js';
import { formatDuration } from '../format.js';
import type { Turn } from './conversation.js';

/** Scrolled so close to the end, in CSS pixels, the view follows what comes. */
const END_PX = 48;

export interface TranscriptActions {
  regenerate: () => void;
  goOn: () => void;
  say: (announcement: string) => void;
}

interface Item {
  turn: Turn;
  element: HTMLElement;
  text: HTMLElement;
  meta: HTMLElement;
  buttons: HTMLElement;
}

export class Transcript {
  readonly #box = byId('messages-box', HTMLElement);
  readonly #list = byId('messages', HTMLElement);
  readonly #actions: TranscriptActions;
  #items: Item[] = [];
  /** The end is in view, and is kept there. */
  #follows = true;

  constructor(actions: TranscriptActions) {
    this.#actions = actions;
    this.#box.addEventListener('scroll', () => {
      this.#follows = this.#isAtEnd();
    });
    // A keyboard on the screen takes its room from here
    new ResizeObserver(() => {
      if (this.#follows) this.scrollToEnd();
    }).observe(this.#box);
  }

  /** Shows these turns, `name` being who answers; `running` is the one that is being answered. */
  show(turns: readonly Turn[], name: string, options: { running?: Turn; ready: boolean }): void {
    const items = turns.map(
      (turn) => this.#items.find((item) => item.turn === turn) ?? this.#make(turn, name),
    );
    // Elements that stay are not moved: that would take focus and selection from them
    for (const { element } of this.#items) {
      if (!items.some((item) => item.element === element)) element.remove();
    }
    for (const { element } of items) if (!element.isConnected) this.#list.append(element);
    this.#items = items;
    for (const item of items) {
      this.#draw(item, {
        running: item.turn === options.running,
        last: item === items.at(-1) && options.ready && options.running === undefined,
      });
    }
    if (this.#follows) this.scrollToEnd();
  }

  /** Shows more text of an answer, and `meta` below it. */
  update(turn: Turn, meta: string): void {
    const item = this.#items.find((each) => each.turn === turn);
    if (!item) return;
    drawText(item.text, turn.text, true);
    item.meta.textContent = meta;
    if (this.#follows) this.scrollToEnd();
  }

  scrollToEnd(): void {
    this.#follows = true;
    this.#box.scrollTop = this.#box.scrollHeight;
  }

  #isAtEnd(): boolean {
    const { scrollTop, clientHeight, scrollHeight } = this.#box;
    return scrollHeight - scrollTop - clientHeight < END_PX;
  }

  #make(turn: Turn, name: string): Item {
    const who = create('h3', { class: 'who' }, turn.role === 'user' ? 'You' : name);
    const text = create('div', { class: 'text', dir: 'auto' });
    const meta = create('p', { class: 'meta muted' });
    const buttons = create('div', { class: 'buttons' });
    const element = create('li', { class: `turn ${turn.role}` }, who, text, meta, buttons);
    return { turn, element, text, meta, buttons };
  }

  #draw({ turn, element, text, meta, buttons }: Item, state: { running: boolean; last: boolean }) {
    drawText(text, turn.text, state.running);
    element.setAttribute('aria-busy', String(state.running));
    element.classList.toggle('forgotten', turn.forgotten);
    if (!state.running) meta.textContent = metaOf(turn);
    const wanted: [string, () => void][] = [];
    if (turn.role === 'assistant' && !state.running) {
      const { reason } = turn.end ?? {};
      if (state.last && reason !== 'stop' && turn.text !== '') {
        wanted.push(['Continue', this.#actions.goOn]);
      }
      if (state.last) wanted.push(['Regenerate', this.#actions.regenerate]);
      if (turn.text !== '') wanted.push(['Copy', () => void this.#copy(turn.text)]);
    }
    const names = wanted.map(([label]) => label).join();
    if (buttons.dataset['names'] === names) return;
    buttons.dataset['names'] = names;
    buttons.replaceChildren(
      ...wanted.map(([label, act]) => {
        const button = create('button', { type: 'button', class: 'quiet' }, label);
        button.addEventListener('click', act);
        return button;
      }),
    );
  }

  async #copy(text: string): Promise<void> {
    const worked = await copyText(text);
    this.#actions.say(worked ? 'Copied' : 'The browser did not allow copying');
  }
}

/** Text that is never read as markup; while there is none, that something is under way. */
function drawText(element: HTMLElement, text: string, running: boolean): void {
  const waiting = running && text === '';
  element.classList.toggle('waiting', waiting);
  if (element.textContent !== text) element.textContent = text;
}

/** How an answer ended and what it took. */
function metaOf({ role, end, text, forgotten }: Turn): string {
  const parts: string[] = [];
  if (forgotten) parts.push('no longer seen by the model');
  if (role === 'user' || !end) return parts.join(' · ');
  const { reason, full, usage } = end;
  if (reason === 'abort') parts.push(text === '' ? 'stopped before the first word' : 'stopped');
  if (reason === 'failed') parts.push('broken off');
  if (reason === 'length') {
    parts.push(full ? 'cut off: the context window is full' : 'cut off at the limit of tokens');
  }
  if (reason === 'stop' && text === '') parts.push('the model said nothing');
  if (usage && usage.completion_tokens > 0) {
    const { decode_tokens_per_s: rate, time_to_first_token_s: first } = usage.extra;
    const count = usage.completion_tokens;
    parts.push(`${count} ${count === 1 ? 'token' : 'tokens'}`);
    if (rate > 0) parts.push(formatTokenRate(rate));
    parts.push(`first after ${formatDuration(1000 * first)}`);
  }
  return parts.join(' · ');
}

/** "0.28 tokens/s", "8.4 tokens/s", "120 tokens/s" */
export function formatTokenRate(rate: number): string {
  return `${rate.toFixed(rate < 1 ? 2 : rate < 20 ? 1 : 0)}\u00a0tokens/s`;
}
