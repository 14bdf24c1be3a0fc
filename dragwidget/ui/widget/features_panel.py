"""Show the similarity of decoder features to those at a point, as motion supervision sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
from ipywidgets import Layout
from PIL import Image

from dragwidget.data.image_reading import flattened
from dragwidget.editor.images import encoded
from dragwidget.ui.closing import close_all
from dragwidget.ui.plots.heat import heat_overlay

SIDE = 150  # of one map, pixels


class FeaturesPanel(ipywidgets.VBox):
    """Panel with a similarity map of each feature block, as an overlay of the image.

    Args:
        probe: called with ``True`` when clicks on the canvas choose the point, ``False`` when
            they draw again.
    """

    def __init__(self, probe: Callable[[bool], object]) -> None:
        self.button = ipywidgets.ToggleButton(
            description="Probe",
            tooltip="Click the image to map the cosine similarity of the UNet features F at that "
            "point (section 3.3)",
            layout=Layout(width="140px"),
        )
        self.button.observe(lambda change: probe(bool(change["new"])), "value")
        self._note = ipywidgets.HTML(
            "<span style='opacity:.75'>Bright: high cosine similarity to the features at the "
            "point.</span>"
        )
        self._maps = ipywidgets.HBox(layout=Layout(flex_flow="row wrap"))
        super().__init__([ipywidgets.HBox([self.button, self._note]), self._maps])
        self.add_class("dragwidget-features")

    def show(
        self,
        image: Image.Image,
        maps: Mapping[int, Any],
        point: tuple[float, float],
        used: tuple[int, ...],
    ) -> None:
        """Show the maps, (rows, columns) in -1..1 by block, over the image.

        Args:
            point: the probed point, image pixels.
            used: the blocks that the drag compares.
        """
        scale = SIDE / max(image.size)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        small = flattened(image).resize(size).convert("RGBA")
        cells = []
        for block, values in maps.items():
            shown = heat_overlay(values, size)
            laid = Image.alpha_composite(small, shown).convert("RGB")
            _mark(laid, (point[0] * scale, point[1] * scale))
            name = "mid block" if block == 0 else f"block {block}"
            label = (
                f"<div style='text-align:center'>{name}{' (used)' if block in used else ''}</div>"
            )
            image = ipywidgets.Image(
                value=encoded(laid, "JPEG", quality=88), format="jpeg",
                layout=Layout(width=f"{size[0]}px"),
            )  # fmt: skip
            cells.append(ipywidgets.VBox([ipywidgets.HTML(label), image]))
        old, self._maps.children = self._maps.children, tuple(cells)
        close_all(list(old))


def _mark(image: Image.Image, at: tuple[float, float]) -> None:
    from PIL import ImageDraw

    draw, (x, y) = ImageDraw.Draw(image), at
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline="black", width=3)
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline="white", width=1)
