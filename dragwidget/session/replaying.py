"""Whether the passes of a drag are recorded as CUDA graphs: only where the user asks for it."""

from __future__ import annotations

import os
from collections.abc import Callable

from dragwidget.data.settings import DragSettings
from dragwidget.data.user_warning import warn_user
from dragwidget.diffusion.backbone import Backbone
from dragwidget.drag.evaluation import DragModel
from dragwidget.drag.replay import WARM, CudaRecording, Recording, Replays
from dragwidget.session.source import Inversion

__all__ = ["VARIABLE", "replay_once", "replays_of", "why_not"]

VARIABLE = "DRAGWIDGET_CUDA_GRAPHS"


def replays_of(model: DragModel, backbone: Backbone, settings: DragSettings) -> Replays | None:
    """Return the model with its passes recorded and replayed, or ``None`` where they are not."""
    reason = why_not(backbone, settings)
    if reason and _asked():
        warn_user(f"passes are not recorded as CUDA graphs: {reason}")
    return None if reason else Replays(model)


def _asked() -> bool:
    return os.environ.get(VARIABLE) == "1"


def why_not(backbone: Backbone, settings: DragSettings) -> str:
    """Return why no pass of a drag is recorded; empty where they are."""
    if not _asked():
        return f"{VARIABLE}=1 is not set"
    if backbone.device.type != "cuda":
        return f"the network is on {backbone.device}, not on CUDA"
    if backbone.waiting_device != backbone.device:
        return 'memory="low" computes layers twice, and moves weights'
    if settings.correspondence > 0:
        return "correspondence attention changes with every pass"
    return ""


def replay_once(inversion: Inversion, recording: Callable[..., Recording] = CudaRecording) -> str:
    """Record a pass of a drag and replay it; return what came of it, as a sentence."""
    replays = Replays(inversion.predictor, recording)
    blocks = inversion.request.settings.drag.feature_blocks
    for _ in range(WARM + 1):
        latent = inversion.latents[-1].clone().requires_grad_()
        replays(latent, inversion.timestep, blocks=blocks)
    if replays.refused:
        return f"passes cannot be recorded: {replays.refused}"
    return f"passes can be recorded and replayed; {VARIABLE}=1 does so"
