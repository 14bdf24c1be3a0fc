"""The command line with Stable Diffusion XL."""

from __future__ import annotations

import json

import pytest
from command_line import PAIR, pixels, write_inputs

from dragwidget.__main__ import main


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_an_image_is_edited_with_a_folder_of_xl(xl_folder, tmp_path, memory, capsys):
    folder = write_inputs(tmp_path)
    words = [
        "edit", folder / "fox.png", "--model", xl_folder, "--settings", folder / "quick.json",
        "--device", "cpu", "--memory", memory, "--prompt", "a fox", "--mask", folder / "mask.png",
        "--log", folder / "log.json", *PAIR,
    ]  # fmt: skip
    assert main([*map(str, words)]) == 0
    assert "3 drag steps" in capsys.readouterr().out
    assert pixels(folder / "fox.dragged.png").shape == (48, 64, 3)
    log = json.loads((folder / "log.json").read_text())
    assert log["settings"]["render"]["start_layer"] == 9
