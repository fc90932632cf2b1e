// Numbers for people. Sizes are in binary units throughout, as the budget is.

const UNITS = ['KiB', 'MiB', 'GiB', 'TiB'];

/** "512 bytes", "24.0 KiB", "256.6 MiB", "2.94 GiB"; the space is one that does not break. */
export function formatBytes(nbytes: number): string {
  if (nbytes < 1024)
    return `${Math.round(nbytes)}\u00a0${Math.round(nbytes) === 1 ? 'byte' : 'bytes'}`;
  let value = nbytes / 1024;
  let unit = 0;
  while (value >= 1023.95 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${value.toFixed(unit >= 2 ? 2 : 1)}\u00a0${UNITS[unit] ?? ''}`;
}

export const formatRate = (bytesPerSecond: number): string => `${formatBytes(bytesPerSecond)}/s`;

/** "1,048,576" */
export const formatCount = (count: number): string => count.toLocaleString('en');

/** "0.35 s", "8.2 s", "42 s", "3 min 20 s", "1 h 5 min" */
export function formatDuration(milliseconds: number): string {
  const seconds = milliseconds / 1000;
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

const AGES: [Intl.RelativeTimeFormatUnit, number][] = [
  ['day', 86_400_000],
  ['hour', 3_600_000],
  ['minute', 60_000],
];
const AGE = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

/** "just now", "5 minutes ago", "yesterday", "12 days ago" */
export function formatAge(then: Date, now = new Date()): string {
  const milliseconds = Math.max(0, +now - +then);
  for (const [unit, length] of AGES) {
    if (milliseconds >= length) return AGE.format(-Math.floor(milliseconds / length), unit);
  }
  return 'just now';
}

export const formatPercent = (part: number, whole: number): string =>
  `${whole === 0 ? 100 : Math.floor((100 * part) / whole)} %`;

/** "49152 × 576"; "scalar" for a 0-d tensor. */
export const formatShape = (shape: readonly number[]): string =>
  shape.length === 0 ? 'scalar' : shape.join(' × ');

/** A statistic, in four significant digits. */
export const formatNumber = (value: number): string =>
  Number.isInteger(value) && Math.abs(value) < 1e9
    ? formatCount(value)
    : String(Number(value.toPrecision(4)));

export const elementsOf = (shape: readonly number[]): number =>
  shape.reduce((product, extent) => product * extent, 1);
