// One tensor, looked into: what it is, its first values, and what its values are like.
import type { LoadedTensor, Model } from 'sluice';

import { byId, copyText, create } from './dom.js';
import { elementsOf, formatBytes, formatCount, formatNumber, formatShape } from './format.js';
import { histogram } from './histogram.js';
import { readBytes, sampleStretches } from './read_tensor.js';
import type { Stretch } from './read_tensor.js';
import { describe } from './statistics.js';
import type { Statistics } from './statistics.js';
import { decode, elementSize, hexLines, texts } from './values.js';

const FIRST_VALUES = 64;
/** Of a tensor whose elements are not read here, so many bytes are shown. */
const FIRST_BYTES = 256;
const BYTES_PER_LINE = 8;

/** What is known of a tensor's content. */
interface Content {
  /** The first values or, where elements are not read here, the first bytes in hexadecimal. */
  first: string[];
  statistics?: Statistics;
}

export class Inspector {
  readonly #section = byId('inspector', HTMLElement);
  readonly #title = byId('inspector-title', HTMLElement);
  readonly #body = byId('inspector-body', HTMLElement);
  readonly #leave: () => void;
  /** Changes with each tensor, so that a slow read does not overwrite a later one. */
  #turn = 0;

  /** `leave` puts the focus back to where the tensor was chosen. */
  constructor(leave: () => void) {
    this.#leave = leave;
    this.#section.addEventListener('keydown', (event) => {
      if (event.key !== 'Escape') return;
      event.stopPropagation();
      this.#leave();
    });
  }

  reset(): void {
    this.#turn++;
    this.#title.textContent = 'Look into a tensor';
    this.#body.replaceChildren(
      create('p', { class: 'muted' }, 'Choose a tensor in the table to see its values.'),
    );
    this.#section.removeAttribute('aria-busy');
  }

  /** Shows a tensor; its content follows when it has been read back. */
  async open(model: Model, tensor: LoadedTensor): Promise<void> {
    const turn = ++this.#turn;
    this.#title.replaceChildren(...breakable(tensor.name));
    const facts = factsOf(tensor);
    const reading = create('p', { class: 'muted' }, 'Reading its values…');
    this.#body.replaceChildren(facts, reading);
    this.#section.setAttribute('aria-busy', 'true');
    try {
      const stretches = stretchesOf(tensor);
      const bytes = await readBytes(model, tensor, stretches);
      if (turn !== this.#turn) return;
      this.#body.replaceChildren(facts, ...this.#contentOf(tensor, stretches, bytes));
    } catch (error) {
      if (turn !== this.#turn) return;
      const reason = error instanceof Error ? error.message : String(error);
      const text = `Its values could not be read back: ${reason}. If the GPU device was lost, load the model again.`;
      this.#body.replaceChildren(facts, create('p', { class: 'field-error', role: 'alert' }, text));
    } finally {
      if (turn === this.#turn) this.#section.removeAttribute('aria-busy');
    }
  }

  focus(): void {
    this.#title.focus({ preventScroll: true });
  }

  #contentOf(
    tensor: LoadedTensor,
    stretches: readonly Stretch[],
    bytes: Uint8Array,
  ): (Node | string)[] {
    const { dtype, shape } = tensor;
    const back = create('button', { type: 'button', class: 'back' }, 'Back to the table');
    back.addEventListener('click', () => {
      this.#leave();
    });
    if (bytes.length === 0) return [create('p', { class: 'muted' }, 'It has no elements.'), back];
    if (elementSize(dtype) === undefined) {
      const content = { first: hexLines(bytes.subarray(0, FIRST_BYTES), BYTES_PER_LINE) };
      const bits = (8 * tensor.nbytes) / elementsOf(shape);
      return [
        create(
          'p',
          { class: 'note' },
          `${dtype} packs elements, ${formatNumber(bits)} bits each on average, so its bytes are shown as ` +
            'stored. Convert to float16 or float32 when loading to see values, where the type can be converted.',
        ),
        create('h3', {}, `First ${formatCount(Math.min(FIRST_BYTES, bytes.length))} bytes`),
        create(
          'pre',
          { class: 'values', tabindex: '0', 'aria-label': 'First bytes' },
          content.first.join('\n'),
        ),
        copyButtons(tensor, content),
        back,
      ];
    }
    const statistics = describe(decode(dtype, bytes));
    const content = { first: texts(dtype, bytes, FIRST_VALUES), statistics };
    const total = elementsOf(shape);
    const sampled =
      stretches.length > 1
        ? `From a sample: ${formatCount(statistics.count)} of ${formatCount(total)} values, in ` +
          `${stretches.length} stretches from the first to the last.`
        : total === 1
          ? 'From its one value.'
          : `From all ${formatCount(total)} values.`;
    return [
      create('h3', {}, 'Distribution'),
      ...(statistics.bins.length > 0 ? histogram(statistics) : []),
      statisticsList(statistics),
      create('p', { class: 'hint' }, sampled),
      create(
        'h3',
        {},
        content.first.length === total
          ? 'Values'
          : `First ${formatCount(content.first.length)} values`,
      ),
      valueList(content.first),
      copyButtons(tensor, content),
      back,
    ];
  }
}

/** All that is looked at: a sample of numbers, or the first bytes of what is packed. */
function stretchesOf({ dtype, nbytes }: LoadedTensor): Stretch[] {
  if (nbytes === 0) return [];
  return elementSize(dtype) === undefined
    ? [{ begin: 0, end: Math.min(nbytes, FIRST_BYTES) }]
    : sampleStretches(nbytes);
}

function factsOf(tensor: LoadedTensor): HTMLElement {
  const place =
    tensor.location === 'gpu'
      ? `GPU buffer, from byte ${formatCount(tensor.offset)}`
      : 'CPU memory';
  return pairs('facts', [
    ['Type', tensor.dtype],
    ['Shape', formatShape(tensor.shape)],
    ['Elements', formatCount(elementsOf(tensor.shape))],
    ['Size', `${formatBytes(tensor.nbytes)} (${formatCount(tensor.nbytes)})`],
    ['Where', place],
  ]);
}

function statisticsList(statistics: Statistics): HTMLElement {
  const { min, max, mean, deviation, zeros, nan, infinite } = statistics;
  const number = (value: number): string => (Number.isNaN(value) ? '–' : formatNumber(value));
  return pairs('statistics', [
    ['Minimum', number(min)],
    ['Maximum', number(max)],
    ['Mean', number(mean)],
    ['Std. deviation', number(deviation)],
    ['Zeros', formatCount(zeros)],
    ['NaN, infinite', `${formatCount(nan)}, ${formatCount(infinite)}`],
  ]);
}

function pairs(kind: string, entries: [string, string][]): HTMLElement {
  return create(
    'dl',
    { class: kind },
    ...entries.map(([term, value]) =>
      create('div', {}, create('dt', {}, term), create('dd', {}, value)),
    ),
  );
}

function valueList(values: readonly string[]): HTMLElement {
  return create(
    'ol',
    { class: 'values', start: '0', tabindex: '0', 'aria-label': 'First values' },
    ...values.map((value) => create('li', {}, value)),
  );
}

function copyButtons(tensor: LoadedTensor, content: Content): HTMLElement {
  const { name, dtype, shape, nbytes } = tensor;
  const said = create('span', { role: 'status', class: 'muted' });
  const button = (label: string, text: () => string): HTMLButtonElement => {
    const made = create('button', { type: 'button' }, label);
    made.addEventListener('click', () => {
      void copyText(text()).then((worked) => {
        said.textContent = worked ? 'Copied' : 'The browser did not allow copying';
      });
    });
    return made;
  };
  return create(
    'div',
    { class: 'buttons', role: 'group', 'aria-label': 'Copy' },
    create('span', { class: 'muted', 'aria-hidden': 'true' }, 'Copy'),
    button('Name', () => name),
    button(content.statistics ? 'Values' : 'Bytes', () => content.first.join('\n')),
    button('JSON', () => JSON.stringify({ name, dtype, shape, nbytes, ...content }, undefined, 2)),
    said,
  );
}

/** The name, to be broken between its parts where it must be. */
function breakable(name: string): (Node | string)[] {
  return name.split(/(?<=[._/])/).flatMap((part) => [part, create('wbr')]);
}
