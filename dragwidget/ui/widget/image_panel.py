"""Choose the image: a file of the user's, a sample, or one that the model makes from text."""

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
    """Panel with an upload, samples to try, and a text to make an image from.

    Args:
        show: called with the bytes of a file, or with a sample and its prompt.
        generate: called with a text and a seed.
        samples: what is offered beside the upload.

    Attributes:
        upload: the control that takes a file.
        buttons: one a sample.
        text: what the image to be made should show.
        make: the button that makes it; every press with the next seed.
    """

    def __init__(
        self,
        show: Callable[..., object],
        generate: Callable[[str, int], object],
        samples: Samples,
    ) -> None:
        self._show, self._generate, self._seed = show, generate, 0
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
        self.text = ipywidgets.Text(
            placeholder="text of an image to make",
            layout=Layout(width="auto", min_width="0", flex="1 1 auto"),
        )  # fmt: skip
        self.make = ipywidgets.Button(
            description="Generate",
            tooltip="Make an image from this text with the model; again: another one",
            layout=Layout(width="auto", flex="0 0 auto"),
        )
        self.make.add_class("dragwidget-generate")
        self.make.on_click(lambda _: self._made())
        from_text = ipywidgets.HBox(  # in one line, however narrow
            [self.text, self.make],
            layout=Layout(flex="1 1 230px", max_width="340px", align_items="center"),
        )
        super().__init__(
            [self.upload, *cells, from_text],
            layout=Layout(flex_flow="row wrap", align_items="center", width="100%"),
        )
        self.add_class("dragwidget-image")

    def _made(self) -> None:
        seed, self._seed = self._seed, self._seed + 1
        self._generate(self.text.value, seed)

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
