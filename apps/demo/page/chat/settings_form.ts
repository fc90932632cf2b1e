// How the model is asked, as the form has it.
import type { CompletionRequest } from 'sluice/chat';

import { byId, create } from '../dom.js';
import { formatCount } from '../format.js';
import { contextSizes } from './model.js';

export interface ChatSettings {
  system: string;
  sampling: Pick<
    CompletionRequest,
    | 'temperature'
    | 'top_p'
    | 'max_tokens'
    | 'seed'
    | 'repetition_penalty'
    | 'frequency_penalty'
    | 'presence_penalty'
  >;
}

/** A context window that suits most conversations and takes little memory. */
const USUAL_CONTEXT = 2048;
/** On software a token takes seconds. */
const SOFTWARE_TOKENS = 32;

/** What each field takes, as its error says it. */
const WANTED = {
  temperature: 'a number from 0 to 5',
  'top-p': 'a number from 0.01 to 1',
  'max-tokens': 'a whole number from 1 to 8,192',
  seed: 'a whole number from 0 to 4,294,967,295, or nothing',
  repetition: 'a number from 0.1 to 5',
  frequency: 'a number from -2 to 2',
  presence: 'a number from -2 to 2',
};
type Field = keyof typeof WANTED;

export class SettingsForm {
  readonly #details = byId('settings', HTMLDetailsElement);
  readonly #system = byId('system', HTMLTextAreaElement);
  readonly #context = byId('context', HTMLSelectElement);
  readonly #inputs = Object.fromEntries(
    Object.keys(WANTED).map((id) => [id, byId(id, HTMLInputElement)]),
  ) as Record<Field, HTMLInputElement>;

  constructor() {
    for (const [id, input] of this.#entries()) {
      input.addEventListener('input', () => {
        this.#say(id, true);
        this.#summarise();
      });
      input.addEventListener('change', () => this.#check(id));
    }
    byId('settings-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
    });
    // Beside the conversation there is room for them; below it they would be in the way
    if (matchMedia('(max-width: 1099px)').matches) this.#details.open = false;
    this.#summarise();
  }

  /** Offers the context windows of a model that knows so many tokens. */
  offerContexts(most: number): void {
    const sizes = contextSizes(most);
    const usual = sizes.findLast((size) => size <= USUAL_CONTEXT) ?? most;
    this.#context.replaceChildren(
      ...sizes.map((size) => create('option', { value: String(size) }, formatCount(size))),
    );
    this.#context.value = String(usual);
  }

  /** Short answers: the adapter is software. */
  forSoftware(): void {
    this.#inputs['max-tokens'].value = String(SOFTWARE_TOKENS);
    this.#summarise();
  }

  /** In tokens. */
  get contextWindowSize(): number {
    return Number(this.#context.value);
  }

  /** The settings; undefined when one is wrong, which is then said beside it and has the focus. */
  read(): ChatSettings | undefined {
    const wrong = this.#entries().filter(([id]) => !this.#check(id));
    const [first] = wrong;
    if (first) {
      this.#details.open = true;
      first[1].focus();
      return undefined;
    }
    const number = (id: Field): number => this.#inputs[id].valueAsNumber;
    return {
      system: this.#system.value,
      sampling: {
        temperature: number('temperature'),
        top_p: number('top-p'),
        max_tokens: number('max-tokens'),
        repetition_penalty: number('repetition'),
        frequency_penalty: number('frequency'),
        presence_penalty: number('presence'),
        ...(this.#inputs.seed.value === '' ? {} : { seed: number('seed') }),
      },
    };
  }

  #entries(): [Field, HTMLInputElement][] {
    return Object.entries(this.#inputs) as [Field, HTMLInputElement][];
  }

  /** Whether a field holds what it takes; says so beside it. */
  #check(id: Field): boolean {
    const input = this.#inputs[id];
    // What is no number reads as empty
    const empty = input.value === '' && !input.validity.badInput;
    const valid = empty ? id === 'seed' : input.validity.valid;
    this.#say(id, valid);
    return valid;
  }

  #say(id: Field, valid: boolean): void {
    if (valid) this.#inputs[id].removeAttribute('aria-invalid');
    else this.#inputs[id].setAttribute('aria-invalid', 'true');
    byId(`${id}-error`, HTMLElement).textContent = valid ? '' : `Give ${WANTED[id]}.`;
  }

  #summarise(): void {
    const value = (id: Field): string => this.#inputs[id].value || '?';
    byId('settings-summary', HTMLElement).textContent = [
      `temperature ${value('temperature')}`,
      `top-p ${value('top-p')}`,
      `${value('max-tokens')} tokens`,
    ].join(' · ');
  }
}
