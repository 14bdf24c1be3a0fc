"""What is asked for, as one value: what it refuses, when two are equal, and its one prompt."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import dragwidget
from dragwidget.data.image import SourceImage, source_image
from dragwidget.data.image_reading import Metadata, read_image
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.request import EditRequest
from dragwidget.data.settings import DragSettings, InversionSettings, RenderSettings, Settings

SIZE = (64, 48)


def image(seed: int = 0, *, max_side: int = 64, metadata: Metadata | None = None) -> SourceImage:
    pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE[::-1], 3)).astype(np.uint8)
    made = source_image(pixels, multiple=16, max_side=max_side)
    return made if metadata is None else dataclasses.replace(made, metadata=metadata)


def drawn(**changes) -> DragInstructions:
    return DragInstructions.from_points([[(1, 2), (30, 40)]], **{"size": SIZE, **changes})


def weights(digest: str = "a") -> SimpleNamespace:
    return SimpleNamespace(digest=digest)


# ---------------------------------------------------------------- validated on construction


@pytest.mark.parametrize(
    ("fields", "error", "said"),
    [
        ({"image": "fox.png"}, TypeError, r"the image must be SourceImage, got str: source_image"),
        ({"image": None}, TypeError, "the image must be SourceImage, got NoneType"),
        ({"prompt": None}, TypeError, "the prompt must be a string, got None"),
        ({"prompt": "\ud83d"}, ValueError, "the prompt is not valid text"),
        ({"lora": "lora.safetensors"}, TypeError, r"its weights, got 'lora.*: load_lora\(\) reads"),
        ({"instructions": [(1, 2)]}, TypeError, "instructions must be DragInstructions, got list"),
        (
            {"instructions": drawn(size=(48, 64))},
            ValueError,
            r"for an image of 48 x 64, this one is 64 x 48 \(width x height\): draw them on this",
        ),
        ({"settings": DragSettings()}, TypeError, "settings must be Settings, got DragSettings"),
    ],
)
def test_what_makes_no_request_is_refused_with_what_is_wanted(fields, error, said):
    with pytest.raises(error, match=said):
        EditRequest(**{"image": image(), **fields})
    with pytest.raises(error, match=said):
        EditRequest(image()).replace(**fields)


def test_an_image_alone_is_a_request_for_the_papers_settings():
    made = EditRequest(image())
    assert (made.prompt, made.lora, made.instructions) == ("", None, None)
    assert made.settings == Settings()


def test_a_request_is_frozen_and_replaced_as_a_whole():
    made = EditRequest(image(), "a fox")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.prompt = "a dog"
    other = made.replace(prompt="a dog", instructions=drawn())
    assert (made.prompt, other.prompt) == ("a fox", "a dog")
    assert made.instructions is None
    assert other.image is made.image


def test_it_is_public_and_loads_neither_torch_nor_jupyter():
    assert dragwidget.EditRequest is EditRequest
    code = (
        "import sys, dragwidget; dragwidget.EditRequest\n"
        "print(sorted({'torch', 'ipywidgets', 'diffusers', 'traitlets'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"


# ---------------------------------------------------------------- equal by content

LIKE = {
    "prompt": "a fox",
    "lora": weights(),
    "instructions": drawn(mask=np.eye(48, 64)),
    "settings": Settings(inversion=InversionSettings(steps=9)),
}
OTHER = {
    "image": image(1),
    "prompt": "a dog",
    "lora": weights("b"),
    "instructions": drawn(),
    "settings": Settings(),
}


def test_requests_for_the_same_are_equal_and_have_one_hash():
    one = EditRequest(image(), **LIKE)
    same = EditRequest(
        image(),
        "a fox",
        weights(),
        drawn(mask=np.eye(48, 64)),
        Settings(inversion=InversionSettings(steps=9)),
    )
    assert one == same
    assert hash(one) == hash(same)
    assert one != "a fox"


@pytest.mark.parametrize("name", OTHER)
def test_a_request_for_anything_else_is_another(name):
    one = EditRequest(image(), **LIKE)
    assert one.replace(**{name: OTHER[name]}) != one
    assert one.replace(**{name: getattr(one, name)}) == one


@pytest.mark.parametrize("name", ["lora", "instructions"])
def test_a_request_for_none_is_another(name):
    one = EditRequest(image(), **LIKE)
    assert one.replace(**{name: None}) != one


def test_an_image_is_the_same_however_it_was_read(tmp_path):
    pixels = image().original
    Image.fromarray(pixels).save(tmp_path / "fox.png")
    ways = [pixels, Image.fromarray(pixels), tmp_path / "fox.png", read_image(pixels)]
    made = [source_image(way, multiple=16, max_side=64) for way in ways]
    assert all(one == made[0] and hash(one) == hash(made[0]) for one in made)
    assert made[2].path == str(tmp_path / "fox.png")
    assert [one.path for one in made if one is not made[2]] == [None] * 3


@pytest.mark.parametrize(
    "other",
    [
        image(1),
        image(max_side=32),
        image(metadata=Metadata(exif=b"Exif")),
        image(metadata=Metadata(dpi=(72.0, 72.0))),
        image(metadata=Metadata(alpha=np.zeros(SIZE[::-1], np.uint8))),
    ],
    ids=["pixels", "fitted size", "EXIF", "dpi", "alpha"],
)
def test_an_image_with_another_result_is_another(other):
    assert other != image()
    assert EditRequest(other) != EditRequest(image())


def test_an_image_is_fitted_again_without_being_read_again():
    small = image(max_side=32)
    again = source_image(small.unfitted, multiple=16, max_side=64)
    assert again.original is small.original
    assert again == image()


# ---------------------------------------------------------------- one prompt


@pytest.mark.slow
@given(own=st.text(max_size=9), of_file=st.text(max_size=9), later=st.text(max_size=9))
def test_the_prompt_of_its_instructions_is_its_own_whatever_comes(own, of_file, later):
    made = EditRequest(IMAGE, own, instructions=drawn(prompt=of_file))
    assert made.instructions.prompt == made.prompt == own
    taken = EditRequest(IMAGE, own).drawn(drawn(prompt=of_file))
    assert taken.instructions.prompt == taken.prompt == (of_file or own)
    for each in (made.replace(prompt=later), taken.replace(prompt=later)):
        assert each.instructions == drawn(prompt=later)
        assert DragInstructions.from_json(each.instructions.to_json()).prompt == later


IMAGE = image()


def test_another_prompt_neither_copies_nor_checks_what_is_drawn():
    twice = [[(1, 2), (3, 4)], [(1, 2), (5, 6)]]  # pulled between two targets
    mask = np.eye(48, 64)
    with pytest.warns(UserWarning, match="has two targets"):
        given_once = DragInstructions.from_points(twice, size=SIZE, mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = EditRequest(IMAGE, "a fox", instructions=given_once)
    assert made.instructions.mask is given_once.mask
    assert made.instructions.pairs is given_once.pairs
    assert given_once.prompt == ""


# ---------------------------------------------------------------- a drag under way


def test_a_drag_under_way_takes_what_is_drawn_and_its_own_settings_and_nothing_else():
    before = EditRequest(IMAGE, **LIKE)
    now = before.replace(
        prompt="a dog",
        lora=None,
        instructions=drawn(),
        settings=Settings(drag=DragSettings(steps=3), render=RenderSettings(start_step=1)),
    )
    steered = before.steered(now)
    assert steered.instructions == drawn(prompt="a fox")
    assert (steered.settings.drag.steps, steered.settings.render.start_step) == (3, 1)
    assert steered.settings.inversion == before.settings.inversion
    assert (steered.prompt, steered.lora) == ("a fox", before.lora)


def test_a_drag_under_way_goes_on_where_nothing_is_drawn_or_another_image_is_chosen():
    before = EditRequest(IMAGE, **LIKE)
    assert before.steered(before.replace(instructions=None)) == before
    assert before.steered(EditRequest(image(1), instructions=drawn())) is before
