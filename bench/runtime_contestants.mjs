// What a crossing between JavaScript and C++ costs, by sluice/runtime and by tvmjs's JavaScript, on one wasm module in
// one thread: rounds of either in turn. Runs in Node and in a page.

/** Milliseconds of one side's round, about. */
const ROUND_MS = 4;
/** Between two looks at the clock. */
const CALLS = 64;
/** In which both are compiled. */
const WARM_ROUNDS = 10;

/**
 * Each case as a pair of functions that do the same thing once. tvmjs's shapes and scalars are made beforehand where it
 * lets them be; this library's are plain arrays and numbers, as people write them.
 */
function cases(runtime, tvm) {
  const dims = [16, 32, 64];
  const names = { nop: 'testing.nop', echo: 'testing.echo' };
  tvm.beginScope(); // which stays open
  const ours = {
    nop: runtime.getFunction(names.nop),
    callback: runtime.makeFunction((value) => value),
    shapeCallback: runtime.makeFunction((shape) => {
      if (shape === undefined) throw new Error('no shape came');
    }),
    tensor: runtime.empty([4, 4]),
  };
  const theirs = {
    nop: tvm.getGlobalFunc(names.nop),
    callback: tvm.toPackedFunc((value) => value),
    shapeCallback: tvm.toPackedFunc((shape) => {
      if (shape === undefined) throw new Error('no shape came');
    }),
    tensor: tvm.empty([4, 4], 'float32', tvm.cpu()),
    shape: tvm.makeShapeTuple(dims),
    seven: tvm.scalar(7, 'int32'),
    cpu: tvm.cpu(),
  };
  return [
    {
      name: 'call of a function that does nothing',
      ours: () => ours.nop(),
      theirs: () => theirs.nop(),
    },
    {
      name: 'call with a tensor, a shape, a string, an int',
      ours: () => ours.nop(ours.tensor, dims, 'decode', 7),
      theirs: () => theirs.nop(theirs.tensor, theirs.shape, 'decode', theirs.seven),
    },
    {
      name: 'callback with an int',
      ours: () => ours.callback(7),
      theirs: () => theirs.callback(theirs.seven),
    },
    {
      name: 'callback with a shape',
      ours: () => ours.shapeCallback(dims),
      theirs: () => theirs.shapeCallback(theirs.shape),
    },
    {
      name: 'empty() and dispose()',
      ours: () => runtime.empty(dims, 'float32').dispose(),
      theirs: () => tvm.empty(dims, 'float32', theirs.cpu).dispose(),
    },
    {
      name: 'a shape that was made before',
      ours: () => runtime.shape(dims),
      theirs: () => tvm.makeShapeTuple(dims),
    },
  ];
}

/**
 * Nanoseconds a call in each round: `[{name, ours, theirs}]`. `startup`: milliseconds to compile and instantiate, for each of so
 * many times.
 */
async function runtimeCalls({ dist, tvmjs }, { rounds }) {
  const { createRuntime } = await dist.module('runtime/index.js');
  const wasm = new Uint8Array(await dist.bytes('sluice_runtime.wasm')).buffer;
  const startup = [];
  for (let i = 0; i < rounds; i++) {
    const begin = performance.now();
    (await createRuntime({ wasm })).dispose();
    startup.push(performance.now() - begin);
  }
  const runtime = await createRuntime({ wasm });
  const tvm = await (await tvmjs()).instantiate(wasm, {});
  const within = {
    ours(act) {
      const scope = runtime.scope();
      for (let i = 0; i < CALLS; i++) act();
      scope.dispose();
    },
    theirs(act) {
      tvm.beginScope();
      for (let i = 0; i < CALLS; i++) act();
      tvm.endScope();
    },
  };
  const nanoseconds = (side, act) => {
    const begin = performance.now();
    let calls = 0;
    let now;
    do {
      within[side](act);
      calls += CALLS;
      now = performance.now();
    } while (now - begin < ROUND_MS);
    return ((now - begin) / calls) * 1e6;
  };
  const rows = cases(runtime, tvm).map(({ name, ...acts }) => {
    const row = { name, ours: [], theirs: [] };
    for (let round = -WARM_ROUNDS; round < rounds; round++) {
      for (const side of round & 1 ? ['ours', 'theirs'] : ['theirs', 'ours']) {
        const time = nanoseconds(side, acts[side]);
        if (round >= 0) row[side].push(time);
      }
    }
    return row;
  });
  runtime.dispose();
  tvm.dispose();
  return { figures: { startup, rows } };
}

export const RUNTIME_CONTESTANTS = { 'runtime calls': runtimeCalls };
