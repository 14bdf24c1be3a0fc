"""Fine-tuning a LoRA on one image."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_models import noise, write_model

from dragwidget.data.settings import LoRASettings
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import LoRA, enabled
from dragwidget.diffusion.lora.training import LoRABatch, noised_batches, train_lora
from dragwidget.diffusion.sd import Conditioning

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def text(tiny):
    return tiny.encode_text("a cat", (64, 48))


def batches(count=1, size=2, seed=0):
    return [
        LoRABatch(
            noise(size, 4, 8, 8, seed=seed),
            noise(size, 4, 8, 8, seed=seed + k + 1),
            torch.full((size,), 300 + k),
        )
        for k in range(count)
    ]


def train(model, text, given, **settings):
    settings = LoRASettings(**{"rank": 2, "steps": len(given), **settings})
    return list(train_lora(model, text, given, settings))


def matrices(lora):
    return [*lora.down.values(), *lora.up.values()]


# ---------------------------------------------------------------- training


@pytest.mark.slow
def test_training_fits_the_noise(tiny, text):
    steps = train(tiny, text, batches() * 12, learning_rate=0.05)
    assert [step.index for step in steps] == list(range(1, 13))
    assert steps[-1].loss < 0.9 * steps[0].loss


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_what_the_model_predicts(tmp_path, prediction_type):
    folder = write_model(tmp_path / "model", scheduler={"prediction_type": prediction_type})
    model = load_model(folder, device="cpu", dtype="float32")
    (batch,), text = batches(), model.embed("a cat")
    a = model.alphas_cumprod[300]
    noised = a.sqrt() * batch.latents + (1 - a).sqrt() * batch.noise
    velocity = a.sqrt() * batch.noise - (1 - a).sqrt() * batch.latents
    wanted = velocity if prediction_type == "v_prediction" else batch.noise
    with torch.no_grad():
        said = model.unet(noised, batch.timesteps, text.expand(2, -1, -1)).sample
    (step,) = train(model, Conditioning(text), [batch])
    assert step.loss == pytest.approx(float(F.mse_loss(said, wanted)), rel=1e-4)


def test_the_first_loss_is_that_without_a_lora_and_then_it_changes_something(tiny, text):
    lora = train(tiny, text, batches(3))[-1].lora
    assert any((matrix != 0).any() for matrix in lora.up.values())
    latent, context = noise(1, 4, 8, 8), text.prompt
    with torch.no_grad():
        plain = tiny.unet(latent, 300, context).sample
        with enabled(tiny.unet, lora):
            assert not torch.equal(tiny.unet(latent, 300, context).sample, plain)


def test_the_networks_weights_are_not_changed_and_take_no_gradient(tiny, text):
    before = {name: tensor.clone() for name, tensor in tiny.unet.state_dict().items()}
    train(tiny, text, batches(2))
    assert all(torch.equal(t, before[name]) for name, t in tiny.unet.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in tiny.unet.parameters())


def test_every_step_has_a_lora_of_its_own(tiny, text):
    first, second = train(tiny, text, batches(2))
    assert not any(m.requires_grad for m in matrices(first.lora))
    assert any(not torch.equal(a, b) for a, b in
               zip(matrices(first.lora), matrices(second.lora), strict=True))  # fmt: skip


def test_the_lora_that_is_given_is_not_changed(tiny, text):
    initial = LoRA.initial(tiny.unet, 2, torch.Generator().manual_seed(0))
    before = [matrix.clone() for matrix in matrices(initial)]
    list(train_lora(tiny, text, batches(2), LoRASettings(rank=2, steps=2), initial))
    assert all(torch.equal(a, b) for a, b in zip(before, matrices(initial), strict=True))


def test_training_stops_after_its_steps_and_draws_no_batch_more(tiny, text):
    endless = itertools.count()
    given = (batches(seed=k)[0] for k in endless)
    assert len(list(train_lora(tiny, text, given, LoRASettings(rank=2, steps=2)))) == 2
    assert next(endless) == 2


def test_no_steps_train_nothing(tiny, text):
    assert list(train_lora(tiny, text, batches(), LoRASettings(steps=0))) == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits(tiny, text):
    def last(seed):
        settings = LoRASettings(rank=2, steps=2, seed=seed, batch_size=1)
        *_, step = train_lora(tiny, text, noised_batches(tiny, PICTURE, settings), settings)
        return matrices(step.lora)

    assert all(torch.equal(a, b) for a, b in zip(last(1), last(1), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(last(1), last(2), strict=True))


def test_a_loss_that_is_not_finite_is_refused_and_the_last_lora_is_good(tiny, text):
    good, bad = batches(2)
    bad.latents[0, 0, 0, 0] = torch.nan
    walk = train_lora(tiny, text, [good, bad], LoRASettings(rank=2, steps=2))
    first = next(walk)
    with pytest.raises(ArithmeticError, match=r"LoRA step 2 was refused.*not finite"):
        next(walk)
    assert all(matrix.isfinite().all() for matrix in matrices(first.lora))
    assert not any(module._forward_hooks for module in tiny.unet.modules())


@pytest.mark.slow
@pytest.mark.parametrize("mode", [True, False])
def test_the_consumers_gradient_mode_is_left_alone(tiny, text, mode):
    with torch.set_grad_enabled(mode):
        for _ in train_lora(tiny, text, batches(2), LoRASettings(rank=2, steps=2)):
            assert torch.is_grad_enabled() is mode


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_half_precision_network_trains_a_lora_in_single_precision(tiny_folder, tiny, text, dtype):
    model = load_model(tiny_folder, device="cpu", dtype=dtype)
    steps, exact = (train(m, text, batches() * 3, learning_rate=0.01) for m in (model, tiny))
    assert {m.dtype for m in matrices(steps[-1].lora)} == {torch.float32}
    assert all(m.isfinite().all() for m in matrices(steps[-1].lora))
    assert steps[-1].loss == pytest.approx(exact[-1].loss, rel=0.05)


# ---------------------------------------------------------------- batches


def first(count, settings, image=PICTURE, model=None):
    return list(itertools.islice(noised_batches(model, image, settings), count))


def test_the_whole_image_is_seen_by_default(tiny):
    (batch,) = first(1, LoRASettings(batch_size=3), model=tiny)
    assert batch.latents.shape == batch.noise.shape == (3, 4, 8, 12)
    assert batch.timesteps.shape == (3,)
    spread = tiny.posterior(PICTURE).std * 0.18215
    assert ((batch.latents - tiny.encode(PICTURE)).abs() < 6 * spread).all()
    assert not torch.equal(batch.latents[0], batch.latents[1])  # samples of the posterior


def test_noise_and_timesteps_are_those_of_the_forward_process(tiny):
    drawn = first(50, LoRASettings(batch_size=4), model=tiny)
    timesteps = torch.cat([batch.timesteps for batch in drawn])
    assert timesteps.min() >= 0
    assert timesteps.max() <= 999
    assert 400 < timesteps.float().mean() < 600
    everything = torch.cat([batch.noise for batch in drawn])
    assert abs(everything.mean()) < 0.02
    assert abs(everything.std() - 1) < 0.02


@pytest.mark.parametrize("shape", [(32, 48), (64, 32), (32, 32)])
def test_random_crops_are_squares_of_the_shorter_side(tiny, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    settings = LoRASettings(batch_size=2, random_crop=True)
    for batch in first(3, settings, image, tiny):
        assert batch.latents.shape == (2, 4, 8, 8)


def test_random_crops_reach_both_ends_of_the_image(tiny):
    """The image is a ramp, so a crop tells where it comes from."""
    ramp = np.broadcast_to(np.arange(48, dtype=np.uint8)[None, :, None] * 5, (32, 48, 3))
    seen = []
    encode = tiny.posterior

    class Watching:
        training_steps = tiny.training_steps
        sample_posterior = staticmethod(tiny.sample_posterior)

        @staticmethod
        def posterior(pixels):
            seen.append(int(pixels[0, 0, 0]) // 5)
            return encode(pixels)

    first(40, LoRASettings(batch_size=2, random_crop=True), ramp, Watching())
    assert min(seen) == 0
    assert max(seen) == 16
    assert len(set(seen)) > 10
