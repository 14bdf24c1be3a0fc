"""``dragwidget doctor``: does everything that an edit needs work on this machine?"""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``dragwidget doctor``."""
    parser.add_argument("--model", default="critters", help="the model to try, as for `edit`")
    parser.add_argument("--device", default="auto", help="cuda, mps or cpu; default: the best")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 where something is wrong."""
    from dragwidget.diffusion.doctor import examine

    report = examine(args.model, device=args.device)
    print(report)
    return 0 if report.ok else 1
