// Who holds what: scopes, one in another and across awaits, and what their ends release.
import assert from 'node:assert/strict';
import { afterEach, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Runtime, type RuntimeFunction, type Scope, type Tensor } from 'sluice/runtime';
import { newRuntime, throws, useCount } from './support.js';

let runtime: Runtime;
before(async () => {
  runtime = await newRuntime();
});
afterEach(() => assert.equal(runtime.core.scopes.current, undefined));

describe('a scope', () => {
  test('releases what was made in it', () => {
    const made: { disposed: boolean }[] = [];
    {
      using scope = runtime.scope();
      made.push(runtime.empty([1]), runtime.array(['a']), runtime.getFunction('testing.nop'));
      made.push(
        runtime.makeFunction(() => 1),
        runtime.empty([4]).view([2]),
      );
      assert.equal(scope.size, 6);
      assert.ok(made.every(({ disposed }) => !disposed));
    }
    assert.ok(made.every(({ disposed }) => disposed));
  });
  test('has no objects that were disposed before', () => {
    using scope = runtime.scope();
    const all = Array.from({ length: 10 }, () => runtime.empty([1]));
    for (const i of [3, 0, 9, 5]) all[i]?.dispose();
    assert.equal(scope.size, 6);
    const rest = all.filter(({ disposed }) => !disposed);
    scope.dispose();
    assert.ok(rest.every(({ disposed }) => disposed));
    scope.dispose();
    assert.ok(scope.closed);
  });
  test('in another: each releases its own', () => {
    using outer = runtime.scope();
    const a = runtime.empty([1]);
    const inner = runtime.scope();
    const b = runtime.empty([1]);
    const moved = inner.moveOut(runtime.empty([1]));
    inner.dispose();
    const c = runtime.empty([1]);
    assert.deepEqual(
      [a, b, moved, c].map(({ disposed }) => disposed),
      [false, true, false, false],
    );
    outer.dispose();
    assert.ok(a.disposed && moved.disposed && c.disposed);
  });
  test('ended before the one in it', () => {
    const outer = runtime.scope();
    const a = runtime.empty([1]);
    const inner = runtime.scope();
    const b = runtime.empty([1]);
    outer.dispose();
    assert.deepEqual([a.disposed, b.disposed], [true, false]);
    const c = runtime.empty([1]);
    inner.dispose();
    assert.deepEqual([b.disposed, c.disposed], [true, true]);
    const free = runtime.empty([1]);
    assert.equal(free.scope, undefined);
    free.dispose();
  });
  test('whose object is detached, moved out or added', () => {
    const scope = runtime.scope();
    const detached = runtime.detach(runtime.empty([1]));
    const out = scope.moveOut(runtime.empty([1]));
    const nop = runtime.detach(runtime.getFunction('testing.nop'));
    const echo = scope.moveOut(runtime.getFunction('testing.echo'));
    throws(() => scope.add({} as never), 'TypeError', 'a plain object');
    scope.dispose();
    assert.equal(echo(1), 1);
    echo.dispose();
    assert.deepEqual([detached.disposed, out.disposed, nop.disposed], [false, false, false]);
    using other = runtime.scope({ detached: true });
    other.add(detached);
    other.add(out);
    nop();
    nop.dispose();
    other.dispose();
    assert.ok(detached.disposed && out.disposed);
    const late = other.add(runtime.empty([1]));
    assert.ok(late.disposed, 'a scope that has ended takes nothing any more');
  });
});

describe('withScope()', () => {
  test('keeps what it returns', () => {
    const counts: number[] = [];
    const tensor = runtime.withScope(() => {
      const other = runtime.empty([2]);
      counts.push(useCount(runtime, other));
      return runtime.tensor([1, 2], [2]);
    });
    assert.ok(!tensor.disposed);
    tensor.dispose();
    const [a, b] = runtime.withScope(() => [runtime.empty([1]), runtime.empty([2])] as const);
    assert.ok(!a.disposed && !b.disposed);
    a.dispose();
    b.dispose();
    const f = runtime.withScope(() => runtime.getFunction('testing.nop'));
    f();
    f.dispose();
    assert.deepEqual(
      runtime.withScope(() => runtime.empty([3, 4]).shape),
      [3, 4],
    );
  });
  test('gives it to the scope around', () => {
    using outer = runtime.scope();
    const tensor = runtime.withScope(() => runtime.withScope(() => runtime.empty([1])));
    assert.ok(!tensor.disposed);
    assert.equal(tensor.scope, outer);
  });
  test('releases all when it throws', () => {
    let made: Tensor | undefined;
    assert.throws(
      () =>
        runtime.withScope(() => {
          made = runtime.empty([1]);
          throw new Error('mine');
        }),
      /mine/,
    );
    assert.ok(made?.disposed);
  });
  test('refuses a promise', () => {
    const error = throws(
      () => runtime.withScope(async () => runtime.empty([1])),
      'TypeError',
      'a promise',
    );
    assert.match(error.hint ?? '', /detached/);
  });
});

describe('asynchronous code', () => {
  test('has scopes of its own with { detached: true }', async () => {
    const task = async (n: number): Promise<Tensor[]> => {
      using scope = runtime.scope({ detached: true });
      const made: Tensor[] = [];
      for (let i = 0; i < 5; i++) {
        made.push(scope.run(() => runtime.tensor([n], [1], 'int32')));
        await sleep(n);
        assert.deepEqual([...(made[i] as Tensor).toArray()], [n]);
      }
      assert.equal(scope.size, 5);
      return made;
    };
    const all = await Promise.all([task(1), task(2), task(3)]);
    for (const made of all) assert.ok(made.every(({ disposed }) => disposed));
  });
  test('run() of a scope, nested and thrown out of', () => {
    using a = runtime.scope({ detached: true });
    using b = runtime.scope({ detached: true });
    a.run(() => {
      runtime.empty([1]);
      assert.throws(() =>
        b.run(() => {
          runtime.empty([1]);
          throw new Error('x');
        }),
      );
      runtime.empty([1]);
    });
    assert.deepEqual([a.size, b.size], [2, 1]);
  });
});

describe('callbacks', () => {
  test('have a scope of their own, whatever scope is open around the call', () => {
    using outer = runtime.scope();
    const call = runtime.getFunction('tvmjs.testing.call');
    const held: Tensor[] = [];
    const kept: { scope?: Scope; f?: RuntimeFunction } = {};
    const size = outer.size;
    call(() => {
      kept.scope = runtime.scope();
      held.push(runtime.empty([1]), outer.add(runtime.empty([1])));
      kept.f = runtime.getFunction('testing.nop');
    });
    assert.equal(runtime.core.scopes.current, outer);
    assert.equal(outer.size, size + 1);
    const disposed = (): boolean[] => held.map((tensor) => tensor.disposed);
    assert.deepEqual(disposed(), [false, false], 'a scope that was left open holds its objects');
    kept.scope?.dispose();
    assert.deepEqual(disposed(), [true, false]);
    assert.equal(kept.f?.disposed, true);
  });
});
