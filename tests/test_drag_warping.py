"""Bending a latent carries what is at the handles to the targets."""

import torch

from dragwidget.drag.warping import warp_latent


def test_the_cell_at_the_handle_lies_at_the_target():
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    handle, target = torch.tensor([[5.0, 4.0]]), torch.tensor([[9.0, 10.0]])
    bent = warp_latent(latent, handle, target)
    torch.testing.assert_close(bent[0, :, 9, 10], latent[0, :, 5, 4], rtol=0, atol=0)


def test_every_value_is_one_that_was_there():
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    bent = warp_latent(latent, torch.tensor([[3.0, 3.0]]), torch.tensor([[8.5, 6.5]]))
    assert torch.isin(bent, latent).all()


def test_what_is_frozen_stays_as_it_is():
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    frozen = torch.ones(16, 16)
    frozen[2:12, 2:12] = 0
    bent = warp_latent(latent, torch.tensor([[5.0, 5.0]]), torch.tensor([[8.0, 8.0]]), frozen)
    assert torch.equal(bent[..., frozen > 0], latent[..., frozen > 0])
    assert not torch.equal(bent, latent)


def test_no_way_to_go_changes_nothing():
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    point = torch.tensor([[5.0, 5.0]])
    assert torch.equal(warp_latent(latent, point, point), latent)


def test_a_handle_at_the_border_does_not_crash():
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for target in ((-0.25, -0.25), (7.75, 7.75), (0.0, 7.75)):
        bent = warp_latent(latent, torch.tensor([[0.0, 0.0]]), torch.tensor([target]))
        assert bent.shape == latent.shape
        assert bent.isfinite().all()
