"""Run independent tasks on any executor: each gives one outcome, whatever happens to a worker.

An executor is one of ``concurrent.futures``, or anything of their form: Dask's
``client.get_executor()``, ipyparallel's ``client.executor()``. A task that fails is an outcome with
its error. A worker that dies costs the tasks that it had one attempt: they are run again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import torch

from dragwidget.data.bad_input import first_line
from dragwidget.data.quoting import quoted

Task = TypeVar("Task")
Result = TypeVar("Result")

ADDRESSES = '"processes:2", "threads:1" or "dask://host:port"'
IN_FLIGHT = 256  # tasks given at one time to an executor that does not say how many workers it has
_POOL = re.compile(r"(processes|threads):([1-9][0-9]{0,3})")
_DASK = re.compile(r"dask://([^\s/]+:[0-9]{1,5})")


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """What became of a task.

    Attributes:
        index: its place among the tasks, from 0.
        result: what the work returned; ``None`` where it failed.
        error: why it failed, in one line; empty where it did not.
        attempts: how often it was begun, as far as is known here.
    """

    index: int
    task: Task
    result: Result | None
    error: str = ""
    attempts: int = 1


def check_address(address: str) -> str:
    """Return the address of an executor, if it can be opened here.

    Raises:
        ImportError: a package that it needs is missing.
        ValueError: it is none.
    """
    if _DASK.fullmatch(address):
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"{address} needs Dask, which is not installed: pip install 'dask[distributed]'"
            ) from error
    elif not _POOL.fullmatch(address):
        raise ValueError(f"an executor's address is {ADDRESSES}, got {quoted(address)}")
    return address


def check_executor(executor: Executor | str | None) -> None:
    """Raise unless this is what ``opened`` takes, and can be opened here; see there."""
    if isinstance(executor, str):
        check_address(executor)
    elif executor is not None and not callable(getattr(executor, "submit", None)):
        raise TypeError(
            f"an executor must be {ADDRESSES}, or have submit(function, task) as those of "
            "concurrent.futures, client.get_executor() of Dask and client.executor() of "
            f"ipyparallel have; got {type(executor).__name__}"
        )


@contextmanager
def opened(executor: Executor | str | None) -> Iterator[Executor | None]:
    """Open an executor by its address, and close it afterwards; a given one is left as it is.

    Args:
        executor: ``"processes:N"``: processes with one thread of torch each; ``"threads:N"``;
            ``"dask://host:port"``: the workers of a running Dask cluster, which need dragwidget;
            an executor; ``None``: work in the calling thread.

    Raises:
        ImportError: a package that the address needs is missing.
        OSError: nothing answers there.
        TypeError: neither an executor nor an address.
        ValueError: no address of an executor.
    """
    check_executor(executor)
    if not isinstance(executor, str):
        yield executor
    elif found := _DASK.fullmatch(executor):
        import distributed

        connect: Any = distributed.Client  # which has no types
        with connect(f"tcp://{found[1]}") as client, client.get_executor() as given:
            yield given
    else:
        kind, _, count = executor.partition(":")
        make = _process_pool if kind == "processes" else ThreadPoolExecutor
        with make(int(count)) as pool:
            yield pool


def _process_pool(count: int) -> ProcessPoolExecutor:
    # Spawned, not forked: a fork of a process in which torch has threads may hang. One thread
    # each: torch's own would fight over the cores that the processes already fill.
    return ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,))


@dataclass
class _Attempt(Generic[Task]):
    index: int
    task: Task
    attempts: int = 0  # so far


def completed(
    work: Callable[[Task], Result],
    tasks: Iterable[Task],
    executor: Executor | None = None,
    *,
    retries: int = 2,
) -> Iterator[Outcome[Task, Result]]:
    """Run tasks; yield the outcome of each as soon as it is there.

    Tasks are drawn from the iterable as workers get free. What was lost with a worker is run again
    at the end. A task that kills its worker may take others with it, as all that a process pool is
    running, which breaks and is replaced; so the last attempt of a task is made alone.

    Args:
        work: importable by the workers, as the tasks can be pickled, unless they are threads.
        executor: ``None``: one after the other in this thread.
        retries: how often a task is run again whose worker was lost, or whose result was. One whose
            work raised an error is not run again.

    Raises:
        ValueError: retries is no whole number of 0 or more.
    """
    if not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be a whole number of 0 or more, got {retries!r}")
    if executor is None:
        return (Outcome(k, task, *_guarded(work, task, 0)) for k, task in enumerate(tasks))
    return _Run(work, tasks, executor, retries).outcomes()


def _guarded(work: Callable[[Task], Result], task: Task, _: int) -> tuple[Result | None, str]:
    """Tell errors of the work, which come back as text, from the loss of a worker.

    The number of the attempt makes it another call: Dask answers equal ones with one result.
    """
    try:
        return work(task), ""
    except Exception as error:
        return None, describe(error)


def describe(error: BaseException) -> str:
    """Return an error in one line, with its kind."""
    return f"{type(error).__name__}: {first_line(error)}"


class _Run(Generic[Task, Result]):
    """One run of tasks on an executor, or on those that replaced it."""

    def __init__(
        self,
        work: Callable[[Task], Result],
        tasks: Iterable[Task],
        executor: Executor,
        retries: int,
    ) -> None:
        self.work, self.executor, self.retries = work, executor, retries
        self.first = (_Attempt(index, task) for index, task in enumerate(tasks))
        self.lost: deque[_Attempt[Task]] = deque()
        self.alone: deque[_Attempt[Task]] = deque()  # lost, with one attempt left
        self.ours: list[Executor] = []
        self.limit = getattr(executor, "_max_workers", IN_FLIGHT)
        self.done: SimpleQueue[Any] = SimpleQueue()
        self.running: dict[Any, tuple[_Attempt[Task], Executor]] = {}

    def outcomes(self) -> Iterator[Outcome[Task, Result]]:
        try:
            while True:
                while attempt := self.next():
                    if failed := self.begin(attempt):
                        yield failed
                if not self.running:
                    return
                future = self.done.get()
                attempt, executor = self.running.pop(future)
                try:
                    result, error = future.result()
                except Exception as lost:  # the worker, its answer or the way to it
                    if isinstance(lost, BrokenExecutor):
                        self.replace(executor)
                    left = 1 + self.retries - attempt.attempts
                    if left:
                        (self.alone if left == 1 else self.lost).append(attempt)
                        continue
                    result, error = None, describe(lost)
                yield Outcome(attempt.index, attempt.task, result, error, attempt.attempts)
        finally:
            for future in self.running:  # those that have not begun, where nobody looks on
                future.cancel()
            for pool in self.ours:
                pool.shutdown(cancel_futures=True)

    def next(self) -> _Attempt[Task] | None:
        """Return what is to be begun now."""
        is_alone = any(
            attempt.attempts > max(1, self.retries) for attempt, _ in self.running.values()
        )
        if is_alone or len(self.running) >= self.limit:
            return None
        if attempt := next(self.first, None):
            return attempt
        if self.lost:
            return self.lost.popleft()
        return self.alone.popleft() if self.alone and not self.running else None

    def begin(self, attempt: _Attempt[Task]) -> Outcome[Task, Result] | None:
        """Give a task to the executor; return its outcome where that takes none any more."""
        for _ in range(2):  # the second time by another one
            try:
                future = self.executor.submit(_guarded, self.work, attempt.task, attempt.attempts)
            except Exception as error:
                if isinstance(error, BrokenExecutor) and self.replace(self.executor):
                    continue
                return Outcome(attempt.index, attempt.task, None, describe(error), attempt.attempts)
            attempt.attempts += 1
            self.running[future] = attempt, self.executor
            future.add_done_callback(self.done.put)
            return None
        raise AssertionError("a pool that has just been made takes a task")

    def replace(self, broken: Executor) -> bool:
        """Take another pool in place of a broken one; ``False``: there is none like it."""
        if broken is not self.executor:  # it was replaced already
            return True
        if not isinstance(broken, ProcessPoolExecutor):
            return False
        pool: Any = broken
        self.executor = ProcessPoolExecutor(
            pool._max_workers, pool._mp_context, pool._initializer, pool._initargs
        )
        self.ours.append(self.executor)
        return True
