"""``dragwidget doctor``: check that everything an edit needs works on this machine."""

from __future__ import annotations

import argparse

from dragwidget.cli.model_options import add_model_arguments, model_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="critters", help="the model to check, as for `edit`")
    add_model_arguments(parser)
    parser.add_argument("--device", default="auto", help="cuda, mps, xpu, cpu; default: fastest")


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 if something is wrong."""
    from dragwidget.session.doctor import examine

    report = examine(args.model, device=args.device, **model_options(args))
    print(report)
    return 0 if report.ok else 1
