"""What closing frees: every model of ipywidgets, threads, the session and its model."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import ipywidgets.widgets.widget as registry
import numpy as np
import pytest
from front_end import Page, drawings, messages
from tiny_sessions import FAR, ask, session_on

from dragwidget.diffusion.loading import load_model
from dragwidget.storage.cache import Store
from dragwidget.ui import drawing
from dragwidget.ui.canvas import DragCanvas
from dragwidget.ui.closing import close_all
from dragwidget.ui.controls import SettingsPanel
from dragwidget.ui.widget import DragWidget

ALIVE = getattr(registry, "_instances", None)
if ALIVE is None:  # ipywidgets 7
    ALIVE = registry.Widget.widgets


@pytest.fixture(scope="module", autouse=True)
def _only_what_is_made_here_is_looked_through():
    """Set aside what thousands of other tests hold: each collection would take seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def alive():
    """The models that are registered, each with an open comm."""
    gc.collect()
    return set(ALIVE)


def used(widget):
    """Use every panel once, so that it has made all that it makes."""
    widget.canvas.add_pair((30, 10), (20, 30))
    widget.canvas.fill_mask()
    widget.run(2)
    widget.wait(60)
    widget._view.features.button.value = True
    widget._probe(20.0, 30.0)
    widget._probe(30.0, 20.0)
    widget._view.compare.mode.value = "before"
    widget._view.settings.reset()
    widget.canvas.delete_pair(0)  # its row of the table is shown no more
    widget.rewind(1)
    widget.wait(60)
    for button in widget._view.folded.children[4].children[0].children:
        button.click()
    assert widget.error == ""


@pytest.mark.slow
@pytest.mark.parametrize("clock", ["sync", "thread", "play"])
def test_a_closed_widget_leaves_no_model_behind(tiny, clock):
    before = alive()
    widget = DragWidget(session_on(tiny), instructions=ask(FAR), clock=clock, journal=False)
    if clock != "play":
        used(widget)
    assert len(alive() - before) > 300
    widget.close()
    assert alive() <= before


@pytest.mark.slow
def test_a_widget_closed_while_it_works_leaves_no_model_and_no_thread_behind(tiny):
    before, threads = alive(), set(threading.enumerate())
    widget = DragWidget(
        session_on(tiny, steps=1000), instructions=ask(), clock="thread", journal=False
    )
    widget.run()
    widget.close()
    assert alive() <= before
    assert set(threading.enumerate()) <= threads


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="Linux lists open files there")
@pytest.mark.parametrize("ran", [True, False])
def test_a_closed_widget_leaves_no_file_open_nor_unfinished(tiny, tmp_path, ran):
    """Its journal holds a lock, its store and long history files of their own."""

    def opened():
        gc.collect()
        names = (os.path.realpath(fd) for fd in Path("/proc/self/fd").glob("*"))
        return {name for name in names if name.startswith(str(tmp_path))}

    options = {"journal": tmp_path / "journal", "store": Store(tmp_path / "store")}
    widget = DragWidget(session_on(tiny), instructions=ask(FAR), clock="thread", **options)
    widget.run(2)
    if ran:
        widget.wait(60)
        assert opened()  # the lock: the journal lives
    widget.close()
    assert opened() == set()
    assert not list(tmp_path.rglob("*unfinished*"))


@pytest.mark.slow
def test_the_session_and_its_model_are_freed_though_the_widget_is_held(tiny_folder):
    widget = DragWidget(
        session_on(load_model(tiny_folder, device="cpu")), instructions=ask(), clock="thread"
    )
    widget.run(2)
    widget.wait(60)
    freed = [weakref.ref(widget.session), weakref.ref(widget.session.model)]
    widget.close()
    gc.collect()
    assert [ref() for ref in freed] == [None, None]


def test_nothing_of_the_model_is_left_hooked(tiny):
    widget = DragWidget(session_on(tiny), instructions=ask(), clock="thread", journal=False)
    widget.run(1)
    widget.close()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in tiny.unet.modules())


