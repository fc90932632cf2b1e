// The page: which part is shown when, and what the buttons do.
import type { LoadedTensor, Model, SluiceError } from 'sluice';

import { findAdapter, whyNoAdapter } from './adapter.js';
import { bringIntoView, byId, copyText } from './dom.js';
import { asSluiceError, wordsOf } from './errors.js';
import { showFailure } from './failure_card.js';
import { formatBytes, formatCount, formatDuration } from './format.js';
import { Inspector } from './inspector.js';
import { ProgressView } from './progress_view.js';
import { Session } from './session.js';
import type { Settings } from './session.js';
import { SettingsForm } from './settings_form.js';
import { acceptDrops, listExamples, offerPickers, typedSource } from './sources.js';
import type { ModelSource } from './sources.js';
import { StoredView } from './stored_view.js';
import { TensorTable } from './table.js';

const TITLE = document.title;

const url = byId('url', HTMLInputElement);
const load = byId('load', HTMLButtonElement);
const cancel = byId('cancel', HTMLButtonElement);
const empty = byId('empty', HTMLElement);
const failure = byId('failure', HTMLElement);
const tensors = byId('tensors', HTMLElement);
const retry = byId('retry', HTMLButtonElement);
const retryCpu = byId('retry-cpu', HTMLButtonElement);

const settings = new SettingsForm();
const inspector = new Inspector(() => {
  table.focus();
  if (isNarrow()) bringIntoView(tensors);
});
const table = new TensorTable((tensor, byKeyboard) => {
  openTensor(tensor, byKeyboard);
});
const progress = new ProgressView((name) => {
  if (model) table.choose(name);
});

const stored = new StoredView({
  load: (source) => {
    void start(source, { keep: true });
  },
  missing: () => {
    settings.withoutStore();
  },
});

let running: Session | undefined;
let lastSource: ModelSource | undefined;
let model: Model | undefined;

/** Table and inspector lie one below the other. */
const isNarrow = (): boolean => matchMedia('(max-width: 1099px)').matches;

/** Loads with the form's settings, but for `others`. */
async function start(source: ModelSource, others: Partial<Settings> = {}): Promise<void> {
  if (running) return;
  const read = settings.read();
  if (!read) return;
  const chosen = { ...read, ...others };
  unload();
  lastSource = source;
  empty.hidden = true;
  failure.hidden = true;
  const session = (running = new Session(source, chosen));
  const hadFocus = document.activeElement === load || document.activeElement === retry;
  load.disabled = true;
  stored.setLoading(true);
  cancel.hidden = false;
  document.title = `Loading ${source.name} · Sluice`;
  progress.begin(session);
  if (hadFocus || document.activeElement === document.body) cancel.focus({ preventScroll: true });
  if (isNarrow() || others.keep) bringIntoView(byId('content', HTMLElement));

  const outcome = await session.run();

  running = undefined;
  progress.end();
  const cancelHadFocus = document.activeElement === cancel;
  load.disabled = false;
  stored.setLoading(false);
  cancel.hidden = true;
  if (cancelHadFocus) load.focus();
  switch (outcome.kind) {
    case 'loaded':
      return showModel(session, outcome.model);
    case 'cancelled':
      document.title = TITLE;
      if (!session.progress) {
        progress.hide();
        empty.hidden = false;
      }
      return progress.announce(`Cancelled loading ${source.name}`);
    case 'failed':
      // Nothing came: there is no progress to look at
      if (!session.progress) progress.hide();
      document.title = `Failed · Sluice`;
      return showError(outcome.error);
  }
}

