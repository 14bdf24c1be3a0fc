"""LoRA training that was interrupted goes on where it was, and ends with the same bits."""

import logging
from dataclasses import replace

import pytest
import torch
from tiny_models import noise
from tiny_sessions import SIZE, Passes, session_on, settings_of

from dragwidget.data.settings import LoRASettings
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.lora.training import FixedNoiseLoss, noised_batches, train_lora
from dragwidget.progress import Cancelled
from dragwidget.session import stages as making
from dragwidget.storage.cache import Store

STEPS = 6


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def _every_step(monkeypatch):
    """A checkpoint after every step, not only every so many seconds."""
    monkeypatch.setattr(making, "CHECKPOINT_SECONDS", 0.0)


@pytest.fixture(scope="module")
def whole(tiny):
    """The LoRA of a training that nothing interrupted."""
    return session_on(tiny, lora_steps=STEPS).train_lora()


def session_with(store, tiny, **options):
    session = session_on(tiny, lora_steps=STEPS, **options)
    session.stages.store = store
    return session


def interrupted(session, after):
    """Train so many steps, and leave it there as a killed process does."""
    training = session.training_lora()
    for _ in range(after):
        next(training)
    training.close()
    return session


def kinds(store):
    return sorted(entry.kind for entry in store.entries())


def bits(lora):
    return [*lora.down.values(), *lora.up.values()]


@pytest.mark.slow
@pytest.mark.parametrize("random_crop", [False, True])
@pytest.mark.parametrize("after", [1, 3])
def test_training_goes_on_after_any_step_to_the_bit(tiny, after, random_crop):
    settings = LoRASettings(rank=2, steps=5, batch_size=2, random_crop=random_crop)
    pixels = session_on(tiny).request.image.pixels
    text = tiny.encode_text("a cat", SIZE)
    steps = list(train_lora(tiny, text, noised_batches(tiny, pixels, settings), settings))
    step = steps[after - 1]
    batches = noised_batches(tiny, pixels, settings, step.random)
    again = list(train_lora(tiny, text, batches, settings, after=step))
    assert [s.index for s in again] == list(range(after + 1, 6))
    assert [s.loss for s in again] == [s.loss for s in steps[after:]]
    assert all(map(torch.equal, bits(again[-1].lora), bits(steps[-1].lora)))
    assert all(map(torch.equal, bits(again[-1].second), bits(steps[-1].second)))


@pytest.mark.slow
@pytest.mark.usefixtures("_every_step")
@pytest.mark.parametrize("after", [1, STEPS - 1, STEPS])
def test_another_session_goes_on_from_the_last_checkpoint(tiny, store, whole, after):
    interrupted(session_with(store, tiny), after)
    assert kinds(store) == ["training"]
    reports = []
    session = session_with(store, tiny, progress=reports.append)
    with Passes(tiny) as passes:
        lora = session.train_lora()
    assert passes.count == STEPS - after
    assert [report.index for report in reports] == list(range(after + 1, STEPS + 1))
    assert lora.digest == whole.digest
    assert kinds(store) == ["lora"]


@pytest.mark.slow
@pytest.mark.usefixtures("_every_step")
@pytest.mark.parametrize("change", ["prompt", "steps"])
def test_another_lora_does_not_start_from_it(tiny, store, change):
    interrupted(session_with(store, tiny), 2)
    session = session_with(store, tiny)
    if change == "prompt":
        session.prompt = "a dog"
    else:
        session.settings = settings_of(tiny, lora_steps=STEPS + 1)
    with Passes(tiny) as passes:
        session.train_lora()
    assert passes.count == session.settings.lora.steps


@pytest.mark.slow
@pytest.mark.usefixtures("_every_step")
def test_a_damaged_checkpoint_costs_time_and_nothing_else(tiny, store, whole, caplog):
    caplog.set_level(logging.CRITICAL)
    interrupted(session_with(store, tiny), 3)
    (entry,) = store.entries()
    entry.path.write_bytes(entry.path.read_bytes()[:-1])
    assert session_with(store, tiny).train_lora().digest == whole.digest


@pytest.mark.slow
@pytest.mark.usefixtures("_every_step")
def test_a_store_that_cannot_be_written_stops_no_training(tiny, tmp_path, whole, caplog):
    caplog.set_level(logging.CRITICAL)
    (tmp_path / "file").write_text("in the way")
    session = session_with(Store(tmp_path / "file" / "store"), tiny)
    assert session.train_lora().digest == whole.digest


