/**
 * The live warp: the image follows the pointer while a point is pulled, by the field of warping.py.
 *
 * It shows what the drag is asked to do, before anything is computed; no network has seen it. The
 * field is that of `near_field`, on a mesh whose cells stand for those of the latent.
 */

const WORK_SIDE = 512; // longest side of the image that is warped, pixels
const ALIKE = 0.1; // as in warping.py
const FADE = 1 / 16;

/** Return 1 well inside the editable cells, fading to 0 at their border, from 1 = protected. */
function fadingOf(isProtected, [height, width]) {
  const radius = Math.max(1, Math.round(FADE * Math.max(height, width)));
  const sums = new Float64Array((height + 1) * (width + 1)); // of all free cells above and to the left
  const at = (row, column) => row * (width + 1) + column;
  for (let row = 0; row < height; row += 1) {
    let line = 0;
    for (let column = 0; column < width; column += 1) {
      line += isProtected[row * width + column] ? 0 : 1;
      sums[at(row + 1, column + 1)] = sums[at(row, column + 1)] + line;
    }
  }
  const fading = new Float64Array(height * width);
  const area = (2 * radius + 1) ** 2; // also where the window reaches over the border
  for (let row = 0; row < height; row += 1) {
    const [top, bottom] = [Math.max(row - radius, 0), Math.min(row + radius + 1, height)];
    for (let column = 0; column < width; column += 1) {
      if (isProtected[row * width + column]) continue;
      const [left, right] = [Math.max(column - radius, 0), Math.min(column + radius + 1, width)];
      const free =
        sums[at(bottom, right)] - sums[at(top, right)] - sums[at(bottom, left)] + sums[at(top, left)];
      fading[row * width + column] = clamp((2 * free) / area - 1, 0, 1);
    }
  }
  return fading;
}

/**
 * Return by how much the content that arrives at each cell has moved, (h, w, 2) as (row, column).
 *
 * handles, targets: [row, column] each, cells. fading: of fadingOf; null: everything is editable.
 */
function nearField([height, width], handles, targets, fading, { combine, reach }) {
  const field = new Float64Array(height * width * 2);
  const count = targets.length;
  const moves = targets.map((target, k) => [target[0] - handles[k][0], target[1] - handles[k][1]]);
  const widths = moves.map((move) => 2 * (reach * Math.hypot(...move)) ** 2 + 1);
  const mean = [0, 1].map((axis) => moves.reduce((sum, move) => sum + move[axis], 0) / count);
  const spread = Math.max(...moves.map((move) => far(move, mean)));
  const areAlike = fading !== null && count > 1 && spread <= ALIKE * Math.hypot(...mean);
  for (let cell = 0; cell < height * width; cell += 1) {
    const share = fading === null ? 1 : fading[cell];
    if (share === 0) continue;
    let [down, across] = mean;
    if (!areAlike) {
      const [row, column] = [Math.floor(cell / width), cell % width];
      let weights = 0;
      let nearest = Infinity;
      down = across = 0;
      for (let k = 0; k < count; k += 1) {
        const square = (row - targets[k][0]) ** 2 + (column - targets[k][1]) ** 2;
        let weight = 1 / (square + 1);
        if (combine === "winner") {
          if (square >= nearest) continue;
          nearest = square;
          weight = 1;
          down = across = weights = 0;
        }
        const faded = weight * Math.exp(-square / widths[k]);
        down += faded * moves[k][0];
        across += faded * moves[k][1];
        weights += weight;
      }
      down /= weights;
      across /= weights;
    }
    field[2 * cell] = down * share;
    field[2 * cell + 1] = across * share;
  }
  return field;
}

/** An image that is shown warped; `canvas` holds what is shown. */
class WarpedImage {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.pixels = null;
  }

  /** Take the pixels to warp from a canvas. */
  take(image) {
    const scale = Math.min(1, WORK_SIDE / Math.max(image.width, image.height));
    const [width, height] = [image.width, image.height].map((side) =>
      Math.max(1, Math.round(side * scale)),
    );
    Object.assign(this.canvas, { width, height });
    const context = this.canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0, width, height);
    this.pixels = context.getImageData(0, 0, width, height);
    this.result = context.createImageData(width, height);
  }

  /** Show each pixel from where the field, of (h, w) cells, moved it from. */
  warp(field, mesh) {
    const { width, height } = this.pixels;
    const from = new Uint32Array(this.pixels.data.buffer);
    warpPixels(from, new Uint32Array(this.result.data.buffer), width, height, field, mesh);
    this.canvas.getContext("2d").putImageData(this.result, 0, 0);
  }
}

/** Mix two colours, a byte a channel: f of 256 parts of the second. */
function mixed(a, b, f) {
  const odd = ((a & 0xff00ff) * (256 - f) + (b & 0xff00ff) * f) >>> 8;
  const even = ((a >>> 8) & 0xff00ff) * (256 - f) + ((b >>> 8) & 0xff00ff) * f;
  return ((odd & 0xff00ff) | (even & 0xff00ff00)) >>> 0;
}

function warpPixels(from, to, width, height, field, [rows, columns]) {
  const high = height / rows; // pixels of a cell
  const wide = width / columns;
  const line = new Float64Array(2 * columns + 2); // the field along one line of pixels; its end twice
  const lefts = new Int32Array(width);
  const shares = new Float64Array(width);
  for (let x = 0; x < width; x += 1) {
    const u = clamp((x + 0.5) / wide - 0.5, 0, columns - 1);
    lefts[x] = Math.floor(u);
    shares[x] = u - lefts[x];
  }
  for (let y = 0; y < height; y += 1) {
    const v = clamp((y + 0.5) / high - 0.5, 0, rows - 1);
    const top = Math.floor(v);
    const above = 2 * columns * top;
    const below = 2 * columns * Math.min(top + 1, rows - 1);
    let moves = false;
    for (let i = 0; i < 2 * columns; i += 1) {
      line[i] = field[above + i] + (field[below + i] - field[above + i]) * (v - top);
      moves ||= line[i] !== 0;
    }
    const here = y * width;
    if (!moves) {
      to.set(from.subarray(here, here + width), here);
      continue;
    }
    line[2 * columns] = line[2 * columns - 2];
    line[2 * columns + 1] = line[2 * columns - 1];
    for (let x = 0; x < width; x += 1) {
      const i = 2 * lefts[x];
      const share = shares[x];
      const down = line[i] + (line[i + 2] - line[i]) * share;
      const across = line[i + 1] + (line[i + 3] - line[i + 1]) * share;
      const sy = Math.min(Math.max(y - down * high, 0), height - 1);
      const sx = Math.min(Math.max(x - across * wide, 0), width - 1);
      const y0 = sy | 0;
      const x0 = sx | 0;
      const gx = ((sx - x0) * 256) | 0;
      const gy = ((sy - y0) * 256) | 0;
      const corner = y0 * width + x0;
      if (gx === 0 && gy === 0) {
        to[here + x] = from[corner];
        continue;
      }
      const right = x0 + 1 < width ? 1 : 0;
      const next = y0 + 1 < height ? corner + width : corner;
      const upper = mixed(from[corner], from[corner + right], gx);
      to[here + x] = mixed(upper, mixed(from[next], from[next + right], gx), gy);
    }
  }
}
