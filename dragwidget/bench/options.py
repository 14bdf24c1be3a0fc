"""Options that the benchmarks of many independent tasks share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator
from concurrent.futures import Executor
from contextlib import closing
from typing import Any

from tqdm import tqdm

from dragwidget.bench.rows import RowFile, to_row
from dragwidget.data.bad_input import positive
from dragwidget.session.executors import ADDRESSES, check_address, opened

__all__ = ["add_executor", "fill"]


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Add ``--executor``, and ``--jobs N`` for ``processes:N``; the value is for ``opened``."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--executor",
        type=_address,
        metavar="ADDRESS",
        help=f"where tasks run: {ADDRESSES}; default: here, one after the other".replace('"', ""),
    )
    where.add_argument(
        "--jobs",
        dest="executor",
        type=_processes,
        metavar="N",
        help="short for --executor processes:N",
    )


def _address(word: str) -> str:
    try:
        return check_address(word)
    except (ImportError, ValueError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _processes(word: str) -> str | None:
    count = positive(word)
    return None if count == 1 else f"processes:{count}"


def fill(
    rows: RowFile,
    run: Callable[[Executor | None], Generator[list[Any], None, None]],
    executor: str | None,
    total: int,
    left: int,
) -> None:
    """Add the results of a run to the rows as they come, with a progress bar.

    Args:
        run: with an executor, yields lists of results, which are dataclasses.
        total: rows of the whole run; ``left``: of them those that are not there yet.
    """
    progress = tqdm(total=total, initial=total - left, disable=None)
    with opened(executor) as pool, closing(run(pool)) as found, progress as bar:
        for results in found:
            for result in results:
                rows.add(to_row(result))
            bar.update(len(results))
