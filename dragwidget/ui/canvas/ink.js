/**
 * The ink layer: draws under the pointer at once, and sends a gesture whole, when it ends.
 *
 * The layer is a canvas over ipycanvas' one; no event ever meets it. While anything is drawn, or
 * not answered yet, it shows all of the canvas - image, mask, marks, what is half drawn - as the
 * kernel will once it has what was sent, and what ipycanvas shows is transparent. The image and the
 * mask come from the models in which ipycanvas keeps them. Where these cannot be reached nothing is
 * drawn here, and the kernel gets every event of the pointer.
 *
 * The kernel's state (see ink.py) is what it holds; `answered` says up to which message of this page.
 * Those after it are applied to it here, as the kernel will: so nothing shows twice or jumps.
 *
 * Points are [x, y] in canvas pixels, those of the canvas' drawing buffer, or in image pixels.
 */

const RATIO = 2; // canvas pixels to a CSS pixel, as all these are in viewport.py and tools/tool.py
const PADDING = 48;
const MAX_ZOOM = 32;
const LEAST_MOVE = 3;
const LEAST_DRAG = 12;
const REACH = 24;
const TOUCH_REACH = 48;
const LEAST_CORNERS = 3;
const MAX_PAIRS = 100;
const MAX_STROKE_POINTS = 100000;
const WHEEL_STEP = 0.002;
const FADE_MS = 300; // in which the warped image fades back
const HANDLE = "#e5383b"; // marks.py
const TARGET = "#2563eb";
const WHITE = "#ffffff";
const SHADE = "#16161ab0";
const LINE_SHADE = "#16161acc";

const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// ------------------------------------------------------------ the viewport, as in viewport.py

const scaleOf = (view) => view.fitted * view.zoom;
const originOf = (view) => [0, 1].map((i) => view.canvas[i] / 2 - view.centre[i] * scaleOf(view));

function toImage(view, xy) {
  const origin = originOf(view);
  return [0, 1].map((i) => (xy[i] - origin[i]) / scaleOf(view));
}

function toCanvas(view, xy) {
  const origin = originOf(view);
  return [0, 1].map((i) => origin[i] + xy[i] * scaleOf(view));
}

/** The image point for a point of a pair. */
function pointAt(view, xy) {
  return toImage(view, xy).map((value, i) =>
    clamp(Math.round(value * 100) / 100, 0, view.size[i] - 0.01),
  );
}

function centredOn(view, centre) {
  const kept = centre.map((middle, i) => {
    const half = (view.canvas[i] / 2 - PADDING) / scaleOf(view);
    const high = view.size[i] - half;
    const isWhole = (high - half) * scaleOf(view) < 1;
    return isWhole ? view.size[i] / 2 : clamp(middle, half, high);
  });
  return { ...view, centre: kept };
}

function pannedBy(view, dx, dy) {
  const scale = scaleOf(view);
  return centredOn(view, [view.centre[0] - dx / scale, view.centre[1] - dy / scale]);
}

function turnedBy(view, xy, dy) {
  const fixed = xy.map((value, i) => clamp(value, 0, view.canvas[i]));
  const at = toImage(view, fixed);
  const zoom = view.zoom * Math.exp(-clamp(dy, -200, 200) * WHEEL_STEP);
  const other = { ...view, zoom: clamp(zoom, 1, MAX_ZOOM) };
  return centredOn(
    other,
    [0, 1].map((i) => at[i] + (view.canvas[i] / 2 - fixed[i]) / scaleOf(other)),
  );
}

// ------------------------------------------------------------ what a gesture does

const isStroke = (tool) => tool === "brush" || tool === "eraser";

/** Whether a press does anything, so that a finger draws and does not scroll the page. */
function takesPress(scene) {
  if (!scene.image) return false;
  if (scene.tool === "pan") return scene.view.zoom > 1;
  return scene.tool === "probe" || !scene.readOnly;
}

