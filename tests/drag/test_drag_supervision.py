"""Motion supervision, the region loss and the prior."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from analytic_models import RolledImage
from tiny_models import noise

from dragwidget.drag import FeatureMap, GaussianPrior, Schedule, motion_supervision, region_loss
from dragwidget.drag.supervision import Anchor, originals

ALL = torch.tensor([True])


def supervision(features, handles, targets, active=None, **options):
    handles, targets = torch.tensor(handles), torch.tensor(targets)
    active = torch.ones(len(handles), dtype=torch.bool) if active is None else active
    return motion_supervision(features, handles, targets, active, radius=1, **options)


def pull(target, **options):
    """-d loss / d roll of a rolled image whose handle is at (16, 16): where it is pulled to."""
    roll = torch.zeros(1, 2, 1, 1, requires_grad=True)
    features = FeatureMap((RolledImage().image(roll),), (32, 32))
    loss = supervision(features, [[16.0, 16.0]], [list(target)], **options)
    (gradient,) = torch.autograd.grad(loss, roll)
    return loss, -gradient.flatten()


@pytest.mark.parametrize(
    "target", [(16.0, 26.0), (16.0, 6.0), (26.0, 16.0), (6.0, 16.0), (24.0, 24.0), (8.0, 24.0)]
)
def test_the_content_is_pulled_towards_the_target(target):
    _, pulled = pull(target)
    way = torch.tensor(target) - 16
    assert pulled @ way > 0.5 * pulled.norm() * way.norm()


def test_no_loss_is_left_once_the_content_has_taken_the_step():
    here = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
    moved = FeatureMap((RolledImage().image(here),), (32, 32))
    origin = FeatureMap((RolledImage().image(torch.zeros(1, 2, 1, 1)),), (32, 32))
    template = Anchor(origin, torch.tensor([16.0, 16.0]))
    loss = supervision(moved, [[16.0, 16.0]], [[16.0, 26.0]], templates=[template])
    assert loss.item() == pytest.approx(0, abs=1e-4)


def test_the_loss_is_the_papers():
    """(2 r + 1)^2 x mean |A - B|, A the patch, B the patch one cell nearer to the target."""
    block = noise(1, 5, 12, 12)
    loss = supervision(FeatureMap((block,), (12, 12)), [[5.0, 5.0]], [[5.0, 9.0]])
    patch, shifted = block[0, :, 4:7, 4:7], block[0, :, 4:7, 5:8]
    torch.testing.assert_close(loss, 9 * (patch - shifted).abs().mean())


def test_at_the_border_the_patch_is_cut_and_the_factor_stays():
    block = noise(1, 5, 12, 12)
    loss = supervision(FeatureMap((block,), (12, 12)), [[0.0, 5.0]], [[0.0, 9.0]])
    patch, shifted = block[0, :, 0:2, 4:7], block[0, :, 0:2, 5:8]
    torch.testing.assert_close(loss, 9 * (patch - shifted).abs().mean())


def test_the_step_never_passes_the_target():
    block = noise(1, 5, 12, 12)
    features = FeatureMap((block,), (12, 12))
    near = supervision(features, [[5.0, 5.0]], [[5.0, 8.0]], step_length=50.0)
    torch.testing.assert_close(
        near, 9 * (block[0, :, 4:7, 4:7] - block[0, :, 4:7, 7:10]).abs().mean()
    )


@pytest.mark.parametrize("length", [0.5, 2.0, 3.0])
def test_the_step_has_the_length_asked_for(length):
    block = noise(1, 5, 12, 12)
    features = FeatureMap((block,), (12, 12))
    loss = supervision(features, [[5.0, 3.0]], [[5.0, 9.0]], step_length=length)
    rows, columns = torch.tensor([4.0, 5.0, 6.0]), torch.tensor([2.0, 3.0, 4.0])
    wanted = features.patch(rows, columns) - features.patch(rows, columns + length)
    torch.testing.assert_close(loss, 9 * wanted.abs().mean())


def test_without_templates_the_patch_itself_is_held_fixed():
    block = noise(1, 5, 12, 12).requires_grad_()
    supervision(FeatureMap((block,), (12, 12)), [[5.0, 5.0]], [[9.0, 5.0]]).backward()
    assert (block.grad[0, :, 4] == 0).all()  # the patch's first row lies outside the shifted one
    assert (block.grad[0, :, 5:8, 4:7] != 0).all()


def test_an_original_template_is_read_where_its_handle_was():
    then, now = noise(1, 5, 12, 12), noise(1, 5, 12, 12, seed=1)
    anchor = Anchor(FeatureMap((then,), (12, 12)), torch.tensor([2.0, 2.0]))
    loss = supervision(FeatureMap((now,), (12, 12)), [[5.0, 6.0]], [[5.0, 9.0]], templates=[anchor])
    wanted, shifted = then[0, :, 1:4, 1:4], now[0, :, 4:7, 6:9]
    torch.testing.assert_close(loss, 9 * (wanted - shifted).abs().mean())


def test_pairs_add_up_and_reached_ones_do_not_count():
    features = FeatureMap((noise(1, 5, 12, 12),), (12, 12))
    handles, targets = [[3.0, 3.0], [8.0, 8.0]], [[9.0, 3.0], [8.0, 2.0]]
    both = supervision(features, handles, targets)
    one = supervision(features, handles[:1], targets[:1])
    two = supervision(features, handles, targets, torch.tensor([False, True]))
    torch.testing.assert_close(both, one + two)


def test_with_all_reached_the_loss_is_zero():
    features = FeatureMap((noise(1, 5, 12, 12),), (12, 12))
    assert supervision(features, [[3.0, 3.0]], [[3.0, 3.0]], ~ALL).item() == 0


BORDERS = [0.0, 1.0, 5.0, 10.0, 11.0]


@pytest.mark.slow
@pytest.mark.parametrize("radius", [0, 1, 4, 20])
def test_a_handle_anywhere_pulled_anywhere_gives_finite_gradients(radius):
    block = noise(1, 2, 6, 6).requires_grad_()
    features = FeatureMap((block,), (12, 12))
    points = list(itertools.product(BORDERS, BORDERS))
    for handle, target in itertools.product(points, points[::3]):
        if handle == target:
            continue
        loss = motion_supervision(
            features, torch.tensor([handle]), torch.tensor([target]), ALL, radius=radius
        )
        (gradient,) = torch.autograd.grad(loss, block)
        assert loss.isfinite()
        assert gradient.isfinite().all()


def test_originals_are_read_in_the_map_and_the_order_of_their_handles():
    maps = [FeatureMap((noise(1, 5, 12, 12, seed=n),), (12, 12)) for n in range(2)]
    kept = maps[0].around(torch.tensor([7.0, 2.0]), 3)
    places = [[3.0, 4.0], [6.5, 8.0], [7.0, 2.0], [9.0, 9.0]]
    anchors = [
        Anchor(features, torch.tensor(place))
        for features, place in zip([maps[0], maps[1], kept, maps[0]], places, strict=True)
    ]
    found = originals(anchors, 1)
    for square, number, (row, column) in zip(found, (0, 1, 0, 0), places, strict=True):
        rows, columns = (slice(int(x) - 1, int(x) + 2) for x in (row, column))
        wanted = maps[number].blocks[0][0, :, rows, columns]
        torch.testing.assert_close(square.T.reshape(5, 3, 3), wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_losses_are_single_precision_whatever_the_features(dtype):
    features = FeatureMap((noise(1, 5, 12, 12).to(dtype),), (24, 24))
    loss = supervision(features, [[5.0, 5.0]], [[5.0, 9.0]])
    assert loss.dtype == torch.float32
    assert loss.isfinite()


def test_the_region_loss_sums_over_the_protected_region():
    here, reference = noise(1, 4, 6, 6), noise(1, 4, 6, 6, seed=1)
    protected = torch.zeros(6, 6)
    protected[:, 3:] = 1
    wanted = (here - reference)[..., 3:].abs().sum()
    torch.testing.assert_close(region_loss(here, reference, protected), wanted)
    assert region_loss(here, here, protected) == 0


# ---------------------------------------------------------------- the prior


def standardized(shape=(1, 4, 8, 8)):
    """A latent whose channels have mean 0 and variance 1 exactly."""
    latent = noise(*shape)
    variance, mean = torch.var_mean(latent, dim=(0, 2, 3), correction=0, keepdim=True)
    return (latent - mean) / variance.sqrt()


def test_the_prior_is_the_forward_process_at_its_noise_level():
    path = Schedule(torch.tensor([0.9, 0.25]), steps=1, offset=1)
    prior = GaussianPrior.of(3 * standardized() + 2, path, 1)
    torch.testing.assert_close(prior.mean, torch.full((4,), 0.5 * 2))
    torch.testing.assert_close(prior.variance, torch.full((4,), 0.25 * 9 + 0.75))


def test_the_divergence_of_matching_statistics_is_zero():
    prior = GaussianPrior(torch.full((4,), 2.0), torch.full((4,), 9.0))
    assert prior.divergence(3 * standardized() + 2).item() == pytest.approx(0, abs=1e-5)


def test_the_divergence_is_that_of_torch():
    latent = noise(1, 4, 8, 8) * 1.7 - 0.4
    prior = GaussianPrior(torch.tensor([0.0, 0.1, 0.2, 0.3]), torch.tensor([1.0, 2.0, 3.0, 0.5]))
    variance, mean = torch.var_mean(latent, dim=(0, 2, 3), correction=0)
    normal = torch.distributions.Normal
    wanted = torch.distributions.kl_divergence(
        normal(mean, variance.sqrt()), normal(prior.mean, prior.variance.sqrt())
    )
    torch.testing.assert_close(prior.divergence(latent), wanted.sum())


@pytest.mark.parametrize(("scale", "shift"), [(1.5, 0), (0.5, 0), (1, 0.7), (1.3, -0.5)])
def test_the_prior_pulls_the_statistics_back(scale, shift):
    prior = GaussianPrior(torch.zeros(4), torch.ones(4))
    latent = (scale * standardized() + shift).requires_grad_()
    before = prior.divergence(latent)
    assert before > 0
    (gradient,) = torch.autograd.grad(before, latent)
    after = prior.divergence(latent - 5 * gradient)
    assert after < before
    variance, mean = torch.var_mean(latent - 5 * gradient, dim=(0, 2, 3), correction=0)
    assert (mean.abs() <= abs(shift) + 1e-6).all()
    assert ((variance.sqrt() - 1).abs() <= abs(scale - 1) + 1e-6).all()


def test_the_divergence_has_a_closed_form_for_one_shift():
    prior = GaussianPrior(torch.zeros(4), torch.ones(4))
    assert prior.divergence(standardized() + 1).item() == pytest.approx(4 * 0.5, rel=1e-4)
    assert prior.divergence(2 * standardized()).item() == pytest.approx(
        4 * 0.5 * (4 - 1 - math.log(4)), rel=1e-4
    )
