// What a crossing between JavaScript and C++ costs, by sluice/runtime, by sluice/tvmjs and by tvmjs's own
// JavaScript, on one wasm module in one thread: rounds of each in turn. Runs in Node and in a page.

/** Milliseconds of one side's round, about. */
const ROUND_MS = 4;
/** Between two looks at the clock. */
const CALLS = 64;
/** In which both are compiled. */
const WARM_ROUNDS = 10;

const CASES = {
  nop: 'call of a function that does nothing',
  arguments: 'call with a tensor, a shape, a string, an int',
  callback: 'callback with an int',
  bareCallback: 'callback without arguments',
  shapeCallback: 'callback with a shape',
  empty: 'empty() and dispose()',
  shape: 'a shape that was made before',
};
const DIMS = [16, 32, 64];

function takeShape(shape) {
  if (shape === undefined) throw new Error('no shape came');
}

/** Each case of sluice/runtime, done once: shapes and numbers are plain, as people write them. */
function ofRuntime(runtime) {
  const nop = runtime.getFunction('testing.nop');
  const callback = runtime.makeFunction((value) => value);
  const bareCallback = runtime.makeFunction(() => undefined);
  const shapeCallback = runtime.makeFunction(takeShape);
  const tensor = runtime.empty([4, 4]);
  return {
    acts: {
      nop: () => nop(),
      arguments: () => nop(tensor, DIMS, 'decode', 7),
      callback: () => callback(7),
      bareCallback: () => bareCallback(),
      shapeCallback: () => shapeCallback(DIMS),
      empty: () => runtime.empty(DIMS, 'float32').dispose(),
      shape: () => runtime.shape(DIMS),
    },
    within(act) {
      const scope = runtime.scope();
      for (let i = 0; i < CALLS; i++) act();
      scope.dispose();
    },
    dispose: () => runtime.dispose(),
  };
}

/** The same of tvmjs, or of what stands in for it: shapes and scalars are made beforehand where it lets them be. */
function ofTvmjs(tvm) {
  tvm.beginScope(); // which stays open
  const nop = tvm.getGlobalFunc('testing.nop');
  const callback = tvm.toPackedFunc((value) => value);
  const bareCallback = tvm.toPackedFunc(() => undefined);
  const shapeCallback = tvm.toPackedFunc(takeShape);
  const tensor = tvm.empty([4, 4], 'float32', tvm.cpu());
  const shape = tvm.makeShapeTuple(DIMS);
  const seven = tvm.scalar(7, 'int32');
  const cpu = tvm.cpu();
  return {
    acts: {
      nop: () => nop(),
      arguments: () => nop(tensor, shape, 'decode', seven),
      callback: () => callback(seven),
      bareCallback: () => bareCallback(),
      shapeCallback: () => shapeCallback(shape),
      empty: () => tvm.empty(DIMS, 'float32', cpu).dispose(),
      shape: () => tvm.makeShapeTuple(DIMS),
    },
    within(act) {
      tvm.beginScope();
      for (let i = 0; i < CALLS; i++) act();
      tvm.endScope();
    },
    dispose: () => tvm.dispose(),
  };
}

/**
 * Nanoseconds a call in each round: `[{name, ours, dropIn, theirs}]`, of sluice/runtime, sluice/tvmjs and tvmjs. `startup`:
 * milliseconds to compile and instantiate, for each of so many times.
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
  const instance = async ({ instantiate }) => ofTvmjs(await instantiate(wasm, {}));
  const sides = {
    ours: ofRuntime(await createRuntime({ wasm })),
    dropIn: await instance(await dist.module('tvmjs/index.js')),
    theirs: await instance(await tvmjs()),
  };
  const nanoseconds = ({ acts, within }, key) => {
    const begin = performance.now();
    let calls = 0;
    let now;
    do {
      within(acts[key]);
      calls += CALLS;
      now = performance.now();
    } while (now - begin < ROUND_MS);
    return ((now - begin) / calls) * 1e6;
  };
  const names = Object.keys(sides);
  const rows = Object.entries(CASES).map(([key, name]) => {
    const row = { name, ours: [], dropIn: [], theirs: [] };
    for (let round = -WARM_ROUNDS; round < rounds; round++) {
      for (let i = 0; i < names.length; i++) {
        const side = names[(i + round + WARM_ROUNDS) % names.length];
        const time = nanoseconds(sides[side], key);
        if (round >= 0) row[side].push(time);
      }
    }
    return row;
  });
  for (const side of Object.values(sides)) side.dispose();
  return { figures: { startup, rows } };
}

export const RUNTIME_CONTESTANTS = { 'runtime calls': runtimeCalls };
