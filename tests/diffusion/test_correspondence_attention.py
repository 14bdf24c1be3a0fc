"""Attention by an explicit map: its closed cases on one layer, and in a render."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tiny_models import noise

from dragwidget.data.settings import RenderSettings
from dragwidget.diffusion.attention import record_reference, render_latents
from dragwidget.diffusion.backbone import SelfAttention
from dragwidget.diffusion.sd import Conditioning
from dragwidget.diffusion.unet import corresponding
from dragwidget.drag.correspondence import Correspondence, correspondence

SIZE, STEPS, COUNT = (8, 12), 10, 4
SOURCE, EDITED = noise(1, 4, *SIZE), noise(1, 4, *SIZE, seed=1)
OWN, REFERENCE = noise(2, 96, 6), noise(2, 96, 6, seed=1)
CELLS = torch.stack(torch.meshgrid(torch.arange(SIZE[0]), torch.arange(SIZE[1]), indexing="ij"), -1)
HANDLES, TARGETS = torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0, 8.0]])
NOWHERE, EVERYWHERE = torch.zeros(SIZE, dtype=torch.bool), torch.ones(SIZE, dtype=torch.bool)


def attend(states, others):
    """One head of attention, whose projections are the identity."""
    return torch.softmax(states @ others.mT / math.sqrt(states.shape[-1]), -1) @ others


def still(weight, editable):
    return Correspondence(CELLS, torch.full(SIZE, float(weight)), editable)


@pytest.mark.parametrize("gate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("editable", [NOWHERE, EVERYWHERE, CELLS[..., 1] > 5])
def test_where_nothing_changed_it_is_self_attention(gate, editable):
    there = still(1, editable)
    there = replace(there, weight=there.weight * editable)
    found = corresponding(attend, REFERENCE, REFERENCE, there, gate)
    torch.testing.assert_close(found, attend(REFERENCE, REFERENCE))


def test_at_full_weight_and_gate_it_is_the_sources_own_output_exactly():
    found = corresponding(attend, OWN, REFERENCE, still(1, EVERYWHERE), 1.0)
    assert torch.equal(found, attend(REFERENCE, REFERENCE))


def test_where_all_is_background_it_is_mutual_attention():
    found = corresponding(attend, OWN, REFERENCE, still(0, NOWHERE), 0.7)
    torch.testing.assert_close(found, attend(OWN, REFERENCE))


def test_where_all_is_hole_it_is_the_passes_own_attention():
    found = corresponding(attend, OWN, REFERENCE, still(0, EVERYWHERE), 0.7)
    torch.testing.assert_close(found, attend(OWN, OWN))


def test_without_a_gate_a_cell_sees_itself_and_its_source():
    found = corresponding(attend, OWN, REFERENCE, still(1, EVERYWHERE), 0.0)
    torch.testing.assert_close(found, attend(OWN, torch.cat([OWN, REFERENCE], 1)))


def test_a_translated_block_brings_the_sources_values_to_its_destination():
    """A block of 3 x 3 cells, nothing else: all its output is the source's, and no other's."""
    source, weight = CELLS.clone(), torch.zeros(SIZE)
    source[4:7, 6:9] = CELLS[1:4, 2:5]
    weight[4:7, 6:9] = 1
    editable = weight > 0
    editable[1:4, 2:5] = True  # vacated
    found = corresponding(attend, OWN, REFERENCE, Correspondence(source, weight, editable), 1.0)
    found, wanted = found.view(2, *SIZE, 6), attend(REFERENCE, REFERENCE).view(2, *SIZE, 6)
    assert torch.equal(found[:, 4:7, 6:9], wanted[:, 1:4, 2:5])
    assert not torch.isclose(found[:, weight == 0], wanted[:, weight == 0]).all(-1).any()


def test_after_a_known_shift_a_cell_sees_the_sources_keys_and_values_there():
    source = CELLS.roll(1, 1)  # every cell holds what was left of it; the last column is the first
    found = corresponding(
        attend, OWN, REFERENCE, Correspondence(source, torch.ones(SIZE), EVERYWHERE), 0.0
    )
    shifted = REFERENCE.view(2, *SIZE, 6).roll(1, 2).flatten(1, 2)
    assert torch.equal(found, attend(OWN, torch.cat([OWN, shifted], 1)))


def test_the_gate_mixes_by_the_weight_of_a_cell():
    weight = torch.linspace(0.1, 1, 96).view(SIZE)
    there = Correspondence(CELLS, weight, EVERYWHERE)
    plain, full = (corresponding(attend, OWN, REFERENCE, t, g) for t, g in (
        (there, 0.0), (still(1, EVERYWHERE), 1.0)
    ))  # fmt: skip
    found = corresponding(attend, OWN, REFERENCE, there, 0.5)
    share = 0.5 * weight.flatten()[:, None]
    torch.testing.assert_close(found, torch.lerp(plain, full, share.expand_as(plain)))


# ---------------------------------------------------------------- in a render


def render(model, settings, moved, edited=EDITED, text=None, size=None, **more):
    source = SOURCE if size is None else noise(1, 4, *size)
    edited = edited if size is None else noise(1, 4, *size, seed=1)
    predictor = model.predictor(text or Conditioning(model.embed("a cat")))
    schedule = model.schedule(STEPS)
    *_, branch = record_reference(predictor, source, schedule, COUNT, settings)
    latents = render_latents(
        predictor, edited, schedule, COUNT, branch, settings, moved=moved, **more
    )
    return branch, list(latents)


ON = RenderSettings(start_layer=0, correspondence=1.0)
MUTUAL = RenderSettings(start_layer=0)
MOVED = correspondence(SIZE, HANDLES, TARGETS, field="stretch", combine="winner")


def test_the_source_itself_comes_back(tiny):
    unmoved = correspondence(SIZE, HANDLES, HANDLES, field="stretch")
    branch, rendered = render(tiny, ON, unmoved, edited=SOURCE)
    for index, latent in enumerate(rendered):
        torch.testing.assert_close(latent, branch.latents[index + 1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_of_background_alone_it_is_mutual_attention(tiny, share):
    protected = correspondence(SIZE, HANDLES, TARGETS, torch.ones(SIZE))
    settings = replace(ON, correspondence_share=share)
    (_, found), (_, wanted) = render(tiny, settings, protected), render(tiny, MUTUAL, None)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_with_weight_0_or_nothing_moved_it_is_mutual_attention_to_the_bit(tiny):
    _, wanted = render(tiny, MUTUAL, None)
    for settings, moved in ((MUTUAL, MOVED), (ON, None)):
        _, found = render(tiny, settings, moved)
        assert all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("start_layer", [0, 6])
def test_it_changes_the_render(tiny, start_layer):
    _, mutual = render(tiny, replace(MUTUAL, start_layer=start_layer), None)
    renders = [
        render(tiny, replace(ON, start_layer=start_layer, correspondence=weight), MOVED)[1][-1]
        for weight in (1e-6, 0.5, 1.0)
    ]
    for one in renders:
        assert one.isfinite().all()
        assert (one - mutual[-1]).abs().max() > 1e-3
    assert not torch.equal(renders[1], renders[2])


def test_it_takes_the_first_steps_and_mutual_attention_the_others(tiny):
    settings = replace(ON, correspondence_share=0.5)
    _, mixed = render(tiny, settings, MOVED)
    _, rest = render(tiny, MUTUAL, None, edited=mixed[1], first=2)
    assert all(map(torch.equal, mixed[2:], rest))
    _, without = render(tiny, replace(settings, mutual_self_attention=False), MOVED)
    assert all(map(torch.equal, mixed[:2], without[:2]))
    assert not torch.equal(mixed[2], without[2])


@pytest.mark.parametrize(
    ("share", "count", "gates"),
    [
        (1.0, 4, [1, 0.75, 0.5, 0.25]),
        (0.8, 5, [1, 0.75, 0.5, 0.25, 0]),
        (0.5, 4, [1, 0.5, 0, 0]),
        (0.01, 3, [1, 0, 0]),
    ],
)
def test_the_weight_falls_evenly_over_its_steps(share, count, gates):
    for weight in (0.0, 0.4, 1.0):
        settings = RenderSettings(correspondence=weight, correspondence_share=share)
        found = [settings.gate(index, count) for index in range(count)]
        assert found == pytest.approx([weight * gate for gate in gates])


@pytest.mark.parametrize("size", [(8, 12), (10, 13), (9, 7)])
def test_it_works_at_every_level_of_a_latent_of_any_size(tiny, size):
    handles, targets = HANDLES / 2, TARGETS / 2
    found = correspondence(size, handles, targets, field="stretch")
    _, rendered = render(tiny, ON, found, size=size)
    assert rendered[-1].shape == (1, 4, *size)
    assert rendered[-1].isfinite().all()


def test_under_guidance_each_branch_takes_from_its_own_reference(tiny):
    text = Conditioning(tiny.embed("a cat"), tiny.embed("a dog"), 3.0)
    unmoved = correspondence(SIZE, HANDLES, HANDLES)
    branch, rendered = render(tiny, ON, unmoved, edited=SOURCE, text=text)
    torch.testing.assert_close(rendered[-1], branch.latents[-1], rtol=1e-3, atol=1e-4)


def test_a_gradient_goes_through_it(tiny):
    predictor = tiny.predictor(Conditioning(tiny.embed("a cat")))
    states = predictor(SOURCE, 301, attention=SelfAttention((6, 7))).states
    gradients = []
    for gate in (0.2, 0.8):
        latent = EDITED.clone().requires_grad_()
        attention = SelfAttention((6, 7), states, MOVED, gate)
        with torch.enable_grad():
            output = predictor(latent, 301, attention=attention).prediction
            gradients += torch.autograd.grad(output.square().sum(), latent)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    assert not torch.equal(*gradients)
