"""The command line: what it reads, and that bad input costs one line and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from command_line import PAIR, told, write_inputs
from PIL import Image

from dragwidget import DragInstructions
from dragwidget.__main__ import main
from dragwidget.data import image_reading
from dragwidget.data.image_reading import read_mask
from dragwidget.session import source
from dragwidget.session.session import DragSession


@pytest.fixture
def folder(tmp_path):
    return write_inputs(tmp_path)


def refusal(capsys, words: list[object]) -> str:
    """The one line that comes of bad input."""
    status = main(list(map(str, words)))
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
        (["--pair", "1,2"], "a pair must be X,Y:X,Y"),
        (["--pair", "1,2:3,4:5,6"], "a pair must be X,Y:X,Y"),
        (["--pair", "1,2:3"], "a pair must be X,Y:X,Y"),
        (["--pair", "a,b:c,d"], "a pair must be X,Y:X,Y"),
        (["--pair", "nan,1:2,3"], "a pair must be X,Y:X,Y"),
        (["--pair", "1,2:64,4"], "the target of pair 1, (64.0, 4.0), is outside the image"),
        (["--pair=-1,2:3,4"], "the handle of pair 1, (-1.0, 2.0), is outside the image"),
        ([*PAIR] * 101, "at most 100 pairs"),
        ([*PAIR, "--mask", "{}/none.png"], "there is no image at"),
        ([*PAIR, "--mask", "{}/quick.json"], "quick.json is not an image"),
        ([*PAIR, "--mask", "{}/small.png"], "the mask is 8 x 8 but the image is 64 x 48"),
        ([*PAIR, "--mask", "{}/black.png"], "the whole image is protected"),
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
        ([*PAIR, "--model", "{}/nowhere"], "a model is not here"),
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
        (["edit"], "the following arguments are required: IMAGE"),
        (["demo", "image", "{}/a.png", "--task", "fly"], "invalid choice: 'fly'"),
        (["demo", "image", "{}/a.png", "--seed", "-1"], "--seed must be 0 or more, got -1"),
        (["demo", "image", "{}/none/a.png"], "there is no folder"),
        (["demo", "image", "{}/a.abc"], "a.abc has no known image ending"),
    ],
)
def test_a_bad_command_is_one_line(tmp_path, capsys, words, says):
    assert says in refusal(capsys, [word.replace("{}", str(tmp_path)) for word in words])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- whose fault it is


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["https://example.org/fox.png", *PAIR], "is a URL: download it, and give the path"),
        (["{}/fox.png", *PAIR, "--mask", "https://example.org/m.png"], "is a URL: download it"),
        (["{}/fox.png", *PAIR, "-o", "s3://bucket/out.png"], "is a URL: download it"),
        (["{}/clear.png", *PAIR, "-o", "{}/out.jpg"], "JPEG cannot hold the transparency"),
        (["{}/fox.png", *PAIR, "-o", "{}/out.gif"], "has no known image ending"),
        (["{}/wide.png", "--pair", "1,1:2,1", "-o", "{}/out.webp"], "at most 16383 pixels a side"),
        (["{}/fox.png", *PAIR, "-o", "{}/pipe.png"], "is not a plain file: name another place"),
        (["{}/fox.png", *PAIR, "--log", "{}/pipe.png"], "is not a plain file: name another place"),
        (["{}/fox.png", *PAIR, "--animation", "{}/none/way.gif"], "there is no folder"),
        (["{}/integers.tif", *PAIR], "integers (mode I) from 0 to 4095, and nothing says"),
        (["{}/pipe.png", *PAIR], "is not a plain file"),
    ],
)
def test_what_could_not_be_written_or_read_is_refused_before_the_model_is_loaded(
    folder, capsys, monkeypatch, words, says
):
    def from_pretrained(*_, **__):
        raise AssertionError("the model is loaded")

    monkeypatch.setattr(DragSession, "from_pretrained", from_pretrained)
    Image.new("RGBA", (64, 48), (9, 9, 9, 100)).save(folder / "clear.png")
    Image.new("RGB", (16384, 2)).save(folder / "wide.png")
    levels = np.arange(64 * 48, dtype=np.int32).reshape(48, 64)
    levels[-1, -1] = 4095
    Image.fromarray(levels).save(folder / "integers.tif")
    os.mkfifo(folder / "pipe.png")
    before = sorted(folder.iterdir())
    assert says in refusal(capsys, ["edit", *(word.replace("{}", str(folder)) for word in words)])
    assert sorted(folder.iterdir()) == before


def quick(folder, tiny_folder) -> list[str]:
    given = ["--model", tiny_folder, "--settings", folder / "quick.json", "--device", "cpu"]
    return ["edit", str(folder / "fox.png"), *PAIR, *map(str, given), "--no-store"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [TypeError, ValueError, KeyError, AttributeError, AssertionError, IndexError,
              ZeroDivisionError, NotImplementedError, RecursionError]
)  # fmt: skip
def test_an_error_of_the_program_is_not_told_as_bad_input(folder, tiny_folder, monkeypatch, error):
    def broken(_):
        raise error("a mistake of ours")

    monkeypatch.setattr(source, "to_pixels", broken)
    with pytest.raises(error, match="a mistake of ours"):  # with its traceback, and status 1
        main([*quick(folder, tiny_folder), "--log", str(folder / "log.json")])
    assert json.loads((folder / "log.json").read_text())["ended"] == "failed"


def test_an_error_of_the_program_while_input_is_read_is_not_told_as_bad_input(folder, monkeypatch):
    monkeypatch.setattr(image_reading, "to_srgb", lambda *_: len(None))
    with pytest.raises(TypeError, match="has no len"):
        main(["edit", str(folder / "fox.png"), *PAIR])


def test_an_error_of_the_program_ends_a_process_with_its_traceback_and_status_1(folder):
    code = (
        "import sys\nfrom dragwidget.cli import edit\nfrom dragwidget.__main__ import main\n"
        "edit.read_image = lambda _: len(None)\n"
        f"sys.exit(main(['edit', {str(folder / 'fox.png')!r}, *{PAIR!r}]))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("Traceback (most recent call last):")
    assert run.stderr.splitlines()[-1].startswith("TypeError: object of type 'NoneType'")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ArithmeticError("the network overflowed"), "it failed: the network overflowed"),
        (MemoryError(), "it failed: MemoryError"),
        (RuntimeError("out of memory"), "it failed: out of memory"),
        (OSError(28, "No space left on device", "/cache/x"), "/cache/x: No space left on device"),
    ],
)
def test_what_a_machine_or_a_network_cannot_do_is_one_line_and_status_1(
    folder, tiny_folder, capsys, monkeypatch, error, says
):
    def broken(_):
        raise error

    monkeypatch.setattr(source, "to_pixels", broken)
    assert main(quick(folder, tiny_folder)) == 1
    (line,) = told(capsys.readouterr().err)
    assert says in line


@pytest.mark.slow
def test_a_full_disk_is_not_bad_input_and_leaves_no_file(folder, tiny_folder, capsys, monkeypatch):
    def fsync(_):
        raise OSError(28, os.strerror(28))

    before = sorted(folder.iterdir())
    monkeypatch.setattr(os, "fsync", fsync)
    assert main(quick(folder, tiny_folder)) == 1
    assert f"{folder / 'fox.dragged.png'}: No space left on device" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
