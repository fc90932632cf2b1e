import { describe, typeError, valueError } from './errors.js';
import { objectOf, type Owned } from './function.js';
import type { RuntimeObject } from './object.js';

/** Which scope is the innermost. */
export class ScopeStack {
  #current: Scope | undefined;

  get current(): Scope | undefined {
    return this.#current;
  }

  open(): Scope {
    return (this.#current = new Scope(this, this.#current));
  }

  /** A scope that is the innermost only while its run() runs. */
  detached(): Scope {
    return new Scope(this, undefined);
  }

  /** Makes `scope` the innermost and gives what was. */
  enter(scope: Scope | undefined): Scope | undefined {
    const before = this.#current;
    this.#current = scope;
    return before;
  }

  /** Runs `act` as if no scope were open. */
  outside<T>(act: () => T): T {
    const before = this.enter(undefined);
    try {
      return act();
    } finally {
      this.leave(before);
    }
  }

  /** Makes `before` the innermost again, or the first around it that is open. */
  leave(before: Scope | undefined): void {
    let scope = before;
    while (scope?.closed) scope = scope.parent;
    this.#current = scope;
  }
}

/**
 * Holds objects and releases them at its end. While it is the innermost, it gets every object that the runtime hands out,
 * whoever asked for it. So between an `await` and the next, other code's objects may come in and be released by
 * dispose(): in asynchronous code use run() for the parts between, or a scope made with `{ detached: true }` and
 * add().
 */
export class Scope implements Disposable {
  readonly #stack: ScopeStack;
  readonly parent: Scope | undefined;
  #closed = false;
  #objects: RuntimeObject[] = [];

  /** Of the runtime alone: runtime.scope(). */
  constructor(stack: ScopeStack, parent: Scope | undefined) {
    this.#stack = stack;
    this.parent = parent;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** How many objects it holds. */
  get size(): number {
    return this.#objects.length;
  }

  /** Runs `act` with this scope as the innermost; it stays open. Not beyond an `await` in `act`. */
  run<T>(act: () => T): T {
    const before = this.#stack.enter(this);
    try {
      return act();
    } finally {
      this.#stack.leave(before);
    }
  }

  /** Takes an object over from the scope that holds it, if any does. */
  add<T extends Owned>(object: T): T {
    const held = objectOf(object);
    if (!held) throw typeError(`a scope holds objects of the runtime, not ${describe(object)}`);
    if (held.scope) {
      checkMovable(held);
      held.scope.remove(held);
    }
    if (this.#closed) held.dispose();
    else this.hold(held);
    return object;
  }

  /** Gives an object to the scope around this one, or to the caller where there is none. */
  moveOut<T extends Owned>(object: T): T {
    const outer = this.#outer();
    if (outer) return outer.add(object);
    const held = objectOf(object);
    if (held) checkMovable(held);
    held?.scope?.remove(held);
    return object;
  }

  /** Of the runtime alone: a new object. */
  hold(object: RuntimeObject): void {
    object.scope = this;
    object.place = this.#objects.length;
    this.#objects.push(object);
  }

  /** Lets go of an object, which is the caller's then. */
  remove(object: RuntimeObject): void {
    if (object.scope !== this) return;
    object.scope = undefined;
    const last = this.#objects.pop();
    if (last === undefined || last === object) return;
    last.place = object.place;
    this.#objects[object.place] = last;
  }

  /** Releases what it holds. Safe to call again, and in any order with the scopes around and within. */
  dispose(): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#stack.current === this) this.#stack.leave(this.parent);
    this.releaseAll();
  }

  /** Releases what it holds and stays open. */
  releaseAll(): void {
    for (let object = this.#objects.pop(); object; object = this.#objects.pop()) {
      object.scope = undefined;
      object.dispose();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #outer(): Scope | undefined {
    let scope = this.parent;
    while (scope?.closed) scope = scope.parent;
    return scope;
  }
}

/** Throws where an object is valid only while a callback runs, whose scope must end it. */
export function checkMovable(object: RuntimeObject): void {
  if (!object.borrowed) return;
  throw valueError('the tensor is valid only while the callback runs that was given it', {
    hint: 'copy it: runtime.empty(…).set(tensor)',
  });
}
