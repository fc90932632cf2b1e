// As much of Jest as tvmjs's node tests use, on node:util. Nothing here passes by default: a matcher that is missing is a
// TypeError, and a test that throws has failed.
import assert from 'node:assert/strict';
import { format, inspect, isDeepStrictEqual } from 'node:util';

/** A function that records its calls, and does what it was told to. */
export function fn(implementation) {
  let always = implementation;
  const once = [];
  const mock = { calls: [], results: [] };
  const recorded = function (...args) {
    mock.calls.push(args);
    const result = { type: 'incomplete', value: undefined };
    mock.results.push(result);
    try {
      result.value = (once.shift() ?? always)?.apply(this, args);
      result.type = 'return';
      return result.value;
    } catch (error) {
      result.type = 'throw';
      result.value = error;
      throw error;
    }
  };
  return Object.assign(recorded, {
    mock,
    mockReturnValue(value) {
      always = () => value;
      return recorded;
    },
    mockImplementation(act) {
      always = act;
      return recorded;
    },
    mockImplementationOnce(act) {
      once.push(act);
      return recorded;
    },
  });
}

const show = (value) => inspect(value, { depth: 2, breakLength: Infinity });

/** Each gives whether it holds, and what was expected of the value in words. */
const MATCHERS = {
  toBe: (value, expected) => [Object.is(value, expected), `be ${show(expected)}`],
  toEqual: (value, expected) => [isDeepStrictEqual(value, expected), `equal ${show(expected)}`],
  toBeCloseTo: (value, expected, digits = 2) => [
    Math.abs(value - expected) < 10 ** -digits / 2,
    `be ${expected} in ${digits} digits`,
  ],
  toBeInstanceOf: (value, type) => [value instanceof type, `be a ${type.name}`],
  toHaveLength: (value, length) => [value.length === length, `have length ${length}`],
  toHaveBeenCalled: ({ mock }) => [mock.calls.length > 0, 'have been called'],
  toHaveBeenCalledTimes: ({ mock }, times) => [
    mock.calls.length === times,
    `have been called ${times} times, not ${mock.calls.length}`,
  ],
  toHaveBeenCalledWith: ({ mock }, ...args) => [
    mock.calls.some((call) => isDeepStrictEqual(call, args)),
    `have been called with ${show(args)}, not ${show(mock.calls)}`,
  ],
  toHaveBeenLastCalledWith: ({ mock }, ...args) => [
    isDeepStrictEqual(mock.calls.at(-1), args),
    `have been called last with ${show(args)}, not ${show(mock.calls.at(-1))}`,
  ],
  toThrow(act, text = '') {
    let thrown;
    try {
      act();
    } catch (error) {
      thrown = error;
    }
    return [
      thrown !== undefined && String(thrown.message).includes(text),
      `throw "${text}", not ${show(thrown?.message)}`,
    ];
  },
};

function matchers(value, wanted) {
  const entries = Object.entries(MATCHERS).map(([name, matcher]) => [
    name,
    (...args) => {
      const [holds, words] = matcher(value, ...args);
      assert.ok(holds === wanted, `${show(value)} should ${wanted ? '' : 'not '}${words}`);
    },
  ]);
  return Object.fromEntries(entries);
}

export function expect(value) {
  const rejected = async () => {
    try {
      await value;
    } catch (error) {
      return error;
    }
    throw new assert.AssertionError({ message: 'the promise should reject' });
  };
  const rejects = Object.keys(MATCHERS).map((name) => [
    name,
    async (...args) => {
      const error = await rejected();
      const about = name === 'toThrow' ? raise(error) : error;
      matchers(about, true)[name](...args);
    },
  ]);
  return {
    ...matchers(value, true),
    not: matchers(value, false),
    rejects: Object.fromEntries(rejects),
  };
}

const raise = (error) => () => {
  throw error;
};

/** `test` and `test.each`, which add to `tests`. */
export function collector(tests) {
  const test = (name, act) => tests.push({ name, act });
  test.each = (rows) => (name, act) => {
    for (const row of rows) {
      const args = Array.isArray(row) ? row : [row];
      test(format(name.replaceAll('%p', '%j'), ...args), () => act(...args));
    }
  };
  return test;
}
