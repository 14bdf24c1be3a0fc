"""What makes a stage outdated, what makes it ready again, and what a render needs."""

from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
from tiny_sessions import N, Passes, ask, blocks_of, left_half, session_on, waves

from dragwidget.data.settings import InversionSettings, RenderSettings
from dragwidget.diffusion.lora import LoRA, save_lora
from dragwidget.progress import Cancelled, KeyedCache, Monitor, Progress, StageStatus


@pytest.fixture
def session(tiny):
    """With all stages made."""
    session = session_on(tiny, lora_steps=2)
    list(session.drag(ask(), steps=1))
    session.render()
    return session


def states(session):
    return {name: stage.state for name, stage in session.status.items()}


def turned(session, stage, **changes):
    """The session's settings with some of one stage changed."""
    settings = session.settings
    return replace(settings, **{stage: replace(getattr(settings, stage), **changes)})


READY = {"lora": "ready", "inversion": "ready", "reference": "ready"}
OUTDATED = {"lora": "outdated", "inversion": "outdated", "reference": "outdated"}
CHANGES = {
    "the prompt": (lambda s: setattr(s, "prompt", "a dog"), OUTDATED),
    "instructions": (lambda s: setattr(s, "instructions", ask(prompt="a dog")), OUTDATED),
    "the image": (lambda s: s.set_image(waves(seed=1), "a cat"), OUTDATED),
    "the LoRA": (lambda s: setattr(s, "settings", turned(s, "lora", seed=1)), OUTDATED),
    "inversion settings": (
        lambda s: setattr(s, "settings", turned(s, "inversion", strength=0.7)),
        {**READY, "inversion": "outdated", "reference": "outdated"},
    ),
    "the render's attention layers": (
        lambda s: setattr(s, "settings", turned(s, "render", start_layer=7)),
        {**READY, "reference": "outdated"},
    ),
}


# ---------------------------------------------------------------- what becomes outdated


@pytest.mark.slow
def test_stages_that_were_made_are_fresh(session):
    assert states(session) == READY
    with Passes(session.model) as passes:
        session.prepare()
        assert session.train_lora() is session.invert().lora
    assert passes.count == 0


def test_stages_that_were_never_made_are_missing(tiny):
    session = session_on(tiny, lora_steps=2)
    assert session.status == dict.fromkeys(READY, StageStatus("missing", "not made yet"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_makes_stale_what_depends_on_it_and_says_why(session, name):
    change, wanted = CHANGES[name]
    change(session)
    assert states(session) == wanted
    why = "the prompt" if name == "instructions" else name
    outdated = {stage.why for stage in session.status.values() if stage.state == "outdated"}
    assert outdated == {f"{why} changed since it was made"}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_taking_a_change_back_finds_everything_fresh(session, name):
    settings, steps = session.settings, list(session.history)
    CHANGES[name][0](session)
    if name in ("the image", "the prompt"):
        session.prepare()  # what is made meanwhile does not push it out
    session.settings = settings
    session.set_image(waves(), "a cat")
    with Passes(session.model) as passes:
        session.prepare()
    assert passes.count == 0
    assert states(session) == READY
    assert [node.step for node in session.history.nodes[1:]] == steps


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("drag", {"learning_rate": 0.1, "feature_blocks": (1,)}),
        ("render", {"start_step": 1}),
    ],
)
def test_what_no_stage_depends_on_makes_nothing_stale(session, stage, changes):
    session.settings = turned(session, stage, **changes)
    session.instructions = ask(((5, 5), (9, 9)), mask=left_half())
    assert states(session) == READY


@pytest.mark.slow
def test_the_nearest_version_says_what_has_changed(session):
    session.set_image(waves(seed=1), "another image")
    session.prepare()
    session.set_image(waves(), "a dog")
    assert session.status["lora"].why == "the prompt changed since it was made"


def test_a_prompt_in_the_instructions_is_what_the_image_shows(tiny):
    session = session_on(tiny)
    session.instructions = ask(prompt="")
    assert session.prompt == "a cat"
    session.instructions = ask(prompt="a dog")
    assert session.prompt == "a dog"
    session.prompt = "a cat"  # the last word counts
    session.run()
    assert session.prompt == "a cat"


@pytest.mark.slow
def test_the_prompt_decides_the_inversion(session):
    before = session.invert()
    session.prompt = "a dog"
    after = session.invert()
    assert not np.array_equal(before.latents[-1], after.latents[-1])
    assert np.array_equal(before.latents[0], after.latents[0])


