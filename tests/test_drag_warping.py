"""Bending a latent carries what is at the handles to the targets."""

import torch

from dragwidget.drag.warping import warp_latent

ALPHA = torch.tensor(0.4)


def latents(side=16, alpha=ALPHA):
    """A clean latent, smooth, and the same under noise."""
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, side)] * 2, indexing="ij")
    clean = torch.stack([rows, columns, rows * columns, rows**2])[None]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    return clean, alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def test_the_content_at_the_handle_lies_at_the_target_under_the_noise_that_was_there():
    clean, latent = latents()
    handle, target = torch.tensor([[5.0, 4.0]]), torch.tensor([[9.0, 10.0]])
    bent = warp_latent(latent, clean, ALPHA, handle, target)
    noise = latent - ALPHA.sqrt() * clean
    expected = ALPHA.sqrt() * clean[0, :, 5, 4] + noise[0, :, 9, 10]
    torch.testing.assert_close(bent[0, :, 9, 10], expected)


def test_a_clean_latent_moves_by_fractions_of_a_cell():
    one = torch.tensor(1.0)
    clean, latent = latents(alpha=one)
    handle, target = torch.tensor([[5.5, 4.25]]), torch.tensor([[9.0, 10.0]])
    bent = warp_latent(latent, clean, one, handle, target)
    there = torch.tensor([5.5, 4.25]) * 2 / 15 - 1
    torch.testing.assert_close(bent[0, :2, 9, 10], there, rtol=0, atol=0.02)


def test_noise_alone_stays_where_it_is():
    nothing = torch.tensor(0.0)
    clean, latent = latents(alpha=nothing)
    points = torch.tensor([[3.0, 3.0]]), torch.tensor([[8.5, 6.5]])
    assert torch.equal(warp_latent(latent, clean, nothing, *points), latent)


def test_what_is_frozen_stays_as_it_is():
    clean, latent = latents()
    frozen = torch.ones(16, 16)
    frozen[2:12, 2:12] = 0
    points = torch.tensor([[5.0, 5.0]]), torch.tensor([[8.0, 8.0]])
    bent = warp_latent(latent, clean, ALPHA, *points, frozen)
    assert torch.equal(bent[..., frozen > 0], latent[..., frozen > 0])
    assert not torch.equal(bent, latent)


def test_no_way_to_go_changes_nothing():
    clean, latent = latents()
    point = torch.tensor([[5.0, 5.0]])
    assert torch.equal(warp_latent(latent, clean, ALPHA, point, point), latent)


def test_a_handle_at_the_border_does_not_crash():
    clean, latent = latents(8)
    for target in ((-0.25, -0.25), (7.75, 7.75), (0.0, 7.75)):
        bent = warp_latent(latent, clean, ALPHA, torch.tensor([[0.0, 0.0]]), torch.tensor([target]))
        assert bent.shape == latent.shape
        assert bent.isfinite().all()


def test_pairs_that_all_go_the_same_way_move_what_is_free_as_a_whole():
    one = torch.tensor(1.0)
    clean, latent = latents(alpha=one)
    frozen = torch.ones(16, 16)
    frozen[1:15, 1:15] = 0
    handles = torch.tensor([[4.0, 4.0], [4.0, 7.0]])
    way = torch.tensor([2.0, 1.0])
    bent = warp_latent(latent, clean, one, handles, handles + way, frozen)
    torch.testing.assert_close(bent[0, :2, 11, 11], clean[0, :2, 9, 10], rtol=0, atol=0.02)
    rigid = bent[0, :2, 11, 11]
    apart = handles + torch.stack([way, -way])
    bent = warp_latent(latent, clean, one, handles, apart, frozen)
    assert (bent[0, :2, 11, 11] - rigid).abs().max() > 0.1
