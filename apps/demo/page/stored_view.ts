// The models that are kept on this device: what is there, and what can be done with it.
import { filesForImport, handleTarget, openStore, SluiceError } from 'sluice';
import type { ModelFiles, ModelStore, StoredModelEntry } from 'sluice';

import { byId, create } from './dom.js';
import { asSluiceError, wordsOf } from './errors.js';
import type { ErrorWords } from './errors.js';
import { formatAge, formatBytes, formatCount, formatPercent } from './format.js';
import { typedSource } from './sources.js';
import type { ModelSource } from './sources.js';

/** Of the File System Access API, where a browser has it. */
interface FolderPicker {
  showDirectoryPicker?: (options?: {
    id?: string;
    mode?: 'read' | 'readwrite';
  }) => Promise<FileSystemDirectoryHandle>;
}

/** What the page does for this view. */
interface Actions {
  load(source: ModelSource): void;
  /** There is no store here. */
  missing(): void;
}

export class StoredView {
  readonly #section = byId('stored', HTMLElement);
  readonly #list = byId('stored-list', HTMLUListElement);
  readonly #usage = byId('stored-usage', HTMLElement);
  readonly #clear = byId('stored-clear', HTMLButtonElement);
  readonly #status = byId('stored-status', HTMLElement);
  readonly #failure = byId('stored-failure', HTMLElement);
  readonly #persist = byId('stored-persist', HTMLButtonElement);
  readonly #importUrl = byId('import-url', HTMLInputElement);
  readonly #copying = byId('copying', HTMLElement);
  readonly #actions: Actions;
  readonly #picker = window as FolderPicker;
  #store: ModelStore | undefined;
  #models: StoredModelEntry[] = [];
  #loading = false;
  /** Something is exported or imported; aborting stops it. */
  #copy: AbortController | undefined;
  /** A look into the store that began earlier does not overwrite a later one. */
  #turn = 0;

