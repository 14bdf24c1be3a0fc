"""The command line with models that were distilled for a few steps."""

from __future__ import annotations

import json

import pytest
from command_line import PAIR, pixels, told, write_inputs

from dragwidget.__main__ import main


@pytest.fixture
def edit(lcm_folder, tmp_path):
    folder = write_inputs(tmp_path)

    def run(*words):
        given = [
            "edit", folder / "fox.png", "--model", lcm_folder, "--device", "cpu", "--prompt",
            "a fox", "--mask", folder / "mask.png", "--log", folder / "log.json", *PAIR, *words,
        ]  # fmt: skip
        status = main([*map(str, given)])
        log = folder / "log.json"
        return status, folder, json.loads(log.read_text())["settings"] if log.exists() else {}

    return run


@pytest.mark.slow
@pytest.mark.parametrize("method", ["warp", "progressive"])
def test_an_image_is_edited_by_the_preset_of_few_steps(edit, method, capsys):
    status, folder, settings = edit("--preset", "few-step", "--method", method, "--steps", 3)
    assert status == 0
    said = capsys.readouterr()
    assert "drag step" in said.out
    assert told(said.err) == []
    assert pixels(folder / "fox.dragged.png").shape == (48, 64, 3)
    assert settings["drag"]["method"] == method
    assert settings["inversion"]["steps"] == 10
    assert (settings["inversion"]["method"], settings["lora"]["steps"]) == ("lookahead", 0)


@pytest.mark.slow
def test_the_model_itself_asks_for_few_steps_and_settings_change_them(edit, tmp_path):
    changes = {"inversion": {"steps": 8, "embedded_guidance": 2.0}}
    (tmp_path / "more.json").write_text(json.dumps(changes))
    status, _, settings = edit("--settings", tmp_path / "more.json")
    assert status == 0
    assert settings["drag"]["method"] == "warp"
    assert (settings["inversion"]["steps"], settings["inversion"]["embedded_guidance"]) == (8, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*distilled for a few steps")
def test_gradients_are_warned_of_by_name_and_once(edit, capsys):
    status, _, _ = edit("--method", "dragdiffusion", "--steps", 2)
    assert status == 0
    (line,) = told(capsys.readouterr().err)
    assert "was distilled for a few steps" in line
    assert "Use the preset few-step, or the method warp or progressive" in line


def test_a_preset_that_does_not_go_with_the_method_is_refused(edit, capsys):
    status, folder, _ = edit("--preset", "few-step", "--method", "gooddrag")
    assert status == 2
    assert (
        "goes with --method warp or progressive, got --method gooddrag" in capsys.readouterr().err
    )
    assert not (folder / "fox.dragged.png").exists()
