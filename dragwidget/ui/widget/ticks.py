"""A clock for pages that show no updates of a thread: the page requests every bit of work.

``ipywidgets.Play`` cannot be that clock: in ipywidgets 7 only a click on its own button starts it,
and in 8 it stands still after the page is loaded again.
"""

from __future__ import annotations

from time import monotonic
from typing import Any

from dragwidget.editor.clocks import CLOCKS, Clock, Drive, weakly
from dragwidget.ui.closing import close_all

TICK_BUDGET = 0.05  # seconds of work in one tick; a click is served between two ticks
_COLOURS = 2**24


class PlayClock(Clock):
    """Works in ticks that come from the page, each for a short time, on the thread that serves it.

    A hidden canvas of one pixel is painted in a colour that was not there before, and sends its
    image back: that is the tick. The next is requested when the work of this one is done, so a
    click waits for one tick, never for a queue of them, and two pages do not tick twice.

    Attributes:
        play: that canvas; ticks come only while it is on the page.
    """

    name = "play"

    def __init__(self, drive: Drive) -> None:
        from ipycanvas import Canvas

        self._drive = weakly(drive)
        self._asked = 0
        self._ticking = False
        self.play: Any = Canvas(width=1, height=1, sync_image_data=True)
        self.play.layout.display = "none"
        self.play.observe(self._answered, "image_data")
        self.play.on_client_ready(self._page_is_new)

    def go(self, state: str) -> bool:
        return state == "stopping"  # now: while paused, no tick would come

    def show(self, state: str) -> None:
        before, self._ticking = self._ticking, state in ("running", "stopping")
        if self._ticking and not before:
            self._ask()

    def _ask(self) -> None:
        from dragwidget.ui.drawing import drawing

        self._asked = self._asked % (_COLOURS - 1) + 1
        with drawing():
            self.play.fill_style = f"#{self._asked:06x}"
            self.play.fill_rect(0, 0, 1, 1)

    def _page_is_new(self) -> None:
        if self._ticking:  # what was asked of the page that is gone is not answered
            self._ask()

    def _answered(self, change: Any) -> None:
        from dragwidget.ui.drawing import first_pixel

        if self._ticking and first_pixel(change["new"]) == self._asked:
            try:
                drive = self._drive()
                if drive is not None:
                    drive(monotonic() + TICK_BUDGET)
            finally:
                if self._ticking:
                    self._ask()

    def close(self, timeout: float) -> bool:  # noqa: ARG002 - there is nothing to wait for
        from dragwidget.ui.drawing import close_when_drawn, first_pixel

        self._ticking = False
        self.play.unobserve_all()
        if self._asked and first_pixel(self.play.image_data) != self._asked:  # it is on its way
            close_when_drawn(self.play, [self.play])
        else:
            close_all(self.play)
        return True


CLOCKS["play"] = PlayClock
