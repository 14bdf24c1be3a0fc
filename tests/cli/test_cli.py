"""The command line: what it writes and says, also when it is interrupted."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from command_line import PAIR, pixels, told, write_inputs
from PIL import Image

import dragwidget
from dragwidget import DragInstructions, InversionSettings, Settings
from dragwidget.__main__ import COMMANDS, main
from dragwidget.cli import recording
from dragwidget.cli.bars import Bars
from dragwidget.cli.recording import Interruption
from dragwidget.demo.tasks import TASK_KINDS
from dragwidget.session.session import DragSession


@pytest.fixture
def folder(tmp_path):
    return write_inputs(tmp_path)


@pytest.fixture
def edit(folder, tiny_folder):
    """Edit the image with the tiny model; words that are files of the folder are found there."""

    def run(*words: object, image: str = "fox.png") -> int:
        given = ["--model", tiny_folder, "--settings", folder / "quick.json", "--device", "cpu"]
        return main(["edit", str(folder / image), *map(str, [*given, *words])])

    return run


# ---------------------------------------------------------------- what an edit writes


@pytest.mark.slow
def test_the_edited_image_lies_beside_its_source_which_is_left_alone(edit, folder, capsys):
    before = (folder / "fox.png").read_bytes()
    assert edit(*PAIR) == 0
    assert pixels(folder / "fox.dragged.png").shape == (48, 64, 3)
    assert (folder / "fox.png").read_bytes() == before
    said = capsys.readouterr().out
    assert said.startswith(f"{folder / 'fox.dragged.png'}: 3 drag steps, stopped at the step limit")
    assert said.count("\n") == 1


@pytest.mark.slow
def test_without_a_terminal_there_are_no_bars(edit, capsys):
    assert edit(*PAIR) == 0
    assert told(capsys.readouterr().err) == []


@pytest.mark.slow
def test_an_image_of_any_size_and_mode_comes_back_at_its_own_size(edit, folder):
    Image.new("P", (51, 33)).save(folder / "odd.png")
    assert edit("--pair", "5,5:9,9", "-o", folder / "out.jpg", image="odd.png") == 0
    with Image.open(folder / "out.jpg") as image:
        assert (image.size, image.format) == ((51, 33), "JPEG")


@pytest.mark.slow
def test_the_same_command_gives_the_same_image(edit, folder):
    for name in ("a.png", "b.png"):
        assert edit(*PAIR, "--prompt", "a fox", "--seed", 3, "-o", folder / name) == 0
    assert (pixels(folder / "a.png") == pixels(folder / "b.png")).all()


@pytest.mark.slow
def test_instructions_come_from_words_json_or_a_dragbench_folder_alike(edit, folder):
    mask = pixels(folder / "mask.png")[..., 0]
    points = [[20, 20], [40, 24]]
    drawn = DragInstructions.from_points(points, size=(64, 48), mask=mask, prompt="a fox")
    (folder / "fox.json").write_text(drawn.to_json())
    (folder / "sample").mkdir()
    shutil.copy(folder / "fox.png", folder / "sample" / "original_image.png")
    fields = {"prompt": "a fox", "points": points, "mask": mask}
    (folder / "sample" / "meta_data.pkl").write_bytes(pickle.dumps(fields))
    words = {
        "words": [*PAIR, "--mask", folder / "mask.png", "--prompt", "a fox"],
        "json": ["--instructions", folder / "fox.json"],
        "folder": ["--instructions", folder / "sample"],
    }
    for name, given in words.items():
        assert edit(*given, "-o", folder / f"{name}.png", "--log", folder / f"{name}.log") == 0
    logs = [json.loads((folder / f"{name}.log").read_text()) for name in words]
    assert logs[0]["instructions"] == logs[1]["instructions"] == logs[2]["instructions"]
    for name in words:
        assert (pixels(folder / f"{name}.png") == pixels(folder / "words.png")).all()


@pytest.mark.slow
def test_a_method_brings_its_authors_settings_and_others_change_them(edit, folder, capsys):
    quick = {
        "inversion": {"steps": 8}, "lora": {"steps": 1, "rank": 1, "batch_size": 1},
        "drag": {"drag_timesteps": 2, "tracks_per_timestep": 2, "updates_per_track": 1},
    }  # fmt: skip
    (folder / "quick.json").write_text(json.dumps(quick))
    log = folder / "log.json"
    assert edit(*PAIR, "--method", "gooddrag", "--log", log) == 0
    said = json.loads(log.read_text())
    settings = Settings.from_dict(said["settings"])
    assert (settings.drag.method, settings.drag.learning_rate) == ("gooddrag", 0.02)
    assert settings.inversion == InversionSettings(steps=8, strength=0.75)
    assert len(said["steps"]) == 4
    assert "4 drag steps, stopped, as the dragging timesteps are used up" in capsys.readouterr().out
    again = folder / "again.png"
    assert edit(*PAIR, "--settings", log, "-o", again) == 0  # the log repeats the edit
    assert (pixels(again) == pixels(folder / "fox.dragged.png")).all()
    quick["drag"]["drag_timesteps"] = 6
    (folder / "quick.json").write_text(json.dumps(quick))
    assert edit(*PAIR, "--method", "gooddrag") == 2
    assert "DragSettings.drag_timesteps must be below 6" in capsys.readouterr().err


@pytest.mark.slow
def test_words_replace_what_the_instructions_file_says(edit, folder):
    drawn = DragInstructions.from_points([[1, 1], [2, 2]], size=(64, 48), prompt="a bear")
    (folder / "fox.json").write_text(drawn.to_json())
    log = folder / "log.json"
    given = ("--instructions", folder / "fox.json", "--mask", folder / "mask.png")
    assert edit(*given, *PAIR, "--prompt", "a fox", "--log", log) == 0
    said = json.loads(log.read_text())["instructions"]
    assert said["points"] == [[[20, 20], [40, 24]]]
    assert said["prompt"] == "a fox"
    assert said["mask_runs"] is not None


@pytest.mark.slow
def test_the_log_holds_what_was_done(edit, folder, tiny):
    log = folder / "log.json"
    assert edit(*PAIR, "--pair", "30,30:40,40", "--steps", 2, "--lora-steps", 1, "--log", log) == 0
    said = json.loads(log.read_text())
    assert (said["format"], said["version"]) == ("dragwidget.log", 1)
    assert said["versions"]["dragwidget"] == dragwidget.__version__
    assert {"python", "torch", "diffusers", "numpy"} <= said["versions"].keys()
    assert said["model"]["fingerprint"] == tiny.fingerprint
    assert (said["model"]["device"], said["model"]["dtype"]) == ("cpu", "float32")
    assert (said["size"], said["fitted_size"]) == ([64, 48], [64, 64])
    assert Settings.from_dict(said["settings"]).drag.steps == 2
    phases = {"model", "lora", "inversion", "drag", "reference", "render"}
    assert said["seconds"].keys() == phases
    assert all(spent > 0 for spent in said["seconds"].values())
    assert len(said["lora_losses"]) == 1
    assert [step["index"] for step in said["steps"]] == [1, 2]
    for step in said["steps"]:
        assert step["loss"] == pytest.approx(sum(step["loss_terms"].values()))
        assert np.shape(step["handles_xy"]) == (2, 2)
        assert np.shape(step["distances"]) == np.shape(step["reached"]) == (2,)
    assert said["ended"] == "step limit"
    assert said["image"] == str(folder / "fox.png")
    assert said["edited"] == str(folder / "fox.dragged.png")


@pytest.mark.slow
def test_the_log_is_written_without_a_library_that_no_edit_needs(edit, folder, monkeypatch):
    monkeypatch.setattr(recording, "LIBRARIES", (*recording.LIBRARIES, "no-such-library"))
    assert edit("--pair", "20,20:20,20", "--log", folder / "log.json") == 0
    versions = json.loads((folder / "log.json").read_text())["versions"]
    assert "torch" in versions
    assert "no-such-library" not in versions


@pytest.mark.slow
def test_a_handle_in_the_protected_region_is_told(edit, folder, capsys):
    Image.fromarray(np.tile(np.arange(64) >= 32, (48, 1))).save(folder / "right.png")
    assert edit("--pair", "20,20:20,20", "--mask", folder / "right.png") == 0
    told = capsys.readouterr().err
    assert "the handle 20,20 is in the protected region of the mask: its content stays" in told
    assert edit("--pair", "40,20:40,20", "--mask", folder / "right.png") == 0
    assert "protected" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_log_serves_as_settings_of_the_same_edit_again(edit, folder):
    log = folder / "log.json"
    assert edit(*PAIR, "--steps", 2, "--log", log) == 0
    assert edit(*PAIR, "--settings", log, "-o", folder / "again.png") == 0
    assert (pixels(folder / "again.png") == pixels(folder / "fox.dragged.png")).all()


@pytest.mark.slow
def test_settings_that_a_file_leaves_out_are_what_the_model_recommends(edit, folder, tiny):
    log = folder / "log.json"
    assert edit(*PAIR, "--log", log) == 0
    used = Settings.from_dict(json.loads(log.read_text())["settings"])
    assert used.drag.steps == 3
    assert used.render == tiny.recommended.render


@pytest.mark.slow
def test_the_animation_shows_the_source_the_way_and_the_result(edit, folder):
    assert edit(*PAIR, "--animation", folder / "way.gif") == 0
    with Image.open(folder / "way.gif") as animation:
        assert (animation.size, animation.n_frames) == ((64, 48), 2 + 3)
        first = np.asarray(animation.convert("RGB")).astype(int)
        animation.seek(4)
        last = np.asarray(animation.convert("RGB")).astype(int)
    assert np.abs(first - pixels(folder / "fox.png")).mean() < 8  # 256 colours
    assert np.abs(last - pixels(folder / "fox.dragged.png")).mean() < 8


@pytest.mark.slow
def test_reached_targets_are_told_with_the_confidence_of_each_handle(edit, capsys):
    assert edit("--pair", "20,20:30,30", "--pair", "40,10:40,20", "--method", "warp") == 0
    said = capsys.readouterr().out
    assert "every handle is within 2 feature cells of its target" in said
    assert re.search(r"; confidence [01]\.\d\d, [01]\.\d\d", said)
    assert ("content may be lost" in said) == ("low at pair" in said)


@pytest.mark.slow
def test_where_everything_has_arrived_no_step_is_done(edit, folder, capsys):
    assert edit("--pair", "20,20:20,20", "--animation", folder / "way.gif") == 0
    assert (
        "0 drag steps, every handle is within 2 feature cells of its target"
        in capsys.readouterr().out
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default::UserWarning")
def test_a_warning_is_one_plain_line_said_once(edit, capsys):
    assert edit(*PAIR, "--prompt", "fox " * 500) == 0
    lines = told(capsys.readouterr().err)
    assert len(lines) == 1
    assert re.match(r"dragwidget: the prompt has \d+ tokens", lines[0])


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.slow
def test_what_fails_on_the_way_is_one_line_and_status_1(edit, folder, capsys, monkeypatch):
    def render(_self: DragSession) -> None:
        raise RuntimeError("out of memory\nfifty lines about where")

    monkeypatch.setattr(DragSession, "render", render)
    assert edit(*PAIR, "--log", folder / "log.json") == 1
    assert told(capsys.readouterr().err) == ["dragwidget: it failed: out of memory"]
    said = json.loads((folder / "log.json").read_text())
    assert (said["ended"], len(said["steps"])) == ("failed", 3)


# ---------------------------------------------------------------- Ctrl-C


@pytest.fixture
def press(monkeypatch):
    """Press Ctrl-C when these progress reports come, each (phase, index)."""

    def at(*moments: tuple[str, int]) -> None:
        show = Bars.__call__

        def shown(bars, progress):
            show(bars, progress)
            if (progress.phase, progress.index) in moments:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Bars, "__call__", shown)

    return at


@pytest.mark.slow
def test_an_interrupted_drag_writes_what_there_is(edit, folder, capsys, press):
    assert edit(*PAIR, "--steps", 2, "-o", folder / "two.png") == 0
    capsys.readouterr()
    press(("drag", 2))
    log = folder / "log.json"
    assert edit(*PAIR, "--log", log, "--animation", folder / "way.gif") == 130
    interrupted = json.loads(log.read_text())
    assert (interrupted["ended"], len(interrupted["steps"])) == ("interrupted", 2)
    assert "2 drag steps, interrupted" in capsys.readouterr().out
    assert (folder / "way.gif").exists()
    assert (pixels(folder / "fox.dragged.png") == pixels(folder / "two.png")).all()


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("lora", 1), ("inversion", 2)])
def test_before_the_first_step_there_is_no_image_to_write(edit, folder, capsys, press, moment):
    press(moment)
    assert edit(*PAIR, "--log", folder / "log.json") == 130
    assert "interrupted before the first drag step: no image" in capsys.readouterr().err
    assert not (folder / "fox.dragged.png").exists()
    assert json.loads((folder / "log.json").read_text())["steps"] == []


@pytest.mark.slow
@pytest.mark.parametrize("moments", [[("render", 1)], [("drag", 2), ("reference", 1)]])
def test_an_interrupted_render_gives_way_to_a_preview(edit, folder, press, moments):
    press(*moments)
    assert edit(*PAIR) == 130
    assert pixels(folder / "fox.dragged.png").shape == (48, 64, 3)


@pytest.fixture
def _ctrl_c_interrupts():
    """Also where the tests run in the background of a shell, which lets them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_interrupts")
