"""``dragwidget doctor``: does everything that an edit needs work on this machine?"""

from __future__ import annotations

import argparse

from dragwidget.cli.model_options import add_model_arguments, model_options

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dragwidget doctor``."""
    parser.add_argument("--model", default="critters", help="the model to try, as for `edit`")
    add_model_arguments(parser)
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu; default: the best")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 where something is wrong."""
    from dragwidget.diffusion.doctor import examine

    report = examine(args.model, device=args.device, **model_options(args))
    print(report)
    return 0 if report.ok else 1
