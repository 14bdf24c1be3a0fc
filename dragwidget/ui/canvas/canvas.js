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
 *   zoom {dy}                 Ctrl and the wheel, or a pinch of a trackpad; dy in CSS pixels
 *   key {key, shift, command} a key that the canvas knows, pressed on the canvas
 *   tool {tool}               a tool was chosen, by a key or in the toolbar
 *   source {on}               the button that shows the source is held down, or was let go
 *   gesture {tool, image, touch, zoom, centre}, and its points as a buffer: see ink.js
 * In place of a gesture, where the ink layer has nothing to draw from:
 *   press {touch}             the left button, the pen's tip or the first finger went down
 *   move, release             of that pointer, also outside the canvas
 *   cancel                    the system took the pointer away: what it did counts for nothing
 *   image {name, size}        an image file was dropped or pasted; its bytes, if not too many
 *   second                    where another finger is while the first draws
 *
 * The model's state: name, the stem of the class names of this canvas' frame and toolbar; label,
 * what a screen reader says; cursor, CSS; known_keys, those that the canvas knows, "Mod+" before one
 * with Ctrl or Cmd; key_help, what each key does, as [keys, meaning]; takes_images, whether a file is
 * for the kernel. Of the kernel comes one message, {show: "keys"}, when the button for the list of
 * keys is pressed.
 */

const SUPPRESS = "data-lm-suppress-shortcuts"; // JupyterLab's: no shortcut acts on keys from here
const IPYCANVAS = [
  "mousedown", "mousemove", "mouseup", "mouseout",
  "touchstart", "touchmove", "touchend", "touchcancel",
];
const REPEATED = /^(Arrow|[-+=[\]])/; // keys that act again while they are held
const MAX_FILE = 9e6; // bytes: Jupyter's servers close the connection at a message of 10 MiB
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

async function connect(model, frame, canvas, signal) {
  const page = { ink: null, help: null, send: (event, more = {}) => model.send({ event, ...more }) };
  describe(model, canvas, signal);
  hideFromIpycanvas(frame, signal);
  takePointer(canvas, page, signal);
  takeWheel(frame, canvas, page, signal);
  takeKeys(model, frame, canvas, page, signal);
  takeButtons(model, frame, canvas, page, signal);
  takeImages(model, frame, canvas, page, signal);
  page.help = makeKeyHelp(model, frame, canvas, signal);
  page.send("ready");
  page.ink = await makeInkLayer(model, frame, canvas, signal);
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
  canvas.style.touchAction = "none"; // a finger draws and does not scroll; the ink layer knows when
  canvas.style.outlineOffset = "-2px"; // the frame would cut off a ring round it
}

function hideFromIpycanvas(frame, signal) {
  for (const type of IPYCANVAS) {
    frame.addEventListener(type, (event) => event.stopPropagation(), { capture: true, signal });
  }
}

/** A pointer's place in the canvas' pixels: without border and padding, whatever scales it. */
function place(canvas, event, box = contentBox(canvas)) {
  return {
    x: ((event.clientX - box.left) * canvas.width) / box.width,
    y: ((event.clientY - box.top) * canvas.height) / box.height,
  };
}

/** Hands each event of the pointer to the kernel, in place of the ink layer. */
function makeSender(send) {
  return {
    press: ([x, y], event) => send("press", { x, y, touch: event.pointerType === "touch" }) ?? true,
    move: (places) => send("move", at(places[places.length - 1].xy)),
    second: (xy) => send("second", at(xy)),
    release: (xy) => send("release", at(xy)),
    cancel: () => send("cancel"),
  };
}

const at = ([x, y]) => ({ x, y });

