"""``bench inversion``: the noise that an inversion implies, and round trips."""

from __future__ import annotations

import json

import pytest
import torch

from dragwidget.__main__ import main
from dragwidget.bench.dev.inversion import critters, implied_noise, measure
from dragwidget.diffusion.loading import load_model
from dragwidget.drag.noise_path import Schedule


@pytest.fixture(scope="module")
def schedule() -> Schedule:
    return load_model("critters", device="cpu").schedule(50)


def test_noise_laid_on_a_latent_is_found_again(schedule):
    generator = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 1, 4, 64, 64, generator=generator)
    signal, level = schedule.levels(681)
    found = implied_noise(schedule, signal * clean + level * noise, clean, 681)
    assert found.deviation == pytest.approx(float(noise.std()), rel=1e-4)
    assert found.neighbours == pytest.approx(0, abs=0.03)


def test_smooth_noise_is_told_from_white(schedule):
    _, level = schedule.levels(681)
    clean = torch.zeros(1, 4, 32, 32)
    smooth = torch.randn(1, 4, 8, 8).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert implied_noise(schedule, level * smooth, clean, 681).neighbours > 0.6


@pytest.mark.slow
def test_an_image_is_inverted_and_rendered():
    model = load_model("critters", device="cpu")
    ((image, prompt),) = critters([898_976], 128)
    result = measure(model, image, prompt, steps=10, count=3)
    assert [noise.timestep for noise in result.noise] == [1, 101, 201]
    assert result.autoencoder_psnr > 30
    assert 20 < result.psnr < result.autoencoder_psnr + 1
    assert result.inversion_psnr > result.psnr
    assert result.latent_error > 0


@pytest.mark.slow
def test_the_command_writes_what_it_shows(tmp_path, capsys):
    out = tmp_path / "inversion.json"
    words = ["bench", "inversion", "--n", "1", "--steps", "5", "--count", "2"]
    assert main([*words, "--device", "cpu", "--json", str(out)]) == 0
    assert "inverted and rendered" in capsys.readouterr().out
    (result,) = json.loads(out.read_text())["results"]
    assert [noise["timestep"] for noise in result["noise"]] == [1, 201]


def test_more_steps_inverted_than_there_are_is_refused(capsys):
    assert main(["bench", "inversion", "--steps", "5", "--count", "6", "--device", "cpu"]) == 2
    assert "count must be 0 to 5" in capsys.readouterr().err
