"""Render an edited latent, with the reference branch of the source image."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from dragwidget.data.settings import RenderSettings
from dragwidget.diffusion import attention
from dragwidget.diffusion.attention import ReferenceBranch
from dragwidget.drag.correspondence import Correspondence
from dragwidget.drag.noise_path import Time
from dragwidget.progress import Progress
from dragwidget.session.source import Inversion, finite, records_reference


def referencing(
    inversion: Inversion, settings: RenderSettings
) -> Generator[Progress, None, ReferenceBranch]:
    """Record the reference branch, once for all renders of an inversion.

    Where the inversion records it, it is made again, so that the branch is always the same.
    """
    predictor, schedule, count = inversion.predictor, inversion.schedule, inversion.count
    if records_reference(request := inversion.request):
        steps = attention.record_inversion(
            predictor, inversion.latents[0], schedule, count, request.settings.inversion, settings
        )
    else:
        steps = attention.record_reference(
            predictor, inversion.latents[-1], schedule, count, settings
        )
    for index, branch in enumerate(steps, start=1):
        for latent in (branch.latents[0], branch.latents[-1]):
            finite(latent, "a latent of the reference branch")
        yield Progress("reference", index, inversion.count)
    return branch


def rendering(
    inversion: Inversion,
    edited: Tensor,
    timestep: Time,
    branch: ReferenceBranch | None,
    settings: RenderSettings,
    protected: Tensor | None,
    *,
    plain_steps: int = 0,
    moved: Correspondence | None = None,
) -> Generator[Progress, None, Tensor]:
    """Denoise an edited latent (1, c, h, w), at ``timestep``, to a clean one.

    Args:
        branch: the reference branch, where the settings need it.
        plain_steps: so many steps are taken without mutual self-attention first.
        moved: what the drag moved from where; ``None``: nothing.
    """
    walked = list(inversion.schedule.last(inversion.count))
    first = walked.index(timestep)
    steps = attention.render_latents(
        inversion.predictor,
        edited,
        inversion.schedule,
        inversion.count,
        branch,
        settings,
        protected,
        first=first,
        plain_steps=plain_steps,
        moved=moved,
    )
    for index, latent in enumerate(steps, start=first + 1):
        finite(latent, "a latent of the render")
        yield Progress("render", index, inversion.count)
    return latent
