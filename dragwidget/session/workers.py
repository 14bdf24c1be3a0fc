"""What a worker of many edits has for all of them: the model, loaded once, and a pass counter."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.loading import load_model

MODELS = 2  # that a process holds: the one that edits, and one that measures
_models: dict[ModelName, Backbone] = {}
_loading = threading.Lock()
_count = threading.local()
_counted: weakref.WeakSet[nn.Module] = weakref.WeakSet()


@dataclass(frozen=True)
class ModelName:
    """What ``load_model`` loads a model by; another process loads the same by it.

    Attributes:
        name: of the model.
        options: of ``load_model``, by name.
    """

    name: str = "critters"
    options: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        # In a form that can be looked up: textual inversions are given as a mapping.
        options = (
            (key, tuple(value.items()) if isinstance(value, Mapping) else value)
            for key, value in self.options
        )
        object.__setattr__(self, "options", tuple(options))

    @classmethod
    def of(cls, model: Backbone) -> ModelName:
        """Return the name of a loaded model, which is shared with workers of this process.

        Raises:
            ValueError: the model was not loaded by name, so that no worker can.
        """
        if model.loaded_with is None:
            raise ValueError(
                f"{model.name} was made in this process, so that no worker can load it: save it, "
                "and give the folder"
            )
        options = {
            **model.loaded_with,
            "device": str(model.device),
            "dtype": str(model.dtype).removeprefix("torch."),
            "memory": model.memory,
        }
        name = cls(model.name, tuple(sorted(options.items())))
        with _loading:
            _keep(name, model)
        return name


def shared_model(name: ModelName | str = "critters") -> Backbone:
    """Return a model, loaded once for all threads of this process."""
    if isinstance(name, str):
        name = ModelName(name)
    with _loading:
        if name not in _models:
            options = dict(name.options)
            if options.get("embeddings") is not None:
                options["embeddings"] = dict(options["embeddings"])
            _keep(name, load_model(name.name, **options))
        return _models[name]


def passes() -> int:
    """Return how many forward passes of shared models this thread has run; a batch is one."""
    return getattr(_count, "passes", 0)


def _keep(name: ModelName, model: Backbone) -> None:
    if _models.get(name) is model:
        return
    while len(_models) >= MODELS:
        del _models[next(iter(_models))]
    _models[name] = model
    network = model.networks.get("unet")
    if network is not None and network not in _counted:
        # Once and for good: a hook that came and went would do so during other threads' passes.
        _counted.add(network)
        network.register_forward_pre_hook(_counts)


def _counts(*_: object) -> None:
    _count.passes = passes() + 1
