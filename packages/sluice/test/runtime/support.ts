// A runtime for the tests, and what they say of errors.
import assert from 'node:assert/strict';
import { createRuntime, RuntimeError, type Runtime } from 'sluice/runtime';

export const newRuntime = (): Promise<Runtime> => createRuntime();

/** Expects a RuntimeError of a kind whose message has these parts. */
export function throws(
  act: () => unknown,
  kind: string,
  ...parts: (string | number)[]
): RuntimeError {
  let thrown: unknown;
  try {
    const value = act();
    assert.fail(`it gave ${String(value)}`);
  } catch (error) {
    thrown = error;
  }
  assert.ok(thrown instanceof RuntimeError, String(thrown));
  assert.equal(thrown.kind, kind, thrown.message);
  assert.equal(thrown.name, 'RuntimeError');
  for (const part of parts) assert.ok(thrown.message.includes(String(part)), thrown.message);
  return thrown;
}

/** How many references an object has. */
export function useCount(runtime: Runtime, object: { readonly handle: number }): number {
  runtime.core.memory.check();
  return runtime.core.memory.u32(object.handle);
}
