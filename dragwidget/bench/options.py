"""Options that the benchmarks of many independent tasks share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dragwidget.bench.rows import RowFile, to_row
from dragwidget.data.bad_input import first_line, positive, user_file
from dragwidget.drag.methods import METHODS
from dragwidget.session.executors import ADDRESSES, check_address, opened
from dragwidget.storage.atomic import check_writable


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


def add_json(parser: argparse.ArgumentParser, text: str = "all numbers") -> None:
    """Add ``--json OUT``, for ``write_json``."""
    parser.add_argument("--json", type=output_file, metavar="OUT", help=text)


def add_methods(parser: argparse.ArgumentParser) -> None:
    """Add ``--methods METHOD ..``."""
    text = f"by default all: {', '.join(METHODS)}"
    parser.add_argument("--methods", nargs="+", choices=METHODS, metavar="METHOD", help=text)


def add_out(parser: argparse.ArgumentParser, text: str) -> None:
    """Add ``--out FOLDER``, which is made if need be."""
    parser.add_argument("--out", type=output_folder, metavar="FOLDER", help=text)


def output_file(word: str) -> Path:
    """Return a file of the command line that can be written."""
    with _refusing():
        check_writable(path := user_file(word))
    return path


def output_folder(word: str) -> Path:
    """Return a folder of the command line, which is made if need be."""
    with _refusing():
        (path := user_file(word)).mkdir(parents=True, exist_ok=True)
    return path


@contextmanager
def _refusing() -> Iterator[None]:
    """Let argparse tell what is wrong with a word."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(first_line(error)) from error


def _address(word: str) -> str:
    with _refusing():
        return check_address(word)


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
