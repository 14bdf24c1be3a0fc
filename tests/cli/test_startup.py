"""What the command line loads for an edit, and what it spares itself while it does."""

from __future__ import annotations

import gc
import json
import subprocess
import sys

import pytest
from command_line import PAIR, write_inputs

from dragwidget.__main__ import main

# Runs the command line as the whole of its process; tells what it loaded, the collections of
# garbage that began while the libraries were being loaded, and those objects that none looks at.
WATCHED = """
import gc, json, sys
from dragwidget.__main__ import main
begun = []
def watch(phase, info):
    if phase == "start" and "torch" in sys.modules and not gc.get_freeze_count():
        begun.append(info["generation"])
gc.callbacks.append(watch)
status = main()
told = [status, gc.isenabled(), begun, gc.get_freeze_count(), sorted(sys.modules)]
print(json.dumps(told))
"""

# Packages that an edit does without, though they are near: of the widget, of its documents and
# benchmarks, and of other pipelines. What torch, diffusers and transformers import is theirs.
SPARED = {
    "IPython", "anywidget", "ipycanvas", "ipywidgets", "matplotlib", "pandas", "scipy", "sklearn",
    "dragwidget.bench", "dragwidget.demo", "dragwidget.editor", "dragwidget.ui",
    "diffusers.pipelines", "diffusers.training_utils", "transformers.pipelines",
    "transformers.trainer", "torch.utils.tensorboard", "torch._inductor.codecache",
}  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory, tiny_folder):
    folder = write_inputs(tmp_path_factory.mktemp("edit"))
    files = [str(folder / "fox.png"), "--settings", str(folder / "quick.json")]
    return ["edit", *files, *PAIR, "--model", str(tiny_folder), "--device", "cpu", "--no-store"]


@pytest.fixture(scope="module")
def watched(words):
    """The numbers and names that ``WATCHED`` prints of an edit in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, *words], capture_output=True, text=True, check=True
    )
    status, enabled, begun, frozen, modules = json.loads(run.stdout.splitlines()[-1])
    assert status == 0
    return enabled, begun, frozen, set(modules)


@pytest.mark.slow
def test_no_garbage_is_looked_for_among_what_an_edit_loads(watched):
    enabled, begun, frozen, modules = watched
    assert "diffusers.models.unets.unet_2d_condition" in modules
    assert begun == []  # else some thousand, a second of work
    assert frozen > 100_000  # nor is any later, in the edit or at its end
    assert enabled  # while garbage of the edit itself is


@pytest.mark.slow
def test_an_edit_loads_no_package_that_it_does_not_use(watched):
    *_, modules = watched
    assert modules & SPARED == set()


@pytest.mark.slow
def test_in_a_process_that_goes_on_garbage_is_found_as_before(words):
    before = gc.get_freeze_count()
    assert main(words) == 0
    assert (gc.get_freeze_count(), gc.isenabled()) == (before, True)
