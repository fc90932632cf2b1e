/** What is said of a set of numbers. NaN and infinities are counted and left out of the rest. */
export interface Statistics {
  /** Numbers looked at, of any kind. */
  count: number;
  nan: number;
  infinite: number;
  zeros: number;
  /** Of the finite numbers; NaN where there is none. */
  min: number;
  max: number;
  mean: number;
  deviation: number;
  /** Finite numbers in equal intervals from min to max, the last one closed. */
  bins: number[];
}

export function describe(values: Float64Array, binCount = 40): Statistics {
  let nan = 0;
  let infinite = 0;
  let zeros = 0;
  let finite = 0;
  let min = Infinity;
  let max = -Infinity;
  let mean = 0;
  let squares = 0; // of differences from the mean so far (Welford, 1962)
  for (const value of values) {
    if (Number.isNaN(value)) nan++;
    else if (!Number.isFinite(value)) infinite++;
    else {
      if (value === 0) zeros++;
      if (value < min) min = value;
      if (value > max) max = value;
      finite++;
      const difference = value - mean;
      mean += difference / finite;
      squares += difference * (value - mean);
    }
  }
  const common = { count: values.length, nan, infinite, zeros };
  if (finite === 0) {
    return { ...common, min: NaN, max: NaN, mean: NaN, deviation: NaN, bins: [] };
  }
  const bins = new Array<number>(min === max ? 1 : binCount).fill(0);
  const scale = min === max ? 0 : bins.length / (max - min);
  for (const value of values) {
    if (!Number.isFinite(value)) continue;
    const bin = Math.min(bins.length - 1, Math.floor((value - min) * scale));
    bins[bin] = (bins[bin] ?? 0) + 1;
  }
  return { ...common, min, max, mean, deviation: Math.sqrt(squares / finite), bins };
}
