// Errors of a chat in words: what happened, and which buttons help.
import type { SluiceError } from 'sluice';

import { wordsOf } from '../errors.js';
import type { ErrorWords, OwnWords } from '../errors.js';

export interface ChatWords extends ErrorWords {
  /** `restart`: the model on a new device. `shorten`: without the oldest messages. `ask`: the same again. */
  remedy: 'restart' | 'shorten' | 'ask';
}

const AGAIN = 'Start the model again: on a new device, and the conversation stays.';

const OWN: OwnWords = {
  device_lost: {
    advice: `${AGAIN} If it happens again, the GPU’s driver may need an update.`,
  },
  out_of_device_memory: {
    advice:
      'Close other pages that use the GPU, choose a smaller context window under Settings, and start the model again.',
  },
  device_limit: {
    title: 'The model is too large for this GPU',
    advice: 'Choose a smaller model, or another device.',
  },
  http_status: { advice: 'Check that `make demo` still runs, and try again.' },
  network: { advice: 'Check that `make demo` still runs, and try again.' },
  not_found: {
    title: 'The model’s files are not there',
    advice: 'Make them with `make smollm2`, and try again.',
  },
  invalid_argument: {
    title: 'The model cannot run this way',
    advice: 'Make it again with `make smollm2`: it may be of another version than this page.',
  },
  quota_exceeded: {
    advice: 'Delete stored models on the page Tensors, or free some space on this device.',
  },
};

/** For starting the model. */
export function startWords(error: SluiceError): ChatWords {
  return { ...wordsOf(error, OWN), remedy: 'restart' };
}

/** For an answer of a model with this context window. */
export function answerWords(error: SluiceError, contextWindowSize: number): ChatWords {
  const { code, expected } = error;
  if (code === 'invalid_argument' && expected === contextWindowSize - 1) {
    const words = wordsOf(error, {
      invalid_argument: {
        title: 'The conversation is longer than the context window',
        advice:
          'Begin a new chat, or choose a larger context window under Settings and load the model again.',
      },
    });
    return { ...words, remedy: 'shorten' };
  }
  if (code === 'device_lost' || code === 'out_of_device_memory') return startWords(error);
  const advice = 'Try again, or change the settings. If it happens again, start the model again.';
  const words = wordsOf(error, { [code]: { title: 'The answer failed', advice } });
  return { ...words, remedy: 'ask' };
}
