"""The command line: images come back with all that they carried, and what is guessed is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from command_line import PAIR, pixels, told, write_inputs
from icc_profiles import DISPLAY_P3, rgb_profile
from PIL import Image

from dragwidget.__main__ import main
from dragwidget.data.colour import srgb_profile
from dragwidget.data.image_reading import read_image


@pytest.fixture
def folder(tmp_path):
    return write_inputs(tmp_path)


@pytest.fixture
def edit(folder, tiny_folder):
    """Edit an image of the folder with the tiny model."""

    def run(*words: object, image: str = "fox.png") -> int:
        given = ["--model", tiny_folder, "--settings", folder / "quick.json", "--device", "cpu"]
        return main(["edit", str(folder / image), *map(str, [*given, *words])])

    return run


def phone_photo(folder, name="photo.png", **kept) -> None:
    """Of Display P3, with alpha, on its side."""
    rgb = Image.open(folder / "fox.png").convert("RGB").rotate(90, expand=True)
    rgb.putalpha(Image.linear_gradient("L").resize(rgb.size))
    exif = Image.Exif()
    exif[0x0112], exif[0x013B] = 6, "A. Nyone"
    profile = rgb_profile(DISPLAY_P3)
    rgb.save(folder / name, exif=exif, icc_profile=profile, dpi=(300, 300), **kept)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.png", "out.webp", "out.tif"])
def test_a_photo_of_a_phone_comes_back_as_it_was_given_in_srgb(edit, folder, capsys, name):
    phone_photo(folder)
    assert edit(*PAIR, "-o", folder / name, "--log", folder / "log.json", image="photo.png") == 0
    source = read_image(folder / "photo.png")
    with Image.open(folder / name) as written:
        assert written.size == (64, 48)
        assert written.info["icc_profile"] == srgb_profile()
        assert dict(written.getexif()).get(0x0112, 1) == 1
        assert written.getexif()[0x013B] == "A. Nyone"
        assert np.array_equal(written.getchannel("A"), source.metadata.alpha)
        if name != "out.webp":
            assert written.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    said = capsys.readouterr().err
    assert "photo.png: turned upright (EXIF orientation 6)" in said
    assert "photo.png: colours converted from made for a test to sRGB" in said
    assert len(json.loads((folder / "log.json").read_text())["conversions"]) == 2


@pytest.mark.slow
def test_a_mask_of_16_bits_is_taken_by_what_is_above_zero(edit, folder):
    mask = np.zeros((48, 64), np.uint16)
    mask[8:40, 8:56] = 1
    Image.fromarray(mask).save(folder / "deep.png")
    for name in ("mask", "deep"):
        out = ("-o", folder / f"{name}.out.png")
        assert edit(*PAIR, "--mask", folder / f"{name}.png", *out) == 0
    assert (pixels(folder / "deep.out.png") == pixels(folder / "mask.out.png")).all()


@pytest.mark.slow
def test_the_home_folder_is_found_in_every_path(folder, tiny_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    words = ["edit", "~/fox.png", *PAIR, "--mask=~/mask.png", "--settings=~/quick.json"]
    words += ["--output=~/out.png", "--log=~/log.json", "--animation=~/way.gif"]
    assert main([*words, "--model", str(tiny_folder), "--device", "cpu"]) == 0
    assert {"out.png", "log.json", "way.gif"} <= {path.name for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.filterwarnings("default::UserWarning")
def test_what_is_guessed_is_said(edit, folder, capsys):
    Image.new("RGB", (64, 48)).save(folder / "odd.png", icc_profile=b"no profile")
    assert edit(*PAIR, image="odd.png") == 0
    (line,) = told(capsys.readouterr().err)
    assert line.startswith("dragwidget: the image's ICC profile cannot be used")