@pytest.mark.slow
@pytest.mark.usefixtures("_every_step")
def test_a_checkpoint_beside_the_lora_it_led_to_goes(tiny, store, whole):
    """A process may be killed after it has kept the LoRA, and before it removed the other."""
    session_with(store, tiny).train_lora()
    (lora,) = store.entries()
    content = lora.path.read_bytes()
    store.clear()
    interrupted(session_with(store, tiny), 3)
    lora.path.write_bytes(content)
    assert session_with(store, tiny).train_lora().digest == whole.digest
    assert kinds(store) == ["lora"]


def test_checkpoints_are_written_now_and_then_only(tiny, store):
    interrupted(session_with(store, tiny), 3)
    assert kinds(store) == []


def test_a_training_that_was_cancelled_goes_on_in_its_session(tiny, whole):
    def cancel(progress):
        if progress.index == 4:
            session.cancel()

    session = session_on(tiny, lora_steps=STEPS, progress=cancel)
    with pytest.raises(Cancelled):
        session.train_lora()
    session.monitor.progress = None
    with Passes(tiny) as passes:
        assert session.train_lora().digest == whole.digest
    assert passes.count == STEPS - 4


@pytest.mark.slow
def test_an_interrupt_within_a_step_costs_that_step(tiny, whole):
    def interrupt(count):
        if count == 3:
            raise KeyboardInterrupt

    session = session_on(tiny, lora_steps=STEPS)
    with Passes(tiny, interrupt), pytest.raises(KeyboardInterrupt):
        session.train_lora()
    with Passes(tiny) as passes:
        assert session.train_lora().digest == whole.digest
    assert passes.count == STEPS - 2


def test_the_newest_of_two_checkpoints_is_taken(store):
    """A killed process may leave the one before, and two that train at once leave one each."""
    import os

    made_by = {"image": "a"}
    for age, value in ((2, 3), (1, 9), (3, 5)):
        store.put("training", made_by, {"x": torch.tensor(value)})
        newest = max(store.entries(), key=lambda entry: entry.used)
        os.utime(newest.path, (1e9 - age, 1e9 - age))
    assert int(store.get("training", made_by)["x"]) == 9


def test_what_is_kept_alone_replaces_what_was_made_by_the_same(store):
    for k, name in enumerate("aab"):
        store.put("training", {"image": name}, {"x": noise(4, seed=k)}, alone=True)
    assert sorted(entry.made_by()["image"] for entry in store.entries()) == ["a", "b"]
    assert torch.equal(store.get("training", {"image": "a"})["x"], noise(4, seed=1))


# ---------------------------------------------------------------- early stop


def taught(tiny, ratio, steps=25):
    """A session whose LoRA may be done early, and how many steps its training took."""
    session = session_on(tiny, lora_steps=steps)
    lora = replace(session.settings.lora, early_stop_ratio=ratio)
    session.settings = replace(session.settings, lora=lora)
    return session


@pytest.mark.slow
def test_a_training_ends_at_its_early_stop_ratio(tiny):
    session = taught(tiny, ratio=1.0)  # any learning at all ends it
    steps = [progress.index for progress in session.training_lora()]
    assert len(steps) < 25
    assert steps[-1] % making.MEASURED_EVERY == 0
    short = session_on(tiny, lora_steps=len(steps))
    assert all(
        torch.equal(one, other)
        for one, other in zip(bits(session.train_lora()), bits(short.train_lora()), strict=True)
    )


@pytest.mark.slow
def test_a_training_that_never_reaches_its_ratio_takes_all_its_steps(tiny):
    for ratio in (0.0, 1e-6):
        assert len(list(taught(tiny, ratio, steps=12).training_lora())) == 12


@pytest.mark.slow
def test_a_training_that_was_interrupted_at_its_early_stop_is_done(tiny):
    session = taught(tiny, ratio=1.0)
    steps = len(list(session.training_lora()))
    again = interrupted(taught(tiny, ratio=1.0), after=steps)
    with Passes(tiny) as passes:
        lora = again.train_lora()
    assert passes.count == 2 * FixedNoiseLoss._LEVELS  # measured, with and without, and no step
    assert all(
        torch.equal(one, other)
        for one, other in zip(bits(lora), bits(session.train_lora()), strict=True)
    )


@pytest.mark.slow
def test_the_loss_ratio_is_one_without_a_change_and_less_with_training(tiny):
    session = session_on(tiny, lora_steps=20)
    text = tiny.encode_text(session.prompt, SIZE)
    loss = FixedNoiseLoss(tiny, session.request.image.pixels, text)
    untrained = LoRA.initial(tiny.unet, 2, torch.Generator().manual_seed(0))
    assert loss.ratio(untrained) == pytest.approx(1, abs=1e-6)
    assert loss.ratio(session.train_lora()) < 1
