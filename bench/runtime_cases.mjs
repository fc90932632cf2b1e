// What a crossing between JavaScript and C++ costs, by sluice/runtime and by tvmjs's JavaScript, on one wasm module in
// one thread: rounds of either in turn. Runs in Node and in a page.

/** Milliseconds of a round, about. */
const ROUND_MS = 4;
const CALLS = 64; // between two looks at the clock

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

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/**
 * Medians in nanoseconds a call: `[{name, ours, theirs}]`. `startup`: milliseconds to compile and instantiate.
 * @param {{createRuntime: Function, tvmjs: object, wasm: ArrayBuffer, rounds?: number}} environment
 */
export async function runtimeFigures({ createRuntime, tvmjs, wasm, rounds = 25 }) {
  const startup = [];
  for (let i = 0; i < rounds; i++) {
    const begin = performance.now();
    (await createRuntime({ wasm })).dispose();
    startup.push(performance.now() - begin);
  }
  const runtime = await createRuntime({ wasm });
  const tvm = await tvmjs.instantiate(wasm.slice(0), {});
  const rows = [];
  for (const { name, ours, theirs } of cases(runtime, tvm)) {
    const scoped = {
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
    const time = (side, act) => {
      const begin = performance.now();
      let calls = 0;
      let now;
      do {
        scoped[side](act);
        calls += CALLS;
        now = performance.now();
      } while (now - begin < ROUND_MS);
      return ((now - begin) / calls) * 1e6;
    };
    const row = { ours: [], theirs: [] };
    // The first rounds compile
    for (let round = -10; round < rounds; round++) {
      const order = round & 1 ? ['ours', 'theirs'] : ['theirs', 'ours'];
      for (const side of order) {
        const nanoseconds = time(side, side === 'ours' ? ours : theirs);
        if (round >= 0) row[side].push(nanoseconds);
      }
    }
    rows.push({ name, ours: median(row.ours), theirs: median(row.theirs) });
  }
  return { startupMs: median(startup), rows };
}
