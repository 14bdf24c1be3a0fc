"""Ctrl-C at any line leaves the network as it was, and what comes after is the same to the bit."""

import contextlib
import ctypes
import functools
import json
import os
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest
import torch
from interrupting import interrupted, inventory, lines_of, name_of, weights_of
from tiny_models import noise, random_lora, write_model
from tiny_sessions import FAR, ask, left_half, session_on, waves

from dragwidget.data.settings import LoRASettings, RenderSettings
from dragwidget.diffusion.attention import record_reference, render_latents
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora.training import noised_batches, train_lora
from dragwidget.diffusion.sd import Conditioning
from dragwidget.drag.evaluation import Passes
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.session.journal import Journal, restore
from dragwidget.storage.cache import Store

# The suite interrupts at one of so many lines, spread evenly; DRAGWIDGET_EVERY_LINE=1 takes them
# all, which is half an hour of one core.
EVERY = 1 if os.environ.get("DRAGWIDGET_EVERY_LINE") else 61

pytestmark = [
    # Python itself passes over what is raised in a destructor.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    *([pytest.mark.timeout(0)] if EVERY == 1 else []),
]


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """With all that changes a network: a LoRA, a region loss, low memory, a reference branch."""
    folder = write_model(tmp_path_factory.mktemp("models") / "tiny", channels=(8, 8))
    model = load_model(folder, device="cpu", dtype="float32").with_parts(memory="low")
    session = session_on(model, lora_steps=1)
    session.instructions = ask(FAR, mask=left_half())
    session.prepare()
    return session


