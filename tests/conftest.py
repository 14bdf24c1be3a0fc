"""What all tests share."""

import itertools
import os
import shutil
import sys
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # a worker has one core, and so has what it starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs a network; read when the hub's client is loaded

import pytest
from hypothesis import settings

# No deadline for one example: a busy machine is slow, which is no fault of the code.
settings.register_profile("dragwidget", deadline=None, max_examples=50)
settings.load_profile("dragwidget")


NUMBERS = itertools.count()

# What marks every test of a folder, or of a file of it.
MARKS = {
    "system": "system",
    "browser": "browser",
    "system/test_docs.py": "docs",
    "system/test_notebooks.py": "notebooks",
}


def pytest_collection_modifyitems(items):
    for item in items:
        place = item.path.relative_to(Path(__file__).parent)
        for name in (place.parts[0], place.as_posix()):
            if name in MARKS:
                item.add_marker(MARKS[name])


@pytest.fixture(autouse=True)
def _own_store(tmp_path_factory, monkeypatch):
    """No test finds what another has made, nor what a user has. Most make no such folder."""
    folder = tmp_path_factory.getbasetemp() / f"cache of test {next(NUMBERS)}"
    monkeypatch.setenv("DRAGWIDGET_CACHE", str(folder))


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_the_same_bits():
    torch = sys.modules.get("torch")  # loaded by now, if any test that was chosen needs it
    if torch is None:
        return
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A tiny model of the shape of Stable Diffusion 1.x, as diffusers saves it. Read only."""
    from tiny_models import write_model

    return write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The same, loaded. Read only."""
    from dragwidget.diffusion.loading import load_model

    return load_model(tiny_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def xl_folder(tmp_path_factory):
    """A tiny model of the shape of Stable Diffusion XL, as diffusers saves it. Read only."""
    from tiny_xl import write_xl

    return write_xl(tmp_path_factory.mktemp("models") / "tiny-xl")


@pytest.fixture(scope="session")
def xl(xl_folder):
    """The same, loaded. Read only."""
    from dragwidget.diffusion.loading import load_model

    return load_model(xl_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def lcm_folder(tmp_path_factory):
    """A tiny latent consistency model, as diffusers saves it. Read only."""
    from few_step_models import write_lcm

    return write_lcm(tmp_path_factory.mktemp("models") / "tiny-lcm")


@pytest.fixture(scope="session")
def lcm(lcm_folder):
    """The same, loaded. Read only."""
    from dragwidget.diffusion.loading import load_model

    return load_model(lcm_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def sd3_folder(tmp_path_factory):
    """A tiny model of the shape of Stable Diffusion 3, as diffusers saves it. Read only."""
    from tiny_sd3 import write_sd3

    return write_sd3(tmp_path_factory.mktemp("models") / "tiny-sd3")


@pytest.fixture(scope="session")
def sd3(sd3_folder):
    """The same, loaded. Read only."""
    from dragwidget.diffusion.loading import load_model

    return load_model(sd3_folder, device="cpu", dtype="float32")


@pytest.fixture
def broken(tiny_folder, tmp_path):
    """A copy of the tiny model's folder, to be broken."""
    return shutil.copytree(tiny_folder, tmp_path / "broken")


@pytest.fixture
def canvas():
    """A ``DragCanvas`` that a hand draws on; nothing may go wrong on it unseen."""
    import numpy as np
    from front_end import HEIGHT, WIDTH

    from dragwidget.ui.canvas import DragCanvas

    ramp = np.arange(HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3) % 251
    made = DragCanvas(ramp.astype(np.uint8), brush_size=9, probe=True)
    yield made
    assert made.last_error == ""
    made.close()


@pytest.fixture
def page(canvas):
    """The hand, see ``front_end.Page``."""
    from front_end import Page

    return Page(canvas)


@pytest.fixture
def bare(canvas):
    """The hand on a page without our script, where ipycanvas alone sends events."""
    from front_end import Page

    return Page(canvas, has_script=False)
