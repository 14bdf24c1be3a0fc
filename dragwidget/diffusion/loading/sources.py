"""What a model's name stands for: a file or folder on this machine, or a model on the hub.

Decided by the name and the local disk alone, before anything is requested from a network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from dragwidget.data.quoting import quoted

__all__ = ["MAX_NAME", "is_hub_id", "locate"]

MAX_NAME = 4096  # characters; what Linux takes as a path
# Hugging Face's own rule for "owner/name" (huggingface_hub, ``validate_repo_id``), in ASCII, and at
# most its 96 characters a part. The owners left out are its other kinds of repository.
_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_HUB_ID = re.compile(rf"(?!(?:datasets|spaces|models|api)/){_PART}/{_PART}")
_FILE_ENDINGS = (".git", ".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".pkl")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def is_hub_id(name: str) -> bool:
    """Return whether a name can be a hub model's, ``owner/model``."""
    return _HUB_ID.fullmatch(name) is not None and not name.lower().endswith(_FILE_ENDINGS)


def locate(name: str | os.PathLike[str], wanted: str, known: Iterable[str] = ()) -> Path | None:
    """Return the local path that a name stands for, or ``None`` for a model on the hub.

    Args:
        name: of a file or a folder, where ``~`` is the home folder; or a hub id.
        wanted: what the name is to stand for, in words; it begins the sentence of an error.
        known: names that mean something else here, and are accepted, too.

    Raises:
        TypeError: not a name.
        FileNotFoundError: nothing of this name is here, and it cannot be a hub id.
        ValueError: a name that is never looked up: empty, with control characters, too long, a URL
            or a network share.
    """
    if not isinstance(name, str | os.PathLike) or isinstance(text := os.fspath(name), bytes):
        raise TypeError(f"{wanted} is given by a name or a path, got {quoted(name)}")
    if not text.strip() or len(text) > MAX_NAME or not text.isprintable():
        raise ValueError(
            f"{wanted} is named by 1 to {MAX_NAME} printable characters, got {quoted(text)}"
        )
    if _URL.match(text):
        raise ValueError(
            f"{wanted} is not fetched from a URL, got {quoted(text)}: download the file and give "
            "its path, or give the id 'owner/model' of a model on the Hugging Face hub"
        )
    if text.startswith(("//", "\\\\")):  # on some systems a look at it is a request
        raise ValueError(
            f"{wanted} is not read from a network share, got {quoted(text)}: copy it, or give the "
            "path of a drive where it is mounted"
        )
    try:
        path = Path(text).expanduser()
        if path.exists():
            return path
    except (OSError, RuntimeError, ValueError):
        pass  # no such user, a part that is too long, a folder that may not be looked into
    if is_hub_id(text):
        return None
    names = "".join(f"{each!r}, " for each in known)
    raise FileNotFoundError(
        f"{wanted} is not here: there is nothing at {quoted(text)}; wanted {names}a folder or a "
        "file that exists, or an id 'owner/model' of the Hugging Face hub"
    )
