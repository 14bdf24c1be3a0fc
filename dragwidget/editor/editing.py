"""``Editing``: what the widget's buttons do, without a widget.

The session holds what is asked for. Work is done on a fork of it, which holds what was asked for
when that work was begun: typing a prompt while a drag runs neither breaks nor changes that drag.
Points, mask and settings of drag and render are passed on at once: the next step takes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Literal

from dragwidget.editor import Runner, State, work
from dragwidget.editor.images import Images
from dragwidget.editor.work import PreviewRateLimiter, Rendered, Report
from dragwidget.session.switching import Switched

if TYPE_CHECKING:
    from PIL import Image

    from dragwidget.drag.method import Ended
    from dragwidget.editor.clocks import ClockName
    from dragwidget.session.history import History
    from dragwidget.session.node import Node
    from dragwidget.session.session import DragSession

Action = Literal[
    "prepare", "step", "run", "pause", "stop", "reset", "render", "rewind", "look", "open",
    "generate", "load",
]  # fmt: skip
_DRAGGING = ("drag", "preview")  # phases in which the session stands at a whole step
PREVIEW = "Preview"  # the name of work that gives way to any other
GENERATE, LOAD = "Generate", "Load"
_STARTED = ("Prepare", "Step", "Drag", "Render", GENERATE, LOAD)  # of two, the second is refused


class Editing:
    """Drive a session: what the buttons of a front end do.

    Args:
        session: with an image.
        why_nothing: asked where the session has no instructions: why what is drawn makes none;
            empty where nothing is.
        clock: of the runner, as is ``on_state`` and ``on_error``.
        on_report: called with every report.
        on_done: called with the result and the exception when work is over.
        on_waiting: called with what will happen when the step in progress has ended, in words.

    Attributes:
        work: the session's fork, whose edit is the one to be shown; see above.
        report: the last one of the work under way, or of the last.
        rendered: the last final render, and where it belongs.
        single: whether the last step was asked for alone.
        switched: how the model in use came to be used; ``None``: it is the first.
    """

    def __init__(
        self,
        session: DragSession,
        why_nothing: Callable[[], str] = lambda: "",
        clock: ClockName | None = None,
        *,
        on_report: Callable[[Report], object],
        on_state: Callable[[State], object],
        on_done: Callable[[object, BaseException | None], object],
        on_error: Callable[[BaseException], object],
        on_waiting: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.session = session
        self.images = Images()
        self.limiter = PreviewRateLimiter()
        self.work = session.fork()
        self.report: Report | None = None
        self.rendered: Rendered | None = None
        self.single = False
        self.switched: Switched | None = None
        self._waiting: list[tuple[str, Callable[[], object]]] = []  # in order, with its words
        self._lock = threading.Lock()  # of what is waiting
        self._why_nothing, self._on_report, self._on_done = why_nothing, on_report, on_done
        self._on_waiting = on_waiting
        session.watchers.append(self._steer)
        self.runner: Runner[Report, Rendered | Ended | Switched] = Runner(
            clock,
            on_item=self._reported,
            on_state=on_state,
            on_done=self._done,
            on_error=on_error,
        )

    # What is asked for

    @property
    def history(self) -> History | None:
        """Of the edit that was worked at last; ``None`` before its inversion."""
        edit = self.work.edit
        return None if edit is None else edit.history

    @property
    def waiting(self) -> str:
        """What happens last of all that waits for the step in progress; empty: nothing."""
        waiting = self._waiting  # another thread may put another in its place, and empties none
        return waiting[-1][0] if waiting else ""

    def _steer(self) -> None:
        """Pass on what the work under way can take; between works, all that needs no preparing."""
        session, work = self.session, self.work
        ready = session.edit is not None or session.request.image is not work.request.image
        idle = self.runner.state == "idle"
        if idle and session.request.image is not work.request.image:
            self.rendered = None
        if idle and session.stages is not work.stages:  # another model
            self.work = session.fork()
            return
        work.request = session.request if idle and ready else work.request.steered(session.request)

    def _asks_for_more(self) -> bool:
        """Whether something is asked for that a drag under way cannot take."""
        return self.work.request.steered(self.session.request) != self.session.request

    # What can be done

    def why_not(self, action: Action) -> str:
        """Return why an action is not possible now; empty if it is."""
        state, name = self.runner.state, self.runner.name
        if state == "stopping":
            if not self.waiting and name != PREVIEW:
                return f"{name} is stopping"
            if action not in ("stop", "rewind", "reset", "open"):
                if name != PREVIEW:
                    return "waiting for the step in progress"
                if self.waiting in _STARTED:
                    return f"{self.waiting} is about to start"
        if action in ("pause", "stop"):
            if state == "idle":
                return "nothing is running"
            if action == "pause" and name in (PREVIEW, LOAD):
                return f"{'a preview' if name == PREVIEW else 'loading'} cannot be paused"
            return "it is paused already" if action == "pause" and state == "paused" else ""
        if state == "running" and name != PREVIEW:
            return f"{name} is running: pause or stop it first"
        if action == "look" and self.runner.busy and name != PREVIEW:
            return "a step is in progress"
        if state == "paused" and action not in ("run", "step") and not self._at_a_step():
            return f"{name} is paused half-way: go on, or stop it first"
        if action in ("run", "step") and self.session.instructions is None:
            return self._why_nothing() or "there is nothing to drag: draw a pair of points first"
        if action in ("reset", "rewind") and (self.history is None or len(self.history.nodes) < 2):
            return "nothing was dragged yet"
        if action == "look" and self.history is None:
            return "the image is not inverted yet: prepare it first"
        return ""

    def _at_a_step(self) -> bool:
        return self.report is not None and self.report.phase in _DRAGGING

    def _check(self, action: Action) -> None:
        if why := self.why_not(action):
            raise RuntimeError(f"cannot {action}: {why}")

    def _is_free(self, words: str, action: Callable[[], object], *, next_: bool = False) -> bool:
        """Whether no step is in progress; where one is, ``action`` is done when it has ended.

        It never waits for a step. Work that is paused ends, and the session has all of it; a
        preview is cancelled. What was waiting is dropped; with ``next_`` it is done before.
        """
        runner = self.runner
        if runner.state == "paused" and not runner.busy:
            runner.stop(cancel=False)
            runner.wait()
        with self._lock:
            if not next_:
                self._waiting = []
            free = runner.state == "idle" and not self._waiting
            if not free:
                self._waiting.append((words, action))
                if runner.name != PREVIEW:
                    self._on_waiting(words)
        if not free:
            runner.stop(cancel=runner.name == PREVIEW)
        return free

    def _when_free(self, words: str, action: Callable[[], object], *, next_: bool = False) -> None:
        """Do it once no step is in progress: now, or when that step has ended."""
        if self._is_free(words, action, next_=next_):
            action()

    def _start(self, name: str, make: Callable[[], Iterator[Report]]) -> None:
        self._when_free(name, lambda: self._start_now(name, make), next_=True)

    def _start_now(self, name: str, make: Callable[[], Iterator[Report]]) -> None:
        self.work.request = self.session.request
        self._started(self.runner.start(make, name=name, cancel=self.session.cancel))

    def _started(self, started: bool) -> None:
        if not started:
            raise RuntimeError(f"cannot start: {self.runner.name} is running")

    # What the buttons do

    def prepare(self) -> None:
        """Make LoRA and inversion, where they are not up to date."""
        self._check("prepare")
        self._start("Prepare", lambda: work.preparing(self.work))

    def step(self, steps: int = 1) -> None:
        """Drag ``steps`` more steps; while paused, take one step of the paused work."""
        self._check("step")
        self.single = steps == 1
        if self.runner.state == "paused" and not self._asks_for_more() and steps == 1:
            self.limiter.ask()
            self.runner.step()
            return
        make = partial(work.dragging, self.work, steps, limiter=PreviewRateLimiter(0.0, inf))
        # Not by ``_start``: what is called from here is as deep as anything is.
        if self._is_free("Step", lambda: self._start_now("Step", make), next_=True):
            self.work.request = self.session.request
            self._started(self.runner.start(make, name="Step", cancel=self.session.cancel))

    def run(self, steps: int | None = None, *, render: bool = False) -> None:
        """Drag to the end, ``steps`` at most, or resume paused work."""
        self._check("run")
        self.single = False
        paused = self.runner.state == "paused"
        if paused and not (self._asks_for_more() and self._at_a_step()):
            self.runner.resume()
        else:
            self._start(
                "Drag", lambda: work.dragging(self.work, steps, limiter=self.limiter, render=render)
            )

    def pause(self) -> None:
        """Pause after the step in progress."""
        self.single = False
        self.limiter.ask()
        self.runner.pause()

    def stop(self) -> None:
        """Stop within the step in progress; finished steps are kept.

        Work that waits for the end of a preview does not begin.
        """
        with self._lock:
            self._waiting = [(w, action) for w, action in self._waiting if w not in _STARTED]
        self.runner.stop()

    def render(self, step: int | None = None) -> None:
        """Make the final render of where the edit stands, or of a step of its branch."""
        self._check("render")
        self._start("Render", lambda: work.rendering(self.work, step))

    def look(self, more: Sequence[int] = ()) -> None:
        """Make a preview of where the edit stands, then of ``more`` steps of its branch."""
        self._check("look")
        make = partial(work.looking, self.work, more)
        cancel = self.session.cancel
        self._when_free(PREVIEW, lambda: self.runner.start(make, name=PREVIEW, cancel=cancel))

    def rewind(self, step: int, then: Callable[[Node], object] = lambda _: None) -> None:
        """Go to a step of the current branch, at the latest when the step in progress has ended.

        Args:
            then: called with its node when that is done, on the thread that did it.

        Raises:
            ValueError: there is no such step.
        """
        self._check("rewind")
        history = self.work.history
        history.at(step)
        self._when_free(f"step {step}", lambda: then(history.rewind(step)))

    def go_to(self, number: int, then: Callable[[Node], object] = lambda _: None) -> None:
        """Go to any node of the history, as ``rewind`` does.

        Raises:
            ValueError: there is no such node.
        """
        self._check("rewind")
        history = self.work.history
        index = history.node(number).index
        self._when_free(f"step {index}", lambda: then(history.go_to(number)))

    def open(self, change: Callable[[], object]) -> None:
        """Call ``change``, which sets another image, once no step is in progress."""
        self._check("open")
        self._when_free("another image", change)

    def generate(self, prompt: str, seed: int = 0) -> None:
        """Make an image from text, which is edited once it is made.

        Args:
            seed: of the noise, 0 or more.
        """
        self._check("generate")
        self._start(GENERATE, lambda: work.generating(self.work, prompt, seed))

    def load(self, name: str, max_side: int | None = None) -> None:
        """Load another model, and use it for the same image; see ``session.switching``.

        Args:
            name: as ``load_model`` takes it.
            max_side: longest side of the image that it edits, pixels; by default its own.
        """
        self._check("load")
        make = partial(work.loading, self.session, name, max_side)
        start = partial(self.runner.start, make, name=LOAD, cancel=self.session.cancel)
        self._when_free(LOAD, lambda: self._started(start()), next_=True)

    def wait(self, timeout: float | None = None) -> Rendered | Ended | Switched | None:
        """Wait until the work is over or paused; raise what it raised."""
        return self.runner.wait(timeout)

    def close(self) -> None:
        """Stop, end the worker and free everything; call no callback any more."""
        with self._lock:
            self._waiting = []
        if self._steer in self.session.watchers:
            self.session.watchers.remove(self._steer)
        self.runner.close()
        runner = self.runner
        runner.on_item = runner.on_state = runner.on_done = runner.on_error = None
        self.images.clear()
        self.rendered = self.report = None

    # What becomes of it

    def image_of(self, node: Node) -> Image.Image | None:
        """The best image of a node that was seen; of the start, the source."""
        return self.work.image if node.number == 0 else self.images.get(node)

    def _reported(self, report: Report) -> None:
        self.report = report
        if report.image is not None and report.node is not None:
            keep = self.images.put_render if report.phase == "render" else self.images.put_preview
            keep(report.node, report.image)
        self._on_report(report)

    def _done(
        self, result: Rendered | Ended | Switched | None, error: BaseException | None
    ) -> None:
        if isinstance(result, Rendered):
            self.rendered = result
        if self.runner.name == GENERATE and self.runner.outcome == "done":
            self.rendered, made, session = None, self.work.request, self.session
            # With the settings of now: the user may have changed them meanwhile.
            session.change(lambda: made.replace(settings=session.settings))
        if isinstance(result, Switched):
            self.switched = result
            self._steer()
        try:
            self._on_done(result, error)
        finally:
            with self._lock:
                waited, self._waiting = self._waiting, []
            for words, action in waited:  # each may begin a preview, which makes the next wait
                self._when_free(words, action, next_=True)
            has_other = self.session.request.image is not self.work.request.image
            if isinstance(result, Switched) or (has_other and not waited):
                for watcher in list(self.session.watchers):  # a new image waited for this end
                    watcher()
