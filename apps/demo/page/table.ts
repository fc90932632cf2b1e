// The tensors as a table: filtered, sorted, and only the rows in view in the page, so that thousands are as
// light as ten. Arrow keys move between rows; aria-rowindex tells where one is.
import type { LoadedTensor } from 'sluice';

import { byId, create } from './dom.js';
import { elementsOf, formatBytes, formatCount, formatShape } from './format.js';

type Column = 'name' | 'dtype' | 'shape' | 'bytes';
type Direction = 'ascending' | 'descending';

const natural = new Intl.Collator('en', { numeric: true });

const COMPARE: Record<Column, (a: LoadedTensor, b: LoadedTensor) => number> = {
  name: (a, b) => natural.compare(a.name, b.name),
  dtype: (a, b) => natural.compare(a.dtype, b.dtype),
  shape: (a, b) => elementsOf(a.shape) - elementsOf(b.shape),
  bytes: (a, b) => a.nbytes - b.nbytes,
};

/** Rows drawn above and below those in view. */
const MARGIN_ROWS = 8;

export class TensorTable {
  readonly #box = byId('table-box', HTMLElement);
  readonly #table = byId('table', HTMLTableElement);
  readonly #body = byId('rows', HTMLTableSectionElement);
  readonly #filter = byId('filter', HTMLInputElement);
  readonly #dtype = byId('filter-dtype', HTMLSelectElement);
  readonly #count = byId('filter-count', HTMLElement);
  readonly #noMatch = byId('no-match', HTMLElement);
  readonly #open: (tensor: LoadedTensor, byKeyboard: boolean) => void;
  #all: readonly LoadedTensor[] = [];
  #shown: LoadedTensor[] = [];
  #sort: { column: Column; direction: Direction } | undefined;
  /** Index into #shown of the row that Tab reaches. */
  #current = 0;
  #opened: string | undefined;

