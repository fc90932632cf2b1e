// The chat page: which part is shown when, and what the buttons do.
import { SluiceError } from 'sluice';
import type { CompletionUsage, FinishReason } from 'sluice/chat';

import type { ChatBuild, ChatModel } from '../../server.js';
import { findAdapter, whyNoAdapter } from '../adapter.js';
import { byId, copyText, create } from '../dom.js';
import { asSluiceError } from '../errors.js';
import { showFailure } from '../failure_card.js';
import { formatBytes, formatCount, formatDuration } from '../format.js';
import { Conversation } from './conversation.js';
import type { Turn } from './conversation.js';
import { Start } from './engine.js';
import type { Engine } from './engine.js';
import { LoadingView } from './loading_view.js';
import { chooseBuild, fetchModel } from './model.js';
import { SettingsForm } from './settings_form.js';
import type { ChatSettings } from './settings_form.js';
import { formatTokenRate, Transcript } from './transcript.js';
import { answerWords, startWords } from './words.js';
import type { ChatWords } from './words.js';

const TITLE = document.title;
const SUGGESTIONS = [
  'What is the capital of France?',
  'Explain why the sky is blue, in two sentences.',
  'Write a short poem about rivers.',
];
/** How often the figures of a running answer are drawn anew. */
const DRAW_INTERVAL_MS = 250;

const prompt = byId('prompt', HTMLTextAreaElement);
const send = byId('send', HTMLButtonElement);
const stop = byId('stop', HTMLButtonElement);
const load = byId('load', HTMLButtonElement);
const cancel = byId('cancel', HTMLButtonElement);
const failure = byId('failure', HTMLElement);
const live = byId('live', HTMLElement);

const settings = new SettingsForm();
const loading = new LoadingView(announce);
const conversation = new Conversation();
const transcript = new Transcript({
  regenerate: () => {
    const read = settings.read();
    if (!read || !canAsk()) return;
    conversation.dropAnswer();
    void answer(read);
  },
  goOn: () => {
    const read = settings.read();
    if (read && canAsk() && conversation.last?.role === 'assistant')
      void answer(read, conversation.last);
  },
  say: announce,
});

let model: ChatModel | undefined;
let build: ChatBuild | undefined;
let starting: Start | undefined;
let engine: Engine | undefined;
let answering: { turn: Turn; aborter: AbortController; pace: Pace } | undefined;
/** Of the answer before. */
let lastUsage: CompletionUsage | undefined;

const modelName = (): string => model?.name ?? 'The model';
const shortName = (): string => modelName().replace(/-.*/, '');
const canAsk = (): boolean => engine !== undefined && answering === undefined;

/** Says it to screen readers, when they have finished what they are saying. */
function announce(text: string): void {
  live.textContent = text;
}

// ---- What is shown ----

function draw(): void {
  const talked = conversation.turns.length > 0;
  byId('start', HTMLElement).hidden =
    engine !== undefined || starting !== undefined || !failure.hidden;
  byId('chat', HTMLElement).hidden = engine === undefined && !talked;
  byId('figures', HTMLElement).hidden = engine === undefined;
  byId('suggestions', HTMLElement).hidden = talked;
  byId('clear', HTMLElement).hidden = !talked;
  prompt.disabled = engine === undefined;
  send.hidden = answering !== undefined;
  send.disabled = engine === undefined;
  stop.hidden = answering === undefined;
  if (!answering) stop.textContent = 'Stop';
  transcript.show(conversation.turns, shortName(), {
    ready: engine !== undefined,
    ...(answering ? { running: answering.turn } : {}),
  });
  drawFigures();
}

function tile(name: string, value: string | undefined, of = ''): void {
  byId(`tile-${name}`, HTMLElement).textContent = value ?? '–';
  byId(`tile-${name}-of`, HTMLElement).textContent = of || '\u00a0';
}

