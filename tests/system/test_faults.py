"""What goes wrong in the middle of an edit, from without: it is said, and nothing else changes."""

from __future__ import annotations

import errno
import logging
import random
import signal
import threading

import ipywidgets
import numpy as np
import pytest
import torch
from fault_tools import kill, raised_in, untraced
from runner_tools import SOON
from tiny_sessions import Passes, ask, left_half, session_on, state

from dragwidget.ui.widget import DragWidget


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL)  # what failed is logged with its traceback, on purpose


@pytest.fixture(autouse=True)
def _interrupts():
    """A shell lets what it starts in the background ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def widget(tiny):
    """Makes widgets on small sessions, and closes them."""
    made = []

    def make(clock="sync", lora_steps=0):
        session = session_on(tiny, lora_steps=lora_steps)
        drawn = ask(mask=left_half())
        made.append(DragWidget(session, instructions=drawn, clock=clock, journal=False))
        return made[-1]

    yield make
    for each in made:
        each.close()


def seen(widget):
    """All that a user can see of a widget and its session, latents to the bit."""
    session, panel = widget.session, widget._view.history
    return {
        "session": state(session),
        "latents": [
            node.latent.numpy().tobytes() for e in session.edits for node in e.history.nodes
        ],
        "drawn": widget.instructions,
        "asked": (widget.prompt, widget.settings),
        "stands": (widget.state, widget.index, session.status),
        "result": None if widget.result is None else widget.result.tobytes(),
        "history": (panel.slider.value, panel.slider.max, panel.branches.options),
        "buttons": {n: b.disabled for n, b in widget._view.buttons.by_name.items()},
    }


def out_of_memory_on_a_card():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def out_of_memory():
    raise MemoryError


def nothing(_):
    pass


def drag(widget):
    widget.step(2)


def rewound(widget):
    widget.step(2)
    widget._editing.images.clear()


def look(widget):
    widget.rewind(1)


def prepared(widget):
    widget.prepare()


def as_a_dog(widget):
    widget.prompt = "a dog"
    widget.prepare()


# What was done before, what is done, the part that fails, in which of its passes.
PHASES = {
    "encode": (nothing, DragWidget.prepare, lambda m: m.vae.encoder, 1),
    "LoRA": (nothing, DragWidget.prepare, lambda m: m.unet.mid_block, 2),
    "inversion": (prepared, as_a_dog,
                  lambda m: m.unet.mid_block, 4),
    "drag": (prepared, drag, lambda m: m.unet.up_blocks[1], 1),
    "reference": (rewound, DragWidget.render, lambda m: m.unet.mid_block, 2),
    "render": (rewound, DragWidget.render, lambda m: m.unet.mid_block, 5),
    "decode": (rewound, DragWidget.render, lambda m: m.vae.decoder, 1),
}  # fmt: skip


@pytest.mark.parametrize("fault", [out_of_memory_on_a_card, out_of_memory])
@pytest.mark.parametrize("phase", PHASES)
def test_out_of_memory_in_any_phase_is_said_with_advice_and_changes_nothing(
    tiny, widget, phase, fault
):
    before, work, part, number = PHASES[phase]
    one, undisturbed = (widget(lora_steps=2 if phase in ("LoRA", "inversion") else 0) for _ in "ab")
    before(one)
    if phase == "inversion":
        one.prompt = "a dog"
    as_it_was = seen(one)
    with raised_in(part(tiny), fault, number) as count:
        work(one)
        with pytest.raises((torch.OutOfMemoryError, MemoryError)):
            one.wait(SOON)
    assert count[0] == number
    assert "memory" in one.error.lower()
    assert "Lower max_side" in one._view.error_line.value
    # A stage that was finished before the fault is kept: the LoRA, or the reference branch.
    as_it_was["stands"] = (*as_it_was["stands"][:2], one.session.status)
    as_it_was["session"]["status"] = one.session.status
    assert seen(one) == as_it_was
    before(undisturbed)
    for each in (one, undisturbed):
        work(each)
        each.wait(SOON)
        each.render()
        each.wait(SOON)
    assert one.error == ""
    assert np.array_equal(one.result, undisturbed.result)


@pytest.mark.parametrize("fault", [out_of_memory_on_a_card, out_of_memory])
def test_out_of_memory_in_a_preview_leaves_the_edit_where_it_was_asked_to_stand(
    tiny, widget, fault
):
    one = widget()
    rewound(one)
    latents = seen(one)["latents"]
    with raised_in(tiny.vae.decoder, fault):
        look(one)
        with pytest.raises((torch.OutOfMemoryError, MemoryError)):
            one.wait(SOON)
    assert (one.index, one.state, seen(one)["latents"]) == (1, "idle", latents)
    assert "memory" in one.error.lower()
    one.step()
    assert one.wait(SOON) is None
    assert one.index == 2


@pytest.mark.parametrize("fault", [out_of_memory_on_a_card, out_of_memory])
def test_out_of_memory_in_a_look_at_the_features_is_said_and_changes_nothing(tiny, widget, fault):
    one = widget()
    one.step(2)
    as_it_was = seen(one)
    with raised_in(tiny.unet.mid_block, fault) as count:
        one.canvas.probe_at((20.0, 30.0))
    assert count[0] == 1
    assert "memory" in one.error.lower()
    assert seen(one) == as_it_was
    one.canvas.probe_at((20.0, 30.0))
    assert len(one._view.features._maps.children) == tiny.feature_block_count
    one.step(1)
    one.wait(SOON)
    assert (one.index, one.error) == (3, "")


# ---------------------------------------------------------------- not a number


@pytest.mark.parametrize("where", ["loss", "latent"])
def test_a_step_that_is_not_finite_is_refused_and_the_last_good_one_stays(tiny, widget, where):
    one, undisturbed = widget(), widget()
    for each in (one, undisturbed):
        each.step(2)
    as_it_was = seen(one)

    def poison(_module, _inputs, output):
        return output * torch.nan

    def poison_gradient(_module, _inputs, output):
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * torch.nan)

    hook = poison if where == "latent" else poison_gradient
    handle = tiny.unet.up_blocks[2].register_forward_hook(hook)
    for edit in one.session.edits:
        edit.release()
    try:
        one.step()
        with pytest.raises(ArithmeticError, match="not finite"):
            one.wait(SOON)
    finally:
        handle.remove()
    assert "not finite" in one.error
    assert "float32" in one.error
    assert seen(one) == as_it_was
    for each in (one, undisturbed):
        each.step()
        each.wait(SOON)
    assert seen(one)["latents"] == seen(undisturbed)["latents"]


# ---------------------------------------------------------------- interrupts


def edit(session):
    """A short edit, or the rest of one."""
    session.instructions = ask(mask=left_half())
    session.prepare()
    at = len(session.history)
    if at < 2:
        session.step(2 - at)
    return session.render()


def test_an_interrupt_in_any_pass_of_the_network_costs_that_pass_and_no_more(tiny):
    undisturbed = session_on(tiny, lora_steps=1)
    with Passes(tiny) as passes:
        expected = edit(undisturbed)
    total = passes.count
    assert total > 10
    for number in range(1, total + 1):
        session = session_on(tiny, lora_steps=1)
        with (
            raised_in(tiny.unet, lambda: signal.raise_signal(signal.SIGINT), number),
            pytest.raises(KeyboardInterrupt),
        ):
            edit(session)
        image = edit(session)
        assert np.array_equal(image, expected), number
        assert_same_steps(session, undisturbed)
        assert not any(module._forward_hooks for module in tiny.unet.modules())


def assert_same_steps(session, other):
    for one, two in zip(session.history, other.history, strict=True):
        assert torch.equal(one.latent, two.latent)


def test_an_interrupt_in_any_layer_costs_no_step_that_was_taken(tiny, widget):
    undisturbed = session_on(tiny)
    expected = edit(undisturbed)
    chance = random.Random(0)
    layers = [m for m in [*tiny.unet.modules(), *tiny.vae.modules()] if not list(m.children())]
    for _ in range(8):
        one = widget()
        one.prepare()
        layer, number = chance.choice(layers), chance.randint(1, 4)
        with raised_in(layer, lambda: signal.raise_signal(signal.SIGINT), number) as count:
            try:
                one.step(2)
                one.render()
            except KeyboardInterrupt:
                assert count[0] == number
        assert one.state == "idle"
        if one.index < 2:
            one.step(2 - one.index)
        one.render()
        assert np.array_equal(one.wait(SOON), expected)
        assert_same_steps(one.session, undisturbed)


def test_an_interrupt_while_waiting_for_the_worker_ends_the_waiting_alone(tiny, widget):
    one = widget("thread")
    told = threading.Event()

    def interrupt():
        if not told.is_set():
            told.set()
            signal.raise_signal(signal.SIGINT)

    with raised_in(tiny.unet, interrupt):
        one.run(3)
        try:
            one.wait(SOON)
        except KeyboardInterrupt:
            one.wait(SOON)
    assert told.is_set()
    assert (one.index, one.state, one.error) == (3, "idle", "")


# ---------------------------------------------------------------- the worker, the page


def test_a_worker_that_is_killed_at_work_leaves_whole_steps_and_works_again(tiny, widget):
    one, undisturbed = widget("thread"), widget()
    undisturbed.step(3)
    one.step()
    one.wait(SOON)
    with raised_in(tiny.unet, lambda: kill(threading.current_thread()), 2):
        one.run(2)
        with pytest.raises(SystemExit):
            one.wait(SOON)
    assert one.state == "idle"
    one.step(3 - one.index)
    one.wait(SOON)
    assert seen(one)["latents"] == seen(undisturbed)["latents"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_is_killed_while_it_waits_is_replaced(widget):
    one = widget("thread")
    one.step()
    one.wait(SOON)
    clock = one._editing.runner._clock
    worker = clock._thread
    with untraced():
        kill(worker)
        clock._wake.put(None)
        worker.join(SOON)
    assert not worker.is_alive()
    one.step()
    one.wait(SOON)
    assert one.index == 2


@pytest.mark.parametrize("clock", ["sync", "thread"])
def test_a_page_that_is_gone_stops_no_work(tiny, widget, clock, monkeypatch):
    one, undisturbed = widget(clock), widget()
    undisturbed.run(3)

    def gone(*_, **__):
        raise OSError(errno.EPIPE, "the page is gone")

    def close_the_page():
        monkeypatch.setattr(ipywidgets.Widget, "_send", gone)

    with raised_in(tiny.unet, close_the_page, 2):
        one.run(3)
        one.wait(SOON)
    monkeypatch.undo()
    assert seen(one)["latents"] == seen(undisturbed)["latents"]
    assert np.array_equal(one.result, undisturbed.result)
    one.rewind(1)
    one.wait(SOON)
    assert (one.index, one.state) == (1, "idle")


def test_a_widget_that_is_closed_at_work_ends_it(tiny, widget):
    one = widget("thread")
    session = one.session
    reached = threading.Event()
    with raised_in(tiny.unet, reached.set, 3):
        one.run(50)
        assert reached.wait(SOON)
        one.close()
    assert session.step() is not None
