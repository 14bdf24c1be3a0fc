"""Worker processes for benchmarks of many independent tasks."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import torch

from dragwidget.data.bad_input import positive

__all__ = ["add_jobs", "processes"]


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs``, whose value is for ``processes``."""
    parser.add_argument(
        "--jobs", type=positive, default=1, metavar="N", help="processes, each with one thread"
    )


@contextmanager
def processes(jobs: int) -> Iterator[Executor | None]:
    """An executor of `jobs` processes of one thread each; for one job ``None``: work right here.

    Torch's own threads would fight over the cores that the processes already fill; right here they
    stay as they are.
    """
    if jobs == 1:
        yield None
        return
    torch.set_num_threads(1)
    # Spawned, not forked: a fork of a process in which torch has threads may hang.
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as executor:
        yield executor
