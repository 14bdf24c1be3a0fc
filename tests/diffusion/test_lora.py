"""LoRA files of every form, held to what peft and diffusers make of the same files."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_models import make_unet, noise, pickled_trap, random_lora

from dragwidget.diffusion.lora import LoRA, enabled, load_lora, projections, save_lora
from dragwidget.diffusion.reading import quiet

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


def test_half_precision_matrices_are_read_in_single_precision(unet, tmp_path):
    lora = random_lora(unet).map(torch.Tensor.half)
    back = load_lora(save_lora(lora, tmp_path), unet)
    assert {m.dtype for m in (*back.down.values(), *back.up.values())} == {torch.float32}


# ---------------------------------------------------------------- what is refused


def test_a_lora_of_another_model_is_refused(unet, tmp_path):
    wider = make_unet((16, 16, 32, 32))
    save_lora(random_lora(wider), tmp_path / "wide")
    with pytest.raises(ValueError, match=r"belongs to another model: its down_blocks.* channels"):
        load_lora(tmp_path / "wide", unet)
    deeper = make_unet(layers_per_block=2)
    save_lora(random_lora(deeper), tmp_path / "deep")
    with pytest.raises(ValueError, match=r"this LoRA changes down_blocks.0.attentions.1.*another"):
        load_lora(tmp_path / "deep", unet)


def test_a_lora_of_more_than_attention_is_refused(unet, tmp_path):
    network = copy.deepcopy(unet)
    config = LoraConfig(r=2, target_modules=[*TARGETS, "proj_in"])
    get_peft_model(network, config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"changes .*proj_in, .*more than is supported"):
        load_lora(tmp_path, unet)


@pytest.mark.parametrize("kept", [0, 4, 0.5])
def test_a_file_cut_off_is_refused(unet, tmp_path, kept):
    file = save_lora(random_lora(unet), tmp_path)
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if kept < 1 else kept])
    with pytest.raises(ValueError, match="is not a readable safetensors file"):
        load_lora(file, unet)


@pytest.mark.parametrize("gone", ["lora_A", "lora_B"])
def test_a_lora_without_half_of_a_layer_is_refused(unet, tmp_path, gone):
    file = save_lora(random_lora(unet), tmp_path)
    weights = load_file(file)
    weights.pop(next(key for key in weights if gone in key))
    save_file(weights, file)
    with pytest.raises(ValueError, match="is not a whole LoRA"):
        load_lora(file, unet)


@pytest.mark.parametrize(
    "key",
    [
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight",
        "text_encoder.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "unet.conv_in.weight",
    ],
)
def test_what_is_no_lora_of_a_unet_alone_is_refused(unet, tmp_path, key):
    file = save_lora(random_lora(unet), tmp_path)
    save_file({**load_file(file), key: torch.zeros(2, 2)}, file)
    with pytest.raises(ValueError, match=f"is not a LoRA of a UNet alone.*{key}"):
        load_lora(file, unet)


@pytest.mark.parametrize("shapes", [((2,), (8, 2)), ((2, 8), (8, 3)), ((2, 8, 1, 1), (8, 2, 1, 1))])
def test_matrices_that_do_not_pair_up_are_refused(unet, tmp_path, shapes):
    lora = random_lora(unet)
    path = next(iter(lora.down))
    bad = LoRA(
        {**lora.down, path: torch.zeros(shapes[0])}, {**lora.up, path: torch.zeros(shapes[1])}
    )
    with pytest.raises(ValueError, match="is not of one rank"):
        load_lora(save_lora(bad, tmp_path), unet)


def test_an_empty_lora_is_refused(unet, tmp_path):
    with pytest.raises(ValueError, match="is not a whole LoRA"):
        load_lora(save_lora(LoRA({}, {}), tmp_path), unet)


@pytest.mark.parametrize("content", ["{", "[]", '{"r": 4, "lora_alpha": "many"}'])
def test_a_configuration_of_peft_that_cannot_be_read_is_refused(unet, tmp_path, content):
    save_lora(random_lora(unet), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"adapter_model.safetensors"):
        load_lora(tmp_path, unet)


def test_a_header_that_cannot_be_read_is_refused(unet, tmp_path):
    file = save_lora(random_lora(unet), tmp_path, {"lora_adapter_metadata": json.dumps([1])})
    with pytest.raises(ValueError, match=r"configuration of .* cannot be read"):
        load_lora(file, unet)


@pytest.mark.parametrize("suffix", ["bin", "pt", "ckpt"])
def test_a_pickled_lora_is_refused_and_never_opened(unet, tmp_path, suffix):
    file = tmp_path / f"pytorch_lora_weights.{suffix}"
    file.write_bytes(pickled_trap(tmp_path / "canary"))
    with pytest.raises(ValueError, match=r"not a .safetensors file; pickled weights can run code"):
        load_lora(file, unet)
    with pytest.raises(FileNotFoundError, match=r"there is no LoRA in .*wanted pytorch_lora"):
        load_lora(tmp_path, unet)
    assert not (tmp_path / "canary").exists()


def test_a_lora_that_is_not_there_is_a_file_not_found(unet, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no LoRA file"):
        load_lora(tmp_path / "nothing.safetensors", unet)