def alone(test):
    """Run a test in a process of its own: in one that had run thousands of others, tracing itself
    has failed with "TypeError: 'traceback' object is not callable" (CPython 3.11.7)."""

    @functools.wraps(test)
    def in_a_process(**fixtures):
        if os.environ.get("DRAGWIDGET_ALONE"):
            test(**fixtures)
            return
        words = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"{__file__}::{test.__name__}"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
        run = subprocess.run(
            [sys.executable, "-m", "pytest", *words],
            cwd=Path(__file__).parents[2],
            env=kept | {"DRAGWIDGET_ALONE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "1 passed" in run.stdout, run.stdout[-4000:] + run.stderr[-2000:]

    return in_a_process


def sweep(model, work, every=1):
    """Interrupt ``work`` at its lines; each time the network, and what work does next, must match.

    Args:
        work: returns what is compared.
    """
    wanted, weights, before = work(), weights_of(model), inventory(model)
    places = lines_of(work)[::every]
    reached, wrong = 0, []
    for at in places:
        reached += interrupted(work, at)
        after = inventory(model)
        left = [key for key in before if after[key] != before[key]]
        if left or work() != wanted:
            wrong.append((name_of(at), left))
    assert wrong == []
    assert weights_of(model) == weights
    # The others are lines that run once in a process, to be remembered.
    assert reached > 0.95 * len(places) > 20
    return reached


@pytest.mark.slow
@alone
def test_an_interrupt_at_any_line_of_a_pass_and_its_gradient_leaves_nothing(session):
    model, drag = session.model, session.settings.drag
    predictor = model.predictor(Conditioning(model.embed("a cat")), random_lora(model.unet))
    path, latent = model.schedule(6), noise(1, 4, 8, 12)

    @in_plain_torch  # as all that a session does
    def work():
        passes = Passes(predictor, path, (24, 32), drag)
        seen = passes.take(latent, path.timesteps[3], previous=True)
        loss = seen.features.blocks[0].square().sum() + seen.previous.sum()
        (gradient,) = torch.autograd.grad(loss, seen.latent)
        return float(loss.detach()), gradient.numpy().tobytes()

    sweep(model, work, EVERY)


@pytest.mark.slow
@alone
def test_an_interrupt_at_any_line_of_a_step_leaves_nothing(session):
    def work():
        session.rewind(0)
        return session.step(1).loss

    sweep(session.model, work, EVERY)


@pytest.mark.slow
@alone
def test_an_interrupt_at_any_line_of_a_render_leaves_nothing(session):
    model, settings = session.model, RenderSettings(start_layer=1)
    predictor = model.predictor(Conditioning(model.embed("a cat")), random_lora(model.unet))
    path, latent, edited = model.schedule(6), noise(1, 4, 8, 12), noise(1, 4, 8, 12, seed=1)

    def work():
        *_, branch = record_reference(predictor, latent, path, 1, settings)
        *_, clean = render_latents(predictor, edited, path, 1, branch, settings)
        return model.decode(clean).numpy().tobytes()

    sweep(model, work, EVERY)


@pytest.mark.slow
@alone
def test_an_interrupt_at_any_line_of_training_a_lora_leaves_nothing(session):
    model, settings = session.model, LoRASettings(steps=1, rank=2, batch_size=1)
    text, pixels = Conditioning(model.embed("a cat")), waves()

    def work():
        (step,) = train_lora(model, text, noised_batches(model, pixels, settings), settings)
        return step.loss

    sweep(model, work, EVERY)


@pytest.mark.slow
@alone
def test_an_interrupt_at_any_line_of_an_edit_leaves_session_store_and_journal_whole(
    session, tmp_path
):
    """The same session goes on where it was, and no step that was taken is lost."""
    model, folders = session.model, map(str, count())

    def begin(folder):
        edit = session_on(model, lora_steps=1)
        edit.stages.store = Store(folder / "store")
        edit.instructions = ask(FAR, mask=left_half())
        return edit, Journal(folder / "journal")

    def go_on(edit, journal, taken):
        edit.prepare()
        while len(edit.history) < 2:
            taken.append(edit.step(1).index)
            journal.took_step(edit)

    go_on(*begin(tmp_path / next(folders)), [])  # what runs once in a process
    (wanted, journal), before = begin(tmp_path / next(folders)), inventory(model)
    found = lines_of(lambda: go_on(wanted, journal, []))
    ours = ("/dragwidget/session/", "/dragwidget/storage/")
    found = [at for at in found if any(part in at[0][0].co_filename for part in ours)]
    places, reached = found[::EVERY], 0
    for at in places:
        folder, taken = tmp_path / next(folders), []
        edit, journal = begin(folder)
        reached += interrupted(lambda e=edit, j=journal, t=taken: go_on(e, j, t), at)
        assert inventory(model) == before, name_of(at)
        if edit.edit is not None:
            assert len(edit.history) >= len(taken), name_of(at)
        go_on(edit, journal, taken)
        journal.took_step(edit)  # the last step may be taken and not written down yet
        for one in (edit, restore(folder / "journal", model)[0]):
            assert losses_of(one) == losses_of(wanted), name_of(at)
            assert torch.equal(one.history.current.latent, wanted.history.current.latent)
            assert [n.number for n in one.history.nodes] == [*range(len(one.history.nodes))]
        assert Store(folder / "store").verify() == [], name_of(at)
    assert reached > 0.95 * len(places) > 15


def losses_of(session):
    return [step.loss for step in session.history]


@pytest.mark.slow
def test_a_hundred_signals_during_steps_leave_nothing(tmp_path):
    script = Path(__file__).parents[1] / "support" / "signalled.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "tiny", "100"], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["wrong"] == []
    assert told["ended"] + told["passed_over"] == 100
    assert told["ended"] > 90


@pytest.mark.slow
def test_an_exception_set_from_another_thread_leaves_nothing(session):
    """As notebooks and debuggers stop a worker thread."""
    model = session.model
    predictor = model.predictor(Conditioning(model.embed("a cat")), random_lora(model.unet))
    wanted, before = predictor.predict(noise(1, 4, 8, 12), 500), inventory(model)
    set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
    for after in range(30):
        running = threading.Event()

        def passes(running=running, after=after):
            with contextlib.suppress(KeyboardInterrupt):
                running.set()
                while True:
                    for _ in range(after):
                        len("a few instructions more, each time")
                    predictor.predict(noise(1, 4, 8, 12), 500)

        thread = threading.Thread(target=passes)
        thread.start()
        running.wait()
        set_exception(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
        while thread.is_alive():  # one may be passed over, in a destructor
            thread.join(10)
            if thread.is_alive():
                set_exception(ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt))
        assert inventory(model) == before
    assert torch.equal(predictor.predict(noise(1, 4, 8, 12), 500), wanted)
