/**
 * The page's side of a canvas: pointer, wheel, keys and focus, as messages to the kernel.
 *
 * ipycanvas sends every mouse button as the same event, swallows the wheel and every key, Tab too,
 * and ends a stroke where the pointer leaves. This script stands before it: it stops those events
 * in the capture phase, so that ipycanvas never sees them, and sends its own. Without this script
 * ipycanvas goes on as it is, and the kernel takes its events.
 *
 * Messages: {event, x, y, ...}, points in pixels of the canvas' drawing buffer.
 *   ready                     the script is at work
 *   press {touch}             the left button, the pen's tip or the first finger went down
 *   move, release             of that pointer, also outside the canvas
 *   cancel                    the system took the pointer away: what it did counts for nothing
 *   second                    where another finger is while the first draws
 *   zoom {dy}                 Ctrl and the wheel, or a pinch of a trackpad; dy in CSS pixels
 *   key {key, shift, command} a key that the canvas knows, pressed on the canvas
 *
 * The model's state: name, the stem of the class names of this canvas' frame and toolbar; label,
 * what a screen reader says; cursor, CSS; known_keys, those that the canvas knows, "Mod+" before one
 * with Ctrl or Cmd.
 */

const SUPPRESS = "data-lm-suppress-shortcuts"; // JupyterLab's: no shortcut acts on keys from here
const IPYCANVAS = [
  "mousedown", "mousemove", "mouseup", "mouseout",
  "touchstart", "touchmove", "touchend", "touchcancel",
];
const REPEATED = /^(Arrow|[-+=[\]])/; // keys that act again while they are held
const LINE = 16; // CSS pixels of a wheel's line

function render({ model, el }) {
  const end = new AbortController();
  const start = () => {
    const frame = el.closest(".dragwidget-canvas");
    const canvas = frame?.querySelector("canvas");
    if (canvas) {
      connect(model, frame, canvas, end.signal);
    } else if (!end.signal.aborted) {
      setTimeout(start, 30); // this view is made before it, or the canvas, is put on the page
    }
  };
  start();
  return () => end.abort();
}

function connect(model, frame, canvas, signal) {
  const send = (event, more = {}) => model.send({ event, ...more });
  describe(model, canvas, signal);
  hideFromIpycanvas(frame, signal);
  takePointer(canvas, send, signal);
  takeWheel(frame, canvas, send, signal);
  takeKeys(model, frame, canvas, send, signal);
  returnFocus(model, frame, canvas, signal);
  send("ready");
}

function describe(model, canvas, signal) {
  const show = () => {
    canvas.setAttribute("aria-label", model.get("label"));
    canvas.style.cursor = model.get("cursor");
  };
  show();
  for (const change of ["change:label", "change:cursor"]) {
    model.on(change, show);
    signal.addEventListener("abort", () => model.off(change, show));
  }
  canvas.setAttribute("role", "application"); // it takes keys that a screen reader would take
  canvas.style.touchAction = "none"; // a finger draws and does not scroll
  canvas.style.outlineOffset = "-2px"; // the frame would cut off a ring round it
}

function hideFromIpycanvas(frame, signal) {
  for (const type of IPYCANVAS) {
    frame.addEventListener(type, (event) => event.stopPropagation(), { capture: true, signal });
  }
}

/** A pointer's place in the canvas' pixels: without border and padding, whatever scales it. */
function place(canvas, event) {
  const box = canvas.getBoundingClientRect();
  const style = getComputedStyle(canvas);
  const [left, right, top, bottom] = ["Left", "Right", "Top", "Bottom"].map(
    (side) => parseFloat(style[`border${side}Width`]) + parseFloat(style[`padding${side}`]),
  );
  const across = box.width / canvas.offsetWidth; // of a transform
  const down = box.height / canvas.offsetHeight;
  const width = box.width - (left + right) * across;
  const height = box.height - (top + bottom) * down;
  return {
    x: ((event.clientX - box.left - left * across) * canvas.width) / width,
    y: ((event.clientY - box.top - top * down) * canvas.height) / height,
  };
}

