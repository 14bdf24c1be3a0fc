"""What the buttons do, without a page: on a real session, driven at once or by a worker."""

import threading
from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from tiny_sessions import FAR, Passes, ask, left_half, session_on

from dragwidget.editor.editing import Editing
from dragwidget.editor.work import Rendered


def nothing(*_):
    """For callbacks that nobody listens to."""


class Desk:
    """An editing with what is drawn, and all that it told."""

    def __init__(self, tiny, clock="sync", drawn=None, **options):
        self.session = session_on(tiny, **options)
        self.session.instructions = ask() if drawn is None else drawn
        self.reports, self.errors, self.over = [], [], []
        self.at_step = self.at_preview = nothing
        self.editing = Editing(
            self.session,
            clock=clock,
            on_report=self.report,
            on_state=nothing,
            on_done=lambda result, error: self.over.append((result, error)),
            on_error=self.errors.append,
        )

    def report(self, report):
        self.reports.append(report)
        if report.phase == "drag":
            self.at_step(report)
        if report.phase == "preview":
            self.at_preview(report)

    @property
    def phases(self):
        return list(dict.fromkeys(report.phase for report in self.reports))


@pytest.fixture
def desk(tiny):
    made = []

    def make(clock="sync", **options):
        made.append(Desk(tiny, clock, **options))
        return made[-1]

    yield make
    for each in made:
        each.editing.close()
        assert each.errors == []


@pytest.mark.slow
def test_a_run_equals_the_session_alone_bit_for_bit(tiny, desk):
    desk = desk(lora_steps=2)
    desk.editing.run(render=True)
    alone = session_on(tiny, lora_steps=2)
    alone.instructions = ask(prompt="a cat")
    alone.run()
    assert torch.equal(alone.history.current.latent, desk.session.history.current.latent)
    rendered = desk.editing.rendered
    assert np.array_equal(alone.render(), rendered.image)
    assert rendered.node is desk.session.history.current
    assert desk.phases == ["lora", "inversion", "drag", "reference", "render"]


@pytest.mark.slow
def test_previews_change_nothing_of_the_drag(desk):
    seen, blind = desk(steps=4), desk(steps=4)
    seen.editing.limiter.interval, seen.editing.limiter.share = 0.0, inf
    blind.editing.limiter.took(1e9)
    for each in (seen, blind):
        each.editing.run()
    assert sum(r.image is not None for r in seen.reports if r.phase == "drag") == 4
    assert sum(r.image is not None for r in blind.reports if r.phase == "drag") == 0
    assert blind.reports[-1].phase == "preview"
    assert blind.reports[-1].image is not None
    latents = [each.session.history.current.latent for each in (seen, blind)]
    assert torch.equal(*latents)


def test_a_target_moved_during_a_run_is_used_by_the_next_step(desk):
    desk = desk("thread", steps=4)
    other = ask((FAR[0], (20, 40)))

    def move(report):
        if report.index == 2:
            desk.session.instructions = other

    desk.at_step = move
    desk.editing.run()
    desk.editing.wait(60)
    pairs = [node.pairs[0].target for node in desk.session.history.path()[1:]]
    assert pairs == [FAR[1], FAR[1], (20, 40), (20, 40)]


@pytest.mark.slow
def test_a_step_after_a_rewind_that_waits_for_a_preview_follows_it(desk):
    """A rewind cancels a preview and waits for its end; a step is the next thing then."""
    desk, looked, go_on = desk("thread", steps=2), threading.Event(), threading.Event()
    desk.editing.run()
    desk.editing.wait(60)

    def hold(_):
        looked.set()
        assert go_on.wait(60)

    desk.at_preview = hold
    desk.editing.look()
    assert looked.wait(60)
    stood = []
    # Where it stands then is looked at, as the widget does: by another preview, which ends too.
    desk.editing.rewind(0, lambda node: (stood.append(node.index), desk.editing.look()))
    desk.editing.step()
    desk.editing.rewind(1, lambda node: (stood.append(node.index), desk.editing.look()))
    desk.editing.rewind(0, lambda node: (stood.append(node.index), desk.editing.look()))
    desk.editing.step()
    with pytest.raises(RuntimeError, match="cannot step: Step is about to start"):
        desk.editing.step()
    go_on.set()
    while desk.editing.waiting or desk.editing.runner.state != "idle":
        desk.editing.wait(60)
    assert stood == [0]  # what a later rewind replaced did not happen
    assert [node.parent for node in desk.session.history.nodes] == [0, 0, 1, 0]
    assert desk.session.history.current.number == 3