/** Begin a gesture on a scene, as tools/ do; null: the press does nothing. */
function begin(scene, xy, brush, touch) {
  const view = scene.view;
  const start = xy.map((value, i) => clamp(value, 0, view.canvas[i]));
  const gesture = { tool: scene.tool, view, image: scene.image, touch, far: 0, second: null };
  gesture.points = [[...start, brush]];
  gesture.reach = touch ? TOUCH_REACH : REACH;
  if (scene.tool === "lasso") gesture.isCorner = scene.corners.length > 0;
  if (scene.tool === "points") {
    gesture.hit = scene.pending ? null : pointNear(scene, start, gesture.reach);
    gesture.handle = scene.pending ?? pointAt(view, start);
    gesture.isFirst = !scene.pending;
    if (!gesture.hit && scene.pairs.length >= MAX_PAIRS) return null;
  }
  return gesture;
}

/** The pair and the end (0: handle, 1: target) in reach, and how far it is off. */
function pointNear(scene, xy, reach) {
  let found = null;
  scene.pairs.forEach((pair, index) => {
    for (const end of [0, 1]) {
      const at = toCanvas(scene.view, pair.slice(2 * end, 2 * end + 2));
      if (far(xy, at) <= reach) {
        reach = far(xy, at);
        found = { index, end, grip: [at[0] - xy[0], at[1] - xy[1]] };
      }
    }
  });
  return found;
}

/** Whether the gesture, as it is, was never dragged. */
function isClick(gesture) {
  return gesture.far < (isStroke(gesture.tool) ? LEAST_MOVE : LEAST_DRAG);
}

/** Apply a gesture to a scene; isDone: it was released. */
function act(scene, gesture, isDone) {
  const { points, view } = gesture;
  const start = points[0];
  const last = points[points.length - 1];
  const inImage = () => points.map((point) => toImage(view, point));
  const isFar = far(start, last) >= LEAST_DRAG;
  if (isStroke(gesture.tool)) {
    const sizes = points.map((point) => point[2]);
    scene.ops.push({ points: inImage(), sizes, erase: gesture.tool === "eraser", gesture, isDone });
  } else if (gesture.tool === "rectangle") {
    const [a, b] = [toImage(view, start), toImage(view, last)];
    const box = [a, [b[0], a[1]], b, [a[0], b[1]]];
    if (!isDone) scene.outlines.push([...box, a]);
    else if (isFar) scene.ops.push({ polygon: box, isDone });
  } else if (gesture.tool === "lasso") {
    const isFree = !gesture.isCorner && gesture.far >= LEAST_DRAG;
    if (isFree && !isDone) scene.trace = inImage();
    else if (isFree && points.length >= LEAST_CORNERS) {
      scene.ops.push({ polygon: inImage(), isDone });
    } else if (!isFree && isDone) addCorner(scene, gesture, last);
  } else if (gesture.tool === "points") {
    pull(scene, gesture, isFar);
  } else if (gesture.tool === "pan") {
    for (let i = 1; i < points.length; i += 1) {
      const [a, b] = [points[i - 1], points[i]];
      scene.view = pannedBy(scene.view, b[0] - a[0], b[1] - a[1]);
    }
  }
}

function addCorner(scene, gesture, xy) {
  const at = scene.corners.map((corner) => toCanvas(scene.view, corner));
  const isTwice = at.length > 0 && far(xy, at[at.length - 1]) < LEAST_DRAG;
  if (at.length >= LEAST_CORNERS && (isTwice || far(xy, at[0]) <= gesture.reach)) {
    scene.ops.push({ polygon: scene.corners, isDone: true });
    scene.corners = [];
  } else if (!isTwice) {
    const meant = gesture.isCorner ? xy : gesture.points[0];
    scene.corners = [...scene.corners, toImage(gesture.view, meant)];
  }
}

function pull(scene, { hit, handle, isFirst, points, view }, isFar) {
  const start = points[0];
  const last = points[points.length - 1];
  if (hit) {
    const pair = scene.pairs[hit.index];
    if (!pair) return;
    scene.selected = hit.index;
    if (points.length < 2 || far(start, last) < LEAST_MOVE) return;
    const at = pointAt(view, [last[0] + hit.grip[0], last[1] + hit.grip[1]]);
    scene.pairs = [...scene.pairs];
    scene.pairs[hit.index] = hit.end ? [...pair.slice(0, 2), ...at] : [...at, ...pair.slice(2)];
  } else if (isFirst && !isFar) {
    scene.pending = handle;
  } else {
    scene.pending = null;
    scene.pairs = [...scene.pairs, [...handle, ...pointAt(view, last)]];
    scene.selected = scene.pairs.length - 1;
  }
}

