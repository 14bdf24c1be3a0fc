"""Open an image: a file of the user's, or a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets
from ipywidgets import Layout
from PIL import Image

from dragwidget.editor.images import encoded

SIDE = 56  # of a sample, CSS pixels

Samples = Sequence[tuple[Image.Image, str]]  # with what each shows


class ImagePanel(ipywidgets.HBox):
    """Panel with an upload, and samples to try.

    Args:
        show: called with the bytes of a file, or with a sample and its prompt.
        samples: what is offered beside the upload.

    Attributes:
        upload: the control that takes a file.
        buttons: one a sample.
    """

    def __init__(self, show: Callable[..., object], samples: Samples) -> None:
        self._show = show
        self.upload = ipywidgets.FileUpload(
            accept="image/*", multiple=False, description="Open image",
            layout=Layout(width="130px", flex="0 0 auto"),
        )  # fmt: skip
        self.upload.add_class("dragwidget-open")
        self.upload.observe(self._uploaded, "value")
        self.buttons = []
        cells = []
        for image, prompt in samples:
            cell, button = _cell(image, prompt)
            button.on_click(lambda _, image=image, prompt=prompt: show(image, prompt))
            self.buttons.append(button)
            cells.append(cell)
        super().__init__(
            [self.upload, *cells],
            layout=Layout(flex_flow="row wrap", align_items="center", width="100%"),
        )
        self.add_class("dragwidget-image")

    def _uploaded(self, change: Any) -> None:
        value = change["new"]
        # ipywidgets 8 has a tuple of files, 7 a dict of them
        files = list(value.values()) if isinstance(value, dict) else list(value)
        if not files:
            return
        self.upload.set_trait(
            "value", type(value)()
        )  # its memory is free, and the same file can come again
        self._show(bytes(files[0]["content"]))


def _cell(image: Image.Image, prompt: str) -> tuple[Any, Any]:
    """Return a thumbnail with a button over it, and that button."""
    small = image.copy()
    small.thumbnail((2 * SIDE, 2 * SIDE))
    thumbnail = ipywidgets.Image(
        value=encoded(small, "PNG"), format="png",
        layout=Layout(width=f"{SIDE}px", height=f"{SIDE}px", margin="0", object_fit="cover"),
    )  # fmt: skip
    button = ipywidgets.Button(description="", tooltip=f"Open this sample: {prompt}")
    cell = ipywidgets.VBox(
        [thumbnail, button],
        layout=Layout(
            width=f"{SIDE}px", height=f"{SIDE}px", flex="0 0 auto", margin="2px", overflow="hidden"
        ),
    )
    for name in ("dragwidget-frame", "dragwidget-sample"):
        cell.add_class(name)
    return cell, button