def test_ctrl_c_waits_for_a_good_moment_once():
    with Interruption() as interruption:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
        interruption.check()
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_on_a_terminal_there_are_bars_and_ctrl_c_ends_them(folder, tiny_folder):
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, b"\x18\0\x64\0\0\0\0\0")  # 24 x 100
    words = ["edit", folder / "fox.png", *PAIR, "--model", tiny_folder, "--steps", "50000"]
    words += ["--settings", folder / "quick.json", "--log", folder / "log.json"]
    with subprocess.Popen(
        [sys.executable, "-m", "dragwidget", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        os.close(theirs)
        shown = b""
        while not re.search(rb"drag .* [1-9]\d*/50000", shown):
            shown += os.read(terminal, 1000)
        process.send_signal(signal.SIGINT)
        while more := _read(terminal):
            shown += more
        said = process.communicate()[0].decode()
    os.close(terminal)
    assert process.returncode == 130
    assert "interrupted" in said
    assert b"lora" in shown
    assert b"Traceback" not in shown
    assert pixels(folder / "fox.dragged.png").shape == (48, 64, 3)
    assert json.loads((folder / "log.json").read_text())["ended"] == "interrupted"


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1000)
    except OSError:  # how a terminal ends
        return b""


# ---------------------------------------------------------------- the other commands, and the help


def test_a_demo_image_is_drawn_from_its_seed(tmp_path, capsys):
    for name, seed in (("a.png", "7"), ("b.png", "7"), ("c.png", "8")):
        assert main(["demo", "image", str(tmp_path / name), "--seed", seed]) == 0
    a, b, c = (pixels(tmp_path / f"{name}.png") for name in "abc")
    assert a.shape == (128, 128, 3)
    assert (a == b).all()
    assert (a != c).any()
    assert re.search(r"a\.png: a \w+ ", capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASK_KINDS)
def test_a_demo_task_comes_with_instructions_for_its_image(tmp_path, kind):
    assert main(["demo", "image", str(tmp_path / "fox.png"), "--task", kind]) == 0
    instructions = DragInstructions.from_json((tmp_path / "fox.json").read_text())
    assert instructions.size == pixels(tmp_path / "fox.png").shape[1::-1]
    assert instructions.mask is not None


def test_the_doctor_looks_at_a_model_and_a_drag_step(tiny_folder, capsys):
    assert main(["doctor", "--model", str(tiny_folder), "--device", "cpu"]) == 0
    report = capsys.readouterr().out
    assert f"{tiny_folder} loads" in report
    assert report.endswith("all is well\n")


def test_the_doctor_has_status_1_where_something_is_wrong(broken, capsys):
    (broken / "unet" / "config.json").unlink()
    assert main(["doctor", "--model", str(broken), "--device", "cpu"]) == 1
    assert "not well: model" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*name.split(), "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dragwidget {name} ")


def test_without_words_the_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 0
    listed = capsys.readouterr().out
    assert all(name.split()[0] in listed for name in COMMANDS)


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"dragwidget {dragwidget.__version__}\n"


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--help"], ["edit", "--help"], ["edit", "none.png", *PAIR]])
def test_help_and_bad_input_need_no_torch(words):
    code = (
        "import sys\nfrom dragwidget.__main__ import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