@pytest.mark.slow
def test_a_stop_while_a_step_waits_for_a_preview_drops_the_step(desk):
    desk, looked, go_on = desk("thread", steps=2), threading.Event(), threading.Event()
    desk.editing.run()
    desk.editing.wait(60)

    def hold(_):
        looked.set()
        assert go_on.wait(60)

    desk.at_preview = hold
    desk.editing.look()
    assert looked.wait(60)
    desk.editing.rewind(1)
    desk.editing.step()
    desk.editing.stop()
    assert desk.editing.waiting == "step 1"  # what was asked for before the step still happens
    go_on.set()
    desk.editing.wait(60)
    assert desk.editing.waiting == ""
    assert [node.index for node in desk.session.history.nodes] == [0, 1, 2]
    assert desk.session.history.current.index == 1


@pytest.mark.slow
def test_a_prompt_typed_during_a_run_waits_for_the_next(desk):
    desk = desk("thread", steps=3)

    def type_prompt(_):
        desk.session.prompt = "a dog"

    desk.at_step = type_prompt
    desk.editing.run()
    desk.editing.wait(60)
    assert desk.editing.work.prompt == "a cat"
    assert len(desk.editing.history) == 3
    assert desk.editing.session.status["inversion"].state == "outdated"
    assert "prompt" in desk.editing.session.status["inversion"].why
    desk.editing.step()
    desk.editing.wait(60)
    assert desk.editing.work.request == desk.session.request
    assert len(desk.session.edits) == 2


@pytest.mark.slow
def test_pause_step_and_go_on_lose_nothing(tiny, desk):
    desk = desk("thread", steps=5)
    desk.at_step = lambda report: report.index == 2 and desk.editing.pause()
    desk.editing.run()
    desk.editing.wait(60)
    assert desk.editing.runner.state == "paused"
    assert len(desk.session.history) == 2
    desk.editing.step()
    desk.editing.wait(60)
    assert len(desk.session.history) == 3
    desk.editing.run()
    desk.editing.wait(60)
    assert len(desk.session.history) == 5
    alone = session_on(tiny, steps=5)
    alone.instructions = ask()
    alone.run()
    assert torch.equal(alone.history.current.latent, desk.session.history.current.latent)


@pytest.mark.slow
def test_a_paused_drag_may_be_rendered_and_rewound(desk):
    desk = desk("thread", steps=5)
    desk.at_step = lambda report: report.index == 3 and desk.editing.pause()
    desk.editing.run()
    desk.editing.wait(60)
    desk.editing.render()
    assert isinstance(desk.editing.wait(60), Rendered)
    desk.editing.rewind(1)
    desk.at_step = nothing
    desk.editing.step(2)
    desk.editing.wait(60)
    history = desk.session.history
    assert len(history) == 3
    assert len(history.tips) == 2


@pytest.mark.slow
def test_work_paused_half_way_is_not_thrown_away_by_another_button(desk):
    desk = desk("thread", lora_steps=3)
    at_lora = threading.Event()
    report = desk.report

    def pause(each):
        report(each)
        if each.phase == "lora" and each.index == 1:
            desk.editing.pause()
            at_lora.set()

    desk.editing._on_report = pause
    desk.editing.run()
    assert at_lora.wait(60)
    desk.editing.wait(60)
    assert "paused half-way" in desk.editing.why_not("render")
    with pytest.raises(RuntimeError, match="half-way"):
        desk.editing.render()
    desk.editing.run()
    desk.editing.wait(60)
    assert len(desk.session.history) == 3


