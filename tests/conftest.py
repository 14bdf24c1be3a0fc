"""What all tests share."""

import itertools
import os
import shutil
import sys
from importlib import import_module
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
    # The longest first, in whatever order: no core waits for one of them at the end.
    items.sort(key=lambda item: item.get_closest_marker("notebooks") is None)


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


def tiny_model(name, write):
    """Two fixtures of the whole run: a tiny model's folder, and the model loaded. Read only.

    Args:
        name: of the model; that of the folder ends in ``_folder``.
        write: the function that writes it, as diffusers saves one: ``module.function``.
    """

    @pytest.fixture(scope="session", name=f"{name}_folder")
    def folder(tmp_path_factory):
        module, function = write.split(".")
        return getattr(import_module(module), function)(tmp_path_factory.mktemp("models") / name)

    @pytest.fixture(scope="session", name=name)
    def loaded(request):
        from dragwidget.diffusion.loading import load_model

        folder = request.getfixturevalue(f"{name}_folder")
        return load_model(folder, device="cpu", dtype="float32")

    return folder, loaded


# Of the shapes of Stable Diffusion 1.x, XL and 3, and of a latent consistency model.
tiny_folder, tiny = tiny_model("tiny", "tiny_models.write_model")
xl_folder, xl = tiny_model("xl", "tiny_xl.write_xl")
sd3_folder, sd3 = tiny_model("sd3", "tiny_sd3.write_sd3")
lcm_folder, lcm = tiny_model("lcm", "few_step_models.write_lcm")


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
