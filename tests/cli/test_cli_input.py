"""The command line: what it reads, and that bad input costs one line and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import PAIR, write_inputs
from PIL import Image

from dragwidget import DragInstructions
from dragwidget.__main__ import main
from dragwidget.cli.inputs import read_mask


@pytest.fixture
def folder(tmp_path):
    return write_inputs(tmp_path)


def refusal(capsys, words: list[object]) -> str:
    """The one line that comes of bad input."""
    try:
        status = main(list(map(str, words)))
    except SystemExit as stop:
        status = stop.code
    written = capsys.readouterr()
    assert status == 2
    assert written.out == ""
    assert written.err.startswith("dragwidget")
    assert written.err.count("\n") == 1
    assert "Traceback" not in written.err
    return written.err


# ---------------------------------------------------------------- masks


def test_what_is_neither_black_nor_transparent_may_change(tmp_path):
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save(tmp_path / "grey.png")
    assert read_mask(tmp_path / "grey.png").tolist() == [[False, True, True]]
    dots = np.array([[[0, 0, 0, 255], [0, 0, 9, 255], [255, 255, 255, 0]]], np.uint8)
    Image.fromarray(dots).save(tmp_path / "colour.png")
    assert read_mask(tmp_path / "colour.png").tolist() == [[False, True, False]]
    Image.fromarray(np.array([[False, True]])).save(tmp_path / "bits.png")
    assert read_mask(tmp_path / "bits.png").tolist() == [[False, True]]


def test_a_mask_is_turned_upright_as_its_image_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: a quarter turn to the right
    Image.fromarray(np.array([[255, 0]], np.uint8)).save(tmp_path / "turned.png", exif=exif)
    assert read_mask(tmp_path / "turned.png").tolist() == [[True], [False]]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "nothing to drag: give --pair"),
        (["--pair", "1,2"], "a pair is X,Y:X,Y"),
        (["--pair", "1,2:3,4:5,6"], "a pair is X,Y:X,Y"),
        (["--pair", "1,2:3"], "a pair is X,Y:X,Y"),
        (["--pair", "a,b:c,d"], "a pair is X,Y:X,Y"),
        (["--pair", "nan,1:2,3"], "a pair is X,Y:X,Y"),
        (["--pair", "1,2:64,4"], "the target of pair 1, (64.0, 4.0), is outside the image"),
        (["--pair=-1,2:3,4"], "the handle of pair 1, (-1.0, 2.0), is outside the image"),
        ([*PAIR] * 101, "at most 100 pairs"),
        ([*PAIR, "--mask", "{}/none.png"], "there is no image at"),
        ([*PAIR, "--mask", "{}/quick.json"], "quick.json is not an image"),
        ([*PAIR, "--mask", "{}/small.png"], "the mask is 8 x 8 but the image is 64 x 48"),
        ([*PAIR, "--mask", "{}/black.png"], "nothing may change"),
        ([*PAIR, "--mask", "{}/mask.jpg"], "save the mask as PNG"),
        (["--instructions", "{}/none.json"], "none.json: No such file"),
        (["--instructions", "{}/quick.json"], "quick.json: not drag instructions"),
        (["--instructions", "{}/fox.png"], "fox.png: not drag instructions"),
        (["--instructions", "{}/other.json"], "other.json is for an image of 8 x 8, this one is"),
        (["--instructions", "{}"], "is not a DragBench sample"),
        ([*PAIR, "--settings", "{}/none.json"], "none.json: No such file"),
        ([*PAIR, "--settings", "{}/fox.png"], "fox.png is not JSON"),
        ([*PAIR, "--settings", "{}/list.json"], "list.json holds no settings"),
        ([*PAIR, "--settings", "{}/unknown.json"], "unknown drag settings ['speed']"),
        ([*PAIR, "--settings", "{}/wrong.json"], "DragSettings.steps must be a whole number"),
        ([*PAIR, "--steps", "0"], "DragSettings.steps must lie in [1, 100000]"),
        ([*PAIR, "--steps", "many"], "argument --steps: invalid int value: 'many'"),
        ([*PAIR, "--lora-steps", "-1"], "LoRASettings.steps must lie in"),
        ([*PAIR, "--seed", "-1"], "LoRASettings.seed must lie in"),
        ([*PAIR, "--max-side", "7"], "max_side must be at least"),
        ([*PAIR, "--model", "{}/nowhere"], "there is no model"),
        ([*PAIR, "--model", "{}"], "is no model"),
        ([*PAIR, "--device", "abacus"], "device must be"),
        ([*PAIR, "--dtype", "int3"], "dtype must be"),
        ([*PAIR, "-o", "{}/fox.png"], "fox.png would be overwritten"),
        ([*PAIR, "-o", "{}/link.png"], "link.png would be overwritten"),
        ([*PAIR, "--mask", "{}/mask.png", "-o", "{}/mask.png"], "mask.png would be overwritten"),
        ([*PAIR, "--log", "{}/fox.dragged.png"], "fox.dragged.png would be overwritten"),
        ([*PAIR, "-o", "{}"], "is a folder: name a file in it"),
        ([*PAIR, "-o", "{}/none/out.png"], "there is no folder"),
        ([*PAIR, "--log", "{}/none/log.json"], "there is no folder"),
        ([*PAIR, "-o", "{}/out.abc"], "out.abc has no known image ending"),
        ([*PAIR, "--animation", "{}/way.mp4"], "the animation is a GIF"),
        ([*PAIR, "--colour", "red"], "unrecognized arguments: --colour"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(folder, tiny_folder, capsys, words, says):
    Image.new("L", (8, 8), 255).save(folder / "small.png")
    Image.new("L", (64, 48), 0).save(folder / "black.png")
    Image.new("L", (64, 48), 255).save(folder / "mask.jpg")
    (folder / "list.json").write_text("[1]")
    (folder / "unknown.json").write_text('{"drag": {"speed": 9}}')
    (folder / "wrong.json").write_text('{"drag": {"steps": "many"}}')
    (folder / "link.png").symlink_to(folder / "fox.png")
    other = DragInstructions.from_points([[1, 1], [2, 2]], size=(8, 8))
    (folder / "other.json").write_text(other.to_json())
    before = {path: path.read_bytes() for path in folder.iterdir()}
    filled = [word.replace("{}", str(folder)) for word in words]
    model = ["--model", tiny_folder, "--settings", folder / "quick.json", "--lora-steps", "0"]
    assert says in refusal(capsys, ["edit", folder / "fox.png", *model, *filled])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.png", "there is no image at"),
        ("", "is a folder"),
        ("quick.json", "is not an image"),
        ("short.png", "damaged or truncated"),
    ],
)
def test_a_bad_image_is_one_line(folder, capsys, name, says):
    whole = (folder / "fox.png").read_bytes()
    (folder / "short.png").write_bytes(whole[: len(whole) // 2])
    assert says in refusal(capsys, ["edit", folder / name, *PAIR])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo"], "the following arguments are required: COMMAND"),
        (["paint"], "invalid choice: 'paint'"),
        (["edit"], "the following arguments are required: PICTURE"),
        (["demo", "image", "{}/a.png", "--task", "fly"], "invalid choice: 'fly'"),
        (["demo", "image", "{}/a.png", "--seed", "-1"], "a seed is 0 or more, got -1"),
        (["demo", "image", "{}/none/a.png"], "there is no folder"),
        (["demo", "image", "{}/a.abc"], "unknown file extension: .abc"),
    ],
)
def test_a_bad_command_is_one_line(tmp_path, capsys, words, says):
    assert says in refusal(capsys, [word.replace("{}", str(tmp_path)) for word in words])
    assert list(tmp_path.iterdir()) == []
