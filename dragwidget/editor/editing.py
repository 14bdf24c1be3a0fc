"""``Editing``: what the widget's buttons do, without a widget.

What the user has typed is *wanted* and reaches the session when work begins, so that typing a
prompt while a drag runs neither breaks nor changes that drag. Points, mask and drag settings are
passed on at once: the next step takes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, Literal

from dragwidget.editor import Runner, State
from dragwidget.editor.images import Images
from dragwidget.editor.work import (
    Pace,
    Rendered,
    Report,
    dragging,
    looking,
    preparing,
    rendering,
)
from dragwidget.progress import StageStatus

if TYPE_CHECKING:
    from PIL import Image

    from dragwidget.data.instructions import DragInstructions
    from dragwidget.data.settings import Settings
    from dragwidget.editor.clocks import ClockName
    from dragwidget.session.history import History, Node
    from dragwidget.session.session import DragSession

__all__ = ["PREVIEW", "Action", "Editing"]

Action = Literal["prepare", "step", "run", "pause", "stop", "reset", "render", "rewind", "look"]
_DRAGGING = ("drag", "preview")  # phases in which the session stands at a whole step
PREVIEW = "Preview"  # the name of work that gives way to any other


class Editing:
    """A session, the runner that drives it, and what was seen so far.

    Args:
        session: with an image.
        drawn: what the canvas holds now; ``None`` where there is no pair; ValueError where it makes
            no sense.
        clock: of the runner, as is ``on_state`` and ``on_error``.
        on_report: called with every report.
        on_done: called with the result and the exception when work is over.
        on_waiting: called with what will happen when the step in progress has ended, in words.

    Attributes:
        prompt, settings: wanted; see above.
        report: the last one of the work under way, or of the last.
        rendered: the last final render, and where it belongs.
        waiting: what happens when the step in progress has ended, in words; empty: nothing.
        single: whether the last step was asked for alone.
    """

    def __init__(
        self,
        session: DragSession,
        drawn: Callable[[], DragInstructions | None],
        clock: ClockName | None = None,
        *,
        on_report: Callable[[Report], object],
        on_state: Callable[[State], object],
        on_done: Callable[[Any, BaseException | None], object],
        on_error: Callable[[BaseException], object],
        on_waiting: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.session = session
        self.images = Images()
        self.pace = Pace()
        self.prompt, self.settings = session.prompt, session.settings
        self.report: Report | None = None
        self.rendered: Rendered | None = None
        self.waiting, self.single = "", False
        self._then: Callable[[], object] | None = None
        self._lock = threading.Lock()  # of the two that say what is waiting
        self._drawn, self._on_report, self._on_done = drawn, on_report, on_done
        self._on_waiting = on_waiting
        self.runner = Runner(
            clock,
            on_item=self._reported,
            on_state=on_state,
            on_done=self._done,
            on_error=on_error,
        )

    # What is asked for

    @property
    def history(self) -> History | None:
        """Of the edit that the session stands at; ``None`` before its inversion."""
        edit = self.session.stages.edit(self.session.source, self.session.settings)
        return None if edit is None else edit.history

    @property
    def status(self) -> dict[str, StageStatus]:
        """Of each stage, for what is wanted now."""
        source = replace(self.session.source, prompt=self.prompt)
        return self.session.stages.status(source, self.settings)

    def want_settings(self, settings: Settings) -> None:
        """Work with these from now on; drag settings already in the next step."""
        self.session.model.check(settings)
        self.settings = settings
        if self._on_the_way():
            self.session.settings = replace(
                self.session.settings, drag=settings.drag, render=settings.render
            )

    def steer(self) -> None:
        """What is drawn has changed: the next step takes it."""
        if not self._on_the_way():
            return
        try:
            drawn = self._drawn()
        except ValueError:  # half-way to something else, such as a mask rubbed out
            return
        if drawn is not None:
            self.session.instructions = drawn.replace(prompt=self.session.prompt)

    def _on_the_way(self) -> bool:
        return self.runner.state != "idle"

    def _ask(self) -> None:
        """Pass everything that is wanted to the session."""
        self.session.settings = self.settings
        if self.prompt != self.session.prompt:
            self.session.prompt = self.prompt
        drawn = self._drawn()
        if drawn is not None:
            self.session.instructions = drawn.replace(prompt=self.prompt)

    def _asks_for_more(self) -> bool:
        """Whether something is wanted that a drag under way cannot take."""
        session = self.session
        now = replace(self.settings, drag=session.settings.drag, render=session.settings.render)
        return self.prompt != session.prompt or now != session.settings

    # What can be done

    def why_not(self, action: Action) -> str:
        """Why an action is not possible now; empty where it is."""
        state, name = self.runner.state, self.runner.name
        if state == "stopping" and not (self.waiting and action in ("stop", "rewind", "reset")):
            return "waiting for the step in progress" if self.waiting else f"{name} is stopping"
        if action in ("pause", "stop"):
            if state == "idle":
                return "nothing is running"
            if action == "pause" and name == PREVIEW:
                return "a preview cannot be paused"
            return "it is paused already" if action == "pause" and state == "paused" else ""
        if state == "running" and name != PREVIEW:
            return f"{name} is running: pause or stop it first"
        if action == "look" and self.runner.busy and name != PREVIEW:
            return "a step is in progress"
        if state == "paused" and action not in ("run", "step") and not self._at_a_step():
            return f"{name} is paused half-way: go on, or stop it first"
        if action in ("run", "step"):
            try:
                drawn = self._drawn()
            except ValueError as error:
                return str(error)
            if drawn is None:
                return "there is nothing to drag: draw a pair of points first"
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

    def _when_free(self, words: str, action: Callable[[], object]) -> None:
        """Do it once no step is in progress: now, or when that step has ended.

        It never waits for a step. Work that is paused ends, and the session has all of it; a
        preview is cancelled. What was waiting before does not happen.
        """
        runner = self.runner
        if runner.state == "paused" and not runner.busy:
            runner.stop(cancel=False)
            runner.wait()
        with self._lock:
            free = runner.state == "idle"
            self.waiting, self._then = ("", None) if free else (words, action)
            if not free and runner.name != PREVIEW:
                self._on_waiting(words)
        if free:
            action()
        else:
            runner.stop(cancel=runner.name == PREVIEW)

    def _start(self, name: str, make: Callable[[], Iterator[Report]]) -> None:
        self._drawn()  # what makes no sense is refused now, not when the work begins
        self._when_free(name, lambda: self._start_now(name, make))

    def _start_now(self, name: str, make: Callable[[], Iterator[Report]]) -> None:
        self._ask()
        if not self.runner.start(make, name=name, cancel=self.session.cancel):
            raise RuntimeError(f"cannot start: {self.runner.name} is running")

    # What the buttons do

    def prepare(self) -> None:
        """Make LoRA and inversion, where they are not fresh."""
        self._check("prepare")
        self._start("Prepare", lambda: preparing(self.session))

    def step(self, steps: int = 1) -> None:
        """Drag so many steps on; paused, one more of what is under way."""
        self._check("step")
        self.single = steps == 1
        if self.runner.state == "paused" and not self._asks_for_more() and steps == 1:
            self.steer()
            self.runner.step()
        else:
            self._start("Step", lambda: dragging(self.session, steps, pace=Pace(0.0, inf)))

    def run(self, steps: int | None = None, *, render: bool = False) -> None:
        """Drag on to the end, or go on where it was paused."""
        self._check("run")
        self.single = False
        paused = self.runner.state == "paused"
        if paused and not (self._asks_for_more() and self._at_a_step()):
            self.steer()
            self.runner.resume()
        else:
            self._start(
                "Drag", lambda: dragging(self.session, steps, pace=self.pace, render=render)
            )

    def pause(self) -> None:
        """After the step under way."""
        self.single = False
        self.runner.pause()

    def stop(self) -> None:
        """Within the step under way; whole steps stay."""
        self.runner.stop()

    def render(self, step: int | None = None) -> None:
        """Make the final render of where the edit stands, or of a step of its branch."""
        self._check("render")
        self._start("Render", lambda: rendering(self.session, step))

    def look(self, more: Sequence[int] = ()) -> None:
        """Make a preview of where the edit stands, then of ``more`` steps of its branch."""
        self._check("look")
        self._when_free(PREVIEW, lambda: self._look_now(more))

    def _look_now(self, more: Sequence[int]) -> None:
        self.runner.start(
            lambda: looking(self.session, more), name=PREVIEW, cancel=self.session.cancel
        )

    def rewind(self, step: int, then: Callable[[Node], object] = lambda _: None) -> None:
        """Go to a step of the present branch, at the latest when the step in progress has ended.

        Args:
            then: called with its node when that is done, on the thread that did it.

        Raises:
            ValueError: there is no such step.
        """
        self._check("rewind")
        self.session.history.at(step)
        self._move(f"step {step}", lambda: self.session.history.rewind(step), then)

    def go_to(self, number: int, then: Callable[[Node], object] = lambda _: None) -> None:
        """Go to any node of the history, likewise.

        Raises:
            ValueError: there is no such node.
        """
        self._check("rewind")
        node = self.session.history.node(number)
        self._move(f"step {node.index}", lambda: self.session.history.go_to(number), then)

    def _move(self, words: str, move: Callable[[], Node], then: Callable[[Node], object]) -> None:
        def action() -> None:
            node = move()
            self.session.ended = None
            then(node)

        self._when_free(words, action)

    def wait(self, timeout: float | None = None) -> Any:
        """Until the work is over or paused; raises what it raised."""
        return self.runner.wait(timeout)

    def close(self) -> None:
        """Stop, end the worker and free everything; nothing is told any more."""
        with self._lock:
            self.waiting, self._then = "", None
        self.runner.close()
        runner = self.runner
        runner.on_item = runner.on_state = runner.on_done = runner.on_error = None
        self.images.clear()
        self.rendered = self.report = None

    # What becomes of it

    def image_of(self, node: Node) -> Image.Image | None:
        """The best image of a node that was seen; of the start, the source."""
        return self.session.image if node.number == 0 else self.images.get(node)

    def _reported(self, report: Report) -> None:
        self.report = report
        if report.image is not None and report.node is not None:
            keep = self.images.put_exact if report.phase == "render" else self.images.put_preview
            keep(report.node, report.image)
        self._on_report(report)

    def _done(self, result: Any, error: BaseException | None) -> None:
        if isinstance(result, Rendered):
            self.rendered = result
        try:
            self._on_done(result, error)
        finally:
            with self._lock:
                then, self._then, self.waiting = self._then, None, ""
            if then is not None:
                then()
