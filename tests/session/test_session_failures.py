"""Work that fails midway: cancelled, out of memory, overflowed. The session goes on from before."""

from collections.abc import Callable
from threading import Thread

import numpy as np
import pytest
import torch
from tiny_sessions import N, Passes, ask, left_half, session_on, state

from dragwidget.progress import Cancelled
from dragwidget.session.session import DragSession


def prepared(session):
    session.prepare()


def rendered(session):
    session.instructions = ask()
    session.step()
    session.render()


def preparing(session):
    session.prepare()
    return [latent.numpy() for latent in session.invert().latents]


def dragging(session):
    list(session.drag(ask(mask=left_half()), steps=2))
    return [step.latent.numpy() for step in session.history]


def rendering(session):
    return np.asarray(session.render())


def previewing(session):
    return np.asarray(session.preview())


def generating(session):
    return np.asarray(session.generate("a dog", size=(64, 32)))


# What was done before, what is done, and in which of its passes it fails.
PHASES = {
    "LoRA": (lambda _: None, preparing, 1),
    "last of LoRA": (lambda _: None, preparing, 2),
    "inversion": (DragSession.train_lora, preparing, 2),
    "first look of drag": (prepared, dragging, 1),
    "first step of drag": (prepared, dragging, 2),
    "reference": (prepared, rendering, N),
    "render": (rendered, rendering, 1),
    "first look of preview": (rendered, previewing, 1),
    "preview": (rendered, previewing, 2),
    "generation": (prepared, generating, 2),
}


def fresh(model, phase):
    return session_on(model, lora_steps=2 if "LoRA" in phase or phase == "inversion" else 0)


def at(number: int, act: Callable[[], None]) -> Callable[[int], None]:
    """Act in one pass of the network."""
    return lambda count: act() if count == number else None


def run_out_of_memory():
    raise torch.cuda.OutOfMemoryError("out of memory")


def break_down():
    raise RuntimeError("something broke")


def cancel_from_elsewhere(session):
    thread = Thread(target=session.cancel)
    thread.start()
    thread.join()


FAILURES = {
    "cancelled": (cancel_from_elsewhere, Cancelled),
    "out of memory": (lambda _: run_out_of_memory(), torch.cuda.OutOfMemoryError),
    "broken": (lambda _: break_down(), RuntimeError),
}


@pytest.mark.slow
@pytest.mark.parametrize("failure", ["cancelled", "out of memory"])
@pytest.mark.parametrize("phase", PHASES)
def test_work_that_fails_in_a_pass_ends_with_it_and_changes_nothing(tiny, phase, failure):
    before, work, number = PHASES[phase]
    fail, error = FAILURES[failure]
    session, undisturbed = (fresh(tiny, phase) for _ in range(2))
    before(session)
    as_it_was = state(session)
    with (
        Passes(tiny, at(number, lambda: fail(session))) as passes,
        pytest.raises(error),
    ):
        work(session)
    assert passes.count == number
    if phase == "first step of drag" and failure == "cancelled":
        session.reset()  # the step is taken by then
    else:
        assert state(session) == as_it_was
    before(undisturbed)
    np.testing.assert_array_equal(work(session), work(undisturbed))


@pytest.mark.slow
@pytest.mark.parametrize("failure", FAILURES)
def test_steps_that_were_taken_are_kept_and_gone_on_from(tiny, failure):
    fail, error = FAILURES[failure]
    session, undisturbed = session_on(tiny), session_on(tiny)
    for each in (session, undisturbed):
        each.instructions = ask(mask=left_half())
        each.step()
    with Passes(tiny, at(2, lambda: fail(session))), pytest.raises(error):
        session.step(5)
    kept = len(session.history)
    assert kept == (3 if failure == "cancelled" else 2)  # a cancelled pass is gone through
    session.step(5 - kept)
    undisturbed.step(4)
    for one, other in zip(session.history, undisturbed.history, strict=True):
        assert torch.equal(one.latent, other.latent)


def test_stages_that_were_finished_before_the_failure_are_kept(tiny):
    session = session_on(tiny, lora_steps=2)
    with (
        Passes(tiny, at(4, run_out_of_memory)),
        pytest.raises(torch.cuda.OutOfMemoryError),
    ):
        list(session.drag(ask()))
    assert session.status["lora"].state == "ready"
    assert session.status["inversion"].state == "missing"


