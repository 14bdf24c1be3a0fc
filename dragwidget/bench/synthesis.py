"""Where did the point really go? Analysis by synthesis: fit the domain's parameters to an image.

18 numbers describe an image of the domain. Given an edited image, find the scene whose
image is nearest to it, by least squares through the renderer, and read the keypoints there: no
network judges another one.

The fit is blind to the answer. It knows the source scene (the kind of animal, the time of day, and
where to begin), never the instructions nor the ground truth. It begins from the source, from a
greedy search round it, and from random scenes near it, and keeps what explains the image best.
Coarse images first: there, far displacements still overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from dragwidget.bench.metrics import worst_window
from dragwidget.demo.domain.keypoints import Keypoints, keypoints
from dragwidget.demo.domain.parameters import CONTINUOUS, RANGES, Scenes
from dragwidget.demo.domain.random_numbers import uniform
from dragwidget.demo.scenes import render

# Above this `worst_window` between the image and its explanation, it is no critter any more. Set
# before any edit was seen, on images of 12 tasks (lowest, middle, highest): autoencoder round
# trips 0.01, 0.02, 0.03; with noise and tints of 30 dB 0.03, 0.03, 0.05; blurred by 1.5 px 0.03,
# 0.06, 0.07. On the other side: half the head mirrored 0.07, 0.15, 0.35; head smeared by 5 px 0.08,
# 0.11, 0.13; swirled 0.15, 0.20, 0.27; source and target mixed half and half 0.02, 0.09, 0.16.
NOT_A_CRITTER = 0.08

# What is searched together by the greedy search, and how far, in shares of the parameter's range.
_GROUPS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("sun_x", "sun_y"), 0.45),
    (("mountain_x", "mountain_y"), 0.40),
    (("x", "y"), 0.45),
    (("yaw", "pitch"), 0.60),
    (("ears",), 0.80),
    (("eyes",), 0.80),
    (("mouth",), 0.80),
    (("sun_x", "sun_y"), 0.30),
)
_STREAM = 300  # random numbers apart from those of the scenes and the tasks
_LEEWAY = 0.08  # how far beyond its range a parameter may go, in shares of the range
_STEP = 0.01  # of the difference quotients, in shares of the range
_LEVELS = ((32, 8, 1.0), (64, 6, 0.25), (128, 10, 0.12))  # (size, iterations, robust scale)


# How widely starts are sought: scenes drawn for each group, random ones near the source. The second
# is for images that the first cannot fit: of 200 targets, one.
_FIRST, _WIDER = (16, 2), (48, 4)


@dataclass(frozen=True)
class Fit:
    """The explanation of an image.

    `scene`: a batch of one; `points`: its keypoints in pixels of the image; `residual`: root mean
    square difference between image and explanation; `worst`: the same in the worst window.
    """

    scene: Scenes
    points: Keypoints
    residual: float
    worst: float

    @property
    def failed(self) -> bool:
        """The image is not a critter any more: what the fit says of it means nothing."""
        return self.worst > NOT_A_CRITTER


def fit_scene(image: Tensor, source: Scenes, seed: int = 0) -> Fit:
    """Fit an image (3, size, size) in [0, 1] that was made from the scene `source` (one).

    `seed` draws the random starts; equal arguments give equal results. An image on
    which the fit fails is tried once more, from more starts.
    """
    with torch.no_grad():
        fit = _fit(image, source, seed, _FIRST)
        if not fit.failed:
            return fit
        again = _fit(image, source, seed, _WIDER)
        return fit if again.failed else again


def _fit(image: Tensor, source: Scenes, seed: int, search: tuple[int, int]) -> Fit:
    size = image.shape[-1]
    start = _normalised(source)  # (1, P)
    numbers = torch.tensor(uniform([seed], 4096, stream=_STREAM)[0], dtype=torch.float32)
    problem = _Problem(image, source, _LEVELS[0])
    begin = torch.cat([start, *_starts(problem, start, numbers, search)])
    z, cost = begin, None
    for level in _LEVELS:
        problem = _Problem(image, source, level)
        z, cost = problem.solve(z)
        # Only what may still win goes on to the finer and dearer level.
        keep = 2 if level[0] < 64 else 1
        z = z[cost.argsort()[:keep]]
    scene = _scenes(z[:1], source)
    drawn = render(scene, size)[0]
    return Fit(
        scene,
        keypoints(scene, size),
        float((drawn - image).square().mean().sqrt()),
        worst_window(drawn, image),
    )


class _Problem:
    """Robust least squares between an image and scenes, at one size."""

    def __init__(self, image: Tensor, source: Scenes, level: tuple[int, int, float]) -> None:
        self.size, self.iterations, self.scale = level
        self.source = source
        self.wanted = self.reduced(image)  # (N,)
        # An image drawn small differs from one made small (its outlines are as wide in pixels).
        # The source tells by how much; so a source that was not edited is met exactly.
        self.wanted += self.drawn(source)[0] - self.reduced(render(source, image.shape[-1])[0])

    def reduced(self, image: Tensor) -> Tensor:
        """(3, any, any) -> (N,)."""
        return interpolate(image[None], (self.size, self.size), mode="area").flatten()

    def drawn(self, scenes: Scenes) -> Tensor:
        """(B, N)."""
        return render(scenes, self.size).flatten(1)

    def residuals(self, z: Tensor) -> Tensor:
        """(B, P) -> (B, N)."""
        return self.drawn(_scenes(z, self.source)) - self.wanted

    def cost(self, residuals: Tensor) -> Tensor:
        """(B, N) -> (B,): Cauchy's loss, which forgives what the domain cannot draw."""
        return torch.log1p((residuals / self.scale) ** 2).mean(1) * self.scale**2

    def solve(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Levenberg-Marquardt on all starts (B, P) at once: the ends, and their costs (B,)."""
        count, width = z.shape
        residuals = self.residuals(z)
        cost = self.cost(residuals)
        damping = torch.full((count,), 1e-2)
        eye = torch.eye(width)
        for _ in range(self.iterations):
            # Away from the nearer border, so that both ends of the quotient are in range.
            step = torch.where(z > 0.5, -_STEP, _STEP)  # (B, P)
            near = (z[:, None] + torch.diag_embed(step)).flatten(0, 1)
            slopes = self.residuals(near).view(count, width, -1) - residuals[:, None]
            slopes = slopes / step[..., None]  # (B, P, N)
            weight = 1 / (1 + (residuals / self.scale) ** 2)
            weighted = slopes * weight[:, None]
            normal = weighted @ slopes.transpose(1, 2)
            gradient = (weighted @ residuals[..., None])[..., 0]
            diagonal = torch.diagonal(normal, dim1=1, dim2=2)
            ridge = damping[:, None] * diagonal + 1e-5 * diagonal.amax(1, keepdim=True)
            move = torch.linalg.solve(normal + eye * ridge[..., None], gradient)
            tried = (z - move.clamp(-0.3, 0.3)).clamp(-_LEEWAY, 1 + _LEEWAY)
            new = self.residuals(tried)
            new_cost = self.cost(new)
            better = new_cost < cost
            # The best one has arrived: it gains next to nothing, or there is nothing to gain.
            first = int(new_cost.argmin())
            gained = float(cost[first] - new_cost[first])
            done = 0 <= gained < 1e-3 * float(cost[first]) or float(new_cost[first]) < 1e-9
            z = torch.where(better[:, None], tried, z)
            residuals = torch.where(better[:, None], new, residuals)
            cost = torch.where(better, new_cost, cost)
            damping = torch.where(better, damping * 0.2, damping * 8)
            if done:
                break
        return z, cost


def _starts(
    problem: _Problem, start: Tensor, numbers: Tensor, search: tuple[int, int]
) -> list[Tensor]:
    """Scenes to begin from besides the source: the end of a greedy search, and random ones."""
    best, used = start, 0
    scenes, random = search
    for names, reach in _GROUPS:
        columns = [CONTINUOUS.index(name) for name in names]
        draws = numbers[used : used + scenes * len(columns)].view(scenes, len(columns))
        used += draws.numel()
        tried = best.repeat(scenes + 1, 1)
        tried[1:, columns] += (2 * draws - 1) * reach
        tried = tried.clamp(0, 1)
        best = tried[problem.cost(problem.residuals(tried)).argmin()][None]
    moved = [CONTINUOUS.index(name) for names, _ in _GROUPS[:-1] for name in names]
    draws = numbers[used : used + random * len(moved)].view(random, len(moved))
    near = start.repeat(random, 1)
    near[:, moved] += (2 * draws - 1) * 0.3
    return [best, near.clamp(0, 1)]


def _bounds() -> tuple[Tensor, Tensor]:
    low, high = torch.tensor(list(RANGES.values())).unbind(1)
    return low, high


def _normalised(scenes: Scenes) -> Tensor:
    """(B, P): every parameter in shares of its range."""
    low, high = _bounds()
    return (scenes.vector() - low) / (high - low)


def _scenes(z: Tensor, source: Scenes) -> Scenes:
    """Return the scenes of normalised parameters (B, P), of the source's kind and time of day."""
    low, high = _bounds()
    return source[torch.zeros(len(z), dtype=torch.long)].with_vector(low + z * (high - low))