// ------------------------------------------------------------ painting, as marks.py and scene.py do

function disc(context, [x, y], radius, fill) {
  context.fillStyle = fill;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
}

function ring(context, [x, y], radius, colour, width) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.stroke();
}

function follow(context, points) {
  context.beginPath();
  context.moveTo(points[0][0], points[0][1]);
  for (const [x, y] of points.slice(1)) context.lineTo(x, y);
}

function line(context, points, colour, width, dash = 0) {
  context.strokeStyle = colour;
  context.lineWidth = width;
  context.lineCap = context.lineJoin = "round";
  context.setLineDash(dash ? [dash, dash] : []);
  follow(context, points);
  context.stroke();
  context.setLineDash([]);
}

function halo(context, at, radius) {
  ring(context, at, radius + 5 * RATIO, SHADE, 4 * RATIO);
  ring(context, at, radius + 5 * RATIO, WHITE, 2 * RATIO);
}

function handleMark(context, at, label, isSelected) {
  const radius = 8 * RATIO;
  isSelected ? halo(context, at, radius) : disc(context, at, radius + 2.5 * RATIO, SHADE);
  disc(context, at, radius + 1.5 * RATIO, WHITE);
  disc(context, at, radius, HANDLE);
  context.fillStyle = WHITE;
  context.font = `bold ${(label.length < 3 ? 11 : 8.5) * RATIO}px sans-serif`;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(label, ...at);
}

function targetMark(context, at, isSelected) {
  const radius = 6.5 * RATIO;
  isSelected ? halo(context, at, radius) : ring(context, at, radius, SHADE, 7 * RATIO);
  ring(context, at, radius, WHITE, 5 * RATIO);
  ring(context, at, radius, TARGET, 2.75 * RATIO);
}

function arrow(context, start, end) {
  const length = far(start, end);
  const gap = 9 * RATIO;
  const room = length - gap - 8 * RATIO;
  if (room <= 0) return;
  const [ux, uy] = [(end[0] - start[0]) / length, (end[1] - start[1]) / length];
  const tip = [end[0] - ux * gap, end[1] - uy * gap];
  const head = Math.min(10 * RATIO, room);
  const neck = [tip[0] - ux * head, tip[1] - uy * head];
  const half = head * 0.5;
  const left = [neck[0] - uy * half, neck[1] + ux * half];
  const right = [neck[0] + uy * half, neck[1] - ux * half];
  const shaft = [start, [neck[0] + ux * RATIO, neck[1] + uy * RATIO]];
  line(context, shaft, SHADE, 4.5 * RATIO);
  line(context, [tip, left, right, tip], SHADE, 2.5 * RATIO);
  line(context, shaft, WHITE, 2.5 * RATIO);
  follow(context, [tip, left, right]);
  context.fillStyle = WHITE;
  context.fill();
}

function paintPairs(context, scene) {
  const ends = scene.pairs.map((pair) => [pair.slice(0, 2), pair.slice(2)]);
  const placed = ends.map((pair) => pair.map((xy) => toCanvas(scene.view, xy)));
  for (const [handle, target] of placed) arrow(context, handle, target);
  placed.forEach(([handle, target], index) => {
    targetMark(context, target, index === scene.selected);
    handleMark(context, handle, String(index + 1), index === scene.selected);
  });
  if (scene.pending) {
    const at = toCanvas(scene.view, scene.pending);
    handleMark(context, at, String(scene.pairs.length + 1), true);
  }
}

function outline(context, points, vertices = false) {
  if (points.length > 1) {
    line(context, points, LINE_SHADE, 2 * RATIO);
    line(context, points, WHITE, 2 * RATIO, 5 * RATIO);
  }
  if (!vertices) return;
  points.forEach((at, index) => {
    const radius = (index ? 3 : 5) * RATIO;
    disc(context, at, radius + 1.5 * RATIO, LINE_SHADE);
    disc(context, at, radius, WHITE);
  });
}

