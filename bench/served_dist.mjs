/** The built package's files, as the server of the measurement has them. */
export const servedDist = {
  module: (name) => import(`/dist/${name}`),
  bytes: async (name) => (await fetch(`/dist/${name}`)).arrayBuffer(),
};

/** The incumbent's JS, which leaves its module in the global `tvmjs`. */
export async function servedTvmjs() {
  await import('/tvmjs/index.js');
  return globalThis.tvmjs;
}
