"""Training of the embedded model, at a size that takes seconds."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from dragwidget.__main__ import main
from dragwidget.bench.dev.inversion import critters, measure, summarise
from dragwidget.demo.scenes import captions, sample_scenes
from dragwidget.demo.train import train
from dragwidget.demo.training.architecture import IMAGE_SIZE, Networks, Preset, Stage
from dragwidget.demo.training.export import SIZE_LIMIT
from dragwidget.demo.training.feed import VALIDATION_SEEDS, Bank, images, shortened
from dragwidget.demo.training.gradient_workers import SharedGradients
from dragwidget.demo.training.muon import orthogonalize
from dragwidget.demo.training.tokenizer import MAX_TOKENS, write_tokenizer
from dragwidget.demo.training.unet_stage import posterior_noise
from dragwidget.diffusion.loading import CRITTERS, EMBEDDED, load_model

CPU = torch.device("cpu")
STAGE = Stage(steps=12, minutes=None, batch=2, learning_rate=1e-3, warmup=2)
TINY = Preset(
    networks=Networks(
        autoencoder_channels=(8, 8, 8),
        unet_channels=(8, 16, 16),
        text_width=16,
        text_layers=1,
        norm_groups=4,
    ),
    autoencoder=STAGE,
    unet=STAGE,
    drags=STAGE,
    first_bank=4,
    new_images=1,
    first_drags=4,
    new_drags=1,
    measured=4,
    samples=1,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny training run."""
    out = tmp_path_factory.mktemp("run")
    records = list(train(TINY, out, size=32))
    assert [r["stage"] for r in records] == ["autoencoder", "unet", "drags"]
    return out


def weights(folder: Path) -> dict[str, Any]:
    return {
        name: torch.load(folder / f"{name}.checkpoint.pt", weights_only=True)["averages"]
        for name in ("autoencoder", "unet", "drags")
    }


@pytest.mark.slow
def test_model_folder_loads_and_is_small(folder: Path) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "model")
    assert pipeline.vae.config.scaling_factor == 1.0
    saved = load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {t.dtype for t in saved.values()} == {torch.float16}
    assert sum(f.stat().st_size for f in (folder / "model").rglob("*")) < 25_000_000
    assert (folder / "samples.png").exists()
    assert (folder / "unet.png").exists()
    assert "loss" in (folder / "unet.csv").read_text()


def test_shipped_model_is_whole_small_and_signed() -> None:
    files = [f for f in CRITTERS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) < len(EMBEDDED) * SIZE_LIMIT
    assert not [f.name for f in files if f.suffix in {".bin", ".pt", ".pkl"}]
    for name in ("unet", "vae", "text_encoder"):
        for weights in (CRITTERS / name).glob("*.safetensors"):
            tensors = load_file(weights).values()
            assert all(t.dtype == torch.float16 and t.isfinite().all() for t in tensors)
    assert "dragwidget demo train" in (CRITTERS / "README.md").read_text("utf-8")


def test_each_embedded_model_is_loaded_by_its_name() -> None:
    models = {name: load_model(name, device="cpu") for name in EMBEDDED}
    assert {name: model.name for name, model in models.items()} == {name: name for name in EMBEDDED}
    assert len({model.fingerprint for model in models.values()}) == len(models)
    assert models["critters-base"].encoding == "sample"
    assert models["critters-base"].recommended.lora.steps == 80


@pytest.mark.slow
def test_inversion_with_the_base_model_reaches_noise() -> None:
    model = load_model("critters-base", device="cpu")
    results = [measure(model, *pair) for pair in critters(VALIDATION_SEEDS[:2], IMAGE_SIZE)]
    last = summarise(results)[-1]
    assert last.timestep == 681
    assert last.deviation > 0.85
    assert abs(last.neighbours) < 0.05
    assert all(result.psnr > 30 for result in results)


