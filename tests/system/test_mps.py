"""What Apple's MPS does not have runs on the CPU; decided by the device's kind alone."""

from __future__ import annotations

import pytest
import torch
from tiny_models import noise

from dragwidget.drag import warping
from dragwidget.drag.warping import sampling_device, warp_latent


@pytest.mark.parametrize(
    ("device", "where"), [("mps", "cpu"), ("cpu", "cpu"), ("cuda:1", "cuda:1"), ("meta", "meta")]
)
def test_a_latent_is_resampled_where_its_device_can(device, where):
    assert sampling_device(torch.device(device)) == torch.device(where)


def test_the_warp_resamples_there_and_comes_back(monkeypatch):
    asked = []
    monkeypatch.setattr(
        warping, "sampling_device", lambda device: asked.append(device) or torch.device("cpu")
    )
    latent, clean = noise(1, 4, 8, 8).double(), noise(1, 4, 8, 8, seed=1).double()
    points = torch.tensor([[2.0, 2.0]]), torch.tensor([[2.0, 5.0]])
    moved = warp_latent(latent, clean, torch.tensor(0.5), *points)
    assert asked == [latent.device]
    assert moved.dtype == latent.dtype
    assert moved.device == latent.device
    assert not torch.equal(moved, latent)
