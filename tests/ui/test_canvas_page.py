"""What a browser gets: everything again whenever it asks, and what a run lays over."""

import base64
import io
import sys
import threading
import time
import types

import ipywidgets
import numpy as np
import pytest
from front_end import Page, drawings, messages
from PIL import Image

from dragwidget.ui.canvas import DragCanvas
from dragwidget.ui.still import load_custom_widgets


def image(value=120, size=(64, 48)):
    return np.full((size[1], size[0], 3), value, np.uint8)


@pytest.fixture
def canvas():
    made = DragCanvas(image(), brush_size=9)
    yield made
    assert made.last_error == ""
    made.close()


def commands(sent):
    return [command for message in drawings(sent) for command, _ in message]


def canvases_drawn_on(message):
    return {arguments[0] for command, arguments in message if command == "switchCanvas"}


# ---------------------------------------------------------------- pages that come and go


def test_nothing_is_drawn_before_a_page_is_there(canvas):
    with messages() as sent:
        canvas.add_pair((5, 5), (50, 40))
        canvas.stroke([(5, 5), (20, 20)])
        canvas.show_image(image(3))
    assert drawings(sent) == []


def test_a_page_that_comes_late_gets_everything_as_one_message(canvas):
    canvas.add_pair((5, 5), (50, 40))
    canvas.stroke([(5, 5), (20, 20)])
    with messages() as sent:
        Page(canvas)
    (message,) = drawings(sent)
    ids = {f"IPY_MODEL_{layer.model_id}" for layer in canvas.scene.multi._canvases}
    assert ids <= canvases_drawn_on(message)
    drawn = [command for command, _ in message]
    assert drawn.count("drawImage") == 4  # image and mask: unpacked, then laid on their layers
    assert "fillText" in drawn


def test_every_page_gets_the_same(canvas):
    canvas.add_pair((5, 5), (50, 40))
    canvas.stroke([(5, 5), (20, 20)])
    page = Page(canvas)
    replays = []
    for _ in range(3):
        with messages() as sent:
            page.load()
        replays.append(drawings(sent))
    assert replays[0] == replays[1] == replays[2]


def test_every_message_names_the_canvas_that_it_draws_on(canvas):
    page = Page(canvas)
    canvas.tool = "brush"
    with messages() as sent:
        page.drag((5, 5), (20, 20), (30, 30))
        page.load()
    assert len(drawings(sent)) > 3
    for message in drawings(sent):
        assert message[0][0] == "switchCanvas"


def test_a_stroke_in_hand_is_drawn_again_for_a_page_that_is_loaded_again(canvas):
    page = Page(canvas)
    canvas.tool = "brush"
    page.press((5, 5))
    page.move((20, 20), (30, 10))
    with messages() as sent:
        page.load()
    assert "strokeLines" in commands(sent)
    page.move((40, 20))
    page.release((40, 20))
    assert canvas.mask[20, 39]


def test_a_page_that_was_ready_before_anybody_heard_is_drawn_at_the_first_press(canvas):
    page = Page(canvas, is_ready=False)
    with messages() as sent:
        page.press((5, 5))
    assert "drawImage" in commands(sent)
    page.release((50, 40))
    assert len(canvas.pairs) == 1


def test_only_plain_numbers_and_words_are_sent(canvas):
    page = Page(canvas)
    canvas.pairs = np.array([[(5, 5), (50, 40)], [(9, 9), (20, 20)]], dtype=np.float32).tolist()
    canvas.brush_size = np.float64(7)
    canvas.zoom_to(np.float32(2), center=np.array([10.0, 10.0]))
    canvas.stroke(np.array([[1, 1], [20, 20]], dtype=np.int64), size=np.float32(5))
    canvas.show_tracks(np.array([[5.0, 6.0]]), [np.array([[5.0, 5.0], [5.0, 6.0]])])
    canvas.flush()
    page.drag((30, 30), (35, 31))  # numpy scalars would raise in here
    assert canvas.last_error == ""


def test_what_failed_to_be_painted_is_painted_next_time(canvas, monkeypatch):
    Page(canvas)
    monkeypatch.setattr(canvas.scene, "_paint_mask", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), messages() as sent:
        canvas.fill_mask()
    assert commands(sent) == []  # nothing half done is sent
    assert canvas.mask.all()  # and nothing drawn is lost
    monkeypatch.undo()
    with messages() as sent:
        canvas.add_pair((1, 1), (2, 2))
    assert "drawImage" in commands(sent)


# ---------------------------------------------------------------- laid over


@pytest.fixture
def edited(canvas):
    """The canvas with a pair, a mask, a preview and tracks; and its page."""
    canvas.add_pair((5, 5), (50, 40))
    canvas.stroke([(5, 5), (20, 20)])
    canvas.show_image(Image.fromarray(image(10)))
    canvas.show_tracks([(7.0, 7.0)])
    canvas.flush()
    return canvas, Page(canvas)


