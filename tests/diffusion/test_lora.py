"""LoRA files of every form, held to what peft and diffusers make of the same files."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_models import noise, random_lora

from dragwidget.diffusion.loading.reading import quiet
from dragwidget.diffusion.lora import LoRA, enabled, load_lora, projections, save_lora

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
FILE = "pytorch_lora_weights.safetensors"


def prediction(unet):
    with torch.no_grad():
        return unet(noise(1, 4, 8, 8), 321, encoder_hidden_states=noise(1, 77, 16)).sample


def with_lora(unet, lora, weight=1.0):
    with enabled(unet, lora, weight):
        return prediction(unet)


def assert_same(got, wanted, plain):
    assert (wanted - plain).abs().max() > 0.1  # it does something at all
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=5e-4)


@pytest.fixture(scope="module")
def unet(tiny):
    return tiny.unet


@pytest.fixture(scope="module")
def plain(unet):
    return prediction(unet)


def diffusers_prediction(unet, folder):
    """What diffusers' own pipeline makes of the LoRA in a folder."""
    network = copy.deepcopy(unet)
    with quiet():
        pipeline = StableDiffusionPipeline(
            unet=network, vae=None, text_encoder=None, tokenizer=None, scheduler=None,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
        pipeline.load_lora_weights(folder, weight_name=FILE)
    return prediction(network)


# ---------------------------------------------------------------- on and off


def merged(unet, lora, weight=1.0):
    """A copy whose weights have the LoRA added to them."""
    network = copy.deepcopy(unet)
    for path, layer in projections(network).items():
        layer.weight.data += weight * lora.up[path] @ lora.down[path]
    return network


@pytest.mark.parametrize("weight", [1.0, 0.5, -1.0])
def test_a_lora_adds_its_matrices_to_the_weights(unet, plain, weight):
    lora = random_lora(unet)
    assert_same(with_lora(unet, lora, weight), prediction(merged(unet, lora, weight)), plain)


def test_a_lora_covers_every_attention_projection(unet):
    paths = set(LoRA.initial(unet, 2, torch.Generator()).down)
    wanted = {
        name
        for name, layer in unet.named_modules()
        if isinstance(layer, torch.nn.Linear) and (".attn1." in name or ".attn2." in name)
    }
    assert paths == wanted
    assert len(paths) == 2 * 10 * 4


def test_an_untrained_lora_changes_nothing(unet, plain):
    assert torch.equal(with_lora(unet, LoRA.initial(unet, 4, torch.Generator())), plain)


@pytest.mark.parametrize(("lora", "weight"), [(None, 1.0), ("random", 0.0)])
def test_no_lora_and_weight_0_are_off(unet, plain, lora, weight):
    lora = random_lora(unet) if lora else None
    assert torch.equal(with_lora(unet, lora, weight), plain)


def test_a_lora_is_off_again_afterwards(unet, plain):
    with_lora(unet, random_lora(unet))
    assert torch.equal(prediction(unet), plain)
    assert not any(layer._forward_hooks for layer in projections(unet).values())


def test_a_lora_is_off_again_after_an_error(unet, plain):
    with pytest.raises(KeyboardInterrupt), enabled(unet, random_lora(unet)):
        raise KeyboardInterrupt
    assert torch.equal(prediction(unet), plain)


def test_a_lora_that_does_not_fit_leaves_nothing_on(unet, plain):
    fitting = random_lora(unet)
    other = LoRA({**fitting.down, "nowhere": noise(2, 2)}, {**fitting.up, "nowhere": noise(2, 2)})
    with pytest.raises(KeyError), enabled(unet, other):
        pass
    assert torch.equal(prediction(unet), plain)


def test_two_loras_add_up(unet, plain):
    one, other = random_lora(unet), random_lora(unet, rank=2)
    with enabled(unet, one):
        got = with_lora(unet, other)
    assert_same(got, prediction(merged(merged(unet, one), other)), plain)


# ---------------------------------------------------------------- what others write


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"r": 4, "lora_alpha": 4},
        {"r": 4, "lora_alpha": 10},
        {"r": 4, "lora_alpha": 10, "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"attn2.to_k": 2}},
        {"r": 4, "lora_alpha": 8, "alpha_pattern": {"to_v": 3, r"down_blocks\.0.*to_q": 1}},
    ],
    ids=str,
)
def test_a_lora_of_peft_is_what_peft_makes_of_it(unet, plain, tmp_path, options):
    network = copy.deepcopy(unet)
    with torch.random.fork_rng():
        config = LoraConfig(target_modules=TARGETS, init_lora_weights=False, **options)
        theirs = get_peft_model(network, config)
    theirs.save_pretrained(tmp_path)
    lora = load_lora(tmp_path, unet)
    assert_same(with_lora(unet, lora), prediction(theirs), plain)
    one_file = load_lora(tmp_path / "adapter_model.safetensors", unet)
    assert torch.equal(with_lora(unet, one_file), with_lora(unet, lora))


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [4, 10])
@pytest.mark.parametrize("said", [False, True])
def test_a_lora_of_diffusers_is_what_diffusers_makes_of_it(unet, plain, tmp_path, alpha, said):
    """Its alpha counts where the file says it; diffusers itself takes it for the rank elsewhere."""
    network = copy.deepcopy(unet)
    with torch.random.fork_rng():
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=TARGETS, init_lora_weights=False)
        network.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=convert_state_dict_to_diffusers(get_peft_model_state_dict(network)),
        unet_lora_adapter_metadata=config.to_dict() if said else None,
    )
    got = with_lora(unet, load_lora(tmp_path, unet))
    assert_same(got, diffusers_prediction(unet, tmp_path), plain)
    if said or alpha == 4:
        assert_same(got, prediction(network), plain)


