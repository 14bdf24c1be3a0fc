"""What is installed is all that is needed, and works where the repository is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest
from PIL import Image

from dragwidget.diffusion.loading.folder import STEMS

ROOT = Path(__file__).parents[2]
LARGEST = 45e6  # bytes of a wheel
# Three of the 25 DDIM steps that are recommended: an image is made, whatever it shows.
SETTINGS = '{"inversion": {"steps": 6}, "drag": {"steps": 1}}'
WIDGET_TEST = "test_a_whole_edit_from_python_equals_the_session_alone"
NEEDED_BY_THE_TEST = (
    "conftest.py",
    "ui/test_widget.py",
    "support/busy_threads.py",
    "support/exported.py",
    "support/front_end.py",
    "support/tiny_models.py",
    "support/tiny_sessions.py",
)


def call(*words, cwd):
    """Run a command; what it printed. It must end well."""
    run = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    return run.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (path,) = folder.glob("dragwidget-*.whl")
    return path


@pytest.fixture(scope="module")
def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


def test_the_wheel_holds_the_package_and_nothing_else(files):
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "dragwidget").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in files if not name.startswith("dragwidget-")}
    assert held == package
    assert "dragwidget/py.typed" in held


def test_the_embedded_models_are_in_it_whole(files):
    folder = "dragwidget/demo/critters"
    weights = [name for name in files if name.endswith(".safetensors")]
    assert sorted(weights) == sorted(
        f"{folder}/{part}/{STEMS[part]}{variant}.safetensors"
        for part in ("unet", "vae", "text_encoder")
        for variant in ("", ".base")
    )
    for name in weights:
        assert files[name] == (ROOT / name).stat().st_size > 100_000
    assert {f"{folder}/model_index.json", f"{folder}/README.md"} <= set(files)


def test_it_is_small_enough_to_be_published_anywhere(wheel):
    assert wheel.stat().st_size <= LARGEST


def test_licence_and_command_are_in_it(wheel, files):
    (licence,) = [name for name in files if name.endswith("/licenses/LICENSE")]
    (entries,) = [name for name in files if name.endswith("/entry_points.txt")]
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read(licence) == (ROOT / "LICENSE").read_bytes()
        commands = ConfigParser()
        commands.read_string(archive.read(entries).decode())
    assert dict(commands["console_scripts"]) == {"dragwidget": "dragwidget.__main__:main"}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Where the commands of a fresh environment are: the wheel in it, all else lent from here."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    (commands,) = (place / name for name in ("bin", "Scripts") if (place / name).is_dir())
    python = commands / "python"
    words = ("install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check", wheel)
    call(sys.executable, "-m", "pip", "--python", python, *words, cwd=place)
    # A folder named in a .pth file comes last, and .pth files in it are not read: what is installed
    # here for development is not found there.
    own = call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=place)
    Path(own.strip(), "lent.pth").write_text(sysconfig.get_path("purelib"))
    return commands


def test_the_wheel_is_what_is_imported_there(installed, tmp_path):
    code = "import dragwidget; print(dragwidget.__file__)"
    place = Path(call(installed / "python", "-c", code, cwd=tmp_path).strip())
    assert place.is_relative_to(installed.parent)
    assert ROOT not in place.parents


def test_the_command_edits_an_image_there(installed, tmp_path):
    (tmp_path / "settings.json").write_text(SETTINGS)
    dragwidget = installed / "dragwidget"
    call(dragwidget, "demo", "image", "fox.png", "--task", "turn", cwd=tmp_path)
    words = ("--instructions", "fox.json", "--settings", "settings.json")
    call(dragwidget, "edit", "fox.png", *words, cwd=tmp_path)
    with Image.open(tmp_path / "fox.dragged.png") as edited:
        assert edited.size == (128, 128)


def test_the_widget_works_there(installed, tmp_path):
    for name in NEEDED_BY_THE_TEST:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / name, tmp_path / name)
    shutil.copytree(ROOT / "tests/golden/tiny-sd", tmp_path / "golden/tiny-sd")
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\npythonpath = support\nmarkers = slow\n"
    )
    words = ("-q", "-p", "no:cacheprovider", f"ui/test_widget.py::{WIDGET_TEST}")
    assert "1 passed" in call(installed / "python", "-m", "pytest", *words, cwd=tmp_path)
