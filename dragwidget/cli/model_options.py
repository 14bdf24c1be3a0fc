"""The options of the commands that load a model; names and meanings are ``load_model``'s."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_model_arguments", "model_options"]

_OPTIONS = ("vae", "revision", "variant", "config", "prediction_type")


def add_model_arguments(parser: argparse._ActionsContainer) -> None:
    """The options that say which weights are loaded, and as what."""
    parser.add_argument(
        "--vae", metavar="NAME", help="another autoencoder: a folder, a .safetensors file, a hub id"
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument(
        "--variant", help="which weights, where a model has several: fp16, non_ema, .."
    )
    parser.add_argument(
        "--config", metavar="NAME", help="of a checkpoint: a folder or hub id of the same layout"
    )
    parser.add_argument(
        "--prediction-type",
        choices=["epsilon", "v_prediction"],
        help="what the network predicts, noise or velocity; by default what the model says",
    )


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Those that were given, as ``load_model`` takes them."""
    given = ((name, getattr(args, name)) for name in _OPTIONS)
    return {name: value for name, value in given if value is not None}