function takePointer(canvas, page, signal) {
  const sender = makeSender(page.send);
  let hand = null; // who draws: the ink layer or the kernel
  let drawing = null; // the id of the pointer that draws
  let byTouch = false; // of that pointer: then another finger makes two; beside a pen it rests
  const isSecond = (event) => drawing !== null && byTouch && event.pointerType === "touch";
  const on = (type, action) => canvas.addEventListener(type, action, { signal });
  const where = (event, box) => {
    const { x, y } = place(canvas, event, box);
    return [x, y];
  };
  const finish = (name, event) => {
    drawing = null;
    name === "release" ? hand.release(where(event)) : hand.cancel();
  };
  on("pointerdown", (event) => {
    if (isSecond(event)) {
      hand.second(where(event));
    } else if (drawing === null && event.button === 0) {
      canvas.focus({ preventScroll: true });
      hand = page.ink?.draws() ? page.ink : sender;
      if (!hand.press(where(event), event)) return;
      try {
        canvas.setPointerCapture(event.pointerId);
      } catch {
        // It is gone already, or a program made the event: then it is heard on the canvas alone.
      }
      drawing = event.pointerId;
      byTouch = event.pointerType === "touch";
    }
  });
  on("pointermove", (event) => {
    if (event.pointerId === drawing) {
      // With the button up it was let go where the page could not see it.
      if (!(event.buttons & 1)) {
        finish("release", event);
        return;
      }
      const events = event.getCoalescedEvents?.() ?? [];
      const box = contentBox(canvas);
      hand.move((events.length ? events : [event]).map((one) => ({ xy: where(one, box), event: one })));
    } else if (isSecond(event)) {
      hand.second(where(event));
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
function takeWheel(frame, canvas, page, signal) {
  const turn = (event) => {
    event.stopPropagation();
    if (event.ctrlKey) {
      event.preventDefault();
      const dy = event.deltaY * (event.deltaMode === WheelEvent.DOM_DELTA_LINE ? LINE : 1);
      const { x, y } = place(canvas, event);
      page.ink ? page.ink.zoom([x, y], dy) : page.send("zoom", { x, y, dy });
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
function takeKeys(model, frame, canvas, page, signal) {
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
      if (!event.repeat || REPEATED.test(event.key)) pressKey(page, event, modifier !== "");
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

/** Act on a key that the canvas knows: what the ink layer has in hand is its own. */
function pressKey(page, event, command) {
  const { ink, help } = page;
  const { key } = event;
  if (key === "?" || (key === "Escape" && help.isShown)) {
    help.toggle();
    return;
  }
  const undoes = key === "Escape" || (command && key === "z");
  if (undoes && ink?.cancel()) return;
  const tool = command ? null : ink?.toolOf(key);
  if (tool) ink.use(tool);
  else page.send("key", { key, shift: event.shiftKey, command });
}

/** An image file that is dropped on the image, or pasted while the canvas has the focus. */
function takeImages(model, frame, canvas, page, signal) {
  const take = async (event, data) => {
    const file = [...(data?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file || !model.get("takes_images")) return;
    event.preventDefault();
    event.stopPropagation();
    const { name, size } = file;
    const sent = size <= MAX_FILE ? [await file.arrayBuffer()] : [];
    model.send({ event: "image", name, size }, undefined, sent);
  };
  const over = (event) => model.get("takes_images") && event.preventDefault();
  frame.addEventListener("dragover", over, { signal });
  frame.addEventListener("drop", (event) => take(event, event.dataTransfer), { signal });
  const paste = (event) => document.activeElement === canvas && take(event, event.clipboardData);
  document.addEventListener("paste", paste, { capture: true, signal });
}

/** The list of keys, laid over the image until the next press of ?, Esc or the mouse. */
function makeKeyHelp(model, frame, canvas, signal) {
  const box = document.createElement("div");
  box.className = "dragwidget-keys";
  box.setAttribute("role", "note");
  box.setAttribute("aria-label", "Keyboard shortcuts");
  Object.assign(box.style, {
    position: "absolute", inset: "0", overflow: "auto", display: "none", padding: "8px 12px",
    background: "var(--jp-layout-color1, Canvas)", color: "var(--jp-ui-font-color1, CanvasText)",
    font: "13px/1.5 var(--jp-ui-font-family, system-ui, sans-serif)", opacity: "0.94",
  });
  const help = {
    get isShown() {
      return box.style.display !== "none";
    },
    toggle(on = !this.isShown) {
      if (on) {
        const rows = model.get("key_help").map(([keys, meaning]) => {
          const row = document.createElement("tr");
          for (const text of [keys, meaning]) {
            const cell = row.insertCell();
            cell.textContent = text;
            Object.assign(cell.style, { padding: "0 12px 0 0", textAlign: "left" });
          }
          row.cells[0].style.fontWeight = "700";
          return row;
        });
        const table = document.createElement("table");
        table.append(...rows);
        box.replaceChildren(table);
      }
      box.style.display = on && model.get("key_help").length ? "block" : "none";
    },
  };
  frame.style.position = "relative";
  frame.append(box);
  const show = (message) => message.show === "keys" && help.toggle();
  model.on("msg:custom", show);
  for (const element of [box, canvas]) {
    element.addEventListener("pointerdown", () => help.toggle(false), { signal });
  }
  signal.addEventListener("abort", () => {
    model.off("msg:custom", show);
    box.remove();
  });
  return help;
}

/** What is held beside a key; "" where a character is typed: many keyboards need Alt for a [. */
function modifierOf(event) {
  const command = event.ctrlKey || event.metaKey;
  if (event.getModifierState("AltGraph") || (!command && "[]".includes(event.key))) return "";
  return (event.altKey ? "Alt+" : "") + (command ? "Mod+" : "");
}

/**
 * A click on a button of the toolbar leaves the focus on the canvas, where the keys are; and the
 * source shows as long as its button is held. By keyboard that button is switched on and off.
 */
function takeButtons(model, frame, canvas, page, signal) {
  const name = model.get("name");
  const isNearest = (button) => {
    for (let node = button; node; node = node.parentElement) {
      const found = node.querySelector(`.${name}-canvas`);
      if (found) return found === frame; // of several views of one canvas
    }
    return false;
  };
  const pressed = (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const button = target?.closest(`.${name}-toolbar button`);
    return button && isNearest(button) ? button : null;
  };
  const click = (event) => {
    const button = pressed(event);
    const byPointer = event.detail > 0; // whoever came by keyboard goes on from there
    if (!button) return;
    if (byPointer) canvas.focus({ preventScroll: true });
    if (byPointer && button.matches(".dragwidget-source")) event.stopPropagation(); // it was held
    const tool = /dragwidget-tool-(\w+)/.exec(button.className)?.[1];
    if (tool) page.ink?.use(tool); // the button tells the kernel too; here it counts at once
  };
  document.addEventListener("click", click, { capture: true, signal });

  let held = null; // the id of the pointer that holds the button
  const hold = (event) => {
    const button = pressed(event);
    if (held !== null || event.button !== 0 || !button?.matches(".dragwidget-source:enabled")) return;
    held = event.pointerId;
    page.send("source", { on: true });
  };
  const letGo = (event) => {
    const isOver = event.type === "blur" ? event.target === window : event.pointerId === held;
    if (isOver) release(); // a control that loses the focus is told of here, too
  };
  const release = () => {
    if (held === null) return;
    held = null;
    page.send("source", { on: false });
  };
  document.addEventListener("pointerdown", hold, { capture: true, signal });
  for (const type of ["pointerup", "pointercancel", "blur"]) {
    window.addEventListener(type, letGo, { capture: true, signal });
  }
  window.addEventListener("pagehide", release, { signal });
  signal.addEventListener("abort", release); // the view is taken off the page
}

export default { render };
