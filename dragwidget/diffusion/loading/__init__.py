"""From a name, a folder, a checkpoint file or the hub to a ``Backbone``."""

from dragwidget.diffusion.loading.load import (
    CRITTERS,
    EMBEDDED,
    LoadOptions,
    choose_device,
    choose_dtype,
    load_model,
)

__all__ = ["CRITTERS", "EMBEDDED", "LoadOptions", "choose_device", "choose_dtype", "load_model"]
