"""Store an image in the notebook, shown in place of a live widget without a kernel."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

import ipywidgets
from PIL import Image

STATIC_BYTES = 100 * 1024  # of the image in the notebook's file, as text
SIDE = 512  # its longest, pixels, if that fits


class StillImage:
    """Mixin that stores a widget's ``snapshot()`` in the notebook; list it before ``VBox``."""

    snapshot: Callable[[int], Image.Image]  # of its longest side, pixels

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """Return the live widget, and for a notebook without a kernel an image and text."""
        load_custom_widgets()
        data: dict[str, Any] = {"text/plain": repr(self)}
        if hasattr(ipywidgets.VBox, "_repr_mimebundle_"):  # since ipywidgets 8
            data = dict(super()._repr_mimebundle_(**kwargs) or data)  # type: ignore[misc]
        elif self._view_name is not None:  # type: ignore[attr-defined]
            data["application/vnd.jupyter.widget-view+json"] = {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self._model_id,  # type: ignore[attr-defined]
            }
        data["text/plain"] = repr(self)
        png = small_png(self.snapshot(SIDE), STATIC_BYTES * 3 // 4)  # base64 adds a third
        data["image/png"] = base64.b64encode(png).decode("ascii")
        return data

    if hasattr(ipywidgets.VBox, "_ipython_display_"):  # ipywidgets 7, which knows no other way

        def _ipython_display_(self, **kwargs: Any) -> None:
            from IPython.display import display

            display(self._repr_mimebundle_(), raw=True)  # type: ignore[no-untyped-call]
            self._handle_displayed(**kwargs)  # type: ignore[attr-defined]


@cache
def load_custom_widgets() -> None:
    """Let Colab load widgets that are not its own, as ipycanvas' are: once, where it is Colab."""
    with suppress(ImportError):
        import_module("google.colab.output").enable_custom_widget_manager()


def small_png(image: Image.Image, limit: int) -> bytes:
    """Return a PNG of at most ``limit`` bytes: fewer colours, then smaller, until it fits."""
    for side in (512, 384, 256, 192, 128, 64):
        scale = min(1.0, side / max(image.size))
        width, height = (max(1, round(length * scale)) for length in image.size)
        smaller = image.resize((width, height), Image.Resampling.LANCZOS)
        for candidate in (smaller, smaller.quantize(128)):
            file = io.BytesIO()
            candidate.save(file, "PNG", optimize=True)
            if file.tell() <= limit:
                return file.getvalue()
    raise AssertionError("64 x 64 pixels of 128 colours are always small enough")
