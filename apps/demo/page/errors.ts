// Errors in words: what happened, and what a person can do.
import { SluiceError } from 'sluice';
import type { ErrorCode } from 'sluice';

import { formatCount } from './format.js';

const TITLES: Record<ErrorCode, string> = {
  manifest_invalid: 'This is not a model that can be read',
  range_out_of_bounds: 'The model’s description does not fit its files',
  size_mismatch: 'A size in the model does not add up',
  unsupported_dtype: 'The model has a type that is not supported',
  http_status: 'The server refused',
  network: 'The server could not be reached',
  truncated: 'A file of the model is cut short',
  checksum_mismatch: 'A file of the model has the wrong content',
  source_changed: 'The model changed while it was loaded',
  quota_exceeded: 'There is not enough room to store it',
  device_limit: 'A tensor is too large for this GPU',
  out_of_device_memory: 'The GPU’s memory is full',
  device_lost: 'The GPU was lost',
  store_corrupt: 'The stored copy is damaged',
  budget_too_small: 'The memory budget is too small',
  aborted: 'The load was cancelled',
  not_found: 'There is no model at this address',
  invalid_argument: 'The load cannot be done this way',
  io: 'A file could not be read or written',
  internal: 'Something went wrong inside',
};

const ADVICE: Record<ErrorCode, string> = {
  manifest_invalid:
    'Check that the address leads to a tensor cache, a safetensors or a GGUF file, or to the folder of one.',
  range_out_of_bounds: 'Download or convert the model again: its files and its description differ.',
  size_mismatch: 'Download or convert the model again: its files and its description differ.',
  unsupported_dtype:
    'Choose another conversion under Options, or a build of the model in another type.',
  http_status:
    'Check the address and whether it needs a login; a busy server may answer a little later.',
  network:
    'Check the connection and the address. A server of another origin must also allow this page to read from it (CORS).',
  truncated: 'The file on the server is incomplete: upload it again, or choose another copy.',
  checksum_mismatch: 'Load again; if it stays so, the copy on the server is damaged.',
  source_changed: 'Load again, to get all of it in one version.',
  quota_exceeded: 'Delete stored models below, or free some space on this device.',
  device_limit: 'Load to CPU memory, or choose a model with smaller tensors.',
  out_of_device_memory:
    'Close other pages that use the GPU, choose a smaller model, or load to CPU memory.',
  device_lost: 'Load again. If it happens again, the GPU’s driver may need an update.',
  store_corrupt: 'Load it again from its address: only what is damaged is fetched.',
  budget_too_small: 'Raise the memory budget under Options, or use fewer connections.',
  aborted: 'Load again whenever you like.',
  not_found: 'Check the address: a folder must hold a manifest or a model file.',
  invalid_argument: 'Change the options and try again.',
  io: 'Check that the file or folder is still where it was, and choose it again.',
  internal: 'Try again. If it happens again, report it with the details below.',
};

const TO_CPU: readonly ErrorCode[] = ['device_limit', 'out_of_device_memory', 'device_lost'];

/** What the page says of an error. */
export interface ErrorWords {
  title: string;
  message: string;
  /** What to do, the most specific first. */
  advice: string[];
  /** Term and value. */
  details: [string, string][];
  /** Loading to the CPU may help. */
  cpuMayHelp: boolean;
}

/** The package rejects with nothing else; what else fails is told as `internal`. */
export const asSluiceError = (error: unknown): SluiceError =>
  error instanceof SluiceError ? error : new SluiceError('internal', String(error));

/** Title and advice of a page's own. */
export type OwnWords = Partial<Record<ErrorCode, { title?: string; advice: string }>>;

export function wordsOf(error: SluiceError, own: OwnWords = {}): ErrorWords {
  const { code, message, hint, file, tensor, status, expected, actual } = error;
  const advice = hint === undefined ? [] : [sentence(hint)];
  advice.push(own[code]?.advice ?? ADVICE[code]);
  const details: [string, string][] = [['Code', code]];
  if (status !== undefined) details.push(['HTTP status', String(status)]);
  if (file !== undefined) details.push(['File', file]);
  if (tensor !== undefined) details.push(['Tensor', tensor]);
  if (expected !== undefined) details.push(['Expected', formatCount(expected)]);
  if (actual !== undefined) details.push(['Found', formatCount(actual)]);
  const cpuMayHelp =
    TO_CPU.includes(code) || (code === 'invalid_argument' && /\bGPU\b|WebGPU/.test(message));
  const title = own[code]?.title ?? TITLES[code];
  return { title, message: sentence(message), advice, details, cpuMayHelp };
}

const sentence = (text: string): string =>
  text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