@pytest.mark.slow
def test_resumed_run_has_the_same_bits(folder: Path, tmp_path: Path) -> None:
    often = replace(STAGE, checkpoint_minutes=0.0)
    preset = replace(TINY, autoencoder=often, unet=often, drags=often)
    # Abandoned at the tenth step of either stage, as by a power cut; then at the other's.
    list(islice(train(preset, tmp_path, size=32), 1))
    list(islice(train(preset, tmp_path, size=32, resume=True), 1))
    list(islice(train(preset, tmp_path, size=32, resume=True), 2))
    list(train(preset, tmp_path, size=32, resume=True))
    for name, tensors in weights(folder).items():
        for key, value in weights(tmp_path)[name].items():
            assert torch.equal(value, tensors[key]), key


@pytest.mark.slow
def test_a_stage_goes_on_with_a_finished_model(folder: Path, tmp_path: Path) -> None:
    still = replace(STAGE, learning_rate=1e-12)
    preset = replace(TINY, unet=still, drags=still)
    list(train(preset, tmp_path, stages=["unet"], start=folder / "model", size=32))
    for part in ("unet", "vae", "text_encoder"):
        (ours,) = (tmp_path / "model" / part).glob("*.safetensors")
        before, after = load_file(folder / "model" / part / ours.name), load_file(ours)
        for name, tensor in before.items():
            assert torch.allclose(after[name].float(), tensor.float(), atol=1e-3), name
    config = (tmp_path / "model" / "vae" / "config.json").read_text()
    assert str(folder) not in config
    words = "tokenizer/vocab.json"
    assert (tmp_path / "model" / words).read_bytes() == (folder / "model" / words).read_bytes()


@pytest.mark.slow
def test_going_on_is_resumed_to_the_same_bits(folder: Path, tmp_path: Path) -> None:
    often = replace(STAGE, checkpoint_minutes=0.0)
    preset = replace(TINY, autoencoder=often, unet=often)
    asked: Any = {"stages": ("autoencoder", "unet"), "start": folder / "model", "size": 32}
    list(train(preset, tmp_path / "whole", **asked))
    list(islice(train(preset, tmp_path / "parts", **asked), 1))
    list(islice(train(preset, tmp_path / "parts", resume=True, **asked), 1))
    list(train(preset, tmp_path / "parts", resume=True, **asked))
    for name in ("autoencoder", "unet"):
        one, other = (
            torch.load(tmp_path / run / f"{name}.checkpoint.pt", weights_only=True)["averages"]
            for run in ("whole", "parts")
        )
        for key, value in one.items():
            assert torch.equal(value, other[key]), key


def test_stages_that_hang_in_the_air_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["demo", "train", "--out", str(tmp_path / "out")]
    assert main([*out, "--stages", "unet"]) == 2
    assert "goes on with a model: give its folder" in capsys.readouterr().err
    assert main([*out, "--stages", "autoencoder", "drags"]) == 2
    assert "in a row" in capsys.readouterr().err


@pytest.mark.slow
def test_the_latents_of_a_trained_autoencoder_have_the_deviations_asked_for(folder: Path) -> None:
    vae = StableDiffusionPipeline.from_pretrained(folder / "model").vae
    drawn, _ = images(range(256), 32, scribble_every=10**9, device=CPU)
    with torch.no_grad():
        posterior = vae.encode(drawn).latent_dist
    assert float(posterior.mean.square().mean().sqrt()) == pytest.approx(1.0, abs=0.01)
    wanted = torch.full_like(posterior.std, TINY.posterior_deviation)
    assert torch.allclose(posterior.std, wanted, rtol=1e-2)


def test_a_unet_learns_samples_of_the_posterior(folder: Path) -> None:
    vae = StableDiffusionPipeline.from_pretrained(folder / "model").vae
    means = torch.zeros(8, 4, 16, 16)
    noise = posterior_noise(means, vae, torch.Generator().manual_seed(0))
    assert float(noise.std()) == pytest.approx(TINY.posterior_deviation, rel=0.05)
    again = posterior_noise(means, vae, torch.Generator().manual_seed(1))
    assert not torch.equal(noise, again)