function takePointer(canvas, send, signal) {
  let drawing = null; // the id of the pointer that draws
  let byTouch = false; // of that pointer: then another finger makes two; beside a pen it rests
  const isSecond = (event) => drawing !== null && byTouch && event.pointerType === "touch";
  const on = (type, action) => canvas.addEventListener(type, action, { signal });
  const finish = (name, event) => {
    drawing = null;
    send(name, name === "release" ? place(canvas, event) : {});
  };
  on("pointerdown", (event) => {
    if (isSecond(event)) {
      send("second", place(canvas, event));
    } else if (drawing === null && event.button === 0) {
      canvas.focus({ preventScroll: true });
      try {
        canvas.setPointerCapture(event.pointerId);
      } catch {
        // It is gone already, or a program made the event: then it is heard on the canvas alone.
      }
      drawing = event.pointerId;
      byTouch = event.pointerType === "touch";
      send("press", { ...place(canvas, event), touch: byTouch });
    }
  });
  on("pointermove", (event) => {
    if (event.pointerId === drawing) {
      // With the button up it was let go where the page could not see it.
      event.buttons & 1 ? send("move", place(canvas, event)) : finish("release", event);
    } else if (isSecond(event)) {
      send("second", place(canvas, event));
    }
  });
  on("pointerup", (event) => event.pointerId === drawing && finish("release", event));
  for (const type of ["pointercancel", "lostpointercapture"]) {
    on(type, (event) => event.pointerId === drawing && finish("cancel", event));
  }
  on("contextmenu", (event) => {
    if (drawing === null) return;
    // By Ctrl and a click on a Mac, or by a finger that rests.
    event.pointerType === "touch" ? event.preventDefault() : finish("cancel", event);
  });
}

/** Ctrl and the wheel zoom; the wheel alone scrolls the page. */
function takeWheel(frame, canvas, send, signal) {
  const turn = (event) => {
    event.stopPropagation();
    if (event.ctrlKey) {
      event.preventDefault();
      const dy = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE : 1);
      send("zoom", { ...place(canvas, event), dy });
    }
  };
  frame.addEventListener("wheel", turn, { capture: true, passive: false, signal });
}

/**
 * Keys on the canvas are the canvas' own; keys on a control beside it do what the browser makes of
 * them. Neither reach the notebook, which would cut a cell for an x. What is pressed with Ctrl, Cmd
 * or Alt and not known here is for the whole page: it is handed on to its body, where an app's
 * shortcuts act (save, the command palette), and those on a notebook's cells do not.
 */
function takeKeys(model, frame, canvas, send, signal) {
  const toolbar = `.${model.get("name")}-toolbar`;
  const all = frame.closest(".dragwidget") ?? frame.closest(".dragwidget-canvas-box") ?? frame;
  canvas.setAttribute(SUPPRESS, "true");

  const press = (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!event.key || !(all.contains(target) || target?.closest(toolbar))) return;
    target.setAttribute(SUPPRESS, "true"); // counts on the element that has the focus alone
    const modifier = modifierOf(event);
    const name = modifier + (modifier ? event.key.toLowerCase() : event.key);
    if (target === canvas && model.get("known_keys").includes(name)) {
      event.stopImmediatePropagation();
      event.preventDefault();
      if (!event.repeat || REPEATED.test(event.key)) {
        send("key", { key: event.key, shift: event.shiftKey, command: modifier !== "" });
      }
    } else if (modifier) {
      event.stopImmediatePropagation();
      const copy = new KeyboardEvent(event.type, event);
      if (!document.body.dispatchEvent(copy)) event.preventDefault();
    } else if (target === canvas) {
      event.stopImmediatePropagation(); // ipycanvas would swallow it: Tab moves on
    }
  };
  window.addEventListener("keydown", press, { capture: true, signal });
}

/** What is held beside a key; "" where a character is typed: many keyboards need Alt for a [. */
function modifierOf(event) {
  const command = event.ctrlKey || event.metaKey;
  if (event.getModifierState("AltGraph") || (!command && "[]".includes(event.key))) return "";
  return (event.altKey ? "Alt+" : "") + (command ? "Mod+" : "");
}

/** A click on a button of the toolbar leaves the focus on the canvas, where the keys are. */
function returnFocus(model, frame, canvas, signal) {
  const name = model.get("name");
  const isNearest = (button) => {
    for (let node = button; node; node = node.parentElement) {
      const found = node.querySelector(`.${name}-canvas`);
      if (found) return found === frame; // of several views of one canvas
    }
    return false;
  };
  const click = (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const button = target?.closest(`.${name}-toolbar button`);
    const byPointer = event.detail > 0; // whoever came by keyboard goes on from there
    if (button && byPointer && isNearest(button)) canvas.focus({ preventScroll: true });
  };
  document.addEventListener("click", click, { capture: true, signal });
}

export default { render };