def test_stop_answers_within_one_step(tiny, desk):
    desk = desk("thread", steps=1000)
    running = threading.Event()
    desk.at_step = lambda _: running.set()
    desk.editing.run()
    assert running.wait(60)
    with Passes(tiny) as passes:
        desk.editing.stop()
        desk.editing.wait(60)
    assert passes.count <= 2  # of the step under way
    assert desk.editing.runner.outcome == "stopped"
    steps = len(desk.session.history)
    desk.at_step = nothing
    desk.editing.step()
    desk.editing.wait(60)
    assert len(desk.session.history) == steps + 1


def test_two_clicks_start_one_job(desk):
    desk = desk("thread", steps=50)
    running = threading.Event()
    desk.at_step = lambda _: running.set()
    desk.editing.run()
    assert running.wait(60)
    with pytest.raises(RuntimeError, match="cannot run: Drag is running"):
        desk.editing.run()
    desk.editing.stop()
    desk.editing.wait(60)


@pytest.mark.parametrize("action", ["run", "step"])
def test_a_drag_needs_a_pair(tiny, action):
    editing = Editing(
        session_on(tiny), clock="sync",
        on_report=print, on_state=print, on_done=print, on_error=print,
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="draw a pair of points first"):
        getattr(editing, action)()


def test_what_cannot_be_done_says_why(desk):
    desk = desk()
    assert desk.editing.why_not("pause") == "nothing is running"
    assert desk.editing.why_not("rewind") == "nothing was dragged yet"
    assert "prepare it first" in desk.editing.why_not("look")
    for action in ("prepare", "run", "step", "render"):
        assert desk.editing.why_not(action) == ""


def test_an_error_is_kept_for_wait_and_leaves_it_usable(desk):
    desk = desk(learning_rate=0.01)
    good = desk.session.settings
    bad = replace(good.drag, learning_rate=10.0, region_weight=1e6)
    desk.session.settings = replace(good, drag=bad)
    desk.session.instructions = ask(mask=left_half())

    def fail(_):
        raise MemoryError("out of memory")

    desk.session.monitor.progress = fail
    desk.editing.run()
    with pytest.raises(MemoryError):
        desk.editing.wait()
    assert isinstance(desk.over[-1][1], MemoryError)
    desk.session.monitor.progress = None
    desk.session.settings = good
    desk.editing.run()
    desk.editing.wait()
    assert len(desk.session.history) >= 3


def test_an_edit_that_was_made_is_shown_again_as_soon_as_it_is_asked_for(desk):
    desk = desk(steps=2)
    desk.editing.run()
    first = desk.editing.history
    desk.session.prompt = "a dog"
    assert desk.editing.history is first  # outdated, and shown until there is another
    desk.editing.prepare()
    assert desk.editing.history is not first
    desk.session.prompt = "a cat"
    assert desk.editing.history is first


def test_a_closed_editing_is_told_nothing_more(desk):
    desk = desk()
    desk.editing.close()
    assert desk.session.watchers == []
    desk.session.prompt = "a dog"
    assert desk.editing.work.prompt == "a cat"


def test_images_that_were_seen_are_kept_by_node(desk):
    desk = desk(steps=3)
    desk.editing.limiter.interval, desk.editing.limiter.share = 0.0, inf
    desk.editing.run(render=True)
    path = desk.session.history.path()
    assert np.array_equal(desk.editing.image_of(path[0]), desk.session.image)
    assert all(desk.editing.image_of(node).size == (64, 48) for node in path)
    assert np.array_equal(desk.editing.image_of(path[-1]), desk.editing.rendered.image)
    assert desk.editing.images.thumbnail(path[-1]).startswith("data:image/jpeg;base64,")
