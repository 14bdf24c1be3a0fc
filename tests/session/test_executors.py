"""Tasks on any executor: one outcome each, and a worker that dies is not the end."""

from __future__ import annotations

import os
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from dragwidget.session.executors import check_address, completed, opened


def double(number: int) -> int:
    return 2 * number


def invert(number: int) -> float:
    return 1 / number


def die_at_first(task: tuple[int, str]) -> int:
    """Return the number; the first worker to see the file missing makes it and dies."""
    number, marker = task
    if number == 2:
        try:
            Path(marker).touch(exist_ok=False)
        except FileExistsError:
            return number
        os._exit(1)
    return number


def die_always(number: int) -> int:
    if number == 2:
        os._exit(1)
    return number


def rows(outcomes):
    return sorted((one.index, one.result, one.error, one.attempts) for one in outcomes)


class Refuses:
    """The least that an executor can be; it is shut down after some tasks."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def submit(self, function, *args):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future = Future()
        future.set_result(function(*args))
        return future


def test_every_task_has_one_outcome_wherever_it_runs():
    expected = [(k, 2 * k, "", 1) for k in range(7)]
    assert rows(completed(double, range(7))) == expected
    assert rows(completed(double, range(7), Refuses(99))) == expected
    with ThreadPoolExecutor(2) as pool:
        assert rows(completed(double, range(7), pool)) == expected
    with opened("threads:1") as pool:
        assert rows(completed(double, range(7), pool)) == expected


@pytest.mark.parametrize("address", [None, "threads:2"])
def test_a_task_that_fails_is_an_outcome_not_the_end_and_runs_once(address):
    with opened(address) as pool:
        found = rows(completed(invert, [1, 0, 2], pool))
    assert found == [
        (0, 1.0, "", 1),
        (1, None, "ZeroDivisionError: division by zero", 1),
        (2, 0.5, "", 1),
    ]


def test_tasks_are_drawn_as_workers_get_free():
    drawn = []

    def tasks():
        for number in range(9):
            drawn.append(number)
            yield number

    with ThreadPoolExecutor(2) as pool:
        outcomes = completed(double, tasks(), pool)
        assert drawn == []
        next(outcomes)
        assert len(drawn) <= 3
        outcomes.close()


def test_an_executor_that_takes_no_more_gives_an_error_to_each_task_that_is_left():
    found = rows(completed(double, range(3), Refuses(1)))
    error = "RuntimeError: cannot schedule new futures after shutdown"
    assert found == [(0, 0, "", 1), (1, None, error, 0), (2, None, error, 0)]


@pytest.mark.slow
def test_a_pool_whose_worker_dies_is_replaced_and_what_it_was_doing_runs_again(tmp_path):
    tasks = [(number, str(tmp_path / "died")) for number in range(6)]
    with opened("processes:2") as pool:
        found = list(completed(die_at_first, tasks, pool))
    assert [(one.index, one.result) for one in sorted(found, key=lambda one: one.index)] == [
        (number, number) for number in range(6)
    ]
    assert {one.attempts for one in found} <= {1, 2}
    assert next(one for one in found if one.index == 2).attempts == 2


@pytest.mark.slow
def test_a_task_that_kills_every_worker_takes_no_other_with_it():
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:  # the caller's own
        found = {one.index: one for one in completed(die_always, range(5), pool)}
    assert [found[k].result for k in range(5)] == [0, 1, None, 3, 4]
    assert "BrokenProcessPool" in found[2].error
    assert found[2].attempts == 3


@pytest.mark.slow
def test_without_retries_a_lost_worker_costs_only_what_it_was_doing():
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        found = {one.index: one for one in completed(die_always, range(5), pool, retries=0)}
    assert [found[k].result for k in range(5)] == [0, 1, None, 3, 4]
    assert found[2].attempts == 1


@pytest.mark.parametrize(
    "address",
    ["", "processes", "processes:0", "threads:two", "ray://host:1", "dask://", "dask://x"],
)
def test_an_address_that_is_none_is_told_with_those_that_are(address):
    with pytest.raises(ValueError, match=r'"processes:2", "threads:1" or "dask://host:port"'):
        check_address(address)


def test_a_missing_package_is_told_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ImportError, match=r"needs Dask.*pip install 'dask\[distributed\]'"):
        check_address("dask://127.0.0.1:8786")


def test_what_is_no_executor_is_told():
    with (
        pytest.raises(TypeError, match=r"submit\(function, task\).*got int"),
        opened(4),  # type: ignore[arg-type]
    ):
        pass


@pytest.mark.parametrize("retries", [-1, 1.5, None])
def test_retries_are_a_whole_number(retries):
    with pytest.raises(ValueError, match="retries must be a whole number of 0 or more"):
        completed(double, [], retries=retries)