function paintDraft(context, scene) {
  const placed = (points) => points.map((xy) => toCanvas(scene.view, xy));
  if (scene.corners.length) outline(context, placed(scene.corners), true);
  for (const points of scene.outlines) outline(context, placed(points));
  if (scene.trace?.length > 1) {
    line(context, placed(scene.trace), LINE_SHADE, 3.5 * RATIO);
    line(context, placed(scene.trace), WHITE, 1.75 * RATIO);
  }
}

// ------------------------------------------------------------ the layer

class InkLayer {
  /** parts: the models of Scene.parts in scene.py. */
  constructor(model, frame, canvas, parts, signal) {
    Object.assign(this, { model, frame, canvas, parts });
    this.id = Math.random().toString(36).slice(2);
    this.sent = 0; // number of the last message
    this.waiting = []; // {n, apply, shows}: sent, not answered; what it does to a scene, and to see
    this.gesture = null;
    this.pointer = null; // where it is while it draws nothing
    this.state = model.get("state");
    this.warped = new WarpedImage();
    this.isWarped = false; // whether a point is pulled and the image follows
    this.fadesFrom = null; // since when the warped image fades back, ms
    this.maskCanvas = document.createElement("canvas");
    this.inked = null; // of a stroke in hand, what the mask's canvas shows of it already
    this.addElement(signal);

    let order = Promise.resolve();
    const take = () => {
      const state = model.get("state");
      order = order.then(async () => {
        // What this state is about was sent to ipycanvas before it: first let that be painted.
        if (this.isActive) await this.parts.manager.currentProcessing;
        this.state = state;
        const answered = state.answered[this.id] ?? 0;
        this.waiting = this.waiting.filter(({ n }) => n > answered);
        this.paint();
      });
    };
    model.on("change:state", take);
    signal.addEventListener("abort", () => model.off("change:state", take));
    const repaint = () => {
      if (this.isWarped) this.warped.take(parts.image.canvas);
      if (this.isActive) this.paint();
    };
    for (const name of ["image", "mask", "marks"]) {
      parts[name].on("new-frame", repaint);
      signal.addEventListener("abort", () => parts[name].off("new-frame", repaint));
    }
    this.paint();
  }

  /** Whether there is anything that the kernel has not painted yet. */
  get isActive() {
    if (this.gesture !== null || this.fadesFrom !== null) return true;
    return this.waiting.some(({ shows }) => shows);
  }

  /** The layer's canvas: closed off, as whoever looks for the canvas means ipycanvas' one. */
  addElement(signal) {
    const host = document.createElement("div");
    host.className = "dragwidget-ink";
    host.setAttribute("aria-hidden", "true");
    Object.assign(host.style, { position: "absolute", pointerEvents: "none", display: "none" });
    this.frame.style.position = "relative";
    this.element = document.createElement("canvas");
    Object.assign(this.element.style, { width: "100%", height: "100%", display: "block" });
    host.attachShadow({ mode: "closed" }).append(this.element);
    host.layer = this;
    this.host = host;
    this.frame.append(host);
    signal.addEventListener("abort", () => {
      host.remove();
      this.canvas.style.opacity = "";
    });
  }

  /** Lay the layer on the canvas' content, wherever the page has put it. */
  fit() {
    const { left, top, width, height } = contentBox(this.canvas);
    const frame = this.frame.getBoundingClientRect();
    const across = frame.width / this.frame.offsetWidth || 1; // of a transform
    const down = frame.height / this.frame.offsetHeight || 1;
    Object.assign(this.host.style, {
      left: `${(left - frame.left) / across - this.frame.clientLeft}px`,
      top: `${(top - frame.top) / down - this.frame.clientTop}px`,
      width: `${width / across}px`,
      height: `${height / down}px`,
    });
    for (const canvas of [this.element, this.maskCanvas]) {
      if (canvas.width !== this.canvas.width || canvas.height !== this.canvas.height) {
        canvas.width = this.canvas.width;
        canvas.height = this.canvas.height;
      }
    }
  }

