"""The drag in a session: what it costs, how it goes on, what it remembers."""

from dataclasses import replace
from threading import Thread

import numpy as np
import pytest
import torch
from busy_threads import run_at_once
from tiny_sessions import FAR, N, Passes, ask, left_half, session_on

from dragwidget.data.instructions import to_grid

START, END = FAR


def latents(session):
    return [step.latent for step in session.history]


def same(some, others):
    return len(some) == len(others) and all(map(torch.equal, some, others))


# ---------------------------------------------------------------- what it costs


@pytest.mark.slow
@pytest.mark.parametrize("lora_steps", [0, 2])
@pytest.mark.parametrize("steps", [1, 3])
def test_the_first_drag_costs_the_inversion_a_reference_pass_and_one_pass_a_step(
    tiny, lora_steps, steps
):
    """One pass each, and one more: the pass on the inverted latent is F0, which says what lies
    under the handles. The final update is tracked too, so every update needs a pass behind it;
    that pass also carries the gradient of the next one, which therefore needs none of its own.
    """
    session = session_on(tiny, lora_steps=lora_steps)
    with Passes(tiny) as passes:
        assert len(list(session.drag(ask(), steps=steps))) == steps
    assert passes.count == lora_steps + N + 1 + steps


@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, left_half()])
def test_after_moving_a_target_the_next_step_costs_one_pass(tiny, mask):
    session = session_on(tiny)
    list(session.drag(ask(mask=mask)))
    session.instructions = ask((START, (40, 10)), mask=mask)
    with Passes(tiny) as passes:
        session.step()
    assert passes.count == 1