def old_names(lora, name):
    """The LoRA in the words of diffusers before 0.22; ``name`` makes a key of path and matrix."""
    matrices = {"down": lora.down, "up": lora.up}
    return {
        name(path, kind): matrix
        for kind, by_path in matrices.items()
        for path, matrix in by_path.items()
    }


def of_processor(path, kind):
    attention, projection = path.replace("to_out.0", "to_out").rsplit(".", 1)
    return f"unet.{attention}.processor.{projection}_lora.{kind}.weight"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [lambda path, kind: f"unet.{path}.lora.{kind}.weight", of_processor],
    ids=["layers", "processors"],
)
def test_a_lora_of_old_diffusers_is_what_diffusers_makes_of_it(unet, plain, tmp_path, name):
    save_file(old_names(random_lora(unet), name), tmp_path / FILE)
    got = with_lora(unet, load_lora(tmp_path, unet))
    assert_same(got, diffusers_prediction(unet, tmp_path), plain)


@pytest.mark.parametrize("prefix", ["unet.unet.", "unet.", "", "unet.unet.unet."])
def test_every_leading_prefix_of_the_authors_is_stripped(unet, plain, tmp_path, prefix):
    lora = random_lora(unet)
    weights = old_names(lora, lambda path, kind: f"{prefix}{path}.lora.{kind}.weight")
    save_file(weights, tmp_path / FILE)
    got = with_lora(unet, load_lora(tmp_path, unet))
    assert_same(got, with_lora(unet, lora), plain)


def test_an_alpha_beside_its_matrices_counts(unet, plain, tmp_path):
    lora = random_lora(unet)
    weights = old_names(lora, lambda path, kind: f"unet.{path}.lora.{kind}.weight")
    weights |= {f"unet.{path}.alpha": torch.tensor(2.0) for path in lora.down}
    save_file(weights, tmp_path / FILE)
    got = with_lora(unet, load_lora(tmp_path, unet))
    assert_same(got, with_lora(unet, lora, 2 / 4), plain)


# ---------------------------------------------------------------- what we write


@pytest.mark.slow
def test_what_is_saved_is_what_diffusers_loads(unet, plain, tmp_path):
    lora = random_lora(unet)
    assert save_lora(lora, tmp_path, {"prompt": "a cat"}) == tmp_path / FILE
    assert_same(diffusers_prediction(unet, tmp_path), with_lora(unet, lora), plain)


@pytest.mark.parametrize("name", ["new/folder", "mine.safetensors"])
def test_a_saved_lora_comes_back_bit_for_bit(unet, tmp_path, name):
    lora = random_lora(unet).map(lambda matrix: matrix.clone().requires_grad_())
    back = load_lora(save_lora(lora, tmp_path / name), unet)
    assert back.down.keys() == lora.down.keys()
    for path in lora.down:
        assert torch.equal(back.down[path], lora.down[path])
        assert torch.equal(back.up[path], lora.up[path])


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
)
def test_matrices_of_any_precision_are_read_in_single_precision(unet, tmp_path, dtype):
    lora = random_lora(unet).map(lambda matrix: matrix.to(dtype))
    back = load_lora(save_lora(lora, tmp_path), unet)
    for path, down in lora.down.items():
        assert torch.equal(back.down[path], down.float())
        assert torch.equal(back.up[path], lora.up[path].float())
