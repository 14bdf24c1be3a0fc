"""The whole widget without a page: everything a hand can do, from Python."""

import base64
import gc
import io
import json
import re
import threading
import weakref
from dataclasses import replace

import ipywidgets
import numpy as np
import pytest
import torch
from exported import exported
from PIL import Image
from tiny_sessions import FAR, ask, left_half, session_on, waves

from dragwidget.data.instructions import DragInstructions
from dragwidget.session.session import DragSession
from dragwidget.ui import styles
from dragwidget.ui.canvas.tools import TOOLS
from dragwidget.ui.widget import DragWidget


@pytest.fixture
def widget(tiny):
    """Makes widgets on small sessions, and closes them."""
    made = []

    def make(clock="sync", instructions="one pair", lora_steps=0, **drag):
        session = session_on(tiny, lora_steps=lora_steps, **drag)
        drawn = ask() if instructions == "one pair" else instructions
        made.append(DragWidget(session, instructions=drawn, clock=clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


def click(widget, name):
    widget._view.buttons.by_name[name].click()


@pytest.mark.slow
def test_an_image_set_while_a_drag_runs_is_shown_when_it_ends(widget):
    widget = widget()
    session, other = widget.session, Image.fromarray(waves(seed=5))

    def set_it(progress):
        if progress.phase == "drag" and session.image is not other:
            session.set_image(other, "a dog")

    widget._editing.work.monitor.progress = set_it
    widget.run(2)
    assert session.image.tobytes() == other.tobytes()
    assert widget.canvas.image.tobytes() == other.tobytes()
    assert widget.index == 0


def all_below(part):
    yield part
    for child in getattr(part, "children", ()):
        yield from all_below(child)


@pytest.mark.slow
def test_gooddrag_runs_to_the_end_of_its_timesteps(widget):
    widget = widget(
        method="gooddrag", drag_timesteps=2, tracks_per_timestep=1, updates_per_track=2, steps=50
    )
    widget.run()
    widget.wait()
    assert (widget.index, widget.error) == (4, "")
    said = widget._view.status._line.value
    assert "All 2 dragging timesteps are used. Go back to drag on, or render." in said
    widget.rewind(1)
    widget.step()
    assert widget.index == 2


@pytest.mark.slow
def test_a_whole_edit_from_python_equals_the_session_alone(tiny, widget):
    widget = widget(lora_steps=2)
    widget.run()
    result = widget.wait()
    alone = session_on(tiny, lora_steps=2)
    alone.instructions = ask(prompt="a cat")
    alone.run()
    assert np.array_equal(result, alone.render())
    assert widget.result is result
    assert widget.index == len(alone.history)
    assert widget.error == ""


@pytest.mark.slow
def test_buttons_do_what_the_methods_do(widget):
    by_hand, by_method = widget(), widget()
    for name in ("prepare", "step", "step", "render", "reset", "run"):
        click(by_hand, name)
        getattr(by_method, name)()
    latents = [each.session.history.current.latent for each in (by_hand, by_method)]
    assert torch.equal(*latents)
    assert np.array_equal(by_hand.result, by_method.result)
    assert len(by_hand.session.history.tips) == 2


def test_a_button_that_cannot_be_pressed_says_why(widget):
    widget = widget(instructions=None)
    buttons = widget._view.buttons.by_name
    assert buttons["run"].disabled
    assert buttons["run"].tooltip == (
        "Not now: there is nothing to drag: draw a pair of points first"
    )
    widget.canvas.add_pair(*FAR)
    assert not buttons["run"].disabled
    assert buttons["stop"].disabled


def test_every_button_has_a_text_a_tooltip_and_its_class(widget):
    widget = widget()
    for part in all_below(widget):
        if isinstance(part, ipywidgets.Button):
            assert part.description or getattr(part, "icon", "")
            assert part.tooltip
    classes = {name for part in all_below(widget) for name in getattr(part, "_dom_classes", ())}
    wanted = "canvas run step stop render prepare reset undo redo history tool-points tool-brush"
    assert {f"dragwidget-{name}" for name in wanted.split()} <= classes
    html = " ".join(p.value for p in all_below(widget) if isinstance(p, ipywidgets.HTML))
    assert 'role="status"' in html
    assert "dragwidget-error" in html


@pytest.mark.slow
def test_the_class_names_of_a_widget_are_those_that_are_listed(widget):
    listed = set(re.findall(r"``(dragwidget[a-z-]*)``", styles.__doc__))
    listed |= {f"dragwidget-tool-{name}" for name in TOOLS}
    widget = widget()
    widget.run(1)
    parts = list(all_below(widget))
    has = {name for part in parts for name in getattr(part, "_dom_classes", ())}
    of_the_script = f"dragwidget-{widget.canvas.scene.multi.model_id}"
    assert {n for n in has if n.startswith("dragwidget") and of_the_script not in n} <= listed
    html = " ".join(part.value for part in parts if isinstance(part, ipywidgets.HTML))
    has |= {name for found in re.findall(r'class="([^"]+)"', html) for name in found.split()}
    # There is nothing to warn of here, and an image was given.
    assert listed <= has | {"dragwidget-warning", "dragwidget-sample", "dragwidget-keys"}


@pytest.mark.slow
def test_what_is_drawn_moves_the_next_step(widget):
    widget = widget(steps=2)
    widget.run()
    widget.canvas.move_target(0, (20, 40))
    widget.step()
    assert widget.session.history.current.pairs[0].target == (20, 40)


def test_a_prompt_makes_the_stages_stale_and_says_so(widget):
    widget = widget()
    widget.prepare()
    assert "ready" in widget._view.status.badges.value
    widget.prompt = "a dog"
    assert "the prompt changed" in widget._view.status.badges.value
    assert widget.session.prompt == "a dog"
    assert widget._editing.work.prompt == "a cat"  # what is shown until there is another
    widget.prepare()
    assert widget._editing.work.prompt == "a dog"
    assert len(widget.session.edits) == 2


@pytest.mark.slow
def test_rewinding_and_going_on_starts_a_branch_that_can_be_chosen(widget):
    widget = widget(steps=3)
    widget.run()
    slider, branches = widget._view.history.slider, widget._view.history.branches
    assert (slider.max, slider.value) == (3, 3)
    slider.value = 1
    assert widget.index == 1
    assert len(widget.session.history) == 1
    widget.canvas.move_target(0, (20, 40))
    widget.step()
    assert len(branches.options) == 2
    other = next(number for _, number in branches.options if number != branches.value)
    branches.value = other
    assert widget.session.history.current.number == other
    assert widget.index == 3


@pytest.mark.slow
def test_handles_move_on_the_canvas_with_their_trails(widget):
    widget = widget(steps=3)
    widget.run()
    node = widget.session.history.current
    assert widget.canvas.marks.tracked == tuple(node.handles)
    assert len(widget.canvas.marks.trails[0]) == 3
    widget.reset()
    assert widget.canvas.marks.tracked == ()


@pytest.mark.slow
def test_a_trail_stays_with_its_pair_when_the_one_before_it_is_deleted(widget):
    widget = widget(steps=2)
    widget.canvas.pairs = [((4, 4), (8, 4)), ((20, 20), (24, 20))]
    widget.run()
    _, came = widget.canvas.marks.trails
    widget.canvas.delete_pair(0)
    assert widget.canvas.marks.trails == (came,)
    widget.step()
    (longer,) = widget.canvas.marks.trails
    assert len(came) == 2
    assert longer[:2] == came


@pytest.mark.slow
def test_an_error_is_shown_kept_for_wait_and_forgotten_by_the_next_success(widget):
    widget = widget()

    def fail(_):
        raise MemoryError("CUDA out of memory")

    widget.session.monitor.progress = fail
    widget.run()
    with pytest.raises(MemoryError):
        widget.wait()
    assert widget.error == "CUDA out of memory"
    assert "Lower max_side" in widget._view.error_line.value
    widget.session.monitor.progress = None
    widget.run()
    widget.wait()
    assert widget.error == ""
    assert "out of memory" not in widget._view.error_line.value


def test_a_click_that_is_refused_is_shown_and_not_raised(widget):
    widget = widget()
    widget._view.buttons.by_name["reset"].disabled = False  # a click may be on its way already
    click(widget, "reset")
    assert widget.error == "cannot rewind: nothing was dragged yet"


@pytest.mark.slow
def test_a_run_can_be_paused_steered_and_gone_on_with(widget):
    widget = widget("thread", steps=6)
    paused = threading.Event()

    def at_two(change):
        if change["new"] == 2:
            widget.pause()
            paused.set()

    widget.observe(at_two, "index")
    widget.run()
    assert paused.wait(60)
    widget.wait(60)
    assert widget.state == "paused"
    widget.canvas.move_target(0, (20, 40))
    widget.unobserve(at_two, "index")
    click(widget, "run")
    assert widget.wait(60) is not None
    targets = [node.pairs[0].target for node in widget.session.history.path()[1:]]
    assert targets[:2] == [FAR[1]] * 2
    assert set(targets[2:]) == {(20, 40)}


def test_features_are_shown_for_every_block(widget):
    widget = widget()
    with pytest.raises(RuntimeError, match="prepare it first"):
        widget._probe(20.0, 30.0)
    widget.prepare()
    widget._view.features.button.value = True
    assert widget.canvas.tool == "probe"
    widget._probe(20.0, 30.0)
    maps = widget._view.features._maps.children
    assert len(maps) == widget.session.model.feature_block_count
    for box in maps:
        assert Image.open(io.BytesIO(box.children[1].value)).format == "JPEG"


@pytest.mark.slow
def test_comparing_shows_the_source_and_comes_back(widget):
    widget = widget(steps=2)
    widget.run()
    compare = widget._view.compare
    compare.mode.value = "before"
    compare.mode.value = "slider"
    compare.share.value = 0.25
    assert widget.canvas.is_bare
    compare.mode.value = "after"
    assert not widget.canvas.is_bare
    assert np.array_equal(widget.canvas._view.preview, widget.result)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["before", "slider"])
def test_what_is_drawn_while_images_are_compared_is_seen(widget, mode):
    widget = widget(steps=1)
    widget.run()
    widget._view.compare.mode.value = mode
    assert not widget.canvas._view.marks.pairs
    widget.canvas.add_pair((5, 5), (9, 9))
    assert widget._view.compare.mode.value == "after"
    assert len(widget.canvas._view.marks.pairs) == 2
    widget._view.compare.mode.value = mode
    widget.canvas.stroke([(5, 5), (20, 20)])
    assert widget.canvas.scene._overlay() is not None


@pytest.mark.slow
def test_files_can_be_taken_away(widget, tmp_path):
    widget = widget(steps=2)
    widget._editing.limiter.interval, widget._editing.limiter.share = 0.0, 1.0
    widget.run()
    animation = Image.open(io.BytesIO(widget.gif()))
    assert animation.format == "GIF"
    assert animation.n_frames >= 2
    png, drawn = (exported(widget, name) for name in ("PNG", "Instructions"))
    assert np.array_equal(Image.open(io.BytesIO(png)), widget.result)
    assert DragInstructions.from_json(drawn).pairs == widget.instructions.pairs
    for button in all_below(widget._view.folded):
        if getattr(button, "description", "") in ("PNG", "GIF", "Instructions"):
            button.click()
            assert "download=" in widget._view.folded.children[4]._link.value
    widget.save(tmp_path / "edit.drag")
    assert len(DragSession.load(tmp_path / "edit.drag", widget.session.model).history) == 2
    assert widget.snapshot().size[0] > 0


@pytest.mark.slow
def test_settings_reach_the_next_step_and_bad_ones_are_refused(widget):
    widget = widget(steps=1)
    widget.run()
    faster = replace(widget.settings.drag, learning_rate=0.05)
    widget.settings = replace(widget.settings, drag=faster)
    widget.step()
    assert widget.session.history.current.settings == faster
    with pytest.raises(ValueError, match="feature_blocks"):
        widget.settings = replace(widget.settings, drag=replace(faster, feature_blocks=(77,)))
    assert widget.settings.drag == faster


def test_instructions_with_a_mask_come_back_as_they_were_given(widget):
    widget = widget(instructions=None)
    given = ask(mask=left_half(), prompt="a dog")
    widget.instructions = given
    assert widget.instructions.pairs == given.pairs
    assert np.array_equal(widget.instructions.mask, given.mask)
    assert widget.prompt == "a dog"


def test_a_mask_that_lets_nothing_change_is_a_reason_not_an_error(widget):
    widget = widget()
    widget.canvas.fill_mask()
    widget.canvas.invert_mask()
    assert "the whole image is protected" in widget._view.buttons.by_name["run"].tooltip
    assert widget.error == ""


@pytest.mark.parametrize("image", [7, "nowhere.png"])
def test_what_is_no_image_is_refused(image):
    with pytest.raises((TypeError, FileNotFoundError)):
        DragWidget(image)


@pytest.mark.slow
def test_the_first_line_of_the_readme_works_on_the_embedded_model(tmp_path):
    Image.fromarray(waves(96, 64)).save(tmp_path / "photo.png")
    widget = DragWidget(tmp_path / "photo.png", prompt="a fox", clock="sync")
    assert widget.image.size == (96, 64)
    assert json.dumps(str(tmp_path / "photo.png"))[1:-1] in widget.code()
    widget.close()


@pytest.mark.slow
def test_closing_frees_the_memory_of_the_session(tiny):
    first = session_on(tiny)  # what the model itself keeps of a first edit stays
    first.instructions = ask()
    first.run(1)
    first.render()
    del first
    before = bytes_of_tensors()
    widget = DragWidget(session_on(tiny), instructions=ask(), clock="thread")
    widget.run(3)
    widget.wait(60)
    held = bytes_of_tensors() - before
    assert held > 3 * widget.session.history.current.latent.nbytes
    kept = weakref.ref(widget.session.history)
    widget.close()
    del widget
    assert bytes_of_tensors() - before <= 0.01 * held
    assert kept() is None


def bytes_of_tensors():
    """Of all tensors that Python still knows, each storage once."""
    gc.collect()  # the first one runs what ipywidgets does at the end of a widget, ..
    gc.collect()  # and leaves it to a second
    alive = [found for found in gc.get_objects() if type(found) is torch.Tensor]
    storages = [found.untyped_storage() for found in alive]
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def test_a_notebook_without_a_kernel_shows_an_image_of_it(widget):
    made = widget()
    bundle = made._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    with Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))) as still:
        assert max(still.size) == 512
    assert "<style" not in bundle["text/plain"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_code_of_an_edit_gives_the_same_image_from_another_folder(
    tiny_folder, tmp_path, monkeypatch, dtype
):
    Image.fromarray(waves(96, 64)).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    widget = DragWidget(
        "photo.png", prompt="a fox", model=tiny_folder, dtype=dtype, device="cpu", max_side=64,
        clock="sync", journal=False, store=None,
    )  # fmt: skip
    quick = session_on(widget.session.model).settings
    widget.settings = quick
    widget.instructions = ask(size=(96, 64))
    widget.run()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    names = {}
    exec(widget.code(), names)
    assert np.array_equal(names["result"], widget.result)
    assert names["session"].prompt == "a fox"
    assert names["session"].model.dtype == widget.session.model.dtype
    widget.close()


@pytest.mark.slow
def test_the_prompt_has_one_home(widget, tmp_path):
    widget = widget()
    widget.prompt = "a fox"
    assert widget.instructions.prompt == widget.canvas.prompt == "a fox"
    assert json.loads(exported(widget, "Instructions"))["prompt"] == "a fox"
    widget.canvas.save(tmp_path / "drawn.json")
    widget.prompt = "a dog"
    widget.canvas.load(tmp_path / "drawn.json")
    assert widget.prompt == widget.session.prompt == "a fox"
    widget.instructions = ask()  # says nothing of a prompt
    assert widget.prompt == widget.instructions.prompt == "a fox"


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("https://example.org/fox.png", "is a URL"),
        ("~/no such folder/fox.png", "there is no image at .*no such folder"),
    ],
)
def test_a_url_and_a_home_folder_are_told_apart_from_files(image, said):
    with pytest.raises((ValueError, FileNotFoundError), match=said) as raised:
        DragWidget(image)
    assert "~" not in str(raised.value)


def test_an_image_in_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    Image.fromarray(waves()).save(tmp_path / "fox.png")
    widget = DragWidget("~/fox.png", clock="sync", journal=False, store=None)
    assert repr(str(tmp_path / "fox.png")) in widget.code()
    widget.close()


def test_a_model_of_the_hub_that_cannot_be_reached_is_told_by_that():
    with pytest.raises(FileNotFoundError, match=r"^the Hugging Face hub cannot be reached"):
        DragWidget(waves(), model="somebody/some-model")
