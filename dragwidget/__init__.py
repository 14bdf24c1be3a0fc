"""Point-based image editing with diffusion models, inside a Jupyter notebook.

The public names are loaded when they are first used: drawing on a canvas must not load torch, and
a session in a script must not load Jupyter.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dragwidget.data.instructions import DragInstructions, PointPair
    from dragwidget.data.presets import with_method, with_preset
    from dragwidget.data.request import EditRequest
    from dragwidget.data.settings import (
        DragSettings,
        InversionSettings,
        LoRASettings,
        RenderSettings,
        Settings,
    )
    from dragwidget.diffusion.loading import load_model
    from dragwidget.session.many import run_many
    from dragwidget.session.session import DragSession
    from dragwidget.ui.canvas import DragCanvas
    from dragwidget.ui.widget import DragWidget

__version__ = "0.1.0"

__all__ = [
    "DragCanvas",
    "DragInstructions",
    "DragSession",
    "DragSettings",
    "DragWidget",
    "EditRequest",
    "InversionSettings",
    "LoRASettings",
    "PointPair",
    "RenderSettings",
    "Settings",
    "__version__",
    "load_model",
    "run_many",
    "with_method",
    "with_preset",
]

_MODULE_OF = {
    "DragCanvas": "dragwidget.ui.canvas",
    "DragInstructions": "dragwidget.data.instructions",
    "DragSession": "dragwidget.session.session",
    "DragSettings": "dragwidget.data.settings",
    "DragWidget": "dragwidget.ui.widget",
    "EditRequest": "dragwidget.data.request",
    "InversionSettings": "dragwidget.data.settings",
    "LoRASettings": "dragwidget.data.settings",
    "PointPair": "dragwidget.data.instructions",
    "RenderSettings": "dragwidget.data.settings",
    "Settings": "dragwidget.data.settings",
    "load_model": "dragwidget.diffusion.loading",
    "run_many": "dragwidget.session.many",
    "with_method": "dragwidget.data.presets",
    "with_preset": "dragwidget.data.presets",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
