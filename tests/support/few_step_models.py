"""Models of the shape of those that were distilled for a few steps, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers import LCMScheduler
from tiny_models import edit_json, make_scheduler, write_model

CHANNELS = 12  # that the guidance scale is embedded in; 256 in the published model


def write_lcm(folder: Path, *, seed: int = 0) -> Path:
    """Write a latent consistency model, as ``LatentConsistencyModelPipeline`` saves it."""
    write_model(folder, unet={"time_cond_proj_dim": CHANNELS}, seed=seed)
    edit_json(folder / "model_index.json", _class_name="LatentConsistencyModelPipeline")
    give_scheduler(folder, LCMScheduler.from_config(make_scheduler().config))
    return folder


def write_turbo(folder: Path, kind: Any, **changes: Any) -> Path:
    """Write a model whose scheduler is of this class, with trailing timesteps."""
    write_model(folder)
    # Without diffusers' note of which values were defaults: it would take those out.
    own = {k: v for k, v in make_scheduler().config.items() if not k.startswith("_")}
    config = {**own, "timestep_spacing": "trailing", **changes}
    give_scheduler(folder, kind.from_config(config))
    return folder


def give_scheduler(folder: Path, scheduler: Any) -> None:
    """Let a model have another scheduler, in its index too."""
    scheduler.save_pretrained(folder / "scheduler")
    edit_json(folder / "model_index.json", scheduler=["diffusers", type(scheduler).__name__])


def config_of(folder: Path) -> dict[str, Any]:
    """The settings of a model's scheduler."""
    content: dict[str, Any] = json.loads((folder / "scheduler/scheduler_config.json").read_text())
    return content