  /** Send a message; apply: what it does to a scene, shown until it is answered. */
  send(event, more = {}, { apply = null, shows = true, buffers = [] } = {}) {
    this.sent += 1;
    if (apply) this.waiting.push({ n: this.sent, apply, shows });
    this.model.send({ event, ...more, view: this.id, n: this.sent }, undefined, buffers);
    if (apply) this.paint();
  }

  // ------------------------------------------------------------ the pointer

  /** Whether the tool's gestures are drawn here; what Select finds is known to the kernel alone. */
  draws() {
    return this.predict().tool !== "select";
  }

  /** Begin a gesture; false: the press does nothing. */
  press(xy, event) {
    const scene = this.predict();
    if (!takesPress(scene)) return false;
    this.fadesFrom = null;
    this.isWarped = false;
    this.gesture = begin(scene, xy, this.brushAt(scene, event), event.pointerType === "touch");
    this.inked = null;
    this.fit();
    this.paint();
    return this.gesture !== null;
  }

  /** A pen paints as wide as it is pressed; where it cannot tell, its pressure is a half. */
  brushAt(scene, event) {
    const share = event.pointerType === "pen" ? Math.min(1, 2 * event.pressure) : 1;
    return share === 1 ? scene.brush : Math.max(1, scene.brush * share);
  }

  /** Take where the pointer has been since, in order: [{xy, event}]. */
  move(places) {
    for (const { xy, event } of places) this.follow(xy, event);
    this.paint();
  }

  follow(xy, event) {
    const gesture = this.gesture;
    const { points } = gesture;
    const at = xy.map((value, i) => clamp(value, 0, gesture.view.canvas[i]));
    if (far(points[points.length - 1], at) < LEAST_MOVE) return;
    if (points.length >= MAX_STROKE_POINTS - 1) return;
    gesture.far = Math.max(gesture.far, far(points[0], at));
    const brush = event.pointerType === "pen" ? this.brushAt(this.state, event) : points[0][2];
    points.push([...at, brush]);
  }

  /** Another finger is at xy: a tap of both draws nothing, nor does a pinch. */
  second(xy) {
    const gesture = this.gesture;
    if (!gesture) return;
    if (!gesture.second) gesture.second = xy;
    else if (far(gesture.second, xy) >= LEAST_DRAG) this.cancel();
  }

  /** End the gesture, at xy if that is known, and send it. */
  release(xy = null) {
    const gesture = this.gesture;
    if (!gesture) return;
    const { points } = gesture;
    const last = points[points.length - 1];
    const end = xy ? xy.map((value, i) => clamp(value, 0, gesture.view.canvas[i])) : last;
    points.push([end[0], end[1], last[2]]);
    gesture.far = Math.max(gesture.far, far(points[0], end));
    if (gesture.second && isClick(gesture)) {
      this.cancel();
      return;
    }
    this.gesture = null;
    this.inked = null;
    this.fadeBack();
    const { tool, view, image, touch } = gesture;
    const about = { tool, image, touch, zoom: view.zoom, centre: view.centre };
    const buffers = [new Float64Array(points.flat()).buffer];
    this.send("gesture", about, { apply: (scene) => act(scene, gesture, true), buffers });
  }

  /** Drop the gesture; whether there was one. */
  cancel() {
    const was = this.gesture !== null;
    this.gesture = this.inked = null;
    this.isWarped = false;
    this.paint();
    return was;
  }

  /** The tool that a key chooses, or undefined. */
  toolOf(key) {
    if (key === "x") return this.predict().tool === "eraser" ? "brush" : "eraser";
    return this.state.tools[key];
  }

  /** Choose a tool at once; what is half drawn ends first. */
  use(tool) {
    this.release();
    const apply = (scene) => {
      scene.tool = tool;
    };
    this.send("tool", { tool }, { apply, shows: false });
  }

  zoom(xy, dy) {
    const apply = (scene) => {
      scene.view = turnedBy(scene.view, xy, dy);
    };
    this.send("zoom", { x: xy[0], y: xy[1], dy }, { apply });
  }