@pytest.mark.slow
def test_gradient_workers_add_gradients(tmp_path: Path) -> None:
    patient = replace(TINY, unet=replace(STAGE, steps=10**6, minutes=5.0))
    for record in train(patient, tmp_path, size=32, gradient_workers=1):
        if record.get("images", 0) > record["step"] * STAGE.batch:
            return
    pytest.fail("no gradient came from the worker")


def test_merged_gradient_is_the_mean_over_all_images() -> None:
    ours, theirs = ([torch.nn.Parameter(torch.zeros(2, 3))] for _ in range(2))
    shared = SharedGradients(ours)
    theirs[0].grad = torch.full((2, 3), 5.0)
    shared.give(theirs, count=1)
    for expected, count in [(2.0, 4), (1.0, 3)]:  # the second time nothing has come in
        ours[0].grad = torch.ones(2, 3)
        assert shared.merge(ours, count=3) == count
        assert torch.equal(ours[0].grad, torch.full((2, 3), expected))


def test_a_used_folder_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(ValueError, match="resume it, or choose another"):
        next(train(TINY, folder))


def test_tokenizer_knows_its_words_and_takes_any_other(tmp_path: Path) -> None:
    said = captions(sample_scenes(range(400)))
    tokenizer = write_tokenizer(said, tmp_path)
    for caption in said[:50]:
        pieces = tokenizer.convert_ids_to_tokens(tokenizer(caption).input_ids)
        assert len(pieces) <= MAX_TOKENS
        assert [p[: -len("</w>")] for p in pieces[1:-1]] == caption.replace(",", " ,").split()
    for odd in ("", "zebra 🦊", "Über-naïve?", "\x00 <|x|>", "fox " * 500):
        ids = tokenizer(odd, padding="max_length", truncation=True, max_length=MAX_TOKENS).input_ids
        assert len(ids) == MAX_TOKENS
        assert 0 <= min(ids) <= max(ids) < len(tokenizer)


def test_orthogonalize_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in [(3, 8, 20), (2, 20, 8), (2, 8, 64)]:
        values = torch.linalg.svdvals(orthogonalize(torch.randn(shape)).float())
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_bank_is_a_function_of_its_length() -> None:
    def make(seeds: Any) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = torch.tensor(list(seeds)).view(-1, 1)
        return numbers.float(), numbers

    bank = Bank(make, chunk=4)
    bank.grow(3)
    bank.grow(9)
    assert len(bank) == 12
    latents, tokens = bank.draw(64, torch.Generator().manual_seed(0))
    assert torch.equal(latents.long(), tokens)
    assert set(tokens.flatten().tolist()) == set(range(12))


def test_images_hold_scribbles_now_and_then() -> None:
    drawn, texts = images(range(20), 32, scribble_every=10, device=CPU)
    assert [i for i, t in enumerate(texts) if t == "a scribble"] == [9, 19]
    assert drawn.shape == (20, 3, 32, 32)
    assert drawn.abs().max() <= 1


def test_half_the_captions_lose_phrases_and_none_gains_or_loses_all() -> None:
    seeds = range(400)
    whole = captions(sample_scenes(seeds))
    short = shortened(whole, seeds)
    changed = sum(a != b for a, b in zip(whole, short, strict=True)) / len(seeds)
    assert 0.4 < changed < 0.6
    for before, after in zip(whole, short, strict=True):
        assert after
        rest = iter(before.split(", "))
        assert all(phrase in rest for phrase in after.split(", "))  # in their order
    assert shortened(whole[7:8], [7]) == short[7:8]


def test_training_without_matplotlib_is_refused_before_it_begins(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "train", "--out", str(tmp_path / "out")]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