@pytest.mark.slow
def test_closing_twice_is_harmless_and_use_afterwards_is_told(tiny):
    widget = DragWidget(session_on(tiny), instructions=ask(), clock="sync", journal=False)
    widget.run(1)
    widget.close()
    widget.close()
    assert repr(widget) == "DragWidget(closed)"
    assert widget.instructions.pairs == ask().pairs  # what was drawn is not lost
    uses = (
        widget.run, widget.step, widget.pause, widget.stop, widget.render, widget.prepare,
        widget.wait, widget.code, widget.gif, widget.reset, lambda: widget.rewind(0),
        lambda: widget.save("x.drag"), lambda: widget.session, lambda: widget.settings,
        lambda: widget.prompt, lambda: widget.image, lambda: widget.result,
    )  # fmt: skip
    for use in uses:
        with pytest.raises(RuntimeError, match="this widget is closed: make a new one"):
            use()
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        _ = widget.runn


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"instructions": ask(size=(70, 70))}, {"width": 3}, {"clock": "no clock"}]
)
def test_a_widget_that_could_not_be_made_leaves_nothing_behind(tiny, options):
    before = alive()
    session = session_on(tiny)
    options = {"clock": "sync", **options}
    with pytest.raises(ValueError, match=r"size|width|clock"):
        DragWidget(session, journal=False, **options)
    assert alive() <= before


@pytest.mark.slow
@pytest.mark.parametrize("toolbar", [True, False])
def test_a_closed_canvas_leaves_no_model_behind(toolbar):
    before = alive()
    canvas = DragCanvas(
        np.zeros((48, 64, 3), np.uint8), toolbar=toolbar, caption=toolbar, probe=True
    )
    canvas.add_pair((5, 5), (20, 20))
    canvas.fill_mask()
    canvas.close()
    assert alive() <= before
    canvas.close()
    assert len(canvas.pairs) == 1


@pytest.mark.slow
def test_a_page_has_drawn_all_that_was_sent_before_its_canvases_close():
    """A command for a canvas that is gone would stop all drawing of the page."""
    before = alive()
    canvas = DragCanvas(np.zeros((48, 64, 3), np.uint8))
    page = Page(canvas)
    assert canvas.scene.is_live
    canvas.add_pair((5, 5), (20, 20))
    multi = canvas.scene.multi
    canvases = {multi.model_id, *(layer.model_id for layer in multi._canvases)}
    with messages() as sent:
        canvas.close()
    ((_, (_, last_colour)),) = [c for c in drawings(sent)[-1] if c[0] == "set" and "#" in str(c)]
    page.sends_back((0, 0, 0, 0))  # ipycanvas does when it is asked to, before it draws
    assert canvases <= alive()
    page.sends_back(last_colour)
    assert alive() <= before


@pytest.mark.slow
def test_a_page_that_never_answers_keeps_nothing_for_long(monkeypatch):
    monkeypatch.setattr(drawing, "CLOSE_SECONDS", 0.0)
    before = alive()
    canvas = DragCanvas(np.zeros((48, 64, 3), np.uint8))
    Page(canvas)
    running = set(threading.enumerate())
    canvas.close()
    for thread in set(threading.enumerate()) - running:
        thread.join(60)
    assert alive() <= before


@pytest.mark.slow
def test_a_closed_panel_leaves_no_model_behind():
    before = alive()
    close_all(SettingsPanel())
    assert alive() <= before


@pytest.mark.slow
def test_a_kernel_that_ends_with_an_open_canvas_says_nothing():
    code = (
        "import numpy as np\nfrom dragwidget.ui.canvas import DragCanvas\n"
        "canvas = DragCanvas(np.zeros((48, 64, 3), np.uint8))\n"
        "canvas.on_touch_start([(9.0, 9.0)])\ncanvas.on_touch_cancel([])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stderr == ""
