"""What a benchmark's numbers were made with."""

from __future__ import annotations

from importlib.metadata import version

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Return the versions of what decides the numbers, as kept beside them."""
    return {name: version(name) for name in ("dragwidget", "torch", "diffusers")}
