"""``DragWidget``: interactive point-based editing of one image in a notebook."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import ipywidgets
import numpy as np
import numpy.typing as npt
import traitlets
from ipywidgets import Layout
from PIL import Image

from dragwidget.data.image_reading import read_image
from dragwidget.data.instructions import DragInstructions
from dragwidget.editor.editing import Editing
from dragwidget.editor.export import animation
from dragwidget.editor.recipe import python_of
from dragwidget.ui.canvas import DragCanvas
from dragwidget.ui.closing import close_all
from dragwidget.ui.still import StillImage
from dragwidget.ui.widget.export_panel import ExportPanel, makers
from dragwidget.ui.widget.features_panel import FeaturesPanel
from dragwidget.ui.widget.history_panel import HistoryPanel, spread
from dragwidget.ui.widget.image_panel import ImagePanel, Samples
from dragwidget.ui.widget.model_panel import ModelPanel
from dragwidget.ui.widget.request_sync import RequestSync, why_nothing
from dragwidget.ui.widget.ticks import PlayClock  # noqa: F401 - it adds the clock "play"
from dragwidget.ui.widget.view import View

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from dragwidget.data.settings import Settings
    from dragwidget.diffusion.loading import LoadOptions
    from dragwidget.editor import State
    from dragwidget.editor.clocks import ClockName
    from dragwidget.editor.work import Report
    from dragwidget.session.node import Node
    from dragwidget.session.session import DragSession
    from dragwidget.storage.cache import Store

FIT = 640  # CSS pixels of the canvas at most: it shrinks to leave room for the controls beside it

ImageLike = Image.Image | str | os.PathLike[str] | npt.NDArray[np.generic]


class DragWidget(StillImage, ipywidgets.VBox):
    """Drag points of an image; a diffusion model moves the content to match.

        widget = DragWidget("fox.png", prompt="a fox")
        widget

    Every UI action has a Python method, so that scripts and headless notebooks can do the same.
    Methods that start long work return at once in a kernel; ``wait`` waits for its end and raises
    what it raised.

    Args:
        image: a Pillow image, a path, an array (H, W, 3), or a ``DragSession`` to continue;
            ``None``: a sample of the embedded model's domain, and others to choose from.
        prompt: description of the image.
        model: name, folder or hub id, as ``load_model`` takes it.
        instructions: initial points and mask.
        settings: settings of all stages; by default the model's recommendation.
        width: width of the canvas, CSS pixels; ``"fit"`` leaves space for the controls.
        clock: ``"thread"``, ``"play"`` or ``"sync"``, see ``Runner``; by default the one that
            suits the environment.
        max_side: longest side of the image that the model edits, pixels.
        render_when_done: whether every run ends with a final render.
        journal: folder that records every step, for ``restore``; by default a new folder in the
            user's cache; ``False``: no journal.
        store: disk cache of stages: by default the user's; ``None``: no disk cache.
        options: passed on to ``load_model``.

    Attributes:
        canvas: the ``DragCanvas``.
        session: the ``DragSession``.
        state: ``idle``, ``running``, ``paused`` or ``stopping``; observable.
        index: number of drag steps from the start to the current node; observable.
        error: the last error, one sentence; observable.
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
        store: Store | Literal["default"] | None = "default",
        **options: Unpack[LoadOptions],
    ) -> None:
        from dragwidget.demo.scenes import sample_images
        from dragwidget.session.journal import Journal
        from dragwidget.session.session import DragSession
        from dragwidget.storage.cache import Store

        samples = sample_images() if image is None else []
        if isinstance(image, DragSession):
            session = image
        else:
            if image is None:
                image, caption = samples[0]
                prompt = prompt or caption
            store = Store() if store == "default" else store
            session = DragSession.from_pretrained(model, store=store, **options)
            session.set_image(image, prompt, max_side=max_side)
        self._max_side = max_side
        if settings is not None:
            session.settings = settings
        if instructions is not None:
            session.instructions = instructions
        self._journal = None if journal is False else Journal(journal)
        self._watcher = self._guarded(self._requested)
        on_page = FIT if width == "fit" else width
        self.session = session
        shown = session.request.image.unfitted
        self.canvas = DragCanvas(shown, width=on_page, toolbar=False, probe=True)
        try:
            self._build(clock, on_page, samples, render_when_done=render_when_done)
        except BaseException:
            self._unwatch()
            parts = dict(vars(self))
            if "_editing" in parts:
                self._editing.close()
            self.canvas.close()
            close_all(list(parts.values()))
            raise

    def _build(
        self, clock: ClockName | None, width: int, samples: Samples, *, render_when_done: bool
    ) -> None:
        """Make everything but the canvas."""
        session = self.session
        self._editing = Editing(
            session,
            lambda: why_nothing(self.canvas),
            clock,
            on_report=self._reported,
            on_state=self._changed,
            on_done=self._done,
            on_error=self._failed,
            on_waiting=lambda words: self._view.say("waiting", then=words),
        )
        self._view = View(
            self.canvas,
            self._editing,
            HistoryPanel(self._guarded(self.rewind), self._guarded(self.go_to)),
            FeaturesPanel(self._probing),
            ImagePanel(self._guarded(self.open_image), self._guarded(self.generate), samples),
            ModelPanel(self._guarded(self.load_model)),
            ExportPanel(makers(self._editing, self.canvas, self.gif), self.code, self._guard),
            width=width,
            image_first=bool(samples),
            render_when_done=render_when_done,
            warning=session.domain_warning(),
        )
        super().__init__(self._view.rows, layout=Layout(width="100%"))
        self.add_class("dragwidget")
        self._sync: RequestSync = RequestSync(self.canvas, self._editing, self._view)
        self._connect()
        self._view.place()
        self._view.state()
        self.index = self._view.index
        if self._editing.history is not None:  # a session that goes on
            self._view.moved()
            self._look()

    def _look(self) -> None:
        """Make previews of the current node, and of steps for the filmstrip."""
        history = self._editing.history
        if history is None or self._editing.image_of(history.current) is not None:
            return
        steps = spread(history.tip.index) - {history.current.index}
        unseen = [k for k in steps if self._editing.image_of(history.at(k)) is None]
        self._editing.look(sorted(unseen))

    def _connect(self) -> None:
        for name, button in self._view.buttons.by_name.items():  # each has a method of its name
            guarded = self._guarded(getattr(self, name))
            button.on_click(lambda _, do=guarded: do())
        self._view.guide.select_part.on_click(self._guarded(lambda _: self.select_part()))
        self._sync.connect(self._guarded)
        self.session.watchers.append(self._watcher)
        self.canvas.on_probe(self._guarded(self._probe))
        self.canvas.on_key(self._guarded(self._key))
        self.canvas.on_image(self._guarded(self.open_image))
        self.canvas.select_by(self._select)

    def _guard(self, action: Callable[[], object]) -> object:
        """Run ``action`` and show its error: Jupyter drops uncaught errors of callbacks."""
        try:
            return action()
        except Exception as error:
            self._failed(error)
            return None

    def _guarded(self, action: Callable[..., object]) -> Callable[..., None]:
        def guarded(*arguments: Any) -> None:
            self._guard(lambda: action(*arguments))

        return guarded

    # The request

    @property
    def instructions(self) -> DragInstructions | None:
        """Points, mask and prompt; ``None`` while there is no pair. Set it to draw it."""
        return self.canvas.instructions

    @instructions.setter
    def instructions(self, instructions: DragInstructions) -> None:
        self.canvas.instructions = instructions

    @property
    def prompt(self) -> str:
        """What the image shows."""
        return self.session.prompt

    @prompt.setter
    def prompt(self, prompt: str) -> None:
        self.session.prompt = prompt

    @property
    def settings(self) -> Settings:
        """Settings of all stages; a running drag uses new drag settings from its next step."""
        return self.session.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.session.settings = settings

    @property
    def image(self) -> Image.Image:
        """The source image, at its own size."""
        return self.session.image

    @property
    def result(self) -> Image.Image | None:
        """The last final render; ``None`` before the first."""
        rendered = self._editing.rendered
        return None if rendered is None else rendered.image

    def open_image(self, image: ImageLike | bytes, prompt: str = "") -> None:
        """Edit another image; points and mask on the one before are dropped.

        Args:
            image: a Pillow image, a path, the bytes of a file, or an array (H, W, 3).
            prompt: description of the image.
        """
        self._clear_error()
        read = read_image(image)  # what is no image stops nothing
        self._editing.open(lambda: self.session.set_image(read, prompt, max_side=self._max_side))

    def generate(self, prompt: str, seed: int = 0) -> None:
        """Generate an image from text, and edit it; points and mask on the one before are dropped.

        It returns at once; the image is there once ``wait`` returns.

        Args:
            seed: of the noise, 0 or more.
        """
        self._clear_error()
        self._editing.generate(prompt, seed)

    def load_model(self, name: str | os.PathLike[str]) -> None:
        """Load another model for the same image; points, mask and changed settings stay.

        Steps that were taken are kept with their model, and come back when it is loaded again.
        Where it cannot be loaded, the one in use stays. It returns at once, as ``run`` does.
        """
        self._clear_error()
        self._editing.load(os.fspath(name).strip(), self._max_side)

    def _requested(self) -> None:
        """Something else is asked for, on the page or by code: show it, and write it down."""
        self._sync.show()
        if self.state == "idle" and self._editing.history is not self._view.placed:
            self._view.moved()
            self.index = self._view.index
            self._look()
        self._view.state()
        self._keep()

    def _keep(self) -> None:
        """Write down what is drawn and asked for."""
        from dragwidget.session.journal import Drawing

        if self._journal is not None:
            self._journal.drew(self.session, Drawing(self.canvas.pairs, self.canvas.mask))

    # Actions

    def prepare(self) -> None:
        """Train the LoRA and invert the image, where they are not up to date."""
        self._clear_error()
        self._editing.prepare()

    def step(self, steps: int = 1) -> None:
        """Drag ``steps`` more steps."""
        self._clear_error()
        self._editing.step(steps)

    def run(self, steps: int | None = None) -> None:
        """Drag until all handles reached their targets, ``steps`` at most; or resume."""
        self._clear_error()
        self._editing.run(steps, render=self._view.render_when_done.value)

    def pause(self) -> None:
        """Pause after the step in progress."""
        self._editing.pause()

    def stop(self) -> None:
        """Stop the work in progress; finished steps are kept."""
        self._editing.stop()

    def reset(self) -> None:
        """Go back to the start of the drag; all steps stay in the history."""
        self.rewind(0)

    def render(self) -> None:
        """Make the final render of the current node, which ``result`` then is."""
        self._clear_error()
        self._editing.render()

    def rewind(self, step: int) -> None:
        """Go to a step of the current branch; ``run`` continues from there.

        It returns at once. Where a step is in progress, it happens when that step has ended.
        """
        self._editing.rewind(step, self._stand)

    def go_to(self, number: int) -> None:
        """Go to any node of ``session.history``, as ``rewind`` does."""
        self._editing.go_to(number, self._stand)

    def select_part(self) -> None:
        """Set the mask to what the pairs move, and the room that it needs; see ``select_parts``."""
        self._clear_error()
        self.canvas.select_parts(room=1.0)  # what is beside a thing is pushed as far as it moves

    def wait(self, timeout: float | None = None) -> Image.Image | None:
        """Wait until the work is over or paused; raise what it raised; return ``result``.

        Raises:
            TimeoutError: the work is not over after ``timeout`` seconds; it continues.
        """
        self._editing.wait(timeout)
        return self.result

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
            raise RuntimeError(f"cannot show features: {why}")
        maps = self._editing.work.similarity((x, y))
        node = self._editing.work.history.current
        image = self._editing.image_of(node) or self.image
        self._view.features.show(image, maps, (x, y), self.settings.drag.feature_blocks)

    def _select(self, points: Any, labels: Any, tolerances: Any) -> npt.NDArray[np.bool_] | None:
        """Return what is clicked; ``None`` where that takes a pass and another one is going on."""
        edit = self.session.edit
        waits = edit is not None and edit.regions is None and self._editing.why_not("look")
        if bool(waits) != self._view.by_colours:
            self._view.by_colours = bool(waits)
            self._view.show_hint()
        return None if waits else self.session.select(points, labels, tolerances)

    # Callbacks, on the thread that works

    def _reported(self, report: Report) -> None:
        if report.step is not None and self._journal is not None:
            self._journal.took_step(self.session, self._editing.work.edit)
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

    def _done(self, _: object, error: BaseException | None) -> None:
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

    # Files

    def snapshot(self, side: int | None = None) -> Image.Image:
        """Return the canvas as an image with mask and points; ``side``: longest side, pixels."""
        return self.canvas.snapshot(side)

    def __repr__(self) -> str:
        if "_view" not in self.__dict__:
            return "DragWidget(closed)"
        return f"DragWidget({self.canvas!r}, step {self.index})"

    def code(self) -> str:
        """Return Python code that repeats this edit, on this CPU bit for bit; see ``python_of``."""
        return python_of(self.session)

    def gif(self) -> bytes:
        """Return an animation of the steps of this branch that have a preview, as a GIF."""
        history = self._editing.history
        path = [] if history is None else history.path()
        frames = [p for node in path if (p := self._editing.image_of(node)) is not None]
        return animation(frames or [self.image])

    @classmethod
    def restore(cls, journal: str | os.PathLike[str] | None = None, **options: Any) -> DragWidget:
        """Restore the edit of a kernel that ended, except perhaps its last step.

        Args:
            journal: folder of the journal; by default the newest, or FileNotFoundError.
            options: passed on to ``load_model``; and ``clock``.
        """
        from dragwidget.session.journal import restore

        clock = options.pop("clock", None)
        session, drawn = restore(journal, **options)
        widget = cls(session, clock=clock)
        widget.canvas.pairs = drawn.pairs
        widget.canvas.set_mask(drawn.mask)
        widget._view.say("restored")
        return widget

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save everything to one ``.drag`` file, which ``DragSession.load`` opens."""
        self.session.save(path)

    def close(self) -> None:
        """Stop, remove the widget from the page, and free the session and its memory.

        ``instructions`` and ``canvas`` stay readable; everything else raises ``RuntimeError``. A
        second call does nothing.
        """
        view = self.__dict__.get("_view")
        if view is None:  # it could not be made, or is closed already
            super().close()
            return
        self._editing.close()
        self._unwatch()
        self.canvas.close()
        close_all(self)
        self.children = ()  # they hold what their buttons do
        self._journal = None  # its lock goes with it: the edit can be taken up elsewhere
        del self.session, self._editing, self._view, self._sync
        super().close()

    def _unwatch(self) -> None:
        with suppress(ValueError):  # it could not be made
            self.session.watchers.remove(self._watcher)

    def __getattr__(self, name: str) -> NoReturn:
        if name in ("session", "_editing", "_view"):
            raise RuntimeError("this widget is closed: make a new one, DragWidget(...)")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
