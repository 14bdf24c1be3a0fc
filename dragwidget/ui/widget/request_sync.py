"""``RequestSync``: the one place where the page and what a session is asked for are made equal.

Prompt box, settings panel and canvas show the session's request. What is changed there is asked for
at once, and whatever else is asked for, by code perhaps, is shown there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dragwidget.session.source import read_loras

if TYPE_CHECKING:
    from dragwidget.data.instructions import DragInstructions
    from dragwidget.data.request import EditRequest
    from dragwidget.editor.editing import Editing
    from dragwidget.ui.canvas import DragCanvas
    from dragwidget.ui.widget.view import View


_BY_CODE = object()


def drawn(canvas: DragCanvas) -> DragInstructions | None:
    """What is drawn, where it is enough to drag by."""
    try:
        return canvas.instructions
    except ValueError:
        return None


def why_nothing(canvas: DragCanvas) -> str:
    """Why what is drawn makes no instructions; empty where nothing is drawn."""
    try:
        canvas.instructions  # noqa: B018 - it says why there are none
    except ValueError as error:
        return str(error)
    return ""


class RequestSync:
    """Shows what is asked for on a page, and asks for what is changed there."""

    def __init__(self, canvas: DragCanvas, editing: Editing, view: View) -> None:
        self._canvas, self._editing, self._view = canvas, editing, view
        self._image = editing.work.request.image  # on the canvas
        self._model = editing.session.model  # in the panel
        self._shown: EditRequest | None = None
        self._showing: set[int] = set()  # threads in ``show``
        self._drawn: object = _BY_CODE  # instructions: the last that were drawn and asked for
        self.show()

    def connect(self, guarded: Callable[[Callable[..., object]], Callable[..., None]]) -> None:
        """Follow what is changed on the page; ``guarded`` makes handlers whose errors are shown."""
        prompt, settings = self._view.prompt, self._view.settings
        prompt.observe(guarded(lambda change: self._ask(prompt=change["new"])), "value")
        self._view.loras.observe(guarded(lambda _: self._named_loras()), "value")
        settings.observe(guarded(lambda change: self._ask(settings=change["new"])), "settings")
        drew = guarded(lambda _: self._drew())
        self._canvas.observe(drew, ["prompt", "pairs", "mask_version"])

    def show(self) -> None:
        """Show what has changed in the request; this thread asks for nothing meanwhile.

        Only that: what is being drawn or typed, and is not asked for yet, stays. Jupyter handles
        messages of the page on a thread of their own, so another change may come meanwhile.
        """
        session, here = self._editing.session, threading.get_ident()
        is_first = here not in self._showing
        self._showing.add(here)
        try:
            if (model := session.model) is not self._model:
                self._model = model
                self._view.show_model(model)
            image, before = self._editing.work.request.image, self._image
            is_new = image is not before
            self._image = image
            # One that is only fitted to another model is still drawn on.
            if image.original is not before.original:
                self._canvas.image = image.unfitted
                self._shown, self._drawn = None, _BY_CODE  # nothing is drawn on this one
            while (request := session.request) is not self._shown:
                self._show(request, self._shown)
                self._shown = request
            if is_new:
                self._view.warn("")  # of the image before, while this one is looked at
                self._view.warn(session.domain_warning())
        finally:
            if is_first:
                self._showing.discard(here)

    def _show(self, request: EditRequest, before: EditRequest | None) -> None:
        if before is None or request.prompt != before.prompt:
            self._view.prompt.value = self._canvas.prompt = request.prompt
        if before is None or request.styles != before.styles:
            self._view.loras.show(request.styles)
        if before is None or request.settings != before.settings:
            self._view.settings.settings = request.settings
            self._view.warn()
            drag = request.settings.drag
            # The page knows the near field alone: it shows no warp where another one is asked for.
            near = drag.method != "warp" or drag.warp_field == "near"
            shown = (drag.warp_combine, drag.warp_reach) if near else None
            self._canvas.set_trait("live_warp", shown)
        drew = before is None or request.instructions != before.instructions
        if drew:
            with self._canvas.lock:  # nothing is drawn between the look and the change
                if self._is_by_code(request) and request.instructions != drawn(self._canvas):
                    self._canvas.instructions = request.instructions

    def _is_by_code(self, request: EditRequest) -> bool:
        """Return whether this is what is asked for, and was not drawn.

        What was drawn is on the canvas, or has been drawn over since by what will be asked for.
        """
        session, is_by_code = self._editing.session, False

        def look() -> EditRequest:
            nonlocal is_by_code
            is_by_code = session.request is request and request.instructions is not self._drawn
            if is_by_code:
                self._drawn = _BY_CODE
            return session.request

        session.change(look)
        return is_by_code

    def _ask(self, **changes: Any) -> None:
        if threading.get_ident() in self._showing:
            return
        session = self._editing.session

        def changed() -> EditRequest:
            request = session.request.replace(**changes)
            if "instructions" in changes:
                self._drawn = request.instructions
            return request

        try:
            session.change(changed)
        except (TypeError, ValueError):
            self._shown = None
            self.show()
            raise

    def _named_loras(self) -> None:
        """Other LoRA files are named; where one cannot be read, what is typed stays."""
        if threading.get_ident() not in self._showing:
            given = self._view.loras.given
            self._ask(**read_loras(self._editing.session.model, given, None))

    def _drew(self) -> None:
        """What is drawn has changed; instructions without a prompt leave it as it is."""
        canvas = self._canvas
        changes: dict[str, Any] = {"instructions": drawn(canvas)}
        if canvas.prompt and (self._shown is None or canvas.prompt != self._shown.prompt):
            changes["prompt"] = canvas.prompt
        self._ask(**changes)
        if not canvas.prompt:
            canvas.prompt = self._editing.session.prompt
        self._view.drew()
