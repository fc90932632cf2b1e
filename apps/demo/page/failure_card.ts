// What went wrong and what to do about it, in the section that both pages have for it.
import { bringIntoView, byId, create } from './dom.js';
import type { ErrorWords } from './errors.js';

/** Shows it, and gives it the focus: so it is read out, and its buttons are next. */
export function showFailure(words: ErrorWords): void {
  const failure = byId('failure', HTMLElement);
  byId('failure-title', HTMLElement).textContent = words.title;
  byId('failure-message', HTMLElement).textContent = words.message;
  byId('failure-advice', HTMLElement).replaceChildren(
    ...words.advice.map((text) => create('li', {}, text)),
  );
  byId('failure-details', HTMLElement).replaceChildren(
    ...words.details.map(([term, value]) =>
      create('div', {}, create('dt', {}, term), create('dd', {}, value)),
    ),
  );
  failure.hidden = false;
  failure.focus({ preventScroll: true });
  bringIntoView(failure);
}
