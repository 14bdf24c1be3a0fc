"""Render an edited latent, with the reference branch of the source image."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from dragwidget.data.settings import RenderSettings
from dragwidget.diffusion.attention import ReferenceBranch, record_reference, render_latents
from dragwidget.drag.noise_path import Time
from dragwidget.progress import Progress
from dragwidget.session.source import Inversion, finite

__all__ = ["referencing", "rendering"]


def referencing(
    inversion: Inversion, settings: RenderSettings
) -> Generator[Progress, None, ReferenceBranch]:
    """Record the reference branch, once for all renders of an inversion."""
    steps = record_reference(
        inversion.predictor, inversion.latents[-1], inversion.schedule, inversion.count, settings
    )
    for index, branch in enumerate(steps, start=1):
        finite(branch.latents[-1], "a latent of the reference branch")
        yield Progress("reference", index, inversion.count)
    return branch


def rendering(
    inversion: Inversion,
    edited: Tensor,
    timestep: Time,
    branch: ReferenceBranch | None,
    settings: RenderSettings,
    protected: Tensor | None,
) -> Generator[Progress, None, Tensor]:
    """Denoise an edited latent (1, c, h, w), at ``timestep``, to a clean one.

    Args:
        branch: the reference branch, where the settings need it.
    """
    walked = list(inversion.schedule.last(inversion.count))
    first = walked.index(timestep)
    steps = render_latents(
        inversion.predictor,
        edited,
        inversion.schedule,
        inversion.count,
        branch,
        settings,
        protected,
        first=first,
    )
    for index, latent in enumerate(steps, start=first + 1):
        finite(latent, "a latent of the render")
        yield Progress("render", index, inversion.count)
    return latent
