"""Open an image in the widget: an upload, and samples where it was made without an image."""

from __future__ import annotations

import datetime

import ipywidgets
import numpy as np
import pytest
from PIL import Image
from tiny_sessions import FAR, session_on, waves

from dragwidget import DragSession
from dragwidget.demo.scenes import sample_images
from dragwidget.editor.images import encoded
from dragwidget.ui.widget import DragWidget


@pytest.fixture
def widget(tiny):
    made = DragWidget(session_on(tiny), clock="sync", render_when_done=False)
    yield made
    made.close()


def panel_of(widget):
    folded = widget._view.folded
    return next(p for p in folded.children if "dragwidget-image" in p._dom_classes)


def upload(panel, data, name="photo.png"):
    """What the page does when somebody chooses a file."""
    if ipywidgets.__version__.startswith("7."):
        panel.upload.set_trait("value", {name: {"metadata": {"name": name}, "content": data}})
        return
    now = datetime.datetime.now(tz=datetime.timezone.utc)
    file = {
        "name": name, "type": "image/png", "size": len(data), "last_modified": now,
        "content": memoryview(data),
    }  # fmt: skip
    panel.upload.value = (file,)


def test_an_uploaded_image_is_edited_from_then_on(widget):
    widget.canvas.add_pair(*FAR)
    photo = Image.fromarray(waves(96, 64, seed=3))
    panel = panel_of(widget)
    for _ in range(2):  # the same file can be chosen again
        upload(panel, encoded(photo, "PNG"))
        assert widget.error == ""
        assert np.array_equal(widget.image, photo)
        assert np.array_equal(widget.canvas.image, photo)
        assert widget.canvas.pairs == ()
        assert widget.prompt == ""
        assert not panel.upload.value
        widget.canvas.add_pair(*FAR)


def test_a_file_that_is_no_image_is_told_and_changes_nothing(widget):
    before = np.asarray(widget.image)
    upload(panel_of(widget), b"not an image")
    assert "is not an image that can be read" in widget.error
    assert np.array_equal(widget.image, before)


@pytest.mark.slow
def test_an_image_is_not_opened_in_the_middle_of_a_step(widget):
    widget.canvas.add_pair(*FAR)
    before, said = np.asarray(widget.image), []

    def open_another(progress):
        if progress.phase == "drag":
            with pytest.raises(RuntimeError) as refused:
                widget.open_image(waves(96, 64))
            said.append(str(refused.value))

    widget._editing.work.monitor.progress = open_another
    widget.run(1)
    assert said[0] == "cannot open: Drag is running: pause or stop it first"
    assert np.array_equal(widget.image, before)


@pytest.mark.slow
def test_the_render_of_an_image_goes_with_it(widget):
    widget.canvas.add_pair(*FAR)
    widget.run(1)
    widget.render()
    assert widget.result is not None
    widget.open_image(waves(96, 64))
    assert widget.result is None


@pytest.mark.slow
def test_an_image_that_code_sets_is_looked_at_as_an_opened_one_is():
    session = DragSession.from_pretrained("critters", device="cpu")
    session.set_image(sample_images()[0][0])
    widget = DragWidget(session, clock="sync", render_when_done=False, journal=False)
    warning = widget._view.warning
    assert warning.layout.display == "none"
    widget.canvas.add_pair((20, 20), (30, 30))
    widget.render()
    assert widget.result is not None
    session.set_image(waves(96, 64))
    assert "does not know images like this one" in warning.value
    assert warning.layout.display is None
    assert widget.result is None
    session.set_image(sample_images()[1][0])
    assert warning.layout.display == "none"
    assert widget.error == ""
    widget.close()


@pytest.mark.slow
def test_without_an_image_there_are_samples_and_the_first_is_open():
    widget = DragWidget(clock="sync", journal=False, store=None)
    panel = widget.children[1]
    assert "dragwidget-image" in panel._dom_classes
    prompts = [button.tooltip for button in panel.buttons]
    assert len(prompts) == len(set(prompts)) >= 3
    assert widget.prompt in prompts[0]
    first = widget.image
    panel.buttons[1].click()
    assert widget.error == ""
    assert widget.prompt in prompts[1]
    assert not np.array_equal(widget.image, first)
    assert np.array_equal(widget.canvas.image, widget.image)
    widget.close()


@pytest.mark.slow
def test_an_image_made_from_text_is_edited_and_the_next_press_makes_another(widget):
    widget.canvas.add_pair(*FAR)
    widget.run(1)
    widget.render()
    panel = panel_of(widget)
    panel.text.value = "a cat"
    made = []
    for seed in range(2):
        panel.make.click()
        assert widget.error == ""
        assert widget.prompt == widget.canvas.prompt == "a cat"
        assert widget.canvas.pairs == ()
        assert widget.result is None
        assert "The image is made" in widget._view.status._line.value
        made.append(np.asarray(widget.image))
        other = DragSession(widget.session.model)
        other.settings = widget.session.settings
        assert np.array_equal(other.generate("a cat", seed=seed), made[-1])
        assert np.array_equal(widget.canvas.image, made[-1])
    assert not np.array_equal(*made)
    widget.canvas.add_pair(*FAR)
    widget.run(1)
    assert widget.index == 1


def test_a_seed_that_there_cannot_be_is_told_and_changes_nothing(widget):
    before = np.asarray(widget.image)
    widget.canvas.add_pair(*FAR)
    widget.generate("a cat", seed=-1)
    assert "seed" in widget.error
    assert np.array_equal(widget.image, before)
    assert len(widget.canvas.pairs) == 1


def test_a_file_that_is_dropped_or_pasted_on_the_page_is_edited(widget):
    photo = Image.fromarray(waves(96, 64, seed=3))
    script = widget.canvas._script
    assert script.takes_images
    message = {"event": "image", "name": "photo.png", "size": 9}
    script._handle_custom_msg(message, [memoryview(encoded(photo, "PNG"))])
    assert widget.error == widget.canvas.last_error == ""
    assert np.array_equal(widget.image, photo)
    script._handle_custom_msg(message, [b"not an image"])
    assert "is not an image that can be read" in widget.error
    script._handle_custom_msg({**message, "size": 10**7}, [])
    assert "photo.png has 10000000 bytes" in widget.canvas.last_error
    assert np.array_equal(widget.image, photo)