@pytest.mark.slow
def test_a_render_frees_the_graph_which_the_next_step_makes_again(tiny):
    session = session_on(tiny)
    list(session.drag(ask()))
    session.render()
    session.preview()
    session.instructions = ask((START, (40, 10)))
    with Passes(tiny) as passes:
        session.step()
        assert passes.count == 2
        session.step()
    assert passes.count == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"learning_rate": 0.05},
        {"region_weight": 0.3},
        {"motion_radius": 2},
        {"tracking_radius": 5},
        {"step_length": 2.0},
        {"prior_weight": 0.1},
        {"stop_distance": 1.0},
        {"template": "original"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_after_turning_a_knob_the_next_step_costs_one_pass(tiny, changes):
    session = session_on(tiny)
    list(session.drag(ask(mask=left_half())))
    with Passes(tiny) as passes:
        list(session.drag(settings=replace(session.settings.drag, **changes), steps=1))
    assert passes.count == 1


def test_a_new_pair_costs_no_pass(tiny):
    session = session_on(tiny)
    list(session.drag(ask()))
    session.instructions = ask(FAR, ((40, 30), (10, 30)))
    with Passes(tiny) as passes:
        session.step()
    assert passes.count == 1


def test_a_mask_drawn_later_costs_one_more_pass_at_the_start_and_one_here(tiny):
    """Without a mask a pass ends behind the features; the mask needs the rest of it."""
    session = session_on(tiny)
    list(session.drag(ask()))
    session.instructions = ask(mask=left_half())
    with Passes(tiny) as passes:
        session.step()
        assert passes.count == 2 + 1
        session.step()
    assert passes.count == 2 + 1 + 1


def test_going_back_costs_one_pass_there(tiny):
    session = session_on(tiny)
    list(session.drag(ask()))
    session.reset()
    with Passes(tiny) as passes:
        session.step()
        assert passes.count == 1 + 1
        session.step()
    assert passes.count == 1 + 1 + 1


def test_there_is_no_pass_where_nothing_is_left_to_do(tiny):
    session = session_on(tiny)
    session.prepare()
    with Passes(tiny) as passes:
        assert list(session.drag(ask(((20, 20), (20, 21))))) == []
        assert session.ended == "reached"
        assert session.run() is None
    assert passes.count == 0


def test_other_features_are_looked_at_anew(tiny):
    session = session_on(tiny)
    list(session.drag(ask()))
    with Passes(tiny) as passes:
        list(session.drag(settings=replace(session.settings.drag, feature_blocks=(2, 3)), steps=1))
    assert passes.count == 3  # here, at the start where the handle was drawn, and behind the step


def test_only_the_pass_that_a_step_goes_down_keeps_a_graph(tiny):
    session = session_on(tiny)
    graphs = []
    with Passes(tiny, lambda _: graphs.append(torch.is_grad_enabled())):
        session.prepare()
        assert not any(graphs)
        list(session.drag(ask(), steps=2))
        del graphs[:]
        session.render()
        session.preview(1)
        assert not any(graphs)
        session.instructions = ask(FAR, ((40, 30), (10, 30)), mask=left_half())
        session.rewind(1)
        del graphs[:]
        session.step()
    assert graphs == [True, True]  # here, and behind the step; the start was seen by the preview


# ---------------------------------------------------------------- going on, back and elsewhere


@pytest.mark.slow
@pytest.mark.parametrize("mask", [None, left_half()])
def test_five_steps_and_five_steps_are_ten_steps(tiny, mask):
    halves, whole = session_on(tiny), session_on(tiny)
    halves.instructions = whole.instructions = ask(mask=mask)
    halves.step(5)
    assert halves.ended == "step limit"
    halves.step(5)
    whole.step(10)
    assert same(latents(halves), latents(whole))
    assert [step.loss for step in halves.history] == [step.loss for step in whole.history]
    assert [step.index for step in halves.history] == list(range(1, 11))


@pytest.mark.slow
@pytest.mark.parametrize("between", [[], ["render"], ["preview", "preview"]])
def test_going_on_from_an_earlier_step_is_a_straight_drag(tiny, between):
    elsewhere = ask((START, (20, 39)), mask=left_half())
    back, straight = session_on(tiny), session_on(tiny)
    back.instructions = straight.instructions = ask(mask=left_half())
    back.step(5)
    back.rewind(2)
    for verb in between:
        getattr(back, verb)()
    straight.step(2)
    for session in (back, straight):
        session.instructions = elsewhere
        session.step(3)
    assert same(latents(back), latents(straight))
    assert back.history[-1].handles_xy.tolist() == straight.history[-1].handles_xy.tolist()


@pytest.mark.slow
def test_a_drag_after_going_back_starts_a_branch_and_keeps_the_other(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step(4)
    first = latents(session)
    session.rewind(1)
    session.instructions = ask((START, (20, 39)))
    session.step(2)
    assert len(session.history) == 3
    assert same(latents(session)[:1], first[:1])
    assert len(session.history.tips) == 2
    session.history.go_to(4)
    assert same(latents(session), first)


def test_one_can_go_forth_again_after_going_back(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step(3)
    wanted = latents(session)
    session.reset()
    assert list(session.history) == []
    session.rewind(3)
    assert same(latents(session), wanted)
    with pytest.raises(ValueError, match=r"there is no step 4: this branch has steps 0 .* to 3"):
        session.rewind(4)


@pytest.mark.slow
def test_a_step_of_the_branch_can_be_seen_from_any_other(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step(2)
    last, before = session.render(), session.preview(1)
    session.reset()
    assert np.array_equal(session.render(2), last)
    assert np.array_equal(session.preview(1), before)
    assert np.array_equal(session.render(0), session.render())


def test_a_target_moved_between_two_steps_of_a_running_drag_is_used_by_the_next(tiny):
    session = session_on(tiny)
    walk = session.drag(ask())
    targets = [next(walk).targets_xy.tolist()]
    session.instructions = ask((START, (20, 39)))
    targets.append(next(walk).targets_xy.tolist())
    assert targets == [[[50, 36]], [[20, 39]]]


def test_instructions_set_by_another_thread_during_a_pass_are_used_by_the_next_step(tiny):
    session = session_on(tiny)
    session.prepare()

    def move(number):
        if number == 2:  # the pass behind the first step
            thread = Thread(target=setattr, args=(session, "instructions", ask((START, (20, 39)))))
            thread.start()
            thread.join()

    with Passes(tiny, move):
        steps = list(session.drag(ask(), steps=2))
    assert [step.targets_xy.tolist() for step in steps] == [[[50, 36]], [[20, 39]]]


@pytest.mark.slow
def test_handles_keep_their_identity_when_targets_move(tiny):
    session = session_on(tiny, learning_rate=0.1)
    session.instructions = ask()
    session.step(4)
    moved = session.history[-1].handles_xy.tolist()
    assert moved != [list(START)]
    session.instructions = ask((START, (20, 39)), ((40, 30), (10, 30)))
    session.step()
    assert session.history.current.anchor_nodes == (0, 4)
    session.instructions = ask(((40, 30), (10, 30)), (START, (20, 39)))  # in another order
    session.step()
    assert session.history.current.anchor_nodes == (4, 0)


@pytest.mark.slow
def test_a_handle_that_is_there_again_goes_on_from_where_it_was(tiny):
    """As when deleting its pair is undone; it is no new handle on what lies there by now."""
    session = session_on(tiny, learning_rate=0.1)
    other = ((40, 30), (10, 30))
    session.instructions = ask(FAR, other)
    session.step(3)
    moved = session.history.current.handles[1]
    assert moved != other[0]
    session.instructions = ask(FAR)
    session.step(2)
    edit = session.edit
    grid = edit._grid(session.settings.drag)
    handles, anchor_nodes = edit._handles(session.history.current, ask(FAR, other), grid)
    expected = to_grid([session.history.current.handles[0], moved], (64, 48), grid)
    assert np.array_equal(handles.numpy(), expected)
    assert anchor_nodes == (0, 0)
    session.instructions = ask(FAR, other)
    session.step()
    assert session.history.current.anchor_nodes == (0, 0)
    session.rewind(0)
    session.instructions = ask(FAR)
    session.step()
    session.instructions = ask(FAR, other)  # on this branch it was never there before
    session.step()
    assert session.history.current.anchor_nodes == (0, session.history.path()[1].number)


@pytest.mark.slow
def test_a_new_handle_means_the_image_as_it_is_now(tiny):
    later, fresh = session_on(tiny, learning_rate=0.1), session_on(tiny, learning_rate=0.1)
    later.instructions = ask()
    later.step(3)
    later.instructions = ask(((30, 20), (10, 30)))
    later.step()
    assert later.history.current.anchor_nodes == (3,)
    fresh.instructions = ask(((30, 20), (10, 30)))
    fresh.step()
    assert not torch.equal(latents(later)[-1], latents(fresh)[-1])


def test_a_drag_on_another_prompt_waits_until_one_comes_back_to_it(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step(2)
    kept = latents(session)
    session.prompt = "a dog"
    session.step(1)
    assert len(session.history) == 1
    assert len(session.edits) == 2
    session.prompt = "a cat"
    assert same(latents(session), kept)


@pytest.mark.slow
def test_an_edit_that_is_put_aside_lets_go_of_its_graph(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step(2)
    session.prompt = "a dog"
    session.prepare()
    session.prompt = "a cat"
    with Passes(tiny) as passes:
        session.step()
    assert passes.count == 3  # here and at the start again, and behind the step


@pytest.mark.slow
@pytest.mark.parametrize("lora_steps", [0, 2])
def test_the_same_seed_gives_the_same_bits(tiny, lora_steps):
    runs = [session_on(tiny, lora_steps=lora_steps) for _ in range(2)]
    for session in runs:
        list(session.drag(ask(mask=left_half())))
    first, second = runs
    assert same(first.invert().latents, second.invert().latents)
    assert same(latents(first), latents(second))
    assert np.array_equal(first.render(), second.render())


def test_another_seed_trains_another_lora(tiny):
    session = session_on(tiny, lora_steps=2)
    first = session.train_lora()
    session.settings = replace(session.settings, lora=replace(session.settings.lora, seed=1))
    assert session.train_lora().digest != first.digest


# ---------------------------------------------------------------- why it ends


def test_a_drag_ends_where_every_handle_has_reached_its_target(tiny):
    session = session_on(tiny)
    assert list(session.drag(ask(((20, 20), (21, 21)), ((40, 30), (40, 30))))) == []
    assert session.ended == "reached"


def test_a_drag_ends_at_the_step_limit_of_its_settings_or_of_the_call(tiny):
    session = session_on(tiny, steps=2)
    assert len(list(session.drag(ask()))) == 2
    assert session.ended == "step limit"
    assert len(list(session.drag(steps=1))) == 1
    assert session.ended == "step limit"


@pytest.mark.slow
def test_a_drag_ends_where_no_handle_moves_and_a_change_is_a_new_attempt(tiny):
    session = session_on(tiny, patience=2, tracking_radius=0)  # it never finds a handle elsewhere
    steps = list(session.drag(ask(), steps=9))
    assert (len(steps), session.ended) == (2, "not moving")
    assert session.run() is None
    assert session.ended == "not moving"
    session.instructions = ask((START, (20, 39)))
    assert len(list(session.drag(steps=9))) == 2
    assert len(list(session.drag(settings=replace(session.settings.drag, patience=3)))) == 3


def test_the_generator_says_why_it_ended_too(tiny):
    walk = session_on(tiny).drag(ask(), steps=1)
    next(walk)
    with pytest.raises(StopIteration) as stop:
        next(walk)
    assert stop.value.value == "step limit"


@pytest.mark.slow
def test_a_drag_that_was_left_has_not_ended(tiny):
    session = session_on(tiny)
    session.instructions = ask()
    session.step(1)
    for _ in session.drag():
        break
    assert session.ended is None
    session.run()
    session.rewind(1)
    assert session.ended is None


# ---------------------------------------------------------------- several threads


@pytest.mark.slow
def test_what_two_threads_change_at_once_is_all_kept(tiny):
    session = session_on(tiny)
    lost = []

    def write(number):
        session.prompt = f"prompt {number}"
        if session.prompt != f"prompt {number}":
            lost.append("prompt")

    def adjust(number):
        session.settings = replace(
            session.settings, drag=replace(session.settings.drag, steps=number)
        )
        if session.settings.drag.steps != number:
            lost.append("settings")

    run_at_once(write, adjust, times=1000)
    assert not lost
