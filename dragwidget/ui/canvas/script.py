"""The canvas' own script in the browser, where anywidget is installed to bring it there.

What the script does stands in ``canvas.js``, ``ink.js`` and ``warp.js``. It brings a style sheet.
Without it a canvas takes the events of ipycanvas.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import traitlets

CODE = [Path(__file__).with_name(name) for name in ("warp.js", "ink.js", "canvas.js")]  # one module


def make_script(name: str, parts: Mapping[str, str]) -> Any | None:
    """Return the widget that brings the script to a page; ``None`` without anywidget.

    Args:
        name: the stem of the class names of the canvas' frame, ``<name>-canvas``, in which the
            widget must lie, and of its toolbar, ``<name>-toolbar``.
        parts: ``Scene.parts``.
    """
    try:
        from anywidget import AnyWidget
    except ImportError:
        return None
    return _script_of(AnyWidget)(name=name, parts=dict(parts), layout={"display": "none"})


@cache
def _script_of(base: Any) -> Any:
    class CanvasScript(base):
        _esm = "\n".join(file.read_text(encoding="utf-8") for file in CODE)
        _css = CODE[0].with_name("forced_colors.css").read_text(encoding="utf-8")
        name = traitlets.Unicode().tag(sync=True)
        label = traitlets.Unicode().tag(sync=True)  # what a screen reader says
        cursor = traitlets.Unicode("crosshair").tag(sync=True)  # CSS
        parts = traitlets.Dict().tag(sync=True)  # ids of the models that hold what is painted
        state = traitlets.Dict().tag(sync=True)  # see ``ink.state``
        protected = traitlets.Bytes().tag(sync=True)  # see ``ink.protected_cells``
        known_keys = traitlets.List(traitlets.Unicode()).tag(sync=True)  # those that do something
        takes_images = traitlets.Bool(False).tag(sync=True)  # files that are dropped or pasted
        key_help = traitlets.List(traitlets.Any()).tag(sync=True)  # (keys, what they do)

    return CanvasScript