  /** `open` is told of the tensor that was chosen. */
  constructor(open: (tensor: LoadedTensor, byKeyboard: boolean) => void) {
    this.#open = open;
    this.#filter.addEventListener('input', () => {
      this.#arrange();
    });
    this.#dtype.addEventListener('change', () => {
      this.#arrange();
    });
    byId('clear-filter', HTMLButtonElement).addEventListener('click', () => {
      this.clearFilter();
      this.#filter.focus();
    });
    for (const button of this.#table.querySelectorAll<HTMLButtonElement>('[data-sort]')) {
      button.addEventListener('click', () => {
        this.#sortBy(button.dataset['sort'] as Column);
      });
    }
    this.#box.addEventListener('scroll', () => {
      this.#draw();
    });
    new ResizeObserver(() => {
      this.#draw();
    }).observe(this.#box);
    this.#body.addEventListener('click', (event) => {
      const row = event.target instanceof Element ? event.target.closest('tr') : null;
      const index = Number(row?.dataset['index'] ?? NaN);
      // A click made by Enter or the space bar has no count
      if (Number.isInteger(index)) this.#choose(index, event.detail === 0);
    });
    this.#body.addEventListener('keydown', (event) => {
      this.#onKey(event);
    });
  }

  show(tensors: readonly LoadedTensor[]): void {
    this.#all = tensors;
    this.#opened = undefined;
    this.#sort = undefined;
    const counts = new Map<string, number>();
    for (const { dtype } of tensors) counts.set(dtype, (counts.get(dtype) ?? 0) + 1);
    this.#dtype.replaceChildren(
      create('option', { value: '' }, 'All types'),
      ...[...counts]
        .sort(([a], [b]) => natural.compare(a, b))
        .map(([dtype, count]) => create('option', { value: dtype }, `${dtype} (${count})`)),
    );
    this.clearFilter();
  }

  clearFilter(): void {
    this.#filter.value = '';
    this.#dtype.value = '';
    this.#arrange();
  }

  /** Opens the tensor of that name as if it were clicked. */
  choose(name: string): void {
    if (!this.#shown.some((tensor) => tensor.name === name)) this.clearFilter();
    const index = this.#shown.findIndex((tensor) => tensor.name === name);
    if (index < 0) return;
    this.#reveal(index);
    this.#choose(index, false);
  }

  /** Puts the focus on the row that was last on it. */
  focus(): void {
    this.#moveTo(this.#current);
  }

  #choose(index: number, byKeyboard: boolean): void {
    const tensor = this.#shown[index];
    if (!tensor) return;
    this.#current = index;
    this.#opened = tensor.name;
    this.#draw();
    this.#open(tensor, byKeyboard);
  }

  /** Ascending, descending, then the model's own order again. */
  #sortBy(column: Column): void {
    if (this.#sort?.column !== column) this.#sort = { column, direction: 'ascending' };
    else if (this.#sort.direction === 'ascending') this.#sort = { column, direction: 'descending' };
    else this.#sort = undefined;
    this.#arrange();
  }

  #arrange(): void {
    const words = this.#filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const dtype = this.#dtype.value;
    this.#shown = this.#all.filter(
      (tensor) =>
        (dtype === '' || tensor.dtype === dtype) &&
        words.every((word) => tensor.name.toLowerCase().includes(word)),
    );
    const { column, direction } = this.#sort ?? {};
    if (column !== undefined) {
      const sign = direction === 'ascending' ? 1 : -1;
      this.#shown.sort((a, b) => sign * COMPARE[column](a, b));
    }
    for (const button of this.#table.querySelectorAll<HTMLButtonElement>('[data-sort]')) {
      const mine = button.dataset['sort'] === column;
      button.closest('th')?.setAttribute('aria-sort', mine ? (direction ?? 'none') : 'none');
    }
    const nbytes = this.#shown.reduce((sum, tensor) => sum + tensor.nbytes, 0);
    this.#count.textContent =
      `${formatCount(this.#shown.length)} of ${formatCount(this.#all.length)} tensors, ` +
      formatBytes(nbytes);
    this.#noMatch.hidden = this.#shown.length > 0;
    this.#current = 0;
    this.#box.scrollTop = 0;
    this.#draw();
  }

  get #rowHeight(): number {
    return parseFloat(getComputedStyle(this.#table).getPropertyValue('--row-height')) || 40;
  }

  #draw(): void {
    const height = this.#rowHeight;
    const view = this.#box.clientHeight;
    if (view === 0) return;
    const count = this.#shown.length;
    const top = Math.floor(this.#box.scrollTop / height);
    const begin = Math.max(0, Math.min(top, count) - MARGIN_ROWS);
    const end = Math.min(count, top + Math.ceil(view / height) + MARGIN_ROWS);
    const focused = this.#body.contains(document.activeElement);
    const rows: HTMLTableRowElement[] = [];
    if (begin > 0) rows.push(spacer(begin * height));
    // The row that Tab reaches is always there
    if (this.#current < begin && count > 0) rows.push(this.#row(this.#current, true));
    for (let index = begin; index < end; index++) rows.push(this.#row(index));
    if (this.#current >= end && count > 0) rows.push(this.#row(this.#current, true));
    if (end < count) rows.push(spacer((count - end) * height));
    this.#table.setAttribute('aria-rowcount', String(count + 1));
    this.#body.replaceChildren(...rows);
    if (focused) this.#button(this.#current)?.focus({ preventScroll: true });
  }

  #row(index: number, aside = false): HTMLTableRowElement {
    const { name, dtype, shape, nbytes } = this.#shown[index]!;
    const button = create('button', {
      type: 'button',
      tabindex: index === this.#current ? '0' : '-1',
      title: name,
      'aria-label': name,
    });
    button.append(...nameParts(name));
    if (name === this.#opened) button.setAttribute('aria-current', 'true');
    const row = create(
      'tr',
      { role: 'row', 'data-index': String(index), 'aria-rowindex': String(index + 2) },
      create('th', { role: 'rowheader', scope: 'row', class: 'name' }, button),
      create('td', { role: 'cell', class: 'dtype' }, dtype),
      create('td', { role: 'cell', class: 'shape' }, formatShape(shape)),
      create('td', { role: 'cell', class: 'bytes' }, formatBytes(nbytes)),
    );
    if (name === this.#opened) row.classList.add('opened');
    if (aside) row.classList.add('aside');
    return row;
  }

  #button(index: number): HTMLButtonElement | null {
    return this.#body.querySelector(`tr[data-index="${index}"] button`);
  }

  #onKey(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.#box.clientHeight / this.#rowHeight) - 2);
    const last = this.#shown.length - 1;
    const target = {
      ArrowDown: this.#current + 1,
      ArrowUp: this.#current - 1,
      PageDown: this.#current + page,
      PageUp: this.#current - page,
      Home: 0,
      End: last,
    }[event.key];
    if (target === undefined) return;
    event.preventDefault();
    this.#moveTo(Math.max(0, Math.min(last, target)));
  }

  #moveTo(index: number): void {
    this.#current = index;
    this.#reveal(index);
    this.#draw();
    this.#button(index)?.focus({ preventScroll: true });
  }

  /** Scrolls the box, and no more than it must, so that the row is below the heading and in view. */
  #reveal(index: number): void {
    const height = this.#rowHeight;
    const view = this.#box.clientHeight - (this.#table.tHead?.offsetHeight ?? 0);
    const top = index * height;
    if (top < this.#box.scrollTop) this.#box.scrollTop = top;
    else if (top + height > this.#box.scrollTop + view) this.#box.scrollTop = top + height - view;
  }
}

function spacer(height: number): HTMLTableRowElement {
  const row = create('tr', { 'aria-hidden': 'true', class: 'spacer' });
  row.style.height = `${height}px`;
  return row;
}

/** The name in two parts, the first of which may be cut short at its front: what differs is behind it. */
function nameParts(name: string): HTMLElement[] {
  const dots = [...name.matchAll(/\./g)].map(({ index }) => index);
  const cut = (dots.at(-2) ?? -1) + 1;
  const end = name.slice(cut);
  const tail = create('span', { class: 'tail' }, end);
  if (cut === 0) return [tail];
  const begin = create('bdi', { dir: 'ltr' }, name.slice(0, cut));
  const head = create('span', { class: 'head' }, begin);
  // All letters are equally wide
  head.style.maxWidth = `max(2ch, 100% - ${end.length}ch)`;
  return [head, tail];
}
