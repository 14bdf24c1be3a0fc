"""Compare source and edited image: one of them, a before/after slider, or side by side."""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets
from ipywidgets import Layout
from PIL import Image

from dragwidget.editor.export import before_after, side_by_side
from dragwidget.editor.images import encoded

SIDE = 640  # longest side of what is sent to the page, pixels


class ComparePanel(ipywidgets.VBox):
    """Panel that compares the source image with the edited one.

    Args:
        show: called with the image for the canvas; ``None``: the newest image.
        bare: called with whether mask and marks are to be hidden: they cover what is compared.
    """

    def __init__(
        self, show: Callable[[Image.Image | None], object], bare: Callable[[bool], object]
    ) -> None:
        self._show, self._bare = show, bare
        self._before: Image.Image | None = None
        self._after: Image.Image | None = None
        self.mode = ipywidgets.ToggleButtons(
            options=[("Edited", "after"), ("Source", "before"), ("Slider", "slider")],
            tooltips=[
                "Show the newest edited image",
                "Show the source image",
                "Show the source left and the edited image right of the slider",
            ],
            style={"button_width": "76px"},
        )
        self.share = ipywidgets.FloatSlider(
            value=0.5, min=0.0, max=1.0, step=0.01, description="Slider", readout=False,
            disabled=True, layout=Layout(width="auto"), style={"description_width": "56px"},
        )  # fmt: skip
        self._both = ipywidgets.Image(format="jpeg", layout=Layout(max_width="100%"))
        self._note = ipywidgets.HTML("<i>Nothing to compare yet.</i>")
        self.mode.observe(lambda _: self.refresh(), "value")
        self.share.observe(lambda _: self.refresh(), "value")
        super().__init__([self.mode, self.share, self._note, self._both])
        self.add_class("dragwidget-compare")
        self._both.layout.display = "none"

    def set_images(self, before: Image.Image | None, after: Image.Image | None) -> None:
        """Set the images to compare, both of one size, or ``None``."""
        self._before, self._after = before, after
        self.refresh()

    def refresh(self) -> None:
        """Show the chosen image on the canvas, and both side by side."""
        both = self._before is not None and self._after is not None
        self.share.disabled = self.mode.value != "slider" or not both
        self._note.layout.display = "none" if both else ""
        self._both.layout.display = "" if both else "none"
        self._bare(both and self.mode.value != "after")
        if self._before is None or self._after is None:
            self._show(None)
            return
        small = [_reduced(p) for p in (self._before, self._after)]
        self._both.value = encoded(side_by_side(small[0], small[1]), "JPEG", quality=88)
        if self.mode.value == "after":
            self._show(None)
        elif self.mode.value == "before":
            self._show(self._before)
        else:
            self._show(before_after(self._before, self._after, self.share.value))


def _reduced(image: Image.Image) -> Image.Image:
    small = image.copy()
    small.thumbnail((SIDE // 2, SIDE // 2))
    return small
