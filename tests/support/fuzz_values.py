"""Corrupted instructions, masks, points and settings, for ``fuzzing``."""

from __future__ import annotations

import json
import math
import random
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from fuzz_mutations import STRANGE, spoil_json, spoil_value
from fuzzing import MB, Kind

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.instructions_json import from_runs
from dragwidget.data.settings import Settings

# What Python can hold beside what JSON can.
STRANGE_OBJECTS: list[Any] = [
    *STRANGE, 10**5000, -(10**5000), (), (1, 2), {1, 2}, b"bytes", bytearray(2), 1j, range(3),
    Decimal("NaN"), Decimal(3), Fraction(1, 3), object(), int, len, np.nan, np.float32(3),
    np.int64(2**62), np.bool_(True), np.zeros(0), np.zeros((2, 2)), np.ones((3, 2, 2)) * np.nan,
    np.array(["x"]), np.array([None, 1]), np.array(5), np.datetime64("2024-01-01"),
    np.zeros(2, dtype=[("x", "u1")]), {1: 2, "x": 3}, {None: 1},
]  # fmt: skip


class Json(Kind):
    """Instructions as JSON."""

    own_words = True
    limit = 400 * MB  # the largest mask is 80 million pixels

    def make(self, chance: random.Random) -> str | bytes:
        mask = np.zeros((8, 12), bool)
        mask[2:5, chance.randrange(8) :] = True
        points = [((1, 2), (3, 4)), ((5, 6), (7, 7)), ((9, 1), (0.5, 0.25))]
        made = DragInstructions.from_points(points, size=(12, 8), mask=mask, prompt="a fox 🦊")
        return spoil_json(chance, json.loads(made.to_json()))

    def read(self, given: str | bytes) -> object:
        made = DragInstructions.from_json(given)
        assert DragInstructions.from_json(made.to_json()) == made
        return hash(made)


class Runs(Kind):
    """A mask as run lengths."""

    own_words = True
    limit = 400 * MB

    def make(self, chance: random.Random) -> tuple[Any, tuple[int, int]]:
        width, height = chance.choice([(12, 8), (1, 1), (64, 48), (1000, 1000), (9000, 8000)])
        left, runs = width * height, []
        while left and len(runs) < 40:
            runs.append(chance.randint(0, left))
            left -= runs[-1]
        runs.append(left)
        if chance.random() < 0.1:
            return runs, (width, height)
        return spoil_value(chance, runs), (width, height)

    def read(self, given: tuple[Any, tuple[int, int]]) -> object:
        runs, size = given
        mask = from_runs(runs, size)
        assert mask.shape == size[::-1]
        return mask


class Pairs(Kind):
    """Points, mask and prompt as Python values."""

    documented = (TypeError, ValueError)
    own_words = True

    def make(self, chance: random.Random) -> dict[str, Any]:
        flat = [[1, 2], [3, 4], [5.5, 6], [7, 7]]
        points: Any = chance.choice([flat, [flat[:2], flat[2:]]])
        mask = [[0] * 12, [0, 1] * 6] + [[0] * 12] * 6
        fields = {"points": points, "size": [12, 8], "mask": mask, "prompt": "a fox"}
        corrupted = spoil_value(chance, fields, STRANGE_OBJECTS)
        if not isinstance(corrupted, dict):
            corrupted = {"points": corrupted}
        return {**fields, **{name: corrupted[name] for name in fields if name in corrupted}}

    def read(self, given: dict[str, Any]) -> object:
        made = DragInstructions.from_points(
            given["points"], size=given["size"], mask=given["mask"], prompt=given["prompt"]
        )
        assert np.isfinite(made.handles_xy).all()
        return made.to_json()


class SettingsDictionary(Kind):
    """Settings as plain data."""

    documented = (TypeError, ValueError)
    own_words = True

    def make(self, chance: random.Random) -> Any:
        return spoil_value(chance, Settings().to_dict(), STRANGE_OBJECTS)

    def read(self, given: Any) -> object:
        made = Settings.from_dict(given)
        assert 1 <= made.inversion.count <= made.inversion.steps
        assert math.isfinite(made.drag.learning_rate)
        assert Settings.from_dict(json.loads(json.dumps(made.to_dict()))) == made
        return hash(made)


VALUES = {"json": Json, "runs": Runs, "pairs": Pairs, "settings": SettingsDictionary}