function drawFigures(): void {
  if (!engine) return;
  const { chat, memory } = engine;
  const { extra, prompt_tokens: promptTokens = 0, total_tokens: total = 0 } = lastUsage ?? {};
  const cached = lastUsage?.prompt_tokens_details.cached_tokens ?? 0;
  const rate = (value: number | undefined): string | undefined =>
    value ? formatTokenRate(value) : undefined;
  if (answering) {
    const { pace } = answering;
    tile('decode', rate(pace.rate), 'so far');
    tile('prefill', undefined);
    tile('first', formatDuration(pace.untilFirst), pace.began ? 'this answer' : 'so far');
  } else {
    tile('decode', rate(extra?.decode_tokens_per_s), lastUsage && 'the last answer');
    const fresh = formatCount(promptTokens - cached);
    tile(
      'prefill',
      rate(extra?.prefill_tokens_per_s),
      lastUsage && `${fresh} new of ${formatCount(promptTokens)} tokens`,
    );
    const first = extra?.time_to_first_token_s;
    tile('first', first ? formatDuration(1000 * first) : undefined, first ? 'the last answer' : '');
  }
  tile('context', formatCount(total), `of ${formatCount(chat.contextWindowSize)} tokens`);
  const { outputBytes } = chat.report.weights;
  tile('memory', formatBytes(memory.bytes), `weights ${formatBytes(outputBytes)}`);
  const { weights, pipelines } = chat.report.milliseconds;
  tile(
    'start',
    formatDuration(engine.milliseconds),
    `weights ${formatDuration(weights)}, pipelines ${formatDuration(pipelines)}`,
  );
}

function fail(words: ChatWords): void {
  const { remedy } = words;
  byId('restart', HTMLElement).hidden = remedy !== 'restart';
  byId('ask-again', HTMLElement).hidden = remedy !== 'ask' || !engine;
  byId('shorten', HTMLElement).hidden = remedy !== 'shorten' || !conversation.canForget;
  byId('clear-failed', HTMLElement).hidden = remedy !== 'shorten';
  document.title = 'Failed · Sluice';
  showFailure(words);
  draw();
}

// ---- Starting the model ----

async function start(): Promise<void> {
  if (starting || engine || !build) return;
  const hadFocus =
    document.activeElement === document.body ||
    failure.contains(document.activeElement) ||
    document.activeElement === load;
  failure.hidden = true;
  const current = (starting = new Start(build, settings.contextWindowSize));
  announce(`Loading ${modelName()}`);
  loading.begin(current, modelName());
  document.title = `Loading ${modelName()} · Sluice`;
  draw();
  if (hadFocus) cancel.focus({ preventScroll: true });

  const outcome = await current.run();

  starting = undefined;
  const cancelHadFocus =
    document.activeElement === cancel || document.activeElement === document.body;
  loading.end();
  document.title = TITLE;
  switch (outcome.kind) {
    case 'ready':
      return begin(outcome.engine, cancelHadFocus);
    case 'cancelled':
      announce('Cancelled');
      draw();
      if (cancelHadFocus) load.focus();
      return;
    case 'failed':
      return fail(startWords(outcome.error));
  }
}

function begin(started: Engine, takeFocus: boolean): void {
  engine = started;
  const { dtype, software } = started.build;
  byId('model-line', HTMLElement).textContent =
    `${modelName()}, ${dtype}${software ? ', the build for software' : ''}`;
  void started.lost.then((message) => {
    if (engine !== started) return;
    // An answer tells it by itself
    const error = new SluiceError('device_lost', message || 'the browser says no more');
    if (!answering) void loseDevice(startWords(error));
  });
  announce(`${modelName()} is ready`);
  draw();
  if (takeFocus) prompt.focus();
}

/** Gives everything back, and gives no more answers until the next start. */
async function unload(): Promise<void> {
  const ended = engine;
  engine = undefined;
  lastUsage = undefined;
  draw();
  await ended?.dispose().catch(() => undefined);
}

async function loseDevice(words: ChatWords): Promise<void> {
  const gone = unload();
  fail(words);
  await gone;
}

// ---- Talking ----

/** Sends what is written. */
function ask(text: string): void {
  if (!canAsk() || text.trim() === '') return;
  const read = settings.read();
  if (!read) return;
  prompt.value = '';
  fitPrompt();
  conversation.add('user', text.trim());
  void answer(read);
}

