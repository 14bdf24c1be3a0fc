"""Samples of a benchmark are found in both forms, and what is wrong with one is told."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.samples import find_samples

POINTS = [[1, 2], [9, 4]]
MASK = np.zeros((8, 12), dtype=np.uint8)
MASK[2:5, 3:9] = 255


def image(path, shape=(8, 12, 3), value=7):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, np.uint8)).save(path)


def pair(folder, stem="", **fields):
    image(folder / f"{stem}input.png")
    (folder / f"{stem}points.json").write_text(json.dumps({"points": POINTS, **fields}))


def test_a_sample_of_dragbench_lies_at_any_depth(tmp_path):
    for name in ("animals/b", "animals/a", "art_work/c"):
        image(tmp_path / name / "original_image.png")
        fields = {"prompt": "a fox", "points": POINTS, "mask": MASK}
        (tmp_path / name / "meta_data.pkl").write_bytes(pickle.dumps(fields))
    found = find_samples(tmp_path)
    assert [one.name for one in found] == ["animals/a", "animals/b", "art_work/c"]
    sample = found[0].read()
    assert sample.instructions == DragInstructions.from_points(
        POINTS, size=(12, 8), mask=MASK > 0, prompt="a fox"
    )
    assert sample.image.pixels.shape == (8, 12, 3)
    assert sample.truth is None


@pytest.mark.parametrize(("folder", "stem"), [("deer", ""), ("", "deer.")])
def test_a_pair_lies_in_a_folder_or_is_named_alike(tmp_path, folder, stem):
    place = tmp_path / folder
    pair(place, stem, prompt="a deer")
    image(place / f"{stem}gt.png", value=9)
    Image.fromarray(MASK).save(place / f"{stem}mask.png")
    (files,) = find_samples(tmp_path)
    assert files.name == "deer"
    sample = files.read()
    assert sample.instructions == DragInstructions.from_points(
        POINTS, size=(12, 8), mask=MASK > 0, prompt="a deer"
    )
    assert (sample.truth.pixels == 9).all()


def test_ground_truth_mask_and_prompt_may_be_missing(tmp_path):
    pair(tmp_path, "x.")
    sample = find_samples(tmp_path)[0].read()
    assert (sample.truth, sample.instructions.mask, sample.instructions.prompt) == (None, None, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", r'must hold \{"points"'),
        ('{"points": 3}', "does not fit its image"),
        ('{"points": [[1, 2], [99, 4]]}', "does not fit its image.*outside"),
        ('{"points": [[1, 2], [3, 4]], "prompt": 5}', "does not fit its image"),
        (" " * 2**21, "larger than"),
    ],
)
def test_points_that_are_none_are_told_by_the_name_of_their_file(tmp_path, text, message):
    pair(tmp_path, "x.")
    (tmp_path / "x.points.json").write_text(text)
    with pytest.raises(ValueError, match=rf"x\.points\.json.*{message}"):
        find_samples(tmp_path)[0].read()


def test_ground_truth_of_another_size_is_an_error(tmp_path):
    pair(tmp_path, "x.")
    image(tmp_path / "x.gt.png", (8, 10, 3))
    with pytest.raises(ValueError, match=r"x\.gt\.png has another size than x\.input\.png"):
        find_samples(tmp_path)[0].read()


def test_a_folder_without_samples_is_told(tmp_path):
    with pytest.raises(ValueError, match="holds no sample"):
        find_samples(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        find_samples(tmp_path / "none")