  constructor(actions: Actions) {
    this.#actions = actions;
    byId('stored-export-hint', HTMLElement).hidden = this.#picker.showDirectoryPicker !== undefined;
    this.#clear.addEventListener('click', () => void this.#deleteAll());
    this.#persist.addEventListener('click', () => void this.#askToPersist());
    byId('copying-cancel', HTMLButtonElement).addEventListener('click', () => this.#copy?.abort());
    this.#importUrl.addEventListener('input', () => this.#sayOfUrl(''));
    byId('import-form', HTMLFormElement).addEventListener('submit', (event) => {
      event.preventDefault();
    });
    this.#offerImport();
    // Other tabs store and delete, too
    document.addEventListener('visibilitychange', () => {
      if (document.visibilityState === 'visible') void this.refresh();
    });
    void this.#open();
  }

  /** One model at a time is loaded. */
  setLoading(loading: boolean): void {
    this.#loading = loading;
    if (loading) this.#say('');
    this.#enable();
    if (!loading) void this.refresh();
  }

  /** Looks into the store again. */
  async refresh(): Promise<void> {
    const turn = ++this.#turn;
    const store = this.#store;
    if (!store) return;
    try {
      const models = await store.models();
      const { storedBytes, freeBytes } = await store.usage();
      const persisted = await navigator.storage.persisted();
      if (turn !== this.#turn) return;
      this.#models = models;
      this.#usage.textContent = usageWords(models.length, storedBytes, freeBytes);
      this.#clear.hidden = models.length === 0;
      byId('stored-eviction', HTMLElement).textContent = persisted
        ? 'The browser keeps stored models until you delete them.'
        : 'The browser may remove stored models when this device runs out of space.';
      this.#persist.hidden = persisted;
      this.#draw();
    } catch (error) {
      if (turn === this.#turn) this.#fail(wordsOf(asSluiceError(error)));
    }
  }

  async #open(): Promise<void> {
    try {
      this.#store = await openStore();
    } catch (error) {
      const { message, hint } = asSluiceError(error);
      this.#usage.hidden = true;
      const why = byId('stored-why', HTMLElement);
      why.textContent =
        `Models are not kept here: ${message}${hint === undefined ? '' : ` (${hint})`}. ` +
        'They load all the same, from the network each time. Private windows often have no store.';
      why.hidden = false;
      this.#actions.missing();
      return;
    }
    byId('stored-body', HTMLElement).hidden = false;
    await this.refresh();
  }

  /** Draws the list anew; the focus stays on the control that had it, or where that was. */
  #draw(): void {
    const focused = document.activeElement;
    const item = focused?.closest<HTMLElement>('#stored-list > li');
    const index = item ? [...this.#list.children].indexOf(item) : -1;
    const action = focused instanceof HTMLElement ? focused.dataset['action'] : undefined;
    this.#list.replaceChildren(...this.#models.map((entry) => this.#itemOf(entry)));
    this.#enable();
    if (!item || action === undefined) return;
    const items = [...this.#list.children] as HTMLElement[];
    const same = items.find(({ dataset }) => dataset['key'] === item.dataset['key']);
    const next = (same ?? items[Math.min(index, items.length - 1)])?.querySelector<HTMLElement>(
      `[data-action="${action}"]:enabled`,
    );
    (next ?? this.#section).focus({ preventScroll: next !== undefined });
  }

  #itemOf(entry: StoredModelEntry): HTMLLIElement {
    const { key, complete, storedBytes, totalBytes, usedAt } = entry;
    const readable = isReadable(entry);
    const source = sourceOf(entry);
    const name = source?.name ?? key;
    const used = create(
      'time',
      { datetime: usedAt.toISOString(), title: usedAt.toLocaleString() },
      formatAge(usedAt),
    );
    const state = create('p', { class: 'stored-state' });
    if (!readable) {
      state.append('Being stored by another tab just now, or damaged; what it is cannot be told.');
    } else {
      const files = entry.files.length;
      state.append(
        create(
          'span',
          { class: complete ? 'badge complete' : 'badge' },
          complete ? 'Complete' : `${formatPercent(storedBytes, totalBytes)} stored`,
        ),
        complete
          ? ` ${formatBytes(storedBytes)}`
          : ` ${formatBytes(storedBytes)} of ${formatBytes(totalBytes)} or more`,
        ` in ${formatCount(files)} ${files === 1 ? 'file' : 'files'} · used `,
        used,
      );
    }
    const button = (action: string, label: string, act: () => unknown): HTMLButtonElement => {
      const hidden = create('span', { class: 'visually-hidden' }, ` ${name}`);
      const made = create('button', { type: 'button', 'data-action': action }, label, hidden);
      made.addEventListener('click', () => void act());
      return made;
    };
    const buttons = create('div', { class: 'buttons' });
    if (readable && source) {
      const label = complete ? 'Load' : 'Finish loading';
      buttons.append(button('load', label, () => this.#actions.load(source)));
    }
    if (complete && this.#picker.showDirectoryPicker) {
      buttons.append(button('export', 'Export…', () => this.#export(entry, name)));
    }
    buttons.append(button('delete', 'Delete', () => this.#delete(entry, name)));
    return create(
      'li',
      { 'data-key': key },
      create(
        'div',
        {},
        create('h3', {}, name),
        ...(name === key ? [] : [create('p', { class: 'stored-key muted' }, key)]),
        state,
      ),
      buttons,
    );
  }

  /** One thing at a time is done with the store. */
  #enable(): void {
    const busy = this.#copy !== undefined;
    for (const button of this.#section.querySelectorAll('button')) {
      if (button.id === 'copying-cancel') continue;
      button.disabled = busy || (this.#loading && button.dataset['action'] === 'load');
    }
  }

  // Deleting

  async #delete({ key, storedBytes }: StoredModelEntry, name: string): Promise<void> {
    const sure = await confirmed(
      `Delete ${name}?`,
      `${formatBytes(storedBytes)} are freed. The next load fetches them again.`,
    );
    if (!sure) return;
    await this.#attempt(async (store) => {
      if (await store.delete(key)) return this.#say(`Deleted ${name}.`);
      this.#fail(inUse(`${name} was not deleted.`));
    });
  }

  async #deleteAll(): Promise<void> {
    const nbytes = this.#models.reduce((sum, { storedBytes }) => sum + storedBytes, 0);
    const sure = await confirmed(
      'Delete all stored models?',
      `${formatBytes(nbytes)} are freed. The next loads fetch them again.`,
    );
    if (!sure) return;
    const hadFocus = document.activeElement === this.#clear;
    await this.#attempt(async (store) => {
      const kept = await store.clear();
      if (kept.length === 0) this.#say('Deleted all stored models.');
      else this.#fail(inUse(`Not deleted: ${kept.join(', ')}.`));
    });
    if (hadFocus && this.#clear.hidden) this.#section.focus({ preventScroll: true });
  }

  async #askToPersist(): Promise<void> {
    const granted = await navigator.storage.persist();
    if (granted) this.#section.focus({ preventScroll: true });
    this.#say(
      granted
        ? 'The browser keeps the models until you delete them.'
        : 'The browser did not agree for now. It decides by how a site is used: bookmark or install this page, use it more often, or allow it to store data in the site’s settings, and ask again.',
    );
    await this.refresh();
  }

  // Out to a folder, and in from one

  async #export({ key, storedBytes }: StoredModelEntry, name: string): Promise<void> {
    const picked = await this.#picker
      .showDirectoryPicker?.({ id: 'sluice-export', mode: 'readwrite' })
      .catch(refusal);
    if (!picked) return;
    if (!('kind' in picked)) return this.#fail(picked);
    await this.#copied(`Exporting ${name}`, storedBytes, async (store, options) => {
      // The files in a folder of their own: theirs are names that many models have
      const folder = await picked
        .getDirectoryHandle(name.replaceAll(/[/\\]/g, '_'), { create: true })
        .catch((error: unknown) => {
          throw new SluiceError('io', `no folder can be made in ${picked.name}: ${String(error)}`);
        });
      await store.exportTo(key, handleTarget(folder), options);
      return `Exported ${name} to ${picked.name}/${folder.name}.`;
    });
  }

  #offerImport(): void {
    const folderInput = byId('import-folder-input', HTMLInputElement);
    const filesInput = byId('import-files-input', HTMLInputElement);
    const picker = this.#picker;
    byId('import-folder', HTMLButtonElement).addEventListener('click', () => {
      if (!this.#importKey()) return;
      if (!picker.showDirectoryPicker) return folderInput.click();
      void picker
        .showDirectoryPicker({ id: 'sluice-import' })
        .catch(refusal)
        .then((picked) => {
          if (!picked) return;
          if ('kind' in picked) void this.#import(picked);
          else this.#fail(picked);
        });
    });
    byId('import-files', HTMLButtonElement).addEventListener('click', () => {
      if (this.#importKey()) filesInput.click();
    });
    for (const input of [folderInput, filesInput]) {
      input.addEventListener('change', () => {
        const files = [...(input.files ?? [])];
        input.value = ''; // so that the same may be picked again
        if (files.length > 0) void this.#import(files);
      });
    }
  }

  async #import(from: ModelFiles): Promise<void> {
    const source = this.#importKey();
    if (!source) return;
    const { name, location } = source;
    await this.#copied(`Importing ${name}`, undefined, async (store, options) => {
      await store.importFrom(location, await filesForImport(location, from), options);
      return `Imported ${name}. A load from ${location} needs no network now.`;
    });
  }

  /** The address that was given; undefined where it is none, which is then said beside it. */
  #importKey(): { name: string; location: string } | undefined {
    const source = typedSource(this.#importUrl.value);
    if (source && typeof source.location === 'string') {
      const url = new URL(source.location);
      url.hash = '';
      return { name: source.name, location: url.href };
    }
    this.#sayOfUrl('Give the address (http or https) that the model is loaded from.');
    this.#importUrl.focus();
    return undefined;
  }

  #sayOfUrl(text: string): void {
    byId('import-url-error', HTMLElement).textContent = text;
    if (text === '') this.#importUrl.removeAttribute('aria-invalid');
    else this.#importUrl.setAttribute('aria-invalid', 'true');
  }

  /** Copies with a bar and a way to stop; `nbytes` in all, where that is known. */
  async #copied(
    title: string,
    nbytes: number | undefined,
    copy: (
      store: ModelStore,
      options: { signal: AbortSignal; onBytes: (nbytes: number) => void },
    ) => Promise<string>,
  ): Promise<void> {
    if (this.#copy) return;
    const focused = document.activeElement;
    const { signal } = (this.#copy = new AbortController());
    const bar = byId('copying-bar', HTMLProgressElement);
    const line = byId('copying-bytes', HTMLElement);
    let done = 0;
    const onBytes = (count: number): void => {
      done += count;
      if (nbytes !== undefined) bar.value = nbytes === 0 ? 1 : done / nbytes;
      line.textContent =
        nbytes === undefined ? formatBytes(done) : `${formatBytes(done)} of ${formatBytes(nbytes)}`;
    };
    bar.removeAttribute('value');
    byId('copying-title', HTMLElement).textContent = title;
    line.textContent = '\u00a0';
    this.#copying.hidden = false;
    this.#enable();
    await this.#attempt(async (store) => this.#say(await copy(store, { signal, onBytes })));
    this.#copy = undefined;
    this.#copying.hidden = true;
    this.#enable();
    if (document.activeElement === document.body && focused instanceof HTMLElement) {
      focused.focus({ preventScroll: true });
    }
  }

  // What is said

  async #attempt(work: (store: ModelStore) => Promise<void>): Promise<void> {
    this.#say('');
    if (!this.#store) return;
    try {
      await work(this.#store);
    } catch (error) {
      const known = asSluiceError(error);
      if (known.code === 'aborted') this.#say('Stopped.');
      else this.#fail(wordsHere(known));
    }
    await this.refresh();
  }

  #say(text: string): void {
    this.#status.textContent = text;
    this.#failure.replaceChildren();
  }

  #fail({ title, message, advice }: Pick<ErrorWords, 'title' | 'message' | 'advice'>): void {
    this.#status.textContent = '';
    this.#failure.replaceChildren(
      create('h3', {}, title),
      create('p', {}, message),
      create('ul', {}, ...advice.map((text) => create('li', {}, text))),
    );
  }
}

