"""LoRA files that cannot have their right effect are refused by what they are."""

from __future__ import annotations

import copy
import json
import math

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, kohya_names, make_unet, random_lora

from dragwidget.diffusion.lora import load_lora, save_lora

FILE = "pytorch_lora_weights.safetensors"
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture(scope="module")
def unet(tiny):
    return tiny.unet


@pytest.fixture
def kohya(unet):
    """The tensors of a LoRA as kohya's scripts name them."""
    return kohya_names(random_lora(unet))


@pytest.fixture
def folder_of_peft(unet, tmp_path):
    """A folder that peft wrote."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS)
    get_peft_model(copy.deepcopy(unet), config).save_pretrained(tmp_path)
    return tmp_path


# ---------------------------------------------------------------- more, or other, than a LoRA


@pytest.mark.loads(
    "LoRA",
    "DoRA, LoHa, LoKr, (IA)3, GLoRA, OFT, whole weights, textual inversions in one file",
    "any",
    "refused by name",
)
@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("lora_unet_mid_block_attentions_0_proj_in.dora_scale", "a DoRA"),
        ("unet.mid_block.attentions.0.proj_in.lora_magnitude_vector", "a DoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_mid.weight", "a LoCon with a third"),
        ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "a LoHa"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w1", "a LoKr"),
        ("lora_unet_mid_block_attentions_0_proj_in.lokr_w2_b", "a LoKr"),
        ("lora_unet_mid_block_attentions_0_proj_in.on_input", r"an \(IA\)3"),
        ("lora_unet_mid_block_attentions_0_proj_in.a1.weight", "a GLoRA"),
        ("lora_unet_mid_block_attentions_0_proj_in.oft_blocks", "an OFT"),
        ("lora_unet_mid_block_attentions_0_proj_in.oft_diag", "an OFT"),
        ("lora_unet_conv_in.diff", "an adapter with whole weights"),
        ("lora_unet_conv_in.diff_b", "an adapter with whole weights"),
        ("lora_unet_conv_norm_out.w_norm", "an adapter with whole weights"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "Stable Diffusion XL"),
        ("lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha", "Stable Diffusion XL"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "Stable Diffusion XL"),
        ("text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "Diffusion XL"),
        ("transformer.transformer_blocks.0.attn.to_k.lora_A.weight", "a diffusion transformer"),
        ("lora_unet_double_blocks_0_img_attn_proj.lora_down.weight", "a diffusion transformer"),
        ("lora_unet_single_blocks_7_linear1.lora_down.weight", "a diffusion transformer"),
        ("lora_unet_joint_blocks_0_context_block_mlp_fc1.alpha", "a diffusion transformer"),
        ("bundle_emb.a_style.string_to_param", "a file with textual inversions"),
        ("unet.conv_in.lora_B.bias", "a LoRA with biases"),
    ],
)
def test_what_is_more_than_a_lora_is_refused_by_name(unet, tmp_path, kohya, key, what):
    save_file({**kohya, key: torch.zeros(2, 2)}, tmp_path / FILE)
    with pytest.raises(
        ValueError, match=rf"is .*{what}.*, which is not supported: it holds '{key}"
    ):
        load_lora(tmp_path, unet)


ADAPTERS = {
    "a DoRA": lambda: LoraConfig(target_modules=TARGETS, use_dora=True),
    "changes biases too": lambda: LoraConfig(target_modules=TARGETS, bias="lora_only"),
    "a LoRA with biases": lambda: LoraConfig(target_modules=["to_out.0"], lora_bias=True),
    "whole weights": lambda: LoraConfig(target_modules=TARGETS, modules_to_save=["conv_in"]),
    "peft's type 'LOHA'": lambda: peft.LoHaConfig(target_modules=TARGETS),
    "peft's type 'LOKR'": lambda: peft.LoKrConfig(target_modules=TARGETS),
    "peft's type 'IA3'": lambda: peft.IA3Config(target_modules=TARGETS, feedforward_modules=[]),
    "peft's type 'OFT'": lambda: peft.OFTConfig(target_modules=TARGETS, r=2, oft_block_size=0),
    "peft's type 'ADALORA'": lambda: peft.AdaLoraConfig(target_modules=TARGETS, total_step=9),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Adapter 'default'. 20 LoRA tensor")  # peft's, of the biases
@pytest.mark.parametrize("what", ADAPTERS)
def test_what_peft_writes_and_is_more_than_a_lora_is_refused_by_name(unet, tmp_path, what):
    get_peft_model(copy.deepcopy(unet), ADAPTERS[what]()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=what):
        load_lora(tmp_path, unet)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("layer_replication", [[0, 2]], "repeats layers"),
        ("trainable_token_indices", [1], "token embeddings"),
        ("target_parameters", ["x"], "bare parameters"),
        ("use_qalora", True, "a QALoRA"),
        ("alora_invocation_tokens", [1], "an activated LoRA"),
        ("peft_type", "VERA", "peft's type 'VERA'"),
    ],
)
def test_a_configuration_that_asks_for_more_is_refused_by_name(
    unet, folder_of_peft, field, value, what
):
    edit_json(folder_of_peft / "adapter_config.json", **{field: value})
    with pytest.raises(ValueError, match=what):
        load_lora(folder_of_peft, unet)


@pytest.mark.loads("LoRA", "peft, started by PiSSA, OLoRA, LoftQ, ..", "any", "refused by name")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "what"),
    [
        ("pissa", "was started by PiSSA"),
        ("pissa_niter_16", "was started by PiSSA"),
        ("olora", "was started by OLoRA"),
        ("loftq", "was started by LoftQ"),
        ("corda", "was started by CorDA"),
        ("lora_ga", "was started by LoRA-GA"),
        ("mica", "was started by init_lora_weights='mica'"),
        ("new", "was started by init_lora_weights='new'"),
    ],
)
def test_a_start_that_changes_the_networks_own_weights_is_refused_by_name(
    unet, folder_of_peft, start, what
):
    edit_json(folder_of_peft / "adapter_config.json", init_lora_weights=start)
    with pytest.raises(ValueError, match=what):
        load_lora(folder_of_peft, unet)
    said = json.loads((folder_of_peft / "adapter_config.json").read_text())
    said = {f"unet.{key}": value for key, value in said.items()}
    file = save_lora(random_lora(unet), folder_of_peft, {"lora_adapter_metadata": json.dumps(said)})
    with pytest.raises(ValueError, match=what):
        load_lora(file, unet)


@pytest.mark.parametrize("start", ["pissa", "olora"])
def test_what_peft_cut_out_of_the_weights_is_refused_by_name(unet, tmp_path, start):
    config = LoraConfig(r=4, target_modules=TARGETS, init_lora_weights=start)
    get_peft_model(copy.deepcopy(unet), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"init_lora_weights='{start}'\), which also changes the"):
        load_lora(tmp_path, unet)


def test_a_field_of_a_configuration_that_is_not_known_is_named(unet, folder_of_peft):
    edit_json(folder_of_peft / "adapter_config.json", use_newest=True, old=None)
    with pytest.warns(UserWarning, match="sets 'use_newest', which is not known here") as said:
        load_lora(folder_of_peft, unet)
    assert said[0].filename == __file__


# ---------------------------------------------------------------- of another model


@pytest.mark.slow
def test_a_lora_of_another_model_is_refused(unet, tmp_path):
    wider = make_unet((16, 16, 32, 32))
    save_lora(random_lora(wider), tmp_path / "wide")
    with pytest.raises(ValueError, match=r"belongs to another model: its down_blocks.* channels"):
        load_lora(tmp_path / "wide", unet)
    deeper = make_unet(layers_per_block=2)
    save_lora(random_lora(deeper), tmp_path / "deep")
    with pytest.raises(ValueError, match=r"this LoRA changes down_blocks.0.attentions.1.*another"):
        load_lora(tmp_path / "deep", unet)


@pytest.mark.loads("LoRA", "of Stable Diffusion 2 or XL", "SD 1.x", "refused by name")
@pytest.mark.parametrize(
    ("width", "family"),
    [(768, "1.x"), (1024, "2.x"), (2048, "XL")],
)
def test_a_lora_of_another_family_is_refused_by_its_name(unet, tmp_path, width, family):
    save_lora(random_lora(make_unet(cross_attention_dim=width)), tmp_path)
    with pytest.raises(ValueError, match=rf"model \(Stable Diffusion {family}\): its .*to_k"):
        load_lora(tmp_path, unet)


def test_a_lora_of_another_layer_or_kernel_is_refused(unet, tmp_path):
    for path, down, up, message in (
        ("conv_norm_out", (2, 8), (8, 2), "is no linear or convolution layer of this UNet"),
        ("conv_in", (2, 4), (8, 2), "is not of one rank"),
        ("conv_in", (2, 4, 1, 1), (8, 2, 1, 1), r"has kernels of \(1, 1\).*of \(3, 3\)"),
        ("conv_in", (2, 4, 3, 3), (8, 2, 3, 3), r"has kernels of .* and \(3, 3\)"),
    ):
        tensors = {f"unet.{path}.lora_A.weight": torch.ones(down)}
        save_file(tensors | {f"unet.{path}.lora_B.weight": torch.ones(up)}, tmp_path / FILE)
        with pytest.raises(ValueError, match=message):
            load_lora(tmp_path, unet)


def test_a_layer_of_kohya_that_is_not_there_is_named(unet, tmp_path, kohya):
    name = "lora_unet_down_blocks_9_proj_in"
    save_file({**kohya, f"{name}.lora_down.weight": torch.ones(2, 2)}, tmp_path / FILE)
    with pytest.raises(ValueError, match=f"changes {name}, which is no linear or conv"):
        load_lora(tmp_path, unet)


# ---------------------------------------------------------------- of unknown scale


def test_two_words_on_the_scale_are_refused(unet, tmp_path, kohya, folder_of_peft):
    (tmp_path / "kohya").mkdir()
    save_file(kohya, tmp_path / "kohya" / FILE, {"lora_adapter_metadata": '{"lora_alpha": 4}'})
    with pytest.raises(ValueError, match="says its scale by its configuration and its alpha"):
        load_lora(tmp_path / "kohya", unet)
    with pytest.raises(ValueError, match=r"by its configuration, and alpha= was given"):
        load_lora(folder_of_peft, unet, alpha=4)


@pytest.mark.parametrize("alpha", [0, -1, math.nan, math.inf])
def test_an_alpha_that_is_no_strength_is_refused(unet, tmp_path, kohya, alpha):
    save_file({k: v for k, v in kohya.items() if "alpha" not in k}, tmp_path / FILE)
    with pytest.raises(ValueError, match="alpha must be a number above 0"):
        load_lora(tmp_path, unet, alpha=alpha)


def test_a_configuration_without_one_part_is_refused(tiny, tmp_path):
    key = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_{}.weight"
    more = {key.format("A"): torch.ones(2, 16), key.format("B"): torch.ones(16, 2)}
    file = save_lora(random_lora(tiny.unet), tmp_path)
    said = {"lora_adapter_metadata": '{"unet.lora_alpha": 4, "unet.r": 4}'}
    save_file({**load_file(file), **more}, file, said)
    with pytest.raises(ValueError, match="says no scale of its text_encoder"):
        load_lora(file, tiny.unet, text_encoder=tiny.text_encoder)


def test_a_rank_that_its_configuration_does_not_say_is_refused(unet, folder_of_peft):
    edit_json(folder_of_peft / "adapter_config.json", r=8)
    with pytest.raises(ValueError, match=r"has rank 4, and its configuration says 8"):
        load_lora(folder_of_peft, unet)


def test_one_layer_under_two_names_is_refused(unet, tmp_path):
    lora = random_lora(unet)
    file = save_lora(lora, tmp_path)
    path = next(iter(lora.down))
    for other in (f"unet.unet.{path}.lora_A.weight", f"unet.{path}.lora.down.weight"):
        save_file({**load_file(save_lora(lora, tmp_path)), other: lora.down[path]}, file)
        with pytest.raises(ValueError, match=f"holds two down matrices of unet.{path}"):
            load_lora(file, unet)


def test_two_formats_in_one_file_are_refused(unet, tmp_path, kohya):
    lora = random_lora(unet)
    key = next(iter(lora.down))
    more = {
        f"unet.{key}.lora_A.weight": lora.down[key],
        f"unet.{key}.lora_B.weight": lora.up[key],
    }
    mixed = {k: v for k, v in kohya.items() if key.replace(".", "_") not in k} | more
    save_file(mixed, tmp_path / FILE)
    with pytest.raises(ValueError, match="mixes the formats of diffusers and kohya"):
        load_lora(tmp_path, unet)
