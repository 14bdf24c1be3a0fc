"""What ``bench speed`` compares gives the same results, and a lap is of the work that it names."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_sessions import Passes

from dragwidget.bench import memory
from dragwidget.bench.dev import baseline, growth
from dragwidget.bench.dev.baseline import BaselineDrag, BaselineTraining, learning
from dragwidget.bench.dev.rounds import BASELINE
from dragwidget.bench.dev.speed import PARTS, PROMPT, Task, our_session, our_step
from dragwidget.bench.memory import Meter
from dragwidget.data.settings import InversionSettings, LoRASettings, Settings
from dragwidget.diffusion.lora.training import noised_batches, train_lora
from dragwidget.diffusion.sd import Conditioning
from dragwidget.drag import drag, invert
from dragwidget.progress import Monitor
from dragwidget.session.rendering import referencing, rendering

CPU = torch.device("cpu")
SIDE = 64
N = 3  # inverted steps
STEPS = 4  # of a drag
TRAINED = 2  # steps of a LoRA


@pytest.fixture(scope="module")
def settings(tiny):
    own = tiny.recommended
    return Settings(
        inversion=InversionSettings(steps=6, strength=0.5),
        lora=LoRASettings(steps=TRAINED, rank=2, batch_size=2, learning_rate=1e-2),
        drag=replace(own.drag, steps=STEPS, tracking_radius=1),  # so nothing ever arrives
        render=own.render,
    )


@pytest.fixture(autouse=True)
def _unsettled(monkeypatch):
    """No memory is looked at here."""
    monkeypatch.setattr(memory, "_settle", lambda _: None)


@pytest.fixture
def task(tiny, settings):
    return Task.of(tiny, [torch.float32], SIDE, settings)


# ---------------------------------------------------------------- the same results


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("pairs", [1, 4])
def test_our_drag_takes_the_plain_steps(task, mask, pairs):
    instructions, latent = task.instructions(mask=mask, pairs=pairs), task.latent()
    predictor = task.ours.predictor(Conditioning(task.ours.embed(PROMPT)))
    reference = BaselineDrag(task.baseline, latent, instructions)
    steps = drag(
        predictor,
        latent,
        instructions,
        task.baseline.schedule,
        task.baseline.timesteps[0],
        task.settings.drag,
    )
    count = 0
    for count, step in enumerate(steps, start=1):
        loss = reference.step()
        assert step.loss == pytest.approx(loss, rel=1e-4)
        torch.testing.assert_close(step.latent, reference.latent.detach(), atol=5e-5, rtol=0)
    assert count == STEPS
    assert (step.latent - latent).abs().max() > 0.5 * STEPS * task.settings.drag.learning_rate
    # Ours has tracked the handles after the last update; the baseline does so next.
    reference.step()
    grid = np.array(reference.grid[::-1]) / SIDE
    np.testing.assert_array_equal(step.handles_xy * grid, reference.handles.numpy()[:, ::-1])


def test_the_step_that_is_timed_is_that_step(task):
    drawn = task.instructions()
    reference = BaselineDrag(task.baseline, task.latent(), drawn)
    reference.step()
    ours = our_step(Meter(CPU), "lap", task, task.ours, drawn)
    torch.testing.assert_close(ours, reference.latent.detach(), atol=5e-5, rtol=0)


def test_a_step_is_compared_with_one_for_the_same_instructions(task):
    masked = [
        (row.ours.endswith("mask"), row.reference.endswith("mask"))
        for row in PARTS["step"](task).rows
    ]
    assert sorted(masked) == [(False, False), (True, True)]


def test_the_baseline_in_its_authors_precision_goes_the_same_way(task):
    """On a CPU autocast computes in bfloat16; on CUDA in float16, with a scaled loss."""
    plain, cast = (
        BaselineDrag(task.baseline, task.latent(), task.instructions(), autocast=autocast)
        for autocast in (None, torch.bfloat16)
    )
    assert cast.step() == pytest.approx(plain.step(), rel=0.1)
    assert cast.latent.dtype == torch.float32
    assert not torch.equal(cast.first, plain.first)


def test_the_plain_step_that_is_timed_has_the_gradients_of_the_one_before(task):
    left = []

    class Looking(Meter):
        @contextmanager
        def lap(self, _name):
            left.extend(weight.grad is not None for weight in task.model.unet.parameters())
            yield

    PARTS["step"](task).cases[0](Looking(CPU))
    assert left
    assert all(left)


def test_a_plain_drag_ends_where_every_handle_has_arrived(task):
    reached = BaselineDrag(task.baseline, task.latent(), task.instructions(reach=0.01))
    before = reached.latent.detach().clone()
    assert reached.step() is None
    assert torch.equal(reached.latent, before)


def test_weights_that_learn_change_no_result_and_keep_nothing(task):
    unet = task.model.unet
    frozen = BaselineDrag(task.baseline, task.latent(), task.instructions())
    frozen.step()
    with learning(unet):
        learned = BaselineDrag(task.baseline, task.latent(), task.instructions())
        learned.step()
        assert all(weight.grad is not None for weight in unet.parameters())
    assert torch.equal(frozen.latent, learned.latent)
    assert all(weight.grad is None and not weight.requires_grad for weight in unet.parameters())


def test_our_inversion_is_the_plain_one(task):
    clean, model = task.latent(), task.ours
    predictor = model.predictor(Conditioning(model.embed(PROMPT)))
    *_, ours = invert(predictor.predict, clean, task.baseline.schedule, N)
    assert torch.equal(ours, task.baseline.invert(clean))
    assert not torch.equal(ours, clean)


@pytest.mark.slow
def test_our_render_is_the_plain_one_first_and_cached(task):
    inversion, edited, settings = task.inversion(task.ours), task.latent(1), task.settings.render
    inverted, run = inversion.latents[-1], Monitor().run
    branch = run(referencing(inversion, settings))
    first = run(rendering(inversion, edited, inversion.timestep, branch, settings, None))
    cached = run(rendering(inversion, edited, inversion.timestep, branch, settings, None))
    assert torch.equal(first, cached)
    reference = task.baseline.render(inverted, edited)
    torch.testing.assert_close(first, reference, atol=3e-4, rtol=0)
    alone = run(rendering(inversion, edited, inversion.timestep, None, settings, None))
    assert (alone - reference).abs().max() > 1e-3  # the source is looked at


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [True, False])
def test_our_training_is_the_plain_one(task, frozen):
    settings, model = task.settings.lora, task.ours
    reference = BaselineTraining(task.model, task.pixels, PROMPT, settings)
    batches = noised_batches(model, task.pixels, settings)
    for step in train_lora(model, Conditioning(model.embed(PROMPT)), batches, settings):
        if frozen:
            loss = reference.step()
        else:
            with learning(model.unet):
                loss = reference.step()
        assert step.loss == pytest.approx(loss, rel=1e-4)
    assert step.index == TRAINED
    for path, up in step.lora.up.items():
        assert up.abs().max() > 0
        torch.testing.assert_close(up, reference.lora.up[path].detach(), atol=1e-3, rtol=0)
        down = reference.lora.down[path].detach()
        torch.testing.assert_close(step.lora.down[path], down, atol=1e-3, rtol=0)


@pytest.mark.slow
def test_our_edit_is_the_plain_one(task):
    session, drawn = our_session(task), task.instructions()
    assert len(list(session.drag(drawn))) == STEPS
    image = np.asarray(session.render()).astype(int)
    lora = session.train_lora()
    reference = baseline.run(task.model, task.pixels, drawn, task.settings, lora)
    wanted = (reference[0].permute(1, 2, 0).numpy() * 255).astype(int)
    assert np.abs(image - wanted).max() <= 2
    untouched = baseline.run(task.model, task.pixels, drawn, task.settings, None)
    assert np.abs(untouched[0].permute(1, 2, 0).numpy() * 255 - wanted).max() > 2


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False])
def test_in_bfloat16_a_step_goes_the_same_way(tiny, settings, mask):
    task = Task.of(tiny, [torch.float32, torch.bfloat16], SIDE, settings)
    start, ways = task.latent(), []
    for model in task.models.values():
        latent = our_step(Meter(CPU), "lap", task, model, task.instructions(mask=mask))
        ways.append((latent - start).flatten())
    assert not torch.equal(*ways)
    assert torch.cosine_similarity(*ways, dim=0) > 0.7


# ---------------------------------------------------------------- what is in a lap


class Counting(Meter):
    """Counts passes of a network in place of seconds."""

    def __init__(self, model) -> None:
        super().__init__(CPU)
        self.model = model
        self.passes: dict[str, int] = {}

    @contextmanager
    def lap(self, name):
        with Passes(self.model) as passes:
            yield
        self.passes[name] = passes.count


# A drag of n steps takes n + 1 passes: ours tracks after the last update, the baseline before all.
PASSES = {
    "step": {BASELINE: 1, f"{BASELINE}, mask": 1, "float32, mask": 1, "float32": 1},
    "invert": {BASELINE: N, "all": N},
    "render": {BASELINE: N, "first": 2 * N, "cached": N},
    "lora": {BASELINE: 1, "step": 1, "frozen": 1},
    "redrag": {BASELINE: N + 2, "baseline step": 1, "one step": 1, "moved": 1},
    "edit": {
        "baseline cold": TRAINED + 2 * N + STEPS + 1,
        "baseline warm": 2 * N + STEPS + 1,
        "cold": TRAINED + N + STEPS + 1 + 2 * N,
        "warm": STEPS + 1 + N,  # the pass that a render before it freed the graph of
    },
    "preview": {
        BASELINE: N,
        "mask": 0,
        "mask, quick": 0,
        "mask, step": 1,
        "no mask": 1,
        "no mask, quick": 1,
        "no mask, step": 1,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_lap_is_of_the_passes_that_it_should_take(name, task):
    part, passes = PARTS[name](task), {}
    for case in part.cases:
        meter = Counting(task.model)
        case(meter)
        passes |= meter.passes
    assert passes == PASSES[name]
    for row in part.rows:
        named = {row.ours, row.reference, row.unit, row.reference_unit} - {None}
        assert named <= set(passes)


@pytest.mark.slow
def test_growth_is_of_the_image_the_pairs_and_the_steps(task):
    passes = {}
    for case in growth.growth_cases(task):
        meter = Counting(task.model)
        case(meter)
        passes |= meter.passes
    sides = {int(name.split()[1]): n for name, n in passes.items() if name.startswith("side")}
    assert sides == {32: 1, 64: 1, 96: 1, 128: 1}
    assert {name for name in passes if name.startswith("pairs")} == {
        f"pairs {n}" for n in (1, 2, 5, 10, 20, 50)
    }
    # The first step of a drag has to look at where it starts.
    assert [passes[f"steps {n}"] for n in (1, 5, 10)] == [2, 6, 11]


def test_pairs_are_as_many_as_asked_for_and_all_different(task):
    for count in growth.PAIRS:
        pairs = task.instructions(pairs=count).pairs
        assert len({pair.handle for pair in pairs}) == count
