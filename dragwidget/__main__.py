"""The command line: ``dragwidget edit fox.png --pair 60,70:80,70``.

A command is a module with ``add_arguments(parser)`` and ``run(args) -> int``, its exit status. It
is imported only when it is called: ``dragwidget --help`` is quick and loads no torch.

Exit status: 0 done; 1 it failed; 2 bad input; 130 interrupted. In all but the first, one line on
stderr says what happened. ``python -X dev -m dragwidget ...`` shows the traceback instead; so does
an error in dragwidget itself, with status 1.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple, NoReturn

from dragwidget import __version__
from dragwidget.data.bad_input import BadInputError, first_line

__all__ = ["COMMANDS", "main"]


class Command(NamedTuple):
    """A command's line in the help, and the module that does it."""

    summary: str
    module: str


GROUPS = {
    "demo": "the embedded model and the domain that it knows",
    "bench": "how good edits are, and how quick",
}

COMMANDS = {  # by the words that call it; the first of two is a group
    "edit": Command("drag points of an image to where they should be", "dragwidget.cli.edit"),
    "doctor": Command("see whether everything works on this machine", "dragwidget.cli.doctor"),
    "store": Command("list, check or empty the cache on disk", "dragwidget.cli.store"),
    "demo image": Command("draw an image to try an edit on", "dragwidget.cli.demo_image"),
    "demo train": Command("train the embedded model, from scratch or on", "dragwidget.demo.train"),
    "bench scenes": Command(
        "score edits of the embedded model's domain against the ground truth",
        "dragwidget.bench.scenes_command",
    ),
    "bench ablations": Command(
        "measure the effect of each setting, one at a time, against the ground truth",
        "dragwidget.bench.ablations_command",
    ),
    "bench methods": Command(
        "compare drag methods, with and without a LoRA, against the ground truth",
        "dragwidget.bench.methods_command",
    ),
    "bench dragbench": Command(
        "run drag methods on DragBench, or on pairs with ground truth",
        "dragwidget.bench.dragbench_command",
    ),
    "bench speed": Command(
        "time every part of an edit beside a baseline", "dragwidget.bench.dev.speed_command"
    ),
    "bench cold": Command(
        "time the command line in new processes, from the start to the image",
        "dragwidget.bench.dev.cold_command",
    ),
    "bench widget": Command(
        "see what the widget takes of a core, and of a drag", "dragwidget.bench.dev.widget_command"
    ),
    "bench fullsize": Command(
        "run a whole edit on a model of the published size with random weights",
        "dragwidget.bench.dev.fullsize_command",
    ),
    "bench validation": Command(
        "validate the keypoint evaluator", "dragwidget.bench.dev.validation_command"
    ),
    "bench inversion": Command(
        "measure how near to noise the inversion of images comes",
        "dragwidget.bench.dev.inversion_command",
    ),
    "bench selection": Command(
        "measure how much of a thing a click selects", "dragwidget.bench.dev.selection_command"
    ),
    "bench soak": Command(
        "see whether memory grows while an edit goes on and on", "dragwidget.bench.dev.soak_command"
    ),
}


# Errors of the program, though their classes are those of what a machine or a network can do.
_FAULTS = (
    FloatingPointError,
    OverflowError,
    ZeroDivisionError,
    NotImplementedError,
    RecursionError,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    with _plain_messages():
        try:
            args = _parser(words).parse_args(words or ["--help"])
            args.whole_process = argv is None  # nothing else lives in it
            return int(args.run(args))
        except KeyboardInterrupt as interruption:
            return _tell(" ".join(["interrupted", *map(str, interruption.args)]), 130)
        except _UsageError as error:
            return _tell(str(error), 2)
        except BadInputError as error:
            if sys.flags.dev_mode:
                raise
            return _tell(first_line(error), 2)
        except (ArithmeticError, MemoryError, OSError, RuntimeError) as error:
            if sys.flags.dev_mode or isinstance(error, _FAULTS):
                raise
            return _tell(f"it failed: {first_line(error)}", 1)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise _UsageError(f"{message} (see {self.prog} --help)")


class _UsageError(Exception):
    """What stands on the command line is not understood."""


def _parser(words: list[str]) -> argparse.ArgumentParser:
    """Return the parser of everything, with the arguments of the one command that is called."""
    parser = _Parser(prog="dragwidget", description="Point-based image editing with diffusion.")
    parser.add_argument("--version", action="version", version=f"dragwidget {__version__}")
    places = {"": _places(parser)}
    for name, command in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        if group not in places:
            places[group] = _places(_add(places[""], group, GROUPS[group]))
        own = _add(places[group], word, command.summary)
        if words[: len(name.split())] == name.split():
            module = import_module(command.module)
            module.add_arguments(own)
            own.set_defaults(run=module.run)
    return parser


def _places(parser: argparse.ArgumentParser) -> Any:
    return parser.add_subparsers(title="commands", metavar="COMMAND", required=True)


def _add(places: Any, word: str, summary: str) -> argparse.ArgumentParser:
    description = f"{summary[0].upper()}{summary[1:]}."
    parser: argparse.ArgumentParser = places.add_parser(word, help=summary, description=description)
    return parser


@contextmanager
def _plain_messages() -> Iterator[None]:
    """Show our log and warnings as plain lines on stderr, a warning once."""
    told = set()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if issubclass(category, UserWarning) and str(message) not in told:  # the rest is for us
            told.add(str(message))
            _tell(str(message), 0)

    logger = logging.getLogger("dragwidget")
    handler, level = logging.StreamHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _tell(text: str, status: int) -> int:
    print(f"dragwidget: {text}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
