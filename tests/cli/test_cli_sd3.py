"""The command line with Stable Diffusion 3."""

from __future__ import annotations

import json

import pytest
from command_line import PAIR, pixels, write_inputs

from dragwidget.__main__ import main


@pytest.mark.slow
@pytest.mark.parametrize("method", ["warp", "progressive"])
def test_an_image_is_edited_with_a_folder_of_sd3(sd3_folder, tmp_path, method):
    folder = write_inputs(tmp_path)
    words = [
        "edit", folder / "fox.png", "--model", sd3_folder, "--method", method, "--steps", "2",
        "--device", "cpu", "--prompt", "a cat", "--mask", folder / "mask.png",
        "--log", folder / "log.json", *PAIR,
    ]  # fmt: skip
    assert main([*map(str, words)]) == 0
    assert pixels(folder / "fox.dragged.png").shape == (48, 64, 3)
    log = json.loads((folder / "log.json").read_text())
    assert log["settings"]["render"]["start_layer"] == 3
    assert log["settings"]["inversion"]["method"] == "lookahead"
    assert log["settings"]["lora"]["steps"] == 0
