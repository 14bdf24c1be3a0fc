"""Small files made to fill the memory, to take for ever, or to start a program: refused by name."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import ExifTags, Image
from session_files import of_node, read_parts, rewrite
from tiny_models import edit_json, make_unet, random_lora
from tiny_sessions import ask, session_on

from dragwidget.data.dragbench import read_dragbench
from dragwidget.data.frames import MAX_PIXELS
from dragwidget.data.image import source_image
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import load_lora, save_lora
from dragwidget.session.session import DragSession


@pytest.fixture
def path(tiny, tmp_path):
    """A session's file."""
    session = session_on(tiny)
    session.instructions = ask()
    session.step()
    session.save(tmp_path / "edit.drag")
    return tmp_path / "edit.drag"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux lists mapped files there")
def test_a_session_maps_no_file_and_unpacks_none(path, tiny, tmp_path):
    loaded = DragSession.load(path, tiny)
    loaded.rewind(0)
    loaded.rewind(1)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()
    assert [file.name for file in tmp_path.rglob("*")] == [path.name]


READ = """
import re, sys
from pathlib import Path
from dragwidget.data.image_reading import read_image

def most():  # KiB, of this process alone
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

read_image(sys.argv[1])
before = most()
read = read_image(sys.argv[2])
print(most() - before, *read.pixels.shape)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux counts the peak there")
@pytest.mark.parametrize(
    ("name", "mode", "gigabytes"),
    [("turned.png", "RGBA", 2.2), ("upright.png", "RGBA", 1.9), ("upright.webp", "RGBA", 2.8),
     ("upright.png", "I;16", 1.2)],
)  # fmt: skip
def test_an_image_takes_no_more_memory_than_security_says(tmp_path, name, mode, gigabytes):
    """By an eighth of the largest: memory grows with the pixels."""
    width, height = 4000, 2500
    share, colour = width * height / MAX_PIXELS, 7000 if mode == "I;16" else (9, 9, 9, 9)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6 if name.startswith("turned") else 1
    for path, size in ((tmp_path / f"small-{name}", (8, 8)), (tmp_path / name, (width, height))):
        Image.new(mode, size, colour).save(path, exif=exif)
    words = [sys.executable, "-W", "ignore", "-c", READ, tmp_path / f"small-{name}"]
    run = subprocess.run([*words, tmp_path / name], capture_output=True, text=True, check=True)
    kibibytes, *shape = map(int, run.stdout.split())
    assert sorted(shape) == [3, height, width]
    # Beside the pixels there are some of a decoder's own, and pages that are not used wholly.
    assert 3 * width * height < 1024 * kibibytes < 1.04 * gigabytes * 1e9 * share + 35e6


def test_a_session_that_is_compressed_is_refused(path, tiny):
    parts = read_parts(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in parts.items():
            file.writestr(name, content)
    with pytest.raises(ValueError, match=r"its .* is compressed: dragwidget stores it plainly"):
        DragSession.load(path, tiny)


@pytest.mark.parametrize(
    ("field", "value"), [("loss", []), ("index", 5), ("handles", [[1]]), ("loss", 10**400)]
)
def test_a_step_of_another_form_is_refused(path, tiny, field, value):
    rewrite(path, of_node(1, lambda data, _tensors: data.update({field: value})))
    with pytest.raises(ValueError, match="is not a session that can be opened"):
        DragSession.load(path, tiny)


def test_a_pickle_that_copies_one_value_again_and_again_is_refused(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 12, 8, 8, 2, 0, 0, 0)
    (tmp_path / "original_image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00\x00\r" + header)
    text = b"X" + struct.pack("<I", 5000) + b"x" * 5000
    call = b"c_codecs\nencode\n(h\x00U\x06latin1tR"
    data = b"\x80\x04](" + text + b"q\x00" + call * 100 + b"e."
    (tmp_path / "meta_data.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="its calls make much more than it holds"):
        read_dragbench(tmp_path)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"layers_per_block": 20_000}, "layers_per_block is 20000, and at most 128"),
        ("unet", {"sample_size": 100_000}, "trained on latents of 100000 cells a side"),
        ("text_encoder", {"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000"),
        ("vae", {"block_out_channels": [4] * 200}, "block_out_channels has 200 parts"),
    ],
)
def test_a_network_larger_than_any_is_refused_before_it_is_built(broken, part, changes, message):
    edit_json(broken / part / "config.json", **changes)
    with pytest.raises(ValueError, match=message):
        load_model(broken, device="cpu")


@pytest.mark.parametrize("pattern", ["(a+)+$", ".*" * 40, "x" * 1000, ""])
def test_a_pattern_that_may_take_for_ever_is_refused(tmp_path, pattern):
    unet = make_unet()
    said = json.dumps({"unet.lora_alpha": 8, "unet.alpha_pattern": {pattern: 2}})
    file = save_lora(random_lora(unet), tmp_path, {"lora_adapter_metadata": said})
    with pytest.raises(ValueError, match="only names of layers"):
        load_lora(file, unet)


def test_an_image_that_would_start_a_program_is_not_opened(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png", "EPS")
    with pytest.raises(ValueError, match=r"image\.png is not an image that can be read"):
        source_image(tmp_path / "image.png")