  // ------------------------------------------------------------ painting

  /** What the kernel will hold, once it has all that was sent. */
  predict() {
    const scene = { ...this.state, ops: [], outlines: [], trace: null };
    for (const { apply } of this.waiting) apply(scene);
    if (this.gesture) act(scene, this.gesture, false);
    return scene;
  }

  /** Show all that is not painted by the kernel yet; nothing else. */
  paint() {
    const scene = this.predict();
    this.canvas.style.touchAction = takesPress(scene) ? "none" : "auto";
    const isActive = this.isActive;
    if (isActive) {
      if (this.host.style.display === "none") this.fit();
      this.paintAll(scene);
    }
    this.host.style.display = isActive ? "block" : "none";
    this.canvas.style.opacity = isActive ? "0" : "";
  }

  paintAll(scene) {
    const context = this.element.getContext("2d");
    const { view } = scene;
    const [x, y] = originOf(view);
    const [width, height] = view.size.map((side) => side * scaleOf(view));
    const area = [x, y, width, height];
    context.clearRect(0, 0, this.element.width, this.element.height);
    const image = this.parts.image.canvas;
    const faded = this.fadesFrom === null ? 1 : 1 - (performance.now() - this.fadesFrom) / FADE_MS;
    if (this.warpImage(scene) && faded > 0) context.drawImage(this.warped.canvas, ...area);
    if (!this.isWarped || faded < 1) {
      context.globalAlpha = this.isWarped ? 1 - clamp(faded, 0, 1) : 1;
      context.imageSmoothingEnabled = !Number.isInteger(width / image.width);
      context.drawImage(image, ...area);
      context.globalAlpha = 1;
    }
    context.imageSmoothingEnabled = true;
    this.paintMask(scene, area);
    context.drawImage(this.maskCanvas, 0, 0);
    const isAsPainted = ["view", "pairs", "selected", "pending"].every(
      (name) => scene[name] === this.state[name],
    );
    if (isAsPainted) context.drawImage(this.parts.marks.canvas, 0, 0); // with the trails of a run
    else paintPairs(context, scene);
    paintDraft(context, scene);
  }

  /** Warp the image as the pairs ask for it, while a point is pulled; whether it is warped. */
  warpImage(scene) {
    const { gesture, state } = this;
    if (gesture?.tool === "points" && state.warp && (gesture.hit || !scene.pending)) {
      if (gesture.far < LEAST_DRAG && !this.isWarped) return false;
      if (!this.isWarped) this.warped.take(this.parts.image.canvas);
      this.isWarped = true;
      this.warped.warp(this.fieldOf(scene), state.warp.mesh);
    }
    return this.isWarped;
  }

  /** The field of all pairs, on the mesh. */
  fieldOf(scene) {
    const { mesh } = this.state.warp;
    const cells = this.model.get("protected"); // a DataView
    const isProtected = cells?.byteLength ? new Uint8Array(cells.buffer, cells.byteOffset) : null;
    const inCells = ([x, y]) => [
      (y / scene.view.size[1]) * mesh[0] - 0.5,
      (x / scene.view.size[0]) * mesh[1] - 0.5,
    ];
    const handles = scene.pairs.map((pair) => inCells(pair.slice(0, 2)));
    const targets = scene.pairs.map((pair) => inCells(pair.slice(2)));
    const fading = isProtected && fadingOf(isProtected, mesh);
    return nearField(mesh, handles, targets, fading, this.state.warp);
  }

  fadeBack() {
    if (!this.isWarped) return;
    this.fadesFrom = performance.now();
    const next = () => {
      if (this.fadesFrom === null) return;
      if (this.gesture || performance.now() - this.fadesFrom > FADE_MS) {
        this.fadesFrom = null;
        this.isWarped = false;
      } else requestAnimationFrame(next);
      this.paint();
    };
    requestAnimationFrame(next);
  }

