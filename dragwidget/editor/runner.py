"""``Runner``: drives any iterator without freezing the notebook: run, pause, step, stop, wait.

The work is an iterator whose items are small steps. The runner takes one after the other, on the
thread of its clock, and checks between two of them what was requested meanwhile.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from time import monotonic
from types import TracebackType
from typing import Generic, Literal, TypeVar

from dragwidget.editor.clocks import CLOCKS, Clock, ClockName, ThreadClock, clock_here
from dragwidget.editor.jobs import Job, clear_frames
from dragwidget.editor.notices import Notices
from dragwidget.progress import Cancelled

State = Literal["idle", "running", "paused", "stopping"]
Outcome = Literal["done", "stopped", "failed"]

Item = TypeVar("Item")
Result = TypeVar("Result")

log = logging.getLogger(__name__)


class Runner(Generic[Item, Result]):
    """Run one piece of work at a time, item by item.

    Work is an iterator of ``Item``; where it is a generator, it returns a ``Result``.

    Callbacks are short. They never overlap and come in the order in which things happened; one
    that raises harms nothing: the error is logged, kept in ``last_error`` and told to
    ``on_error``. They may call everything here but ``wait``.

    Args:
        clock: ``"thread"``, ``"play"`` (ticks from the page, for Colab) or ``"sync"`` (at once);
            by default what suits the place.
        on_item: called with every item, on the thread that made it.
        on_state: called with every new state, on the thread that caused it, or on one that is
            calling back just then.
        on_done: called with the result and the exception, one of them or both ``None``, when work
            is over; the state is idle by then, so it may start the next.
        on_error: called with what a callback raised.

    Attributes:
        state: ``idle``; ``running``; ``paused``, while an item that was begun may still be under
            way; ``stopping``, until the item under way ends.
        name: of the work under way, or of the last.
        outcome: how the last work ended; ``None`` before its end.
        result: what its generator returned; ``None`` unless it is done.
        error: what it raised.
        last_error: the last exception of the work or of a callback.
    """

    def __init__(
        self,
        clock: ClockName | None = None,
        *,
        on_item: Callable[[Item], object] | None = None,
        on_state: Callable[[State], object] | None = None,
        on_done: Callable[[Result | None, BaseException | None], object] | None = None,
        on_error: Callable[[BaseException], object] | None = None,
    ) -> None:
        self.on_item, self.on_state = on_item, on_state
        self.on_done, self.on_error = on_done, on_error
        self.name = ""
        self.outcome: Outcome | None = None
        self.result: Result | None = None
        self.error: BaseException | None = None
        self.last_error: BaseException | None = None
        self._traceback: TracebackType | None = None

        # Of everything below; never held in a callback. It is entered as a lock and not as a
        # condition, which an interrupt can leave without releasing it.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._state: State = "idle"
        self._job: Job[Item] | None = None
        self._left: int | None = None  # items to take before pausing
        self._taking = False
        self._cancelled = False
        self._closed = False
        self._notices = Notices(self._lock, self._changed)
        # threads, by number: who takes items, and who calls a job's cancel
        self._driver: int | None = None
        self._canceller: int | None = None
        self._clock = self._make_clock(clock or clock_here())

    def _make_clock(self, name: ClockName) -> Clock:
        if name not in CLOCKS:
            raise ValueError(
                f"clock must be 'thread', 'play' (with the widget only) or 'sync', got {name!r}"
            )
        clock = CLOCKS[name](self._drive)
        if isinstance(clock, ThreadClock):
            weakref.finalize(self, clock.end)
        return clock

    def __repr__(self) -> str:
        return f"<Runner ({self.clock}): {self._state} {self.name}>".replace(" >", ">")

    @property
    def state(self) -> State:
        return self._state

    @property
    def busy(self) -> bool:
        """Whether an item is being made at this moment; also when ``paused`` or ``stopping``."""
        return self._taking

    @property
    def clock(self) -> ClockName:
        """The name of the clock."""
        return self._clock.name

    @property
    def play(self) -> object:
        """The hidden widget that ticks while it is on the page; ``None`` with other clocks."""
        return getattr(self._clock, "play", None)

    # What is asked for, from any thread. Each tells whether there was anything to do.

    def start(
        self,
        make: Callable[[], Iterator[Item]],
        *,
        name: str,
        cancel: Callable[[], None] | None = None,
        paused: bool = False,
    ) -> bool:
        """Start work; return ``False`` if other work is under way.

        Args:
            make: makes the iterator; called on the thread that takes its items.
            name: name shown to the user.
            cancel: called by ``stop``, to end an item that takes long; it raises ``Cancelled``.
            paused: wait for ``step`` or ``resume``.

        Raises:
            RuntimeError: the runner is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"cannot start {name!r}: this runner is closed")
            if self._job is not None:
                return False
            self._job = Job(make, name, cancel, self._clock.context())
            self.name, self._left, self._cancelled = name, None, False
            self.outcome = self.result = self.error = self.last_error = self._traceback = None
            self._become("paused" if paused else "running")
        if self._settle():
            self._drive()
        return True

    def pause(self) -> bool:
        """Pause: take no further item until ``resume`` or ``step``."""
        with self._lock:
            if self._state != "running":
                return False
            self._left = None
            self._become("paused")
        if self._settle():
            self._drive()
        return True

    def resume(self) -> bool:
        """Resume paused work."""
        with self._lock:
            single_step = self._state == "running" and self._left is not None
            if not (single_step or self._state == "paused"):
                return False
            self._left = None
            if not single_step:
                self._become("running")
        if self._settle():
            self._drive()
        return True

    def step(self) -> bool:
        """Take exactly one item, then pause; while running, the one under way is the last."""
        with self._lock:
            if self._state == "running" and self._left is None:
                if self._driver is None:
                    self._left = 1
                else:
                    self._become("paused")
            elif self._state == "paused":
                self._left = 1
                self._become("running")
            else:  # a second click is not a second step
                return False
        if self._settle():
            self._drive()
        return True

    def stop(self, *, cancel: bool = True) -> bool:
        """End the work after the item under way, or within it, if its ``cancel`` can.

        Args:
            cancel: ``False``: let the item under way end, however long it takes. A second call may
                still cancel it.
        """
        with self._lock:
            job = self._job
            if job is None or (self._state == "stopping" and (self._cancelled or not cancel)):
                return False
            if cancel:
                # work does not end before cancel has returned, or it could hit the next
                self._canceller = threading.get_ident()
                self._cancelled = True
            if self._state != "stopping":
                self._become("stopping")
        try:
            if cancel and job.cancel is not None:
                self._guard(job.cancel)
        finally:
            if cancel:
                with self._lock:
                    self._canceller = None
                    self._changed.notify_all()
        if self._settle():
            self._drive()
        return True

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait until the work is over or paused; return its result.

        With a worker thread this only waits, and an interrupt ends only the waiting. Otherwise it
        does the work itself. All callbacks were called when it returns.

        Raises:
            TimeoutError: the work is not over after ``timeout`` seconds; it continues.
            RuntimeError: called by the work itself or by a callback: it would never return.
            BaseException: what the work raised, again with every call until new work is started.
        """
        deadline = None if timeout is None else monotonic() + timeout
        runs = self._clock.runs_in_wait
        while True:
            if self._is_inside():
                raise RuntimeError(
                    "the work itself and callbacks must not call wait(): it would never return"
                )
            if runs:
                self._drive(deadline)
            elif self._work() and self._driver is None:
                self._clock.go(self._state)  # a worker that was killed left it undone
            with self._lock:
                if self._settled():
                    error, result = self.error, self.result
                    break
                left = 0.5 if deadline is None else min(0.5, deadline - monotonic())
                if left <= 0:
                    raise TimeoutError(
                        f"{self.name} did not end within {timeout:g} s; it continues"
                    )
                # in slices: some systems cannot interrupt a long wait
                self._changed.wait_for(
                    lambda: self._settled() or (runs and self._work() and self._driver is None),
                    left,
                )
        if error is not None:
            raise error.with_traceback(self._traceback)
        return result

    def close(self, timeout: float = 5.0) -> bool:
        """Stop and end the worker; return whether both ended within ``timeout`` seconds.

        From a callback it does not wait. Nothing can be started any more.
        """
        with self._lock:
            self._closed = True
            if self._is_inside():
                timeout = 0.0
        self.stop()
        return self._clock.close(timeout) and self._state == "idle"

    # How the work is done

    def _settle(self) -> bool:
        """Do what follows every change, on the thread that made it; whether it is to drive, too."""
        self._notices.tell()
        self._show()
        return self._clock.go(self._state)

    def _show(self) -> None:
        """Let the clock tick or rest; again, if another thread has changed the state meanwhile."""
        shown: State | None = None
        while shown != self._state:
            shown = self._state
            self._clock.show(shown)

    def _work(self) -> bool:
        return self._job is not None and self._state in ("running", "stopping")

    def _settled(self) -> bool:
        return self._driver is None and self._notices.quiet and not self._work()

    def _is_inside(self) -> bool:
        """Return whether this is called by the work itself or by a callback."""
        return threading.get_ident() in (self._driver, *self._calling_back())

    def _calling_back(self) -> tuple[int | None, int | None]:
        """Return the threads that call a callback or a job's cancel now."""
        return self._notices.dispatching_thread, self._canceller

    def _drive(self, until: float | None = None) -> None:
        """Do what there is to do, on this thread, unless another is at it or this one calls back.

        Whatever becomes to do while this runs is done by it. Items are taken here and in nothing
        that this calls, so that errors deep in the work are not buried.

        Args:
            until: begin nothing after this time (``time.monotonic``).
        """
        me = threading.get_ident()
        with self._lock:
            if self._driver is not None or me in self._calling_back():
                return
            self._driver = me
        try:
            while (job := self._next_job(until)) is not None:
                outcome: Outcome | None = None
                items: Iterator[Item] | None = None
                result: Result | None = None
                error: BaseException | None = None
                self._taking = True
                try:
                    items = job.open()
                    item = next(items) if job.context is None else job.context.run(next, items)
                except StopIteration as end:
                    if items is None:  # it was not even made
                        outcome, error = "failed", end
                    else:
                        outcome, result = "done", end.value
                except Cancelled:
                    outcome = "stopped"
                except KeyboardInterrupt:
                    raise  # it ends more than the work
                except BaseException as problem:
                    outcome, error = "failed", problem
                finally:
                    self._taking = False
                if outcome is None:
                    job.run(self._took, item)
                    del item  # it may be large
                else:
                    job.run(self._end, job, outcome, result, error)
                    result = error = None  # its traceback holds this frame: no circle
        except BaseException:  # an interrupt, anywhere: leave everything usable
            job = self._job
            if job is not None and self._driver == me:
                self._end(job, "stopped")
            raise
        finally:
            with self._lock:
                if self._driver == me:
                    self._driver = None
                    self._changed.notify_all()
            self._show()

    def _next_job(self, until: float | None) -> Job[Item] | None:
        """Return the work to take an item of; ``None`` where there is none, or it is too late.

        Work that is to stop ends here.
        """
        while True:
            late = until is not None and monotonic() >= until
            with self._lock:
                job, stopping = self._job, self._state == "stopping"
                if job is None or not self._work() or (late and not stopping):
                    # in one go with looking: what is asked for from now on finds no driver
                    self._driver = None
                    self._changed.notify_all()
                    return None
                if not stopping:
                    if self._left is not None:
                        self._left -= 1
                    return job
            job.run(self._end, job)

    def _took(self, item: Item) -> None:
        """Tell of an item; pause after the last that was asked for."""
        with self._lock:
            self._say("on_item", item, by=self._driver)
            if self._left == 0 and self._state == "running":
                self._left = None
                self._become("paused", self._driver)
        self._notices.tell(mine=True)

    def _end(
        self,
        job: Job[Item],
        outcome: Outcome = "stopped",
        result: Result | None = None,
        error: BaseException | None = None,
    ) -> None:
        """End the work, whatever its outcome."""
        try:
            job.close()
        except Exception as problem:
            if error is None and not isinstance(problem, Cancelled):
                outcome, result, error = "failed", None, problem
        if error is not None:
            clear_frames(error)
        me = threading.get_ident()
        with self._lock:
            self._changed.wait_for(lambda: self._canceller in (None, me))
            self._job = self._left = None
            self.outcome, self.result = outcome, result
            if error is not None:
                self.error = self.last_error = error
                self._traceback = error.__traceback__
            self._become("idle", self._driver)
            self._say("on_done", result, error, by=self._driver)
        self._notices.tell(mine=True)

    # How it is told

    def _become(self, state: State, by: int | None = None) -> None:
        self._state = state
        self._say("on_state", state, by=by)
        self._changed.notify_all()

    def _say(self, name: str, *arguments: object, by: int | None) -> None:
        def call() -> None:
            callback = getattr(self, name)
            if callback is not None:
                self._guard(callback, *arguments)

        self._notices.add(call, by)

    def _guard(self, callback: Callable[..., object], *arguments: object) -> None:
        try:
            callback(*arguments)
        except Exception as error:
            log.exception("a callback of %r failed", self.name)
            self.last_error = error
            if self.on_error is not None:
                try:
                    self.on_error(error)
                except Exception:
                    log.exception("on_error failed, too")