def test_a_drag_without_a_step_leaves_no_instructions_settings_or_prompt_behind(tiny):
    session = session_on(tiny)
    before = state(session)
    other = session_on(tiny, learning_rate=0.5).settings.drag
    with Passes(tiny, at(2, break_down)), pytest.raises(RuntimeError, match="something broke"):
        list(session.drag(ask(prompt="a dog"), other))
    assert state(session) == before


def test_what_the_user_sets_meanwhile_stays_set_when_a_drag_fails(tiny):
    session = session_on(tiny)
    walk = session.drag(ask())
    session.instructions = latest = ask(((1, 1), (9, 9)))
    with Passes(tiny, at(1, break_down)), pytest.raises(RuntimeError):
        next(walk)
    assert session.instructions.pairs == latest.pairs


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["LoRA", "inversion", "first step of drag", "reference"])
def test_an_interruption_in_the_callback_breaks_nothing(tiny, phase):
    before, work, _ = PHASES[phase]
    session, undisturbed = (fresh(tiny, phase) for _ in range(2))
    before(session)
    before(undisturbed)

    def interrupt(_progress):
        session.monitor.progress = None
        raise KeyboardInterrupt

    session.monitor.progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        work(session)
    if work is dragging:
        session.reset()  # the step is taken by then
    np.testing.assert_array_equal(work(session), work(undisturbed))


def test_a_cancellation_between_two_steps_lets_no_pass_through(tiny):
    session = session_on(tiny)
    walk = session.drag(ask())
    next(walk)
    session.cancel()
    with Passes(tiny) as passes, pytest.raises(Cancelled):
        next(walk)
    assert passes.count == 0
    assert len(session.history) == 1
    assert session.step().index == 2


def test_a_cancelled_drag_that_has_much_to_look_at_stops_within_a_pass(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step()
    session.instructions = ask(((12, 12), (50, 36)), ((40, 30), (10, 30)))
    session.step()
    features = {"feature_blocks": (2,)}  # at the step, at both handles' images, behind the step
    settings = session_on(tiny, **features).settings.drag
    for number in (1, 2, 3):
        with Passes(tiny, at(number, session.cancel)) as passes, pytest.raises(Cancelled):
            list(session.drag(settings=settings))
        assert passes.count == number
        for edit in session.edits:
            edit.release()  # what was looked at until then


# ---------------------------------------------------------------- not finite


def poison(module):
    """Let a module of a network give NaN."""

    def hook(_module, _inputs, output):
        if torch.is_tensor(output):
            return output * torch.nan
        output.sample = output.sample * torch.nan
        return output

    return module.register_forward_hook(hook)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("LoRA", "LoRA step 1 was refused: its loss or gradient is not finite"),
        ("inversion", "a latent of the inversion is not finite: the network overflowed"),
        ("first step of drag", "a feature map is not finite: the network overflowed"),
        ("reference", "a latent of the reference branch is not finite"),
        ("render", "a latent of the render is not finite"),
        ("generation", "a latent of the generation is not finite"),
    ],
)
def test_a_network_that_overflows_is_refused_and_nothing_of_it_is_kept(tiny, phase, message):
    before, work, _ = PHASES[phase]
    session, undisturbed = (fresh(tiny, phase) for _ in range(2))
    before(session)
    before(undisturbed)
    as_it_was = state(session)
    handle = poison(tiny.unet.up_blocks[2] if work is dragging else tiny.unet)
    try:
        with pytest.raises(ArithmeticError, match=message):
            work(session)
    finally:
        handle.remove()
    assert state(session) == as_it_was
    np.testing.assert_array_equal(work(session), work(undisturbed))


def test_an_autoencoder_that_overflows_is_refused(tiny):
    session = session_on(tiny)
    before = session.image.tobytes()
    handle = poison(tiny.vae.decoder)
    try:
        for work in (rendering, previewing, generating):
            with pytest.raises(ArithmeticError, match="the decoded image is not finite"):
                work(session)
    finally:
        handle.remove()
    assert session.image.tobytes() == before
    assert rendering(session).shape == (48, 64, 3)