/** What a load of it takes; undefined where its key is no address. */
function sourceOf(entry: StoredModelEntry): ModelSource | undefined {
  if (!isReadable(entry) || !/^https?:/.test(entry.key)) return undefined;
  const source = typedSource(entry.key);
  return source && { name: source.name, location: entry.key };
}

const isReadable = ({ createdAt }: StoredModelEntry): boolean => +createdAt > 0;

function usageWords(count: number, storedBytes: number, freeBytes: number | undefined): string {
  const free = freeBytes === undefined ? '' : `; room for ${formatBytes(freeBytes)} more`;
  if (count === 0) {
    return `Nothing is kept on this device yet. What is loaded from an address is, unless you choose otherwise under Options${free}.`;
  }
  const models = `${formatCount(count)} ${count === 1 ? 'model' : 'models'}`;
  return `${models}, ${formatBytes(storedBytes)} on this device${free}.`;
}

/** As wordsOf(), but where those speak of loading from an address. */
function wordsHere(error: SluiceError): ErrorWords {
  const words = wordsOf(error);
  if (error.code !== 'invalid_argument' && error.code !== 'not_found') return words;
  const advice = error.hint === undefined ? ['Choose other files.'] : words.advice.slice(0, 1);
  return { ...words, title: 'That cannot be done with these files', advice };
}

function inUse(message: string): Pick<ErrorWords, 'title' | 'message' | 'advice'> {
  return {
    title: 'It is in use',
    message,
    advice: ['Wait until it is loaded, or close the other tabs that load it, and delete it then.'],
  };
}

/** Why a picker gave no folder; undefined where the person just closed it. */
function refusal(error: unknown): ErrorWords | undefined {
  if (error instanceof DOMException && error.name === 'AbortError') return undefined;
  return {
    ...wordsOf(asSluiceError(error)),
    title: 'The folder could not be opened',
    advice: ['Choose another folder, and allow this page to use it.'],
  };
}

/** Asks in a dialog; false unless the person agrees. */
function confirmed(title: string, text: string): Promise<boolean> {
  const dialog = byId('confirm', HTMLDialogElement);
  byId('confirm-title', HTMLElement).textContent = title;
  byId('confirm-text', HTMLElement).textContent = text;
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'delete'), {
      once: true,
    });
  });
}
