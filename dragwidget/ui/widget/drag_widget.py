"""``DragWidget``: draw, drag, look, adjust, drag on, in one line of a notebook."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import ipywidgets
import numpy.typing as npt
import traitlets
from ipywidgets import Layout
from PIL import Image

from dragwidget.data.image_writing import encode_image
from dragwidget.data.instructions import DragInstructions
from dragwidget.editor.editing import Editing
from dragwidget.editor.export import film
from dragwidget.editor.recipe import python_of
from dragwidget.ui.canvas import DragCanvas
from dragwidget.ui.closing import close_all
from dragwidget.ui.still import StillImage
from dragwidget.ui.widget.export_panel import ExportPanel
from dragwidget.ui.widget.features_panel import FeaturesPanel
from dragwidget.ui.widget.history_panel import FRAMES, HistoryPanel
from dragwidget.ui.widget.ticks import PlayClock  # noqa: F401 - it adds the clock "play"
from dragwidget.ui.widget.view import View

if TYPE_CHECKING:
    from dragwidget.data.settings import Settings
    from dragwidget.editor import State
    from dragwidget.editor.clocks import ClockName
    from dragwidget.editor.work import Report
    from dragwidget.session.history import Node
    from dragwidget.session.session import DragSession

__all__ = ["DragWidget"]

FIT = 500  # CSS pixels of the canvas: leaves room for the controls beside it in JupyterLab

ImageLike = Image.Image | str | os.PathLike[str] | npt.NDArray[Any]


class DragWidget(StillImage, ipywidgets.VBox):
    """Point-based editing of one image.

        widget = DragWidget("fox.png", prompt="a fox")
        widget

    Everything that a hand can do on the page has a method, so that a script, or a notebook that is
    run without a page, can do it too. Methods that start long work return at once, where there is
    a kernel; ``wait`` waits for it and raises what it raised.

    Args:
        image: a Pillow image, a path, an array (H, W, 3), or a ``DragSession`` to go on with.
        prompt: what the image shows.
        model: name, folder or hub id, as ``load_model`` takes it.
        instructions: what is drawn at the beginning.
        settings: of every stage; by default what the model recommends.
        width: of the canvas on the page, CSS pixels; ``"fit"``: what leaves room for the controls.
        clock: ``"thread"``, ``"play"`` or ``"sync"``, see ``Runner``; by default what suits the
            place.
        max_side: longest side that the model works at, pixels.
        render_when_done: make the exact image after every run.
        journal: where the edit is written down as it is made, for ``restore``; by default a new
            folder in the user's cache, ``False`` for nowhere.
        options: passed on to ``load_model``; and ``store``, where stages are kept for other
            sessions: by default the user's, ``None`` for nowhere.

    Attributes:
        canvas: the ``DragCanvas``.
        session: the ``DragSession``.
        state: ``idle``, ``running``, ``paused`` or ``stopping``; observable.
        index: where the edit stands, drag steps from the start; observable.
        error: what went wrong last, in a sentence; observable.
    """

    state = traitlets.Unicode("idle").tag(sync=False)
    index = traitlets.Int(0).tag(sync=False)
    error = traitlets.Unicode("").tag(sync=False)

    def __init__(
        self,
        image: ImageLike | DragSession | None = None,
        prompt: str = "",
        *,
        model: str | os.PathLike[str] = "critters",
        instructions: DragInstructions | None = None,
        settings: Settings | None = None,
        width: int | Literal["fit"] = "fit",
        clock: ClockName | None = None,
        max_side: int | None = None,
        render_when_done: bool = True,
        journal: str | os.PathLike[str] | Literal[False] | None = None,
        **options: Any,
    ) -> None:
        from dragwidget.session.journal import Journal
        from dragwidget.session.session import DragSession
        from dragwidget.storage.cache import Store

        if isinstance(image, DragSession):
            session = image
            if settings is not None:
                session.settings = settings
            instructions = instructions or session.instructions
        elif image is None:
            raise TypeError("DragWidget needs an image (path, Pillow image, array) or a session")
        else:
            options.setdefault("store", Store())
            session = DragSession.from_pretrained(model, **options)
            if settings is not None:
                session.settings = settings
            session.set_image(image, prompt, max_side=max_side)
        self._journal = None if journal is False else Journal(journal)
        on_page = FIT if width == "fit" else width
        self.session = session
        self.canvas = DragCanvas(session.image, width=on_page, toolbar=False, probe=True)
        if instructions is not None:
            self.canvas.instructions = instructions
        self._editing = Editing(
            session,
            lambda: self.canvas.instructions,
            clock,
            on_report=self._reported,
            on_state=self._changed,
            on_done=self._done,
            on_error=self._failed,
            on_waiting=self._waiting,
        )
        self._view = View(
            self.canvas,
            self._editing,
            HistoryPanel(self._guarded(self.rewind), self._guarded(self.go_to)),
            FeaturesPanel(self._probing),
            ExportPanel(self._files(), self.code, self._guard),
            width=on_page,
            render_when_done=render_when_done,
            warning=session.domain_warning(),
        )
        super().__init__(self._view.rows, layout=Layout(width="100%"))
        self.add_class("dragwidget")
        self._connect()
        self._view.place()
        self._view.state()
        self.index = self._view.index
        if self._editing.history is not None:  # a session that goes on
            self._view.moved()
            self._look()

    def _look(self) -> None:
        """Show the image of where the edit stands, and of steps for the filmstrip."""
        history = self._editing.history
        if history is None or self._editing.image_of(history.current) is not None:
            return
        last, here = history.tip.index, history.current.index
        spread = (
            {round(1 + k * (last - 1) / (FRAMES - 1)) for k in range(FRAMES)} if last else set()
        )
        unseen = [k for k in spread - {here} if self._editing.image_of(history.at(k)) is None]
        self._editing.look(sorted(unseen))

    def _files(self) -> dict[str, tuple[str, str, Callable[[], bytes]]]:
        return {
            "PNG": ("The image as it is shown now", "edited.png", self._png),
            "GIF": ("Animation of the steps that have a preview", "drag.gif", self.gif),
            "Instructions": ("Points, mask and prompt", "instructions.json", self._json),
        }

    def _connect(self) -> None:
        for name, button in self._view.buttons.by_name.items():  # each has a method of its name
            guarded = self._guarded(getattr(self, name))
            button.on_click(lambda _, do=guarded: do())
        self.canvas.prompt = self.prompt
        self._view.prompt.observe(self._guarded(lambda _: self._want()), "value")
        self.canvas.observe(self._guarded(lambda _: self._canvas_prompt()), "prompt")
        self._view.settings.observe(self._guarded(lambda _: self._want()), "settings")
        self.canvas.observe(self._guarded(lambda _: self._drawn()), ["pairs", "mask_version"])
        self.canvas.on_probe(self._guarded(self._probe))
        self.canvas.on_key(self._guarded(self._key))

    def _guard(self, action: Callable[[], object]) -> object:
        """Do it; what it raises is shown, for uncaught errors of callbacks reach nobody."""
        try:
            return action()
        except Exception as error:
            self._failed(error)
            return None

    def _guarded(self, action: Callable[..., object]) -> Callable[..., None]:
        def guarded(*arguments: Any) -> None:
            self._guard(lambda: action(*arguments))

        return guarded

    # What is asked for

    @property
    def instructions(self) -> DragInstructions | None:
        """What is drawn, with the prompt; ``None`` where there is no pair. Set it to draw it."""
        return self.canvas.instructions

    @instructions.setter
    def instructions(self, instructions: DragInstructions) -> None:
        self.canvas.instructions = instructions

    @property
    def prompt(self) -> str:
        """What the image shows."""
        return self._view.prompt.value  # type: ignore[no-any-return]

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self._view.prompt.value = prompt

    @property
    def settings(self) -> Settings:
        """Of every stage; a drag under way takes new drag settings with its next step."""
        return self._view.settings.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.session.model.check(settings)
        self._view.settings.settings = settings

    @property
    def image(self) -> Image.Image:
        """The source image, at its own size."""
        return self.session.image

    @property
    def result(self) -> Image.Image | None:
        """The last exact image; ``None`` before the first render."""
        rendered = self._editing.rendered
        return None if rendered is None else rendered.image

    def _canvas_prompt(self) -> None:
        """The prompt has one home, the box; instructions without a prompt leave it as it is."""
        if self.canvas.prompt:
            self.prompt = self.canvas.prompt
        else:
            self.canvas.prompt = self.prompt

    def _want(self) -> None:
        self.canvas.prompt = self._editing.prompt = self.prompt
        self._editing.want_settings(self.settings)
        self._view.state()
        self._keep()

    def _drawn(self) -> None:
        self._editing.steer()
        self._view.pairs_changed()
        self._view.state()
        self._keep()

    def _keep(self) -> None:
        """Write down what is drawn and asked for."""
        from dragwidget.session.journal import Wanted

        if self._journal is not None:
            pairs, mask = self.canvas.pairs, self.canvas.mask
            self._journal.drew(self.session, Wanted(self.prompt, self.settings, pairs, mask))

    # What can be done

    def prepare(self) -> None:
        """Train the LoRA and invert the image now, where they are not fresh."""
        self._begin(self._editing.prepare)

    def step(self, steps: int = 1) -> None:
        """Drag so many steps on."""
        self._begin(lambda: self._editing.step(steps))

    def run(self, steps: int | None = None) -> None:
        """Drag on to the end, ``steps`` at most; or go on with what is paused."""
        self._begin(lambda: self._editing.run(steps, render=self._view.render_when_done.value))

    def pause(self) -> None:
        """Pause after the step under way."""
        self._editing.pause()

    def stop(self) -> None:
        """Stop what runs; whole steps stay."""
        self._editing.stop()

    def reset(self) -> None:
        """Back to the start of the drag; what was dragged stays in the history."""
        self.rewind(0)

    def render(self) -> None:
        """Make the exact image of where the edit stands: then ``result``."""
        self._begin(self._editing.render)

    def rewind(self, step: int) -> None:
        """Go to a step of the present branch; ``run`` continues from there.

        It returns at once. Where a step is in progress, it happens when that step has ended.
        """
        self._editing.rewind(step, self._stand)

    def go_to(self, number: int) -> None:
        """Go to any node of ``session.history``, likewise."""
        self._editing.go_to(number, self._stand)

    def wait(self, timeout: float | None = None) -> Image.Image | None:
        """Until what was started is over or paused; raise what it raised; the ``result``.

        Raises:
            TimeoutError: it is not over after ``timeout`` seconds; it goes on.
        """
        self._editing.wait(timeout)
        return self.result

    def _begin(self, action: Callable[[], object]) -> None:
        self._clear_error()
        action()

    def _stand(self, node: Node) -> None:
        if self._editing.runner.error is None:  # else that of the work before is still to be read
            self._clear_error()
        self._view.moved()
        self._keep()
        self.index = self._view.index
        if self._editing.image_of(node) is None:
            self._editing.look()

    def _key(self, name: str) -> None:
        actions = {"step": self.step, "run": self.pause if self.state == "running" else self.run}
        actions[name]()

    def _probing(self, on: bool) -> None:
        self.canvas.tool = "probe" if on else "points"

    def _probe(self, x: float, y: float) -> None:
        if why := self._editing.why_not("look"):
            raise RuntimeError(f"there are no features to look at: {why}")
        maps = self.session.similarity((x, y))
        node = self.session.history.current
        image = self._editing.image_of(node) or self.image
        self._view.features.show(image, maps, (x, y), self.settings.drag.feature_blocks)

    # What becomes of it, told from whatever thread works

    def _reported(self, report: Report) -> None:
        if report.step is not None and self._journal is not None:
            self._journal.took_step(self.session)
        self._view.report(report)
        self.index = self._view.index

    def _changed(self, state: State) -> None:
        before, self.state = self.state, state
        if state == "paused":
            self._view.paused()
        elif state == "running" and before == "paused" and not self._editing.runner.busy:
            self._view.status.resumed()
        elif state == "stopping" and not self._editing.waiting:
            self._view.say("stopping")
        self._view.state()

    def _waiting(self, words: str) -> None:
        self._view.say("waiting", then=words)

    def _done(self, _: Any, error: BaseException | None) -> None:
        if error is not None:
            self.error = str(error) or type(error).__name__
        self._view.over(error)
        self._view.state()
        self.index = self._view.index

    def _failed(self, error: BaseException) -> None:
        self.error = str(error) or type(error).__name__
        self._view.failed(error)

    def _clear_error(self) -> None:
        self.error = ""
        self._view.error_line.show(None)

    # What can be taken away

    def snapshot(self, side: int | None = None) -> Image.Image:
        """Return the canvas as an image with mask and points; ``side``: its longest, pixels."""
        return self.canvas.snapshot(side)

    def __repr__(self) -> str:
        if "_view" not in self.__dict__:
            return "DragWidget(closed)"
        return f"DragWidget({self.canvas!r}, step {self.index})"

    def code(self) -> str:
        """Return Python code that repeats this edit, bit for bit on the CPU."""
        return python_of(self.session)

    def gif(self) -> bytes:
        """Return an animation of the steps of this branch that have a preview, as a GIF."""
        history = self._editing.history
        path = [] if history is None else history.path()
        frames = [p for node in path if (p := self._editing.image_of(node)) is not None]
        return film(frames or [self.image])

    def _png(self) -> bytes:
        shown = self._view.newest() or self.image
        return encode_image(self.session.source.image.completed(shown), "PNG")

    def _json(self) -> bytes:
        if self.instructions is None:
            raise ValueError("there are no instructions yet: draw a pair of points first")
        return self.instructions.to_json().encode()

    @classmethod
    def restore(cls, journal: str | os.PathLike[str] | None = None, **options: Any) -> DragWidget:
        """Restore the edit as it was when its kernel ended, except perhaps its last step.

        Args:
            journal: its folder; by default the newest; FileNotFoundError where there is none.
            options: passed on to ``load_model``; and ``clock``.
        """
        from dragwidget.session.journal import restore

        clock = options.pop("clock", None)
        session, drawn = restore(journal, **options)
        widget = cls(session, clock=clock)
        widget.canvas.pairs = drawn.pairs
        widget.canvas.set_mask(drawn.mask)
        widget.prompt = drawn.prompt
        widget._view.say("restored")
        return widget

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one ``.drag`` file, which ``DragSession.load`` opens again."""
        self.session.save(path)

    def close(self) -> None:
        """Stop, remove the widget from the page and free the session and its memory.

        What was drawn can still be read (``instructions``, ``canvas``); everything else raises
        ``RuntimeError``. A second call does nothing.
        """
        view = self.__dict__.get("_view")
        if view is None:  # it could not be made, or is closed already
            super().close()
            return
        self._editing.close()
        self.canvas.close()
        close_all(self)
        del self.session, self._editing, self._view
        super().close()

    def __getattr__(self, name: str) -> Any:
        if name in ("session", "_editing", "_view"):
            raise RuntimeError("this widget is closed: make a new one, DragWidget(...)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
