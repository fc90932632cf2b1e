// The options of a load, as the form has them.
import { byId } from './dom.js';
import type { Settings } from './session.js';

const MIB = 2 ** 20;

export class SettingsForm {
  readonly #dtype = byId('dtype', HTMLSelectElement);
  readonly #device = byId('device', HTMLSelectElement);
  readonly #budget = byId('budget', HTMLInputElement);
  readonly #connections = byId('connections', HTMLInputElement);
  readonly #worker = byId('worker', HTMLInputElement);
  readonly #keep = byId('keep', HTMLInputElement);
  readonly #summary = byId('options-summary', HTMLElement);

  constructor() {
    for (const input of [
      this.#dtype,
      this.#device,
      this.#budget,
      this.#connections,
      this.#worker,
      this.#keep,
    ]) {
      input.addEventListener('input', () => {
        this.#update();
      });
    }
    this.#update();
  }

  /** There is no WebGPU: everything goes to the CPU. */
  withoutGpu(): void {
    this.#device.value = 'cpu';
    const gpu = this.#device.querySelector<HTMLOptionElement>('[value=gpu]');
    if (gpu) gpu.disabled = true;
    this.#update();
  }

  /** There is no local store here: nothing can be kept. */
  withoutStore(): void {
    this.#keep.checked = false;
    this.#keep.disabled = true;
    byId('keep-hint', HTMLElement).textContent =
      'This browser keeps nothing here; “Stored models” says why.';
    this.#update();
  }

  useCpu(): void {
    this.#device.value = 'cpu';
    this.#update();
  }

  /** The settings; undefined when one is wrong, which is then said beside it and has the focus. */
  read(): Settings | undefined {
    const budget = this.#number(this.#budget, 'a number of MiB from 0.125 to 65,536');
    const connections = this.#number(this.#connections, 'a whole number from 1 to 16');
    const wrong = [this.#budget, this.#connections].find((input) => !input.validity.valid);
    if (budget === undefined || connections === undefined) {
      wrong?.closest('details')?.setAttribute('open', '');
      wrong?.focus();
      return undefined;
    }
    return {
      dtype: this.#dtype.value as Settings['dtype'],
      device: this.#device.value as Settings['device'],
      budgetBytes: Math.floor(budget * MIB),
      connections,
      worker: this.#worker.checked,
      keep: this.#keep.checked,
    };
  }

  #number(input: HTMLInputElement, wanted: string): number | undefined {
    const valid = input.validity.valid && input.value !== '';
    input.setCustomValidity(input.value === '' ? 'missing' : '');
    input.setAttribute('aria-invalid', String(!valid));
    byId(`${input.id}-error`, HTMLElement).textContent = valid ? '' : `Give ${wanted}.`;
    return valid ? input.valueAsNumber : undefined;
  }

  #update(): void {
    for (const input of [this.#budget, this.#connections]) {
      input.setCustomValidity('');
      input.removeAttribute('aria-invalid');
      byId(`${input.id}-error`, HTMLElement).textContent = '';
    }
    const gpu = this.#device.value === 'gpu';
    this.#worker.disabled = !gpu;
    this.#summary.textContent = [
      this.#dtype.value === 'stored' ? 'as stored' : this.#dtype.value,
      gpu ? 'GPU' : 'CPU',
      `${this.#budget.value || '?'} MiB`,
      `${this.#connections.value || '?'} connections`,
      this.#keep.checked ? 'kept' : 'not kept',
    ].join(' · ');
  }
}