# ---------------------------------------------------------------- LoRA


def test_no_lora_steps_mean_no_lora(tiny):
    session = session_on(tiny, lora_steps=0)
    assert session.status["lora"] == StageStatus("off", "LoRA steps are 0")
    assert session.train_lora() is None
    assert session.invert().lora is None


@pytest.mark.slow
def test_a_lora_that_was_given_takes_the_place_of_training(session, tiny, tmp_path):
    trained = session.train_lora()
    file = save_lora(trained, tmp_path / "lora")
    other = session_on(tiny, lora_steps=2)
    with Passes(tiny) as passes:
        other.use_lora(file)
        assert other.status["lora"] == StageStatus("ready", "the one that was given")
        other.prepare()
    assert passes.count == N
    assert np.array_equal(other.invert().latents[-1], session.invert().latents[-1])
    other.use_lora(None)
    assert states(other) == {"lora": "missing", "inversion": "outdated", "reference": "missing"}
    assert other.status["inversion"].why == "the LoRA changed since it was made"
    other.use_lora(trained)
    assert other.status["inversion"].state == "ready"


@pytest.mark.slow
def test_a_lora_of_another_model_is_refused_when_it_is_given(session):
    lora = session.train_lora()
    other = LoRA(dict(lora.down), {path: matrix[:-1] for path, matrix in lora.up.items()})
    with pytest.raises(ValueError, match="this LoRA belongs to another model"):
        session.use_lora(other)
    assert states(session) == READY


# ---------------------------------------------------------------- what a render needs


@pytest.mark.slow
def test_the_reference_is_walked_once_for_all_renders(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step()
    with Passes(tiny) as passes:
        session.render()
        assert passes.count == N + N
        session.step()
        session.render()
        session.render(0)
    assert passes.count == N + N + 2 + N + N  # a render frees the graph that the step begins with


@pytest.mark.slow
@pytest.mark.parametrize("keep_protected", [False, True])
def test_a_render_without_mutual_attention_looks_at_the_source_only_to_keep_it(
    tiny, keep_protected
):
    session = session_on(tiny)
    session.settings = replace(
        session.settings,
        render=RenderSettings(mutual_self_attention=False, keep_protected=keep_protected),
    )
    session.instructions = ask(mask=left_half())
    session.step()
    assert session.status["reference"].state == ("missing" if keep_protected else "off")
    with Passes(tiny) as passes:
        session.render()
    assert passes.count == (N + N if keep_protected else N)


@pytest.mark.slow
def test_what_is_kept_outside_the_mask_is_the_source_itself(tiny):
    model = blocks_of(tiny)
    session = session_on(model, learning_rate=0.5)
    render = replace(session.settings.render, keep_protected=True)
    session.settings = replace(session.settings, render=render)
    session.set_image(waves(64, 64), "a cat")  # a size that is not resampled
    mask = np.indices((64, 64))[1] < 32
    session.instructions = ask(size=(64, 64), mask=mask)
    source = np.asarray(session.render())
    session.step(2)
    edited = np.asarray(session.render())
    same = (edited == source).all(axis=-1)
    assert same[~mask].all()
    assert same[mask].mean() < 0.1


# ---------------------------------------------------------------- generated images


def generated(model, **changes):
    session = session_on(model)
    options = {"negative_prompt": "a dog", "guidance_scale": 3.0, "seed": 5, **changes}
    return session, session.generate("a cat", **options)


@pytest.mark.slow
def test_a_generated_image_needs_neither_lora_nor_inversion(tiny):
    with Passes(tiny) as passes:
        session, image = generated(tiny, size=(64, 32))
        assert passes.count == 6
        assert image.size == session.image.size == (64, 32)
        assert session.status["lora"] == StageStatus("off", "a generated image needs none")
        session.prepare()
        assert passes.count == 6
        list(session.drag(ask(((12, 12), (50, 20)), size=(64, 32)), steps=2))
        assert passes.count == 6 + 1 + 2
        session.render()
    assert passes.count == 6 + 1 + 2 + N + N


def test_an_undragged_generated_image_is_rendered_as_it_was_generated(tiny):
    session, image = generated(tiny)
    gap = np.abs(np.asarray(session.render()).astype(int) - np.asarray(image))
    assert gap.max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"seed": 6}, {"guidance_scale": 1.0}, {"negative_prompt": "a bird"}]
)
def test_a_generated_image_is_made_by_its_seed_guidance_and_prompts(tiny, change):
    _, image = generated(tiny)
    assert np.array_equal(image, generated(tiny)[1])
    assert not np.array_equal(image, generated(tiny, **change)[1])


