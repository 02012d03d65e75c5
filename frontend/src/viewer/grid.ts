/**
 * A uniform grid over the points of a slide, built by one counting sort. It answers "which point is
 * here" and puts the points in an order in which a field of view is a few contiguous runs, so that
 * only what is seen is drawn.
 */

/** Aimed at per grid cell on average. */
const POINTS_PER_CELL = 32;
const MAX_SIDE = 512;

export interface Rectangle {
  left: number;
  top: number;
  right: number;
  bottom: number;
}

/** Positions `start` (inclusive) to `end` (exclusive) in `PointGrid.order`. */
export interface Run {
  start: number;
  end: number;
}

export class PointGrid {
  /** Row index of each position in grid order. */
  readonly order: Uint32Array;
  private readonly starts: Uint32Array;
  private readonly columns: number;
  private readonly rows: number;
  private readonly left: number = 0;
  private readonly top: number = 0;
  private readonly cellSize: number = 1;

  constructor(
    private readonly x: Float32Array,
    private readonly y: Float32Array,
  ) {
    const count = x.length;
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (let row = 0; row < count; row++) {
      left = Math.min(left, x[row]);
      right = Math.max(right, x[row]);
      top = Math.min(top, y[row]);
      bottom = Math.max(bottom, y[row]);
    }
    const [width, height] = count > 0 ? [right - left, bottom - top] : [0, 0];
    if (count > 0) {
      this.left = left;
      this.top = top;
      const wanted = Math.sqrt((Math.max(width, 1) * Math.max(height, 1) * POINTS_PER_CELL) / count);
      this.cellSize = Math.max(wanted, Math.max(width, height) / (MAX_SIDE - 1));
    }
    this.columns = Math.floor(width / this.cellSize) + 1;
    this.rows = Math.floor(height / this.cellSize) + 1;
    this.starts = new Uint32Array(this.columns * this.rows + 1);
    for (let row = 0; row < count; row++) this.starts[this.cellOf(x[row], y[row]) + 1]++;
    for (let cell = 1; cell < this.starts.length; cell++) this.starts[cell] += this.starts[cell - 1];
    const next = this.starts.slice();
    this.order = new Uint32Array(count);
    for (let row = 0; row < count; row++) this.order[next[this.cellOf(x[row], y[row])]++] = row;
  }

  /** The row nearest to (x, y) within `radius`, or -1. All in level-0 pixels. */
  nearest(x: number, y: number, radius: number): number {
    let best = -1;
    let bestSquared = radius * radius;
    const box = { left: x - radius, right: x + radius, top: y - radius, bottom: y + radius };
    for (const { start, end } of this.runs(box)) {
      for (let position = start; position < end; position++) {
        const row = this.order[position];
        const squared = (this.x[row] - x) ** 2 + (this.y[row] - y) ** 2;
        if (squared <= bestSquared) {
          best = row;
          bestSquared = squared;
        }
      }
    }
    return best;
  }

  /** Runs of `order` that hold every point in the rectangle (and some just outside it). */
  runs(box: Rectangle): Run[] {
    const firstColumn = Math.max(0, Math.floor((box.left - this.left) / this.cellSize));
    const lastColumn = Math.min(this.columns - 1, Math.floor((box.right - this.left) / this.cellSize));
    const firstRow = Math.max(0, Math.floor((box.top - this.top) / this.cellSize));
    const lastRow = Math.min(this.rows - 1, Math.floor((box.bottom - this.top) / this.cellSize));
    const found: Run[] = [];
    if (firstColumn > lastColumn) return found;
    for (let row = firstRow; row <= lastRow; row++) {
      const start = this.starts[row * this.columns + firstColumn];
      const end = this.starts[row * this.columns + lastColumn + 1];
      const previous = found.at(-1);
      if (previous?.end === start) previous.end = end;
      else if (end > start) found.push({ start, end });
    }
    return found;
  }

  /** Rows inside the rectangle, exactly. */
  count(box: Rectangle, keep: (row: number) => boolean): number {
    let inside = 0;
    for (const { start, end } of this.runs(box)) {
      for (let position = start; position < end; position++) {
        const row = this.order[position];
        const [x, y] = [this.x[row], this.y[row]];
        if (x >= box.left && x <= box.right && y >= box.top && y <= box.bottom && keep(row)) inside++;
      }
    }
    return inside;
  }

  private cellOf(x: number, y: number): number {
    const column = Math.floor((x - this.left) / this.cellSize);
    const row = Math.floor((y - this.top) / this.cellSize);
    return row * this.columns + column;
  }
}
