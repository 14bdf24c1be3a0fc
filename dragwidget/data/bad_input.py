"""Errors that are the user's to mend, told apart from ours on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dragwidget.data.paths import user_path


class BadInputError(Exception):
    """What was asked for on the command line cannot be done; the message says why."""


@contextmanager
def bad_input() -> Iterator[None]:
    """Around the code that takes in what the user gave: its ValueError and OSError say so.

    Elsewhere these are errors of the program, or of the machine.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise BadInputError(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def user_file(word: str) -> Path:
    """A path of the command line, its ``~`` expanded, which the shell leaves in ``--log=~/x``."""
    try:
        return user_path(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def positive(word: str) -> int:
    """Return a count of the command line, 1 or more."""
    if not (word.isdecimal() and int(word) > 0):
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more, got {word!r}")
    return int(word)
