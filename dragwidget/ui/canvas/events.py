"""From the front end's messages to the hand, with no error lost on the way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dragwidget.data.frames import XY
from dragwidget.ui.canvas import keys
from dragwidget.ui.canvas.gestures import Hand
from dragwidget.ui.canvas.scene import Scene

log = logging.getLogger(__name__)

Touches = list[tuple[float, float]]
WHEEL_STEP = 0.002  # zoom per pixel that a wheel turns, as a power of e


class Guarded:
    """Calls whose errors, which Jupyter would show to nobody, are logged and shown."""

    _lock: threading.RLock
    _hand: Hand
    scene: Scene
    last_error: Any

    def guarded(self, action: Callable[..., Any], *args: Any) -> None:
        """Do it while the lock is held, and paint what is new.

        An error ends the gesture and goes to ``last_error``. What was drawn before stays.
        """
        with self._lock:
            try:
                action(*args)
                self.scene.refresh()
            except Exception as error:
                log.exception("while handling an event of the canvas")
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        try:
            self._hand.cancel()
        except Exception:
            log.exception("while giving up a gesture")
            self._hand.gesture = None
        try:
            self.last_error = f"{type(error).__name__}: {error}"
        except Exception:
            log.exception("while telling of an error")


class Listening(Guarded):
    """The part of ``DragCanvas`` that takes events; points are canvas points, as events have them.

    The handlers do not raise.
    """

    viewport: Any
    tool: Any
    selected: Any
    pairs: Any
    brush_size: Any
    keyboard: Any
    read_only: Any
    _source: Any
    _end: str

    def _listen(self, remove: bool = False) -> None:
        multi = self.scene.multi
        multi.on_client_ready(self.on_ready, remove)
        for name in (
            "mouse_down", "mouse_move", "mouse_up", "mouse_out", "mouse_wheel",
            "touch_start", "touch_move", "touch_end", "touch_cancel", "key_down",
        ):  # fmt: skip
            register = getattr(multi, f"on_{name}", None)  # ipycanvas 0.13 knows no wheel
            if register is not None:
                register(getattr(self, f"on_{name}"), remove)

    def on_ready(self) -> None:
        """A front end has an empty canvas and wants all of it."""
        self.guarded(self._show_again)

    def _show_again(self) -> None:
        self.scene.ready()
        self.scene.refresh()

    # ------------------------------------------------------------ mouse, and a pen

    def on_mouse_down(self, x: float, y: float) -> None:
        self.guarded(self._press, (x, y), False)

    def on_mouse_move(self, x: float, y: float) -> None:
        self._pointer = (x, y)
        if self._hand.gesture is None:
            return
        self.guarded(self._hand.move, (x, y))

    def on_mouse_up(self, x: float, y: float) -> None:
        self.guarded(self._hand.release, (x, y))

    def on_mouse_out(self, x: float, y: float) -> None:
        """A release outside is never heard of, so leaving is one."""
        self.guarded(self._hand.release, (x, y))

    def on_mouse_wheel(self, _: float, dy: float) -> None:
        """The page does not scroll over a canvas, so the wheel may zoom."""
        self.guarded(self._wheel, dy)

    _pointer: XY = (0.0, 0.0)  # where the mouse was last

    def _press(self, xy: XY, is_touch: bool) -> None:
        if not self.scene.is_live:  # this page was ready before anybody listened
            self._show_again()
        if self._source is None:
            return
        self.last_error = ""
        self._hand.press(xy, is_touch)

    def _wheel(self, dy: float) -> None:
        turn = min(max(float(dy), -200.0), 200.0)
        zoom = self.viewport.zoom * 2.718281828 ** (-turn * WHEEL_STEP)
        fixed = self.viewport.clamped(self._pointer)
        self.show_viewport(self.viewport.zoomed_at(zoom, fixed))

    if TYPE_CHECKING:

        def show_viewport(self, viewport: Any) -> None: ...

    # ------------------------------------------------------------ touch: one finger draws

    def on_touch_start(self, touches: Touches) -> None:
        if len(touches) == 1:
            self.guarded(self._press, touches[0], True)

    def on_touch_move(self, touches: Touches) -> None:
        if touches and self._hand.gesture is not None:
            self.guarded(self._hand.move, touches[0])

    def on_touch_end(self, _: Touches) -> None:
        """Only the fingers that stay are told, so the last place that was seen is the end."""
        self.guarded(self._hand.release)

    def on_touch_cancel(self, _: Touches) -> None:
        self.guarded(self._hand.release)

    # ------------------------------------------------------------ keys

    def on_key_down(self, key: str, shift: bool, ctrl: bool, meta: bool) -> None:
        if self.keyboard and self._source is not None:
            self.guarded(keys.press_key, self, key, shift, ctrl or meta)

    def on_key(self, callback: Callable[[str], None], remove: bool = False) -> None:
        """Call ``callback("run")`` for Space and ``callback("step")`` for s."""
        _register(self._key_callbacks, callback, remove)

    def on_probe(self, callback: Callable[[float, float], None], remove: bool = False) -> None:
        """Call ``callback(x, y)``, in image pixels, for a click with the tool "probe"."""
        _register(self._probe_callbacks, callback, remove)

    _key_callbacks: list[Callable[[str], None]]
    _probe_callbacks: list[Callable[[float, float], None]]

    def tell_key(self, name: str) -> None:
        """Call what ``on_key`` registered."""
        for callback in list(self._key_callbacks):
            callback(name)

    def probe_at(self, xy: XY) -> None:
        """Call what ``on_probe`` registered, with a point in image pixels."""
        for callback in list(self._probe_callbacks):
            callback(*xy)

    # ------------------------------------------------------------ what keys and buttons mean

    def select(self, index: int | None, end: str = "target") -> None:
        """Select a pair, and which of its points ``nudge`` moves: "handle" or "target"."""
        if end not in ("handle", "target"):
            raise ValueError(f'a pair has a "handle" and a "target", got {end!r}')
        self._end = end
        self.selected = index

    def zoom_by(self, factor: float) -> None:
        """Zoom in or out about the middle."""
        self.show_viewport(self.viewport.zoomed(self.viewport.zoom * factor))

    def scale_brush(self, factor: float) -> None:
        """A wider or narrower brush, within what is of use on this image."""
        widest = max(2.0, float(max(self.viewport.size)))
        size = round(self.brush_size * factor)
        if size == self.brush_size:
            size += 1 if factor > 1 else -1
        self.brush_size = min(max(float(size), 1.0), widest)

    def close_lasso(self) -> None:
        """Close the lasso that is being clicked."""
        with self._lock:
            self._hand.close_lasso()

    def cancel_gesture(self) -> bool:
        """Give up what is half drawn; whether anything was."""
        with self._lock:
            return self._hand.cancel()


def _register(callbacks: list[Any], callback: Any, remove: bool) -> None:
    if remove:
        callbacks.remove(callback)
    else:
        callbacks.append(callback)
