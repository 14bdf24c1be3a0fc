"""Paths as users type them."""

from __future__ import annotations

import os
import re
from pathlib import Path

# A ``Path`` has one slash left of the two. A drive of Windows has one letter.
_URL = re.compile(r"(data:|[A-Za-z][A-Za-z0-9+.-]+:/)")


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return the path with a leading ``~`` or ``~name`` expanded to that home folder.

    Raises:
        ValueError: a URL, which is never fetched.

    >>> user_path("fox.png").name
    'fox.png'
    >>> user_path("https://example.org/fox.png")
    Traceback (most recent call last):
    ValueError: https://example.org/fox.png is a URL: download it, and give the path of the file
    """
    text = os.fspath(path)
    if found := _URL.match(text):
        shown = text if len(text) < 200 else f"{text[:40]}..."
        if found[1] == "file:/":
            raise ValueError(f"{shown} is a URL: give the path alone, without file://")
        raise ValueError(f"{shown} is a URL: download it, and give the path of the file")
    return Path(os.path.expanduser(text))


def absolute(path: str | os.PathLike[str]) -> str:
    """Return a user's path so that it names the same file from every folder."""
    return os.path.abspath(user_path(path))