def seen(canvas):
    """The level of the image that shows, and whether mask and marks do."""
    level = int(np.asarray(canvas.scene.image)[0, 0, 0])
    return level, canvas.scene._overlay() is not None, bool(canvas.marks.pairs)


def test_the_source_shows_alone_as_long_as_its_button_is_held(edited):
    canvas, page = edited
    assert seen(canvas) == (10, True, True)
    page.tell(event="source", on=True)
    assert seen(canvas) == (120, False, False)
    assert canvas._toolbar.source.value
    canvas.show_image(Image.fromarray(image(30)))  # a drag goes on meanwhile
    canvas.flush()
    assert seen(canvas) == (120, False, False)
    page.tell(event="source", on=False)
    assert seen(canvas) == (30, True, True)
    assert not canvas._toolbar.source.value
    assert canvas.can_undo
    assert len(canvas.pairs) == 1


def test_a_page_that_went_while_it_showed_the_source_leaves_it_to_the_next_to_hold_it(edited):
    canvas, page = edited
    page.tell(event="source", on=True)
    Page(canvas)  # reloaded: the old page has said nothing more
    assert seen(canvas) == (10, True, True)


def test_without_our_script_the_button_switches_the_source_on_and_off(edited):
    canvas, _ = edited
    canvas._toolbar.source.value = True
    assert seen(canvas) == (120, False, False)
    canvas._toolbar.source.value = False
    assert seen(canvas) == (10, True, True)


def test_a_bare_canvas_shows_the_edited_image_without_mask_and_marks(edited):
    canvas, page = edited
    canvas.is_bare = True
    assert seen(canvas) == (10, False, False)
    page.tell(event="source", on=True)
    page.tell(event="source", on=False)
    assert seen(canvas) == (10, False, False)
    canvas.is_bare = False
    canvas.mask_style = "hidden"
    assert seen(canvas) == (10, False, True)


def test_a_preview_lies_over_the_image_and_goes_again(canvas):
    Page(canvas)
    source = canvas.scene.image
    canvas.show_image(Image.fromarray(image(10, (32, 24))))
    canvas.flush()
    assert np.asarray(canvas.scene.image)[0, 0, 0] == 10
    assert not canvas.can_undo
    assert np.asarray(canvas.image)[0, 0, 0] == 120
    canvas.show_image(None)
    canvas.flush()
    assert canvas.scene.image is source


def test_of_many_previews_few_are_sent_and_the_last_one_is(canvas):
    Page(canvas)
    canvas._view.throttle._interval = 3600.0
    with messages() as sent:
        for value in range(100):
            canvas.show_image(image(value))
        canvas.flush()
    assert len(drawings(sent)) == 2  # the first and the last
    assert np.asarray(canvas.scene.image)[0, 0, 0] == 99


@pytest.mark.slow
def test_a_preview_that_stays_is_sent_again_without_loss(canvas):
    Page(canvas)
    canvas.show_image(image(7))
    canvas.flush()
    assert not canvas.scene.is_exact
    while not canvas.scene.is_exact:  # the test's own time-out ends a wait in vain
        time.sleep(0.02)
    assert canvas.scene.is_exact
    assert np.asarray(canvas.scene.image)[0, 0, 0] == 7


def test_tracks_are_marked_and_cleared_and_are_no_part_of_undo(canvas):
    Page(canvas)
    canvas.add_pair((5, 5), (50, 40))
    canvas.show_tracks([(9, 9)], [[(5, 5), (9, 9)]])
    canvas.flush()
    assert canvas.scene.marks.tracked == ((9, 9),)
    assert canvas.instructions.pairs[0].handle == (5, 5)
    canvas.undo()
    assert canvas.scene.marks.tracked == ((9, 9),)
    canvas.clear_tracks()
    canvas.flush()
    assert canvas.scene.marks.tracked == ()


def test_a_trail_follows_its_pair_when_another_is_deleted_and_goes_with_its_own(canvas):
    canvas.pairs = [((5, 5), (50, 5)), ((5, 20), (50, 20)), ((5, 40), (50, 40))]
    now = [(9, 5), (9, 20), (9, 40)]
    canvas.show_tracks(now, [[(5, y), (9, y)] for y in (5, 20, 40)], [(5, 5), (5, 20), (5, 40)])
    canvas.flush()
    canvas.delete_pair(0)
    assert canvas.scene.marks.tracked == ((9, 20), (9, 40))
    assert canvas.scene.marks.trails == (((5, 20), (9, 20)), ((5, 40), (9, 40)))
    canvas.move_target(0, (60, 20))
    canvas.pairs = canvas.pairs[::-1]
    assert set(canvas.scene.marks.tracked) == {(9, 20), (9, 40)}
    canvas.move_handle(0, (30, 30))  # another point, which has not moved yet
    assert canvas.scene.marks.tracked == ((9, 20),)
    for _ in range(4):
        canvas.undo()
    assert canvas.scene.marks.tracked == tuple(now)