/** Answers the conversation, or goes on with `begun`, its last turn. */
async function answer({ system, sampling }: ChatSettings, begun?: Turn): Promise<void> {
  const used = engine;
  if (!used) return;
  failure.hidden = true;
  const messages = conversation.messages(system);
  const turn = begun ?? conversation.add('assistant');
  delete turn.end;
  const aborter = new AbortController();
  const pace = new Pace();
  answering = { turn, aborter, pace };
  document.title = TITLE;
  announce(`${shortName()} answers`);
  draw();
  transcript.scrollToEnd();
  const from = turn.text.length;
  const timer = window.setInterval(() => {
    transcript.update(turn, pace.words());
    drawFigures();
  }, DRAW_INTERVAL_MS);

  let reason: FinishReason | 'failed' = 'failed';
  let error: SluiceError | undefined;
  let usage: CompletionUsage | undefined;
  try {
    const stream = await used.chat.completions.create({
      ...sampling,
      messages,
      stream: true,
      stream_options: { include_usage: true },
      signal: aborter.signal,
    });
    for await (const chunk of stream) {
      const [choice] = chunk.choices;
      if (choice?.delta.content) {
        turn.text += choice.delta.content;
        pace.count();
        transcript.update(turn, pace.words());
      }
      reason = choice?.finish_reason ?? reason;
      usage = chunk.usage ?? usage;
    }
  } catch (caught) {
    error = asSluiceError(caught);
  }

  window.clearInterval(timer);
  answering = undefined;
  const full = usage !== undefined && usage.total_tokens >= used.chat.contextWindowSize;
  turn.end = { reason, full, ...(usage ? { usage } : {}) };
  const hadFocus = document.activeElement === stop || document.activeElement === document.body;
  // The chat may have been cleared, or the model unloaded, meanwhile
  if (conversation.last !== turn || engine !== used) return draw();
  lastUsage = usage ?? lastUsage;
  if (error) return failAnswer(used, turn, error);
  announce(spoken(turn.text.slice(from), reason));
  draw();
  if (hadFocus) prompt.focus();
}

function failAnswer(used: Engine, turn: Turn, error: SluiceError): void {
  // An answer that never began leaves nothing behind
  if (turn.text === '') conversation.dropAnswer();
  const words = answerWords(error, used.chat.contextWindowSize);
  if (words.remedy === 'restart') void loseDevice(words);
  else fail(words);
}

/** An answer as it is read out: once, when it is whole. */
function spoken(text: string, reason: FinishReason | 'failed'): string {
  const end = reason === 'abort' ? ' Stopped.' : reason === 'length' ? ' Cut off.' : '';
  return `${shortName()}: ${text.trim()}${end}`;
}

/** How fast a running answer comes. */
class Pace {
  readonly #begin = performance.now();
  #first = 0;
  #last = 0;
  #pieces = 0;