function showModel(session: Session, loaded: Model): void {
  model = loaded;
  const { report } = loaded;
  document.title = `${session.source.name} · Sluice`;
  byId('model-line', HTMLElement).textContent =
    `${session.source.name}: ${loaded.format}, ${formatBytes(report.outputBytes)} ` +
    `in ${formatDuration(report.milliseconds)}`;
  tensors.hidden = false;
  table.show([...loaded.tensors.values()]);
  inspector.reset();
  progress.announce(
    `Loaded ${formatCount(loaded.tensors.size)} tensors, ${formatBytes(report.outputBytes)}, ` +
      `in ${formatDuration(report.milliseconds)}`,
  );
  void loaded.device?.lost.then(({ reason, message }) => {
    if (reason === 'destroyed' || model !== loaded) return;
    unload();
    showText({
      title: 'The GPU was lost',
      message: message || 'The browser says no more.',
      advice: ['Load again. If it happens again, the GPU’s driver may need an update.'],
      details: [['Code', 'device_lost']],
      cpuMayHelp: true,
    });
  });
}

/** Frees the model and shows none. */
function unload(): void {
  model?.destroy();
  model = undefined;
  tensors.hidden = true;
  inspector.reset();
  progress.hide();
  document.title = TITLE;
}

function openTensor(tensor: LoadedTensor, byKeyboard: boolean): void {
  if (!model) return;
  void inspector.open(model, tensor);
  if (isNarrow()) bringIntoView(byId('inspector', HTMLElement));
  if (byKeyboard || isNarrow()) inspector.focus();
}

function showError(error: SluiceError): void {
  showText(wordsOf(error));
}

function showText(words: ReturnType<typeof wordsOf>): void {
  retry.hidden = lastSource === undefined;
  retryCpu.hidden = !words.cpuMayHelp || lastSource === undefined;
  empty.hidden = true;
  showFailure(words);
}

function submitUrl(): void {
  const source = typedSource(url.value);
  byId('url-error', HTMLElement).textContent = source
    ? ''
    : url.value.trim() === ''
      ? 'Give the address of a model, or choose an example.'
      : 'This is not an address that a page can load from (http or https).';
  url.setAttribute('aria-invalid', String(!source));
  if (source) void start(source);
  else url.focus();
}

byId('form', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault();
  submitUrl();
});
url.addEventListener('input', () => {
  byId('url-error', HTMLElement).textContent = '';
  url.removeAttribute('aria-invalid');
});
cancel.addEventListener('click', () => running?.cancel());
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && running && !document.querySelector('dialog[open]')) {
    event.preventDefault();
    running.cancel();
  }
});
retry.addEventListener('click', () => {
  if (lastSource) void start(lastSource);
});
retryCpu.addEventListener('click', () => {
  settings.useCpu();
  if (lastSource) void start(lastSource);
});
byId('copy-error', HTMLButtonElement).addEventListener('click', () => {
  void copyText(failure.innerText).then((worked) => {
    progress.announce(worked ? 'Copied' : 'The browser did not allow copying');
  });
});
byId('unload', HTMLButtonElement).addEventListener('click', () => {
  unload();
  empty.hidden = false;
  url.focus();
  progress.announce('Unloaded; its memory is free again');
});

offerPickers((source) => {
  void start(source);
});
acceptDrops(
  () => running !== undefined,
  (source) => {
    source.then(start, (error: unknown) => {
      unload();
      lastSource = undefined;
      showError(asSluiceError(error));
    });
  },
);
void listExamples(byId('example-list', HTMLUListElement), (example) => {
  url.value = example;
  submitUrl();
}).then((count) => {
  byId('examples', HTMLElement).hidden = count === 0;
});

/** Says which adapter there is or, where there is none, why and what happens instead. */
async function lookForGpu(): Promise<void> {
  const chip = byId('adapter', HTMLElement);
  const found = await findAdapter();
  if (found) {
    chip.textContent = `WebGPU: ${found.name}`;
    return;
  }
  chip.textContent = 'No WebGPU';
  chip.classList.add('warning');
  const notice = byId('no-gpu', HTMLElement);
  notice.textContent = `${whyNoAdapter()}. Models are loaded to CPU memory here.`;
  notice.hidden = false;
  settings.withoutGpu();
}
void lookForGpu();
