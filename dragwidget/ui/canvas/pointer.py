"""Decide which gesture a press begins, and what ends it.

A press begins a gesture; moves without one are ignored; a release, or leaving the canvas, ends it.

ipycanvas does not say which mouse button is down, so a press of which nothing else is known may be
a right click. It draws where the pointer is dragged; a mere click then draws nothing.
"""

from __future__ import annotations

from typing import Protocol

from dragwidget.data.frames import XY
from dragwidget.ui.canvas.tools import TOOLS, Gesture, Host, Pointer, Unfinished
from dragwidget.ui.canvas.tools.tool import LEAST_DRAG, LEAST_MOVE, REACH, TOUCH_REACH, distance


class PointerHost(Host, Protocol):
    """What the pointer needs of the canvas beside what gestures need."""

    tool: str
    read_only: bool

    def hint_changed(self) -> None: ...


class PointerController:
    """Runs the gestures of one canvas; the canvas holds its lock around every call.

    state: what gestures read and leave. gesture: the one under way.
    """

    def __init__(self, host: PointerHost) -> None:
        self.host = host
        self.state = Pointer()
        self.gesture: Gesture | None = None
        self.is_known = True  # to be the left button, a pen's tip or a finger
        self._second: XY | None = None  # where another finger came down

    # ------------------------------------------------------------ one press to its release

    def press(
        self, xy: XY, is_touch: bool = False, is_known: bool = True, tool: str | None = None
    ) -> None:
        """Begin a gesture at ``xy``; end the one before it, whose release was never seen.

        Args:
            xy: where the pointer went down.
            is_touch: it is a finger.
            is_known: it is the left button, a pen's tip or a finger; else it may be any button.
            tool: the tool in use; ``None``: the canvas' own.
        """
        if self.gesture is not None:
            self.release(self.gesture.last)
        self.state.reach = TOUCH_REACH if is_touch else REACH
        self.is_known = is_known
        self._second = None
        used = TOOLS[tool or self.host.tool]
        if not (self.host.read_only and used.draws):
            self.gesture = used.gesture(self.host, self.host.viewport.clamped(xy))

    def move(self, xy: XY) -> None:
        """Move the pointer; without a press nothing happens."""
        gesture = self.gesture
        if gesture is None:
            return
        xy = self.host.viewport.clamped(xy)
        if distance(gesture.last, xy) >= LEAST_MOVE:
            gesture.far = max(gesture.far, distance(gesture.start, xy))
            gesture.move(xy)
            gesture.last = xy

    def release(self, xy: XY | None = None) -> None:
        """End the gesture at ``xy``; ``None``: where the pointer was last."""
        gesture = self.gesture
        if gesture is None:
            return
        xy = gesture.last if xy is None else self.host.viewport.clamped(xy)
        may_be_meant = self.is_known and self._second is None
        if gesture.click_draws and not may_be_meant and gesture.is_click(xy):
            self.abandon()
            return
        self.gesture = None
        self.host.scene.set_draft(None)
        gesture.end(xy)
        self._show_unfinished()

    def second(self, xy: XY) -> None:
        """Record another finger at ``xy`` while the first draws.

        While it rests, as the heel of the hand does, the first goes on drawing; but a tap of both
        draws nothing, and once both move they pinch, which draws nothing either.
        """
        if self.gesture is None:
            return
        if self._second is None:
            self._second = xy
        elif distance(self._second, xy) >= LEAST_DRAG:
            self.abandon()

    def abandon(self) -> bool:
        """Cancel the gesture under way, and nothing before it; return whether there was one."""
        gesture, self.gesture = self.gesture, None
        if gesture is None:
            return False
        gesture.cancel()
        self._show_unfinished()
        return True

    # ------------------------------------------------------------ what waits for the next press

    @property
    def unfinished(self) -> Unfinished | None:
        """The gesture that waits for its next press: of the current tool, else of another."""
        waiting = self.state.unfinished
        return waiting.get(self.host.tool) or next(iter(waiting.values()), None)

    @property
    def pending(self) -> XY | None:
        """A handle that waits for its target, image pixels."""
        return next((one.handle for one in self.state.unfinished.values() if one.handle), None)

    def cancel(self) -> bool:
        """Cancel the gesture, or else the waiting one; return whether there was any."""
        return self.abandon() or self._drop(self.unfinished)

    def step_back(self) -> bool:
        """Undo one part of the unfinished gesture; return whether there was one."""
        if self.abandon():
            return True
        unfinished = self.unfinished
        if unfinished is None or not unfinished.step_back():
            return self._drop(unfinished)
        self._show_unfinished()
        return True

    def finish(self) -> None:
        """Complete the waiting gesture of this tool, if possible."""
        unfinished = self.state.unfinished.get(self.host.tool)
        if unfinished is not None and unfinished.finish(self.host):
            self._drop(unfinished)

    def forget(self) -> None:
        """Cancel all unfinished gestures."""
        while self.cancel():
            pass

    def leave_tool(self, name: str) -> None:
        """Finish what is half drawn with the tool ``name``, which is deselected."""
        self.release()
        unfinished = self.state.unfinished.get(name)
        if unfinished is not None and not unfinished.stays:
            unfinished.finish(self.host)
            self._drop(unfinished)

    def _drop(self, unfinished: Unfinished | None) -> bool:
        if unfinished is None:
            return False
        waiting = self.state.unfinished
        for name in [name for name, one in waiting.items() if one is unfinished]:
            del waiting[name]
        self._show_unfinished()
        return True

    def _show_unfinished(self) -> None:
        drafts = [one.draft() for one in self.state.unfinished.values()]
        self.host.scene.set_draft(next((draft for draft in drafts if draft), None))
        self.host.marks_changed()
        self.host.hint_changed()
