// Options that there are none of, and arguments of openStore() that are no names.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { loadModel, openStore, SluiceError, type LoadOptions } from 'sluice';

async function refused(options: unknown): Promise<SluiceError> {
  const error = await loadModel('/nowhere/model', options as LoadOptions).then(
    () => undefined,
    (cause: unknown) => cause,
  );
  assert.ok(error instanceof SluiceError);
  return error;
}

describe('options', () => {
  for (const [given, meant] of [
    ['conections', 'connections'],
    ['budgetbytes', 'budgetBytes'],
    ['onProgess', 'onProgress'],
    ['storekey', 'storeKey'],
    ['tensor', 'tensors'],
  ] as const) {
    test(`'${given}' is refused, and '${meant}' named`, async () => {
      const error = await refused({ device: 'cpu', [given]: 1 });
      assert.equal(error.code, 'invalid_argument');
      assert.equal(error.message, `loadModel() has no option '${given}'`);
      assert.equal(error.hint, `did you mean '${meant}'?`);
    });
  }

  test('one that is like no other is refused without a guess', async () => {
    const error = await refused({ quality: 'best' });
    assert.equal(error.message, "loadModel() has no option 'quality'");
    assert.equal(error.hint, undefined);
  });

  test('one that is undefined is none', async () => {
    assert.equal((await refused({ quality: undefined })).code, 'not_found');
  });

  test('what is no object is refused', async () => {
    for (const [options, type] of [
      ['gpu', 'string'],
      [null, 'object'],
    ]) {
      const error = await refused(options);
      assert.equal(error.code, 'invalid_argument');
      assert.match(error.message, new RegExp(`are of type ${type}; expected an object`));
    }
  });

  test('openStore() takes a name', async () => {
    for (const given of [{ directory: '/tmp' }, '', 7, null]) {
      await assert.rejects(openStore(given as string), {
        code: 'invalid_argument',
        message: /^openStore\(\) was given a name that is /,
      });
    }
  });
});
