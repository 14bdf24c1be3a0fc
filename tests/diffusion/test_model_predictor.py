"""One pass of a real network: noise, decoder features, guidance, gradients, precision."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_models import noise, random_lora

from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import DragSettings
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.sd import Conditioning
from dragwidget.drag import GaussianPrior, drag

T = 681
LATENT = noise(1, 4, 16, 12)


@pytest.fixture(scope="module")
def text(tiny):
    return tiny.embed("a cat")


@pytest.fixture
def passes(tiny):
    """How often each part of the network has run, by name."""
    counts = dict.fromkeys(("down", "mid", "up0", "up1", "up2", "up3", "out"), 0)

    def counts_one(name):
        def hook(*_):
            counts[name] += 1

        return hook

    unet = tiny.unet
    modules = [unet.down_blocks[0], unet.mid_block, *unet.up_blocks, unet.conv_out]
    hooks = [
        module.register_forward_pre_hook(counts_one(name))
        for name, module in zip(counts, modules, strict=True)
    ]
    yield counts
    for hook in hooks:
        hook.remove()


def raw(model, latent, embeddings):
    with torch.no_grad():
        return model.unet(latent, T, encoder_hidden_states=embeddings).sample


# ---------------------------------------------------------------- what it says


def test_a_prediction_is_the_networks(tiny, text):
    got = tiny.predictor(Conditioning(text)).predict(LATENT, T)
    torch.testing.assert_close(got, raw(tiny, LATENT, text))


def test_a_prediction_with_a_lora_has_it_and_leaves_none_behind(tiny, text):
    plain = tiny.predictor(Conditioning(text))
    tuned = tiny.predictor(Conditioning(text), random_lora(tiny.unet))
    before = plain.predict(LATENT, T)
    assert (tuned.predict(LATENT, T) - before).abs().max() > 0.01
    assert torch.equal(plain.predict(LATENT, T), before)


def test_guidance_steers_away_from_the_negative_prompt(tiny, text):
    negative = tiny.embed("a dog")
    got = tiny.predictor(Conditioning(text, negative, 7.5)).predict(LATENT, T)
    without, wanted = raw(tiny, LATENT, negative), raw(tiny, LATENT, text)
    torch.testing.assert_close(got, without + 7.5 * (wanted - without), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_guidance_of_at_most_1_is_none(tiny, text, scale):
    conditioning = Conditioning(text, tiny.embed("a dog"), scale)
    assert not conditioning.guided
    assert conditioning.batch is text
    got = tiny.predictor(conditioning).predict(LATENT, T)
    assert torch.equal(got, tiny.predictor(Conditioning(text)).predict(LATENT, T))


def test_guidance_without_a_negative_prompt_is_none(text):
    assert not Conditioning(text, None, 7.5).guided


@pytest.mark.parametrize("blocks", [(0,), (3,), (1, 4), (4, 0), (2, 2), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("predict", [True, False])
def test_features_are_the_outputs_of_the_blocks_in_the_order_asked_for(tiny, text, blocks, predict):
    modules = [tiny.unet.mid_block, *tiny.unet.up_blocks]
    seen = {}
    hooks = [
        module.register_forward_hook(lambda _m, _i, output, k=k: seen.update({k: output}))
        for k, module in enumerate(modules)
    ]
    wanted = raw(tiny, LATENT, text)
    for hook in hooks:
        hook.remove()
    with torch.no_grad():
        output = tiny.predictor(Conditioning(text))(LATENT, T, blocks=blocks, predict=predict)
    assert len(output.features) == len(blocks)
    for block, feature in zip(blocks, output.features, strict=True):
        torch.testing.assert_close(feature, seen[block])
    if predict:
        torch.testing.assert_close(output.prediction, wanted)
    else:
        assert output.prediction is None


def test_guided_features_hold_both_branches_with_their_shares(tiny, text):
    g, negative = 3.0, tiny.embed("a dog")
    share = g / (2 * g - 1)

    def features(conditioning):
        with torch.no_grad():
            return tiny.predictor(conditioning)(LATENT, T, blocks=(3,)).features[0]

    wanted = torch.cat(
        [(1 - share) * features(Conditioning(negative)), share * features(Conditioning(text))],
        dim=1,
    )
    got = features(Conditioning(text, negative, g))
    assert got.shape[0] == 1
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("block", [5, 99])
def test_a_block_that_is_not_there_is_refused(tiny, text, block):
    with pytest.raises(ValueError, match=r"no feature block \d+: its blocks are 0 .* to 4"):
        tiny.predictor(Conditioning(text))(LATENT, T, blocks=(3, block))


# ---------------------------------------------------------------- what it costs


def test_without_a_prediction_the_pass_ends_after_the_last_block_needed(tiny, text, passes):
    tiny.predictor(Conditioning(text))(LATENT, T, blocks=(1, 3), predict=False)
    assert passes == {"down": 1, "mid": 1, "up0": 1, "up1": 1, "up2": 1, "up3": 0, "out": 0}


def instructions(mask=None):
    return DragInstructions.from_points([(20, 20), (36, 20)], size=(48, 64), mask=mask)


def dragging(model, text, latent=LATENT, steps=3, mask=None, prior=None, **settings):
    walk = drag(
        model.predictor(Conditioning(text)), latent, instructions(mask), model.schedule(50), T,
        DragSettings(steps=steps, feature_blocks=(3,), **settings), prior=prior,
    )  # fmt: skip
    return list(walk)


def test_a_drag_without_a_mask_never_runs_the_rest_of_the_network(tiny, text, passes):
    assert len(dragging(tiny, text)) == 3
    assert passes == {"down": 4, "mid": 4, "up0": 4, "up1": 4, "up2": 4, "up3": 0, "out": 0}


def test_a_drag_with_a_mask_runs_the_whole_network_once_a_step(tiny, text, passes):
    mask = torch.zeros(64, 48).bool()
    mask[:, :40] = True
    assert len(dragging(tiny, text, mask=mask.numpy())) == 3
    assert set(passes.values()) == {4}


def test_a_pass_cut_short_leaves_no_hook_behind(tiny, text):
    predictor = tiny.predictor(Conditioning(text), random_lora(tiny.unet))
    predictor(LATENT, T, blocks=(3,), predict=False)
    hooks = itertools.chain.from_iterable(m._forward_hooks for m in tiny.unet.modules())
    assert list(hooks) == []


def test_an_error_in_the_network_is_passed_on_and_leaves_no_hook_behind(tiny, text):
    predictor = tiny.predictor(Conditioning(text), random_lora(tiny.unet))
    with pytest.raises(RuntimeError, match="channels"):
        predictor(noise(1, 5, 8, 8), T, blocks=(3,))
    hooks = itertools.chain.from_iterable(m._forward_hooks for m in tiny.unet.modules())
    assert list(hooks) == []


# ---------------------------------------------------------------- gradients


def test_the_latent_takes_gradients_and_the_weights_never_do(tiny, text):
    latent = LATENT.clone().requires_grad_()
    predictor = tiny.predictor(Conditioning(text), random_lora(tiny.unet))
    output = predictor(latent, T, blocks=(3,))
    (output.prediction.square().sum() + output.features[0].square().sum()).backward()
    assert latent.grad.isfinite().all()
    assert (latent.grad != 0).any()
    for network in (tiny.unet, tiny.vae, tiny.text_encoder):
        for parameter in network.parameters():
            assert parameter.grad is None
            assert not parameter.requires_grad


def test_a_drag_gives_the_weights_no_gradients(tiny, text):
    prior = GaussianPrior.of(LATENT, tiny.schedule(50), T)
    dragging(tiny, text, prior=prior, prior_weight=1.0)
    assert all(parameter.grad is None for parameter in tiny.unet.parameters())


def test_the_gradient_is_the_same_whether_the_pass_is_cut_short_or_not(tiny, text):
    gradients = []
    for predict in (True, False):
        latent = LATENT.clone().requires_grad_()
        predictor = tiny.predictor(Conditioning(text))
        features = predictor(latent, T, blocks=(3,), predict=predict).features[0]
        gradients += torch.autograd.grad(features.square().sum(), latent)
    assert torch.equal(*gradients)


# ---------------------------------------------------------------- precision


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_network_of_any_precision_is_dragged_in_single_precision(tiny, tiny_folder, text, dtype):
    model = load_model(tiny_folder, device="cpu", dtype=dtype)
    mask = torch.ones(64, 48).bool()
    mask[:8] = False
    steps = dragging(model, text, mask=mask.numpy())
    exact = dragging(tiny, text, mask=mask.numpy())
    assert len(steps) == 3
    for step in steps:
        assert step.latent.dtype == torch.float32
        assert step.latent.isfinite().all()
    assert steps[0].loss == pytest.approx(exact[0].loss, rel=0.1)
    assert model.predictor(Conditioning(text)).predict(LATENT, T).dtype == torch.float32
