"""What a ``DragCanvas`` must hold after any events, as a plain model: whole copies, no cleverness.

Where a canvas point is in the image is asked of the canvas; all else is said here once more.
"""

from __future__ import annotations

import math

import numpy as np
import plain_shapes

from dragwidget.data.selection import select_by_colour

DROP, DRAG, REACH, TOUCH_REACH = 3, 12, 24, 48  # canvas pixels, two to a CSS pixel


def far(a, b):
    return math.hypot(a[0] - b[0], a[1] - b[1])


class PlainCanvas:
    """Pairs as ((x, y), (x, y)); the mask as a bool array or ``None``."""

    def __init__(self, canvas):
        self.canvas = canvas
        self.tool = "points"
        self.read_only = False
        self.start()

    def start(self):
        """An image was set."""
        width, height = self.canvas.size
        self.size, self.shape = (width, height), (height, width)
        self.pairs, self.mask = [], None
        self.pixels = np.asarray(self.canvas.image)
        self.past, self.future, self.selections = [], [], []
        self.selected, self.end = None, "target"
        self.gesture = self.pending = None
        self.corners = []

    # ------------------------------------------------------------ history

    def become(self, pairs, mask):
        if pairs == self.pairs and same(mask, self.mask):
            return
        self.past.append((self.pairs, self.mask))
        self.future = []
        self.show(pairs, mask)

    def show(self, pairs, mask):
        self.pairs, self.mask = pairs, mask
        if self.selected is not None and self.selected >= len(pairs):
            self.selected = None

    def undo(self):
        if self.gesture is None and self.corners:
            self.corners.pop()
        elif not self.cancel() and self.past:
            self.future.append((self.pairs, self.mask))
            self.show(*self.past.pop())

    def redo(self):
        if self.future:
            self.past.append((self.pairs, self.mask))
            self.show(*self.future.pop())

    # ------------------------------------------------------------ changes

    def set_pairs(self, pairs):
        self.become(list(pairs), self.mask)

    def add_pair(self, handle, target):
        self.set_pairs([*self.pairs, (handle, target)])

    def move(self, index, end, xy):
        handle, target = self.pairs[index]
        pair = (xy, target) if end == "handle" else (handle, xy)
        self.set_pairs([*self.pairs[:index], pair, *self.pairs[index + 1 :]])

    def delete(self, index):
        before = self.selected
        self.set_pairs(self.pairs[:index] + self.pairs[index + 1 :])
        if before is not None and before >= index:
            self.selected = None if before == index else before - 1

    def paint(self, covered, erase):
        start = np.full(self.shape, erase) if self.mask is None else self.mask
        self.become(self.pairs, start & ~covered if erase else start | covered)

    def stroke(self, points, size, erase):
        self.paint(plain_shapes.stroke(self.shape, points, size), erase)

    def lasso(self, points, erase=False):
        self.paint(plain_shapes.polygon(self.shape, points), erase)

    def rectangle(self, a, b, erase=False):
        self.paint(plain_shapes.rectangle(self.shape, a, b), erase)

    def select(self, xy, tolerance):
        """A click inside the mask erases; the clicks that made it as it is are weighed again."""
        known = [(base, clicks) for mask, base, clicks in self.selections if same(mask, self.mask)]
        base, clicks = known[-1] if known and self.mask is not None else (self.mask, [])
        adds = self.mask is None or not self.mask[int(xy[1]), int(xy[0])]
        clicks = [*clicks, (xy, adds, tolerance)]
        where, on, factors = (np.array(column) for column in zip(*clicks, strict=True))
        mask = np.zeros(self.shape, bool) if base is None else base
        if mask.any() and not on.all():
            mask = mask & ~select_by_colour(self.pixels, where, ~on, factors)
        if on.any():
            mask = mask | select_by_colour(self.pixels, where, on, factors)
        self.selections.append((mask, base, clicks))
        self.become(self.pairs, mask)

    def grow(self, radius):
        if self.mask is not None and abs(radius) >= 1:
            change = plain_shapes.grown if radius > 0 else plain_shapes.shrunk
            self.become(self.pairs, change(self.mask, abs(radius)))

    def invert(self):
        full = np.ones(self.shape, bool)
        self.become(self.pairs, ~(full if self.mask is None else self.mask))

    def set_mask(self, mask):
        self.become(self.pairs, mask)

    def clear(self):
        self.forget()
        self.become([], None)

    # ------------------------------------------------------------ the hand

    def image(self, xy):
        return self.canvas.viewport.to_image(xy)

    def on_screen(self, xy):
        return self.canvas.viewport.to_canvas(xy)

    def point(self, xy):
        """Where a point of a pair goes: inside the image, to a hundredth of a pixel."""
        return tuple(
            min(max(round(value, 2), 0.0), side - 0.01)
            for value, side in zip(self.image(xy), self.size, strict=True)
        )

    def clamp(self, xy):
        return tuple(
            min(max(value, 0.0), float(side))
            for value, side in zip(xy, self.canvas.viewport.canvas, strict=True)
        )

    def press(self, xy, is_touch=False, is_known=True):
        if self.gesture is not None:
            self.release(None)
        self.second_at = None
        self.is_known = is_known
        self.reach = TOUCH_REACH if is_touch else REACH
        if self.read_only and self.tool not in ("pan", "probe"):
            return
        xy = self.clamp(xy)
        self.gesture = {"tool": self.tool, "start": xy, "last": xy, "points": [self.image(xy)]}
        self.gesture["corner"] = bool(self.corners)
        self.gesture["went"] = False
        self.gesture["far"] = 0
        if self.tool in ("brush", "eraser"):
            self.gesture["size"] = self.canvas.brush_size
        if self.tool == "points":
            self.press_point(xy)

    def press_point(self, xy):
        ends = [
            (far(xy, self.on_screen(point)), -index, -which)
            for index, pair in enumerate(self.pairs)
            for which, point in enumerate(pair)
        ]
        if self.pending is None and ends and min(ends)[0] <= self.reach:
            _, index, which = min(ends)  # of two equally near the last one
            self.selected, self.end = -index, ("handle", "target")[-which]
            at = self.on_screen(self.pairs[-index][-which])
            grip = (at[0] - xy[0], at[1] - xy[1])
            self.gesture.update(moves=(-index, self.end), grip=grip)
        elif len(self.pairs) < 100:
            handle = self.point(xy) if self.pending is None else self.pending
            self.gesture.update(handle=handle, first=self.pending is None)
        else:
            self.gesture = None

    def move_to(self, xy):
        gesture = self.gesture
        if gesture is None:
            return
        xy = self.clamp(xy)
        if far(gesture["last"], xy) >= DROP:
            gesture["points"].append(self.image(xy))
            gesture["last"] = xy
            gesture["far"] = max(gesture["far"], far(gesture["start"], xy))
            gesture["went"] |= far(gesture["start"], xy) >= DRAG

    def second(self, xy):
        """Another finger rests there, or moves and so makes it a pinch."""
        if self.gesture is None:
            return
        if self.second_at is None:
            self.second_at = xy
        elif far(self.second_at, xy) >= DRAG:
            self.gesture = None

    def abandon(self):
        self.gesture = None

    def release(self, xy):
        gesture, self.gesture = self.gesture, None
        if gesture is None:
            return
        xy = gesture["last"] if xy is None else self.clamp(xy)
        if not self.is_known or self.second_at is not None:
            least = DROP if gesture["tool"] in ("brush", "eraser") else DRAG
            draws = "moves" not in gesture and gesture["tool"] not in ("pan", "probe", "rectangle")
            if draws and max(gesture["far"], far(gesture["start"], xy)) < least:
                return
        points = gesture["points"] + ([self.image(xy)] if xy != gesture["last"] else [])
        moved = far(gesture["start"], xy)
        match gesture["tool"]:
            case "brush" | "eraser" as tool:
                self.stroke(points, gesture["size"], tool == "eraser")
            case "rectangle" if moved >= DRAG:
                self.rectangle(self.image(gesture["start"]), self.image(xy))
            case "select":
                across = round((xy[0] - gesture["start"][0]) / 20) * 20
                factor = min(max(2 ** (across / 160), 1 / 16), 16)
                self.select(self.point(gesture["start"]), factor)
            case "lasso":
                self.release_lasso(gesture, points, xy, moved)
            case "points":
                self.release_point(gesture, xy, moved)

    def release_point(self, gesture, xy, moved):
        if "moves" in gesture:
            index, end = gesture["moves"]
            if index < len(self.pairs) and moved >= DROP:
                grip = gesture["grip"]
                self.move(index, end, self.point((xy[0] + grip[0], xy[1] + grip[1])))
        elif gesture["first"] and moved < DRAG:
            self.pending = gesture["handle"]
        else:
            self.pending = None
            self.add_pair(gesture["handle"], self.point(xy))
            self.selected, self.end = len(self.pairs) - 1, "target"

    def release_lasso(self, gesture, points, xy, moved):
        if not gesture["corner"] and (moved >= DRAG or gesture["went"]):
            if len(points) >= 3:
                self.lasso(points)
            return
        at = [self.on_screen(corner) for corner in self.corners]
        if len(at) >= 3 and (far(xy, at[0]) <= self.reach or far(xy, at[-1]) < DRAG):
            self.close_lasso()
        elif not at or far(xy, at[-1]) >= DRAG:
            # A click is where it began, though the view may have changed since.
            self.corners.append(self.image(xy) if gesture["corner"] else points[0])

    def close_lasso(self):
        if len(self.corners) >= 3:
            corners, self.corners = self.corners, []
            self.lasso(corners)

    def cancel(self):
        """The first that is half done is given up; whether anything was."""
        if self.gesture is not None:
            self.gesture = None
        elif self.corners:  # of the lasso, the tool in use
            self.corners = []
        elif self.pending is not None:
            self.pending = None
        else:
            return False
        return True

    def forget(self):
        self.gesture = self.pending = None
        self.corners = []

    def use(self, tool):
        if tool != self.tool:
            self.tool = tool
            self.release(None)
            self.close_lasso()
            self.corners = []


def same(a, b):
    return a is b if a is None or b is None else bool(np.array_equal(a, b))
