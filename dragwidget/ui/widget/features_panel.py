"""What motion supervision sees: how alike the decoder features under a point and elsewhere are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets
from ipywidgets import Layout
from PIL import Image

from dragwidget.data.image_reading import flattened
from dragwidget.editor.images import encoded
from dragwidget.ui.plots.heat import heat_overlay

__all__ = ["FeaturesPanel"]

SIDE = 150  # of one map, pixels


class FeaturesPanel(ipywidgets.VBox):
    """A map for each feature block, laid over the image.

    Args:
        probe: called with ``True`` when clicks on the canvas are to choose the point, ``False``
            when they are to draw again.
    """

    def __init__(self, probe: Callable[[bool], object]) -> None:
        self.button = ipywidgets.ToggleButton(
            description="Choose a point",
            tooltip="The next clicks on the image ask which other places look like this one "
            "to the network (paper, section 3.3)",
            layout=Layout(width="140px"),
        )
        self.button.observe(lambda change: probe(bool(change["new"])), "value")
        self._note = ipywidgets.HTML(
            "<span style='opacity:.75'>Bright: features like those under the point, "
            "cosine similarity.</span>"
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
        """Lay the maps, (rows, columns) in -1..1 by block, over the image.

        Args:
            point: where they were looked from, image pixels.
            used: the blocks that supervise the drag.
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
        for cell in old:
            for part in (*cell.children, cell):
                part.close()


def _mark(image: Image.Image, at: tuple[float, float]) -> None:
    from PIL import ImageDraw

    draw, (x, y) = ImageDraw.Draw(image), at
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline="black", width=3)
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), outline="white", width=1)
