"""Training images: drawn afresh from consecutive seeds, never stored as images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dragwidget.demo.domain.random_numbers import uniform
from dragwidget.demo.scenes import TRAINING_SEEDS, captions, render, sample_scenes, scribbles

SCRIBBLE_CAPTION = "a scribble"
VALIDATION_SEEDS = range(TRAINING_SEEDS - 1024, TRAINING_SEEDS)  # below them: training
# People write "a fox, evening", and not all that there is to see: half the captions lose phrases.
_SHORTENED, _KEPT, _PHRASES, _STREAM = 0.5, 0.5, 16, 11


def is_scribble(seed: int, every: int) -> bool:
    """Return whether this seed's training image comes from outside the domain: one in `every`."""
    return seed % every == every - 1


def images(
    seeds: Sequence[int], size: int, *, scribble_every: int, device: torch.device
) -> tuple[Tensor, list[str]]:
    """(B, 3, size, size) float32 in [-1, 1], and their captions, some of them shortened."""
    wrapped = [seed % VALIDATION_SEEDS.start for seed in seeds]
    outside = [i for i, s in enumerate(wrapped) if is_scribble(s, scribble_every)]
    inside = sorted(set(range(len(wrapped))) - set(outside))
    drawn = torch.empty(len(wrapped), 3, size, size, device=device)
    texts = [SCRIBBLE_CAPTION] * len(wrapped)
    with torch.no_grad():
        if inside:
            scenes = sample_scenes([wrapped[i] for i in inside])
            drawn[inside] = render(scenes.to(device), size)
            texts_inside = shortened(captions(scenes), [wrapped[i] for i in inside])
            for i, text in zip(inside, texts_inside, strict=True):
                texts[i] = text
        if outside:
            drawn[outside] = scribbles([wrapped[i] for i in outside], size).to(device)
    return drawn * 2 - 1, texts


def shortened(texts: Sequence[str], seeds: Sequence[int]) -> list[str]:
    """Half of the captions without half of their phrases; what is left keeps its order."""
    numbers = uniform(seeds, _PHRASES, stream=_STREAM)
    short = []
    for text, row in zip(texts, numbers, strict=True):
        phrases = text.split(", ")
        if row[0] < _SHORTENED:
            drawn = zip(phrases, row[1:], strict=False)
            phrases = [p for p, number in drawn if number < _KEPT] or phrases[:1]
        short.append(", ".join(phrases))
    return short


class Bank:
    """What is made of consecutive seeds, such as encoded images; it grows while a UNet trains.

    A pure function of how far it has grown, so a resumed run rebuilds what it had.
    """

    def __init__(
        self,
        make: Callable[[Sequence[int]], tuple[Tensor, ...]],
        chunk: int = 256,
        first_seed: int = 0,
    ) -> None:
        """`make(seeds)` gives tensors (B, ..), such as scaled latents and token ids."""
        self._first_seed = first_seed
        self._make = make
        self._chunk = chunk  # images encoded at a time
        self._chunks: list[tuple[Tensor, ...]] = []

    def __len__(self) -> int:
        return self._chunk * len(self._chunks)

    def grow(self, count: int) -> None:
        """Encode, a whole chunk at a time, until at least `count` images are there."""
        while len(self) < count:
            start = self._first_seed + len(self)
            self._chunks.append(self._make(range(start, start + self._chunk)))

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Return a random batch of each tensor, (count, ..)."""
        index = torch.randint(len(self), (count,), generator=generator)
        chunk, row = (index // self._chunk).tolist(), (index % self._chunk).tolist()
        rows = [[tensor[r] for tensor in self._chunks[c]] for c, r in zip(chunk, row, strict=True)]
        return tuple(torch.stack(column) for column in zip(*rows, strict=True))