def test_a_generated_image_keeps_the_steps_it_was_made_with(tiny):
    session, _ = generated(tiny)
    session.prepare()
    session.settings = replace(session.settings, inversion=InversionSettings(steps=9, strength=0.5))
    assert session.status["inversion"].state == "ready"
    session.settings = replace(session.settings, inversion=InversionSettings(steps=9, strength=1))
    assert session.invert().count == 6


# ---------------------------------------------------------------- changes during the making


@pytest.mark.slow
def test_what_is_made_is_kept_under_what_it_was_made_of(tiny):
    session, fresh = (session_on(tiny, lora_steps=2) for _ in range(2))
    work = session.preparing()
    assert next(work).phase == "lora"
    session.prompt = "a dog"
    session.settings = turned(session, "lora", steps=0)
    for _ in work:
        pass
    assert states(session)["inversion"] == "outdated"
    session.prompt = "a cat"
    session.settings = fresh.settings
    assert session.status["inversion"].state == "ready"
    assert np.array_equal(session.invert().latents[-1], fresh.invert().latents[-1])


@pytest.mark.slow
def test_two_threads_do_not_pass_through_each_others_hooks(tiny):
    """A render elsewhere on the model, with its own LoRA, while this one drags."""
    session, other = session_on(tiny, lora_steps=2), session_on(tiny, prompt="a dog", lora_steps=2)
    other.prepare()
    wanted = np.asarray(other.render())
    list(session.drag(ask(), steps=4))
    undisturbed = [step.loss for step in session.history]
    session.reset()
    rendered = []
    thread = Thread(target=lambda: rendered.extend(other.render() for _ in range(2)))
    with Passes(tiny, lambda number: thread.start() if number == 1 else None):
        list(session.drag(steps=4))
        thread.join()
    assert [step.loss for step in session.history] == undisturbed
    assert all(np.array_equal(image, wanted) for image in rendered)


# ---------------------------------------------------------------- progress


def phases(reports):
    return list(dict.fromkeys(report.phase for report in reports))


@pytest.mark.slow
def test_one_callback_hears_of_every_phase_in_order(tiny):
    reports = []
    session = session_on(tiny, lora_steps=2, progress=reports.append)
    list(session.drag(ask(), steps=3))
    session.render()
    session.generate("a cat")
    order = ["lora", "inversion", "drag", "reference", "render", "generation"]
    assert phases(reports) == order
    totals = dict(zip(order, [2, N, 3, N, N, 6], strict=True))
    for phase in order:
        heard = [report for report in reports if report.phase == phase]
        assert [report.index for report in heard] == list(range(1, totals[phase] + 1))
        assert {report.total for report in heard} == {totals[phase]}
        assert all((report.loss is not None) == (phase in ("lora", "drag")) for report in heard)


@pytest.mark.slow
def test_what_is_not_made_anew_is_not_reported(session):
    reports = []
    session.monitor.progress = reports.append
    session.prepare()
    session.preview()
    assert reports == []


# ---------------------------------------------------------------- the parts


def test_work_runs_to_its_end_and_returns_its_result():
    heard = []

    def work():
        yield Progress("drag", 1, 2)
        yield Progress("drag", 2, 2)
        return "done"

    assert Monitor(heard.append).run(work()) == "done"
    assert [report.index for report in heard] == [1, 2]
    assert Monitor().run(work()) == "done"


def test_a_cancellation_is_raised_at_the_next_report_and_forgotten_at_the_next_start():
    monitor = Monitor()
    monitor.check()
    monitor.cancel()
    with pytest.raises(Cancelled, match="cancelled in render, 3 of 7"):
        monitor.report(Progress("render", 3, 7))
    with pytest.raises(Cancelled):
        monitor.check()
    monitor.start()
    monitor.report(Progress("render", 4, 7))


def test_a_full_shelf_lets_go_of_what_was_made_longest_ago():
    cache = KeyedCache[int](2)
    for number in range(3):
        assert cache.put((("number", number),), number) == number
    assert list(cache) == [1, 2]
    assert cache.get((("number", 0),)) is None
    assert cache.status((("number", 2),)).state == "ready"
    assert cache.status((("number", 0),)).why == "number changed since it was made"


def test_all_that_changed_is_named_once():
    cache = KeyedCache[str](5)
    cache.put((("a", 1), ("b", 1)), "first")
    assert cache.status((("a", 2), ("c", 1))).why == "a and c and b changed since it was made"
