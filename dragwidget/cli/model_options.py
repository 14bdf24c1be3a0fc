"""The options of commands that load a model; see ``load_model``."""

from __future__ import annotations

import argparse
from typing import Any

_OPTIONS = ("vae", "revision", "variant", "config", "prediction_type")


def add_model_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the options of ``load_model``."""
    parser.add_argument(
        "--vae",
        metavar="NAME",
        help="another autoencoder: a folder, a .safetensors file or a hub id",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument(
        "--variant", help="variant of the weights, if there are several: fp16, non_ema, .."
    )
    parser.add_argument(
        "--config",
        metavar="NAME",
        help="configuration of a checkpoint: a folder or hub id of the same layout",
    )
    parser.add_argument(
        "--prediction-type",
        choices=["epsilon", "v_prediction"],
        help="prediction of the network, noise or velocity; default: as the model says",
    )


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given options, as ``load_model`` takes them."""
    given = ((name, getattr(args, name)) for name in _OPTIONS)
    return {name: value for name, value in given if value is not None}
