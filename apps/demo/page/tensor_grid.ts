// One cell for each tensor, filled as it becomes usable. A canvas: a model may have thousands.
export interface GridState {
  /** 1 where a tensor is usable. */
  ready: Uint8Array;
  /** How many tensors there are. */
  count: number;
}

const GAP = 1;
const MOST_HEIGHT = 150;
const SIZES = [16, 14, 12, 10, 9, 8, 7, 6, 5, 4];

/** Cells of `size` pixels in `columns`; each stands for `group` tensors, more than one only when too many. */
interface Layout {
  size: number;
  columns: number;
  rows: number;
  group: number;
}

export function gridLayout(count: number, width: number): Layout {
  const smallest = SIZES.at(-1) ?? 4;
  const most = Math.max(1, Math.floor(width / smallest) * Math.floor((2 * MOST_HEIGHT) / smallest));
  const group = Math.max(1, Math.ceil(count / most));
  const cells = Math.ceil(count / group);
  const rowsOf = (size: number): number => Math.ceil(cells / Math.max(1, Math.floor(width / size)));
  const size = SIZES.find((candidate) => rowsOf(candidate) * candidate <= MOST_HEIGHT) ?? smallest;
  return { size, columns: Math.max(1, Math.floor(width / size)), rows: rowsOf(size), group };
}

export class TensorGrid {
  readonly #canvas: HTMLCanvasElement;
  #state: GridState = { ready: new Uint8Array(0), count: 0 };
  #layout: Layout = gridLayout(0, 1);

  /** `point` is told which tensor the pointer is on, `choose` which was clicked. */
  constructor(
    canvas: HTMLCanvasElement,
    point: (index: number | undefined) => void,
    choose: (index: number) => void,
  ) {
    this.#canvas = canvas;
    new ResizeObserver(() => {
      this.draw();
    }).observe(canvas.parentElement ?? canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      this.draw();
    });
    canvas.addEventListener('pointermove', (event) => point(this.#indexAt(event)));
    canvas.addEventListener('pointerleave', () => point(undefined));
    canvas.addEventListener('click', (event) => {
      const index = this.#indexAt(event);
      if (index !== undefined) choose(index);
    });
  }

  show(state: GridState): void {
    this.#state = state;
    this.draw();
  }

  draw(): void {
    const { ready, count } = this.#state;
    const canvas = this.#canvas;
    const done = ready.reduce((sum, one) => sum + one, 0);
    canvas.setAttribute('aria-label', `${done} of ${count} tensors are loaded`);
    const width = canvas.parentElement?.clientWidth ?? 0;
    if (width === 0) return;
    const layout = (this.#layout = gridLayout(count, width));
    const { size, columns, rows, group } = layout;
    const height = Math.max(size, rows * size);
    const scale = window.devicePixelRatio;
    const [pixelWidth, pixelHeight] = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== pixelWidth || canvas.height !== pixelHeight) {
      canvas.width = pixelWidth;
      canvas.height = pixelHeight;
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext('2d');
    if (!context) return;
    const style = getComputedStyle(canvas);
    const waiting = style.getPropertyValue('--cell-waiting');
    const loaded = style.getPropertyValue('--cell-done');
    context.setTransform(scale, 0, 0, scale, 0, 0);
    context.clearRect(0, 0, width, height);
    for (let cell = 0; cell * group < count; cell++) {
      const members = ready.subarray(cell * group, (cell + 1) * group);
      const part = members.reduce((sum, one) => sum + one, 0) / Math.max(1, members.length);
      const x = (cell % columns) * size;
      const y = Math.floor(cell / columns) * size;
      context.fillStyle = waiting;
      context.fillRect(x, y, size - GAP, size - GAP);
      if (part > 0) {
        context.globalAlpha = part;
        context.fillStyle = loaded;
        context.fillRect(x, y, size - GAP, size - GAP);
        context.globalAlpha = 1;
      }
    }
  }

  #indexAt({ offsetX, offsetY }: MouseEvent): number | undefined {
    const { size, columns, group } = this.#layout;
    const column = Math.floor(offsetX / size);
    if (column >= columns) return undefined;
    const index = (Math.floor(offsetY / size) * columns + column) * group;
    return index >= 0 && index < this.#state.count ? index : undefined;
  }
}