  /** Paint the mask and what was done to it since, on a canvas of its own. */
  paintMask(scene, area) {
    const context = this.maskCanvas.getContext("2d");
    const last = scene.ops[scene.ops.length - 1];
    const stroke = last && !last.isDone ? last : null;
    // Of a stroke in hand only what is new, unless something else has changed.
    const isGoingOn =
      stroke && this.inked?.gesture === stroke.gesture && this.inked.state === this.state &&
      this.inked.waiting === this.waiting.length;
    context.save();
    if (isGoingOn) {
      this.clip(context, area);
      paintStroke(context, scene, stroke, this.inked.count - 1);
    } else {
      context.clearRect(0, 0, this.maskCanvas.width, this.maskCanvas.height);
      if (scene.hasMask && scene.style !== "hidden") {
        context.drawImage(this.parts.mask.canvas, ...area);
      }
      this.clip(context, area);
      let hasMask = scene.hasMask;
      for (const op of scene.ops) {
        if (op.isDone && scene.style === "hidden") continue;
        if (!hasMask && scene.style === (op.erase ? "tint" : "darken")) {
          context.fillStyle = scene.fill;
          context.fillRect(...area);
        }
        hasMask = true;
        op.polygon ? paintPolygon(context, scene, op) : paintStroke(context, scene, op, 0);
      }
    }
    context.restore();
    this.inked = stroke && {
      gesture: stroke.gesture,
      state: this.state,
      waiting: this.waiting.length,
      count: stroke.points.length,
    };
  }

  clip(context, area) {
    context.beginPath();
    context.rect(...area);
    context.clip();
  }
}

/** Paint twice: first clear what is below, then fill, if this is to be filled. */
function paintOver(context, scene, erase, paint) {
  context.globalCompositeOperation = "destination-out";
  paint("#000000");
  context.globalCompositeOperation = "source-over";
  if (scene.style === "hidden" || erase === (scene.style === "darken")) paint(scene.fill);
}

function paintPolygon(context, scene, op) {
  follow(context, op.polygon.map((xy) => toCanvas(scene.view, xy)));
  paintOver(context, scene, false, (colour) => {
    context.fillStyle = colour;
    context.fill();
  });
}

/** Paint a stroke from one of its points on: no segment darkens what another did. */
function paintStroke(context, scene, op, from) {
  const at = op.points.map((xy) => toCanvas(scene.view, xy));
  const width = (i) => Math.max(((op.sizes[i] + op.sizes[i + 1]) / 2) * scaleOf(scene.view), 1);
  if (at.length === 1) {
    const radius = Math.max(op.sizes[0] * scaleOf(scene.view), 1) / 2;
    paintOver(context, scene, op.erase, (colour) => disc(context, at[0], radius, colour));
    return;
  }
  for (let i = Math.max(from, 0); i < at.length - 1; i += 1) {
    paintOver(context, scene, op.erase, (colour) => {
      line(context, [at[i], at[i + 1]], colour, width(i));
    });
  }
}

/** Where the canvas' own pixels are on the page: without border and padding, whatever scales it. */
function contentBox(canvas) {
  const box = canvas.getBoundingClientRect();
  const style = getComputedStyle(canvas);
  const [left, right, top, bottom] = ["Left", "Right", "Top", "Bottom"].map(
    (side) => parseFloat(style[`border${side}Width`]) + parseFloat(style[`padding${side}`]),
  );
  const across = box.width / canvas.offsetWidth; // of a transform
  const down = box.height / canvas.offsetHeight;
  return {
    left: box.left + left * across,
    top: box.top + top * down,
    width: box.width - (left + right) * across,
    height: box.height - (top + bottom) * down,
  };
}

/** Find the models of ipycanvas, and make the layer; null where they cannot be reached. */
async function makeInkLayer(model, frame, canvas, signal) {
  try {
    const parts = Object.fromEntries(
      await Promise.all(
        Object.entries(model.get("parts")).map(async ([name, id]) => [
          name,
          await model.widget_manager.get_model(id),
        ]),
      ),
    );
    const areThere = ["image", "mask", "marks"].every((name) => parts[name]?.canvas);
    if (!areThere || !("currentProcessing" in parts.manager) || signal.aborted) return null;
    return new InkLayer(model, frame, canvas, parts, signal);
  } catch (error) {
    console.warn("dragwidget: the kernel draws every stroke, as", error);
    return null;
  }
}