  /** A piece has come. */
  count(): void {
    this.#last = performance.now();
    if (this.#pieces++ === 0) this.#first = this.#last;
  }

  /** Whether the first piece has come. */
  get began(): boolean {
    return this.#pieces > 0;
  }

  /** Milliseconds to the first piece, or until now. */
  get untilFirst(): number {
    return (this.began ? this.#first : performance.now()) - this.#begin;
  }

  /** Pieces a second after the first, nearly all of which are tokens; undefined before that says something. */
  get rate(): number | undefined {
    if (this.#pieces < 3) return undefined;
    return (1000 * (this.#pieces - 1)) / Math.max(1, this.#last - this.#first);
  }

  words(): string {
    if (!this.began) return `reading, ${formatDuration(this.untilFirst)}`;
    return this.rate === undefined ? 'answering' : `answering, ${formatTokenRate(this.rate)}`;
  }
}

function clear(): void {
  answering?.aborter.abort();
  conversation.clear();
  lastUsage = undefined;
  failure.hidden = true;
  document.title = TITLE;
  announce('New chat');
  draw();
  prompt.focus();
}

/** The pass that is under way comes to its end, which may take a while on software. */
function stopAnswer(): void {
  if (!answering) return;
  answering.aborter.abort();
  stop.textContent = 'Stopping…';
}

/** As high as what is written, within reason. */
function fitPrompt(): void {
  prompt.style.height = 'auto';
  prompt.style.height = `${prompt.scrollHeight + 2}px`;
}

byId('composer', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault();
  ask(prompt.value);
});
prompt.addEventListener('input', fitPrompt);
prompt.addEventListener('keydown', (event) => {
  // Enter that ends the choice of a character is not one that sends
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask(prompt.value);
});
stop.addEventListener('click', stopAnswer);
cancel.addEventListener('click', () => starting?.cancel());
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || !(answering || starting)) return;
  event.preventDefault();
  stopAnswer();
  starting?.cancel();
});
load.addEventListener('click', () => void start());
byId('restart', HTMLButtonElement).addEventListener('click', () => void start());
byId('unload', HTMLButtonElement).addEventListener('click', () => {
  answering?.aborter.abort();
  void unload().then(() => {
    announce('Unloaded; its memory is free again');
    load.focus();
  });
});
byId('clear', HTMLButtonElement).addEventListener('click', clear);
byId('clear-failed', HTMLButtonElement).addEventListener('click', clear);
byId('ask-again', HTMLButtonElement).addEventListener('click', () => {
  const read = settings.read();
  if (!read || !canAsk()) return;
  const begun = conversation.last?.role === 'assistant' ? conversation.last : undefined;
  void answer(read, begun);
});
byId('shorten', HTMLButtonElement).addEventListener('click', () => {
  const read = settings.read();
  if (!read || !canAsk()) return;
  conversation.forget();
  const begun = conversation.last?.role === 'assistant' ? conversation.last : undefined;
  void answer(read, begun);
});
byId('copy-error', HTMLButtonElement).addEventListener('click', () => {
  void copyText(failure.innerText).then(sayCopied);
});
byId('copy-command', HTMLButtonElement).addEventListener('click', () => {
  void copyText(model?.command ?? '').then(sayCopied);
});
byId('look-again', HTMLButtonElement).addEventListener('click', () => void look());
const sayCopied = (worked: boolean): void =>
  announce(worked ? 'Copied' : 'The browser did not allow copying');
byId('suggestion-list', HTMLElement).append(
  ...SUGGESTIONS.map((text) => {
    const button = create('button', { type: 'button' }, text);
    button.addEventListener('click', () => ask(text));
    return create('li', {}, button);
  }),
);

// ---- What there is ----

/** Finds the GPU and the model, and says what is missing. */
async function look(): Promise<void> {
  const notice = byId('start-notice', HTMLElement);
  const say = (text: string): void => {
    notice.textContent = text;
    notice.hidden = text === '';
  };
  say('');
  const chip = byId('adapter', HTMLElement);
  const [found, offered] = await Promise.all([
    findAdapter(),
    fetchModel().catch((error: unknown) => String(error)),
  ]);
  chip.textContent = found ? `WebGPU: ${found.name}` : 'No WebGPU';
  chip.classList.toggle('warning', !found);
  if (typeof offered === 'string') {
    byId('start-title', HTMLElement).textContent = 'The model was not found';
    return say(`${offered}. Check that \`make demo\` still runs, and reload the page.`);
  }
  model = offered;
  byId('start-title', HTMLElement).textContent = model.name;
  settings.offerContexts(model.contextWindowSize);
  const { software = false, adapter } = found ?? {};
  const float16 = adapter?.features.has('shader-f16') ?? false;
  build = chooseBuild(model.builds, { software, float16 });
  const making = byId('make', HTMLElement);
  making.hidden = build !== undefined;
  byId('make-command', HTMLElement).textContent = model.command;
  byId('offer', HTMLElement).hidden = !build || !found;
  if (!found) {
    return say(`${whyNoAdapter()}. The model needs WebGPU to run.`);
  }
  if (!build) return say('The model is not built yet.');
  const { dtype, wasmBytes, weightBytes } = build;
  byId('offer-line', HTMLElement).textContent =
    `${formatBytes(wasmBytes + weightBytes)}, ${dtype}; kept on this device for the next time`;
  if (!software) return;
  settings.forSoftware();
  const slow =
    'This browser’s GPU is software: everything runs on the processor. Expect seconds for each token; answers are kept short under Settings.';
  say(slow);
  const line = byId('slow', HTMLElement);
  line.textContent =
    'On a software GPU: expect seconds for each token. Answers are kept short under Settings.';
  line.hidden = false;
}
void look();