@pytest.mark.parametrize(
    ("trails", "starts"), [([[(5, 5)]], None), ([], [(5, 5)]), ([[]] * 3, None), ([[]] * 2, [])]
)
def test_tracks_that_do_not_belong_together_are_refused(canvas, trails, starts):
    with pytest.raises(ValueError, match="one entry per handle: got 2 handles"):
        canvas.show_tracks([(9, 9), (8, 8)], trails, starts)


@pytest.mark.slow
def test_threads_may_lay_over_while_a_hand_draws(canvas):
    page = Page(canvas)
    canvas.tool = "brush"
    stop = threading.Event()

    def run():
        while not stop.is_set():
            canvas.show_image(image(9))
            canvas.show_tracks([(9, 9)], [[(5, 5), (9, 9)]])
            canvas._view.show_overlays()  # past the throttle

    threads = [threading.Thread(target=run) for _ in range(3)]
    with messages() as sent:
        for thread in threads:
            thread.start()
        for _ in range(20):
            page.drag((5, 5), (20, 20), (30, 30), (40, 20))
        stop.set()
        for thread in threads:
            thread.join()
    assert canvas.last_error == ""
    layers = {f"IPY_MODEL_{m.model_id}": i for i, m in enumerate(canvas.scene.multi._canvases)}
    for message in drawings(sent):  # every command on the layer that it is meant for
        layer = None
        for command, arguments in message:
            if command == "switchCanvas":
                layer = layers.get(arguments[0])
            if command == "clip":
                assert layer == 1
            if command == "fillText":
                assert layer == 2


# ---------------------------------------------------------------- without a kernel


def test_a_notebook_without_a_kernel_shows_an_image(canvas):
    canvas.add_pair((5, 5), (50, 40))
    data = canvas._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert data["text/plain"] == "DragCanvas(64 x 48: no mask: all editable, 1 pair)"
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert max(image.size) == 512


@pytest.mark.slow
def test_that_image_is_small_even_of_noise():
    noise = np.random.default_rng(0).integers(0, 255, (700, 900, 3), dtype=np.uint8)
    canvas = DragCanvas(noise)
    assert len(canvas._repr_mimebundle_()["image/png"]) <= 100 * 1024
    canvas.close()


@pytest.mark.skipif(
    hasattr(ipywidgets.VBox, "_repr_mimebundle_"), reason="ipywidgets 8 asks for the bundle itself"
)
def test_ipywidgets_7_displays_the_same_bundle(canvas, capsys):
    canvas._ipython_display_()
    assert "DragCanvas(64 x 48" in capsys.readouterr().out


def test_a_snapshot_shows_image_mask_and_marks(canvas):
    canvas.rectangle((0, 0), (32, 48))
    canvas.add_pair((10, 24), (20, 10))
    shot = np.asarray(canvas.snapshot(640)).astype(int)
    assert shot.shape == (480, 640, 3)
    assert shot[400, 100].tolist() == [120] * 3  # editable
    assert shot[400, 500].max() < 80  # protected, so darkened
    red, green, blue = shot[240, 92]  # on the handle's disc, beside its number
    assert red > 200
    assert green < 100
    assert blue < 100


def test_a_snapshot_shows_what_is_laid_over(canvas):
    Page(canvas)
    canvas.show_image(image(250))
    canvas.flush()
    assert np.asarray(canvas.snapshot())[0, 0, 0] == 250


def test_pixels_of_a_small_image_stay_pixels():
    canvas = DragCanvas((np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8))
    shot = np.asarray(canvas.snapshot(64))
    assert set(np.unique(shot)) == {0, 255}
    canvas.close()


@pytest.mark.parametrize("is_colab", [True, False])
def test_colab_is_asked_once_to_load_other_widgets_than_its_own(canvas, monkeypatch, is_colab):
    asked = []
    for name in ("google", "google.colab", "google.colab.output"):
        module = types.ModuleType(name)
        module.__path__ = []
        module.__spec__ = types.SimpleNamespace(name=name)
        module.enable_custom_widget_manager = lambda: asked.append(1)
        monkeypatch.setitem(sys.modules, name, module if is_colab else None)
    load_custom_widgets.cache_clear()
    for _ in range(2):
        canvas._repr_mimebundle_()
    load_custom_widgets.cache_clear()
    assert len(asked) == is_colab
