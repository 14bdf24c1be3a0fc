"""The options of commands that load a model; see ``load_model``."""

from __future__ import annotations

import argparse
from typing import Any

_OPTIONS = ("vae", "revision", "variant", "config", "prediction_type", "preview_vae")


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

    parser.add_argument(
        "--embedding",
        nargs=2,
        action="append",
        default=[],
        dest="embeddings",
        metavar=("FILE", "WORD"),
        help="a textual inversion, and the word for it in the prompt, such as <cat>; repeatable",
    )
    parser.add_argument(
        "--preview-vae",
        metavar="NAME",
        help="a tiny autoencoder (TAESD) for previews, as of an animation: a folder or a hub id",
    )


def model_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given options, as ``load_model`` takes them."""
    given = ((name, getattr(args, name)) for name in _OPTIONS)
    options: dict[str, Any] = {name: value for name, value in given if value is not None}
    embeddings = {word: file for file, word in args.embeddings}
    if len(embeddings) < len(args.embeddings):
        raise ValueError("--embedding names a word twice: give each file a word of its own")
    return options | ({"embeddings": embeddings} if embeddings else {})
