"""LoRA files of other programs have the effect that diffusers and peft give them."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_models import make_text_encoder, noise, random_lora

from dragwidget.diffusion.loading.reading import quiet
from dragwidget.diffusion.lora import TEXT_ENCODER, LoRA, enabled, load_lora, save_lora

FILE = "pytorch_lora_weights.safetensors"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
IDS = torch.arange(77)[None] % 500


@pytest.fixture(scope="module")
def unet(tiny):
    return tiny.unet


@pytest.fixture(scope="module")
def text():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return make_text_encoder().eval()


def seen(unet, text, lora=None):
    """What both networks answer, with a LoRA of ours."""
    with torch.no_grad(), enabled(unet, lora), enabled(text, lora, part=TEXT_ENCODER):
        latents = noise(1, 4, 8, 8)
        predicted = unet(latents, 321, encoder_hidden_states=noise(1, 77, 16)).sample
        return predicted, text(IDS)[0]


def of_diffusers(unet, text, folder):
    """What they answer with what diffusers' own pipeline makes of the LoRA in a folder."""
    unet, text = copy.deepcopy(unet), copy.deepcopy(text)
    with quiet():
        StableDiffusionPipeline(
            unet=unet, vae=None, text_encoder=text, tokenizer=None, scheduler=None,
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        ).load_lora_weights(folder, weight_name=FILE)  # fmt: skip
    return seen(unet.eval(), text.eval())


def assert_same(got, wanted, plain, parts=(0,)):
    for part in range(2):
        differs = float((wanted[part] - plain[part]).abs().max())
        assert differs > 0.05 if part in parts else differs == 0
        torch.testing.assert_close(got[part], wanted[part], rtol=1e-3, atol=5e-4)


def layers(network, kinds=(torch.nn.Linear,)):
    return {
        path.removeprefix("text_model."): layer
        for path, layer in network.named_modules()
        if isinstance(layer, kinds)
    }


def matrices(layer, rank=4, seed=0):
    """Down and up of a layer of any kind."""
    outputs, inputs, *kernel = layer.weight.shape
    size = (inputs * torch.tensor(kernel).prod().item()) ** 0.5 if kernel else inputs**0.5
    down = noise(rank, inputs, *kernel, seed=seed) / size
    return down, 0.5 * noise(outputs, rank, *[1 for _ in kernel], seed=seed + 1)


ALL = (torch.nn.Linear, torch.nn.Conv2d)


def kohya(network, prefix, kinds=(torch.nn.Linear,), alpha=lambda _: 1.0, rank=lambda _: 4):
    """The tensors of a LoRA as kohya's sd-scripts name them."""
    tensors = {}
    for k, (path, layer) in enumerate(layers(network, kinds).items()):
        name = prefix + path.replace(".", "_")
        down, up = matrices(layer, rank(k), seed=k)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha(k) is not None:
            tensors[f"{name}.alpha"] = torch.tensor(float(alpha(k)))
    return tensors


UNET_PREFIX, TEXT_PREFIX = "lora_unet_", "lora_te_text_model_"


# ---------------------------------------------------------------- kohya's scripts


def attention_only(tensors):
    return {key: tensor for key, tensor in tensors.items() if "_attn" in key}


@pytest.mark.loads(
    "LoRA", "kohya, attention of the UNet", "SD 1.x", "loads: the effect that diffusers gives it"
)
@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, 4.0, 0.5, None])
def test_a_lora_of_kohya_is_what_diffusers_makes_of_it(unet, text, tmp_path, alpha):
    tensors = attention_only(kohya(unet, UNET_PREFIX, alpha=lambda _: alpha))
    save_file(tensors, tmp_path / FILE, {"ss_network_module": "networks.lora"})
    lora = load_lora(tmp_path, unet)
    assert_same(seen(unet, text, lora), of_diffusers(unet, text, tmp_path), seen(unet, text))
    assert lora.summary.startswith(f"kohya format, scale {(alpha or 4) / 4:g}, rank 4, ")
    assert lora.summary.endswith("layers: 80 attention")


@pytest.mark.loads(
    "LoRA",
    "kohya, with convolutions (LoCon)",
    "SD 1.x",
    "loads: the effect that diffusers gives it",
)
@pytest.mark.slow
def test_a_lora_of_kohya_with_convolutions_is_what_diffusers_makes_of_it(unet, text, tmp_path):
    """LoCon without its middle matrix: every layer but the text encoder's."""
    tensors = kohya(unet, UNET_PREFIX, ALL, alpha=lambda _: 0.5)
    save_file(tensors, tmp_path / FILE)
    lora = load_lora(tmp_path, unet)
    assert {path.split(".")[0] for path in lora.down} >= {"conv_in", "conv_out", "time_embedding"}
    assert len(lora.down) == len(layers(unet, ALL))
    assert_same(seen(unet, text, lora), of_diffusers(unet, text, tmp_path), seen(unet, text))


@pytest.mark.loads(
    "LoRA", "kohya, with a text encoder", "SD 1.x", "loads: the effect that diffusers gives it"
)
@pytest.mark.slow
def test_a_lora_of_kohya_with_a_text_encoder_is_what_diffusers_makes_of_it(unet, text, tmp_path):
    tensors = kohya(unet, UNET_PREFIX, ALL) | kohya(text, TEXT_PREFIX, alpha=lambda _: 2)
    save_file(tensors, tmp_path / FILE)
    lora = load_lora(tmp_path, unet, text_encoder=text)
    wanted = of_diffusers(unet, text, tmp_path)
    assert_same(seen(unet, text, lora), wanted, seen(unet, text), parts=(0, 1))
    assert "12 text encoder" in lora.summary


@pytest.mark.loads(
    "LoRA", "kohya, rank and alpha of each layer", "SD 1.x", "loads: each layer by its own"
)
def test_every_layer_of_kohya_has_its_own_rank_and_alpha(unet, text, tmp_path):
    """By matrices added by hand: diffusers 0.42.1 takes one alpha for all attention layers."""
    tensors = kohya(unet, UNET_PREFIX, ALL, alpha=lambda k: 1 + k % 3, rank=lambda k: 2 + k % 2)
    save_file(tensors, tmp_path / FILE)
    added = copy.deepcopy(unet)
    for k, layer in enumerate(layers(added, ALL).values()):
        down, up = matrices(layer, 2 + k % 2, seed=k)
        change = torch.einsum("or,ri...->oi...", up.flatten(1), down)
        layer.weight.data += (1 + k % 3) / (2 + k % 2) * change
    with pytest.warns(UserWarning, match="alphas of 1 to 3 in its unet: each layer is") as said:
        lora = load_lora(tmp_path, unet)
    assert [warning.filename for warning in said] == [__file__]
    assert_same(seen(unet, text, lora), seen(added, text), seen(unet, text))
    assert "scales 0.333333 to 1.5, ranks 2 to 3" in lora.summary


def test_a_text_encoders_part_needs_the_text_encoder(unet, text, tmp_path):
    save_file(kohya(unet, UNET_PREFIX) | kohya(text, TEXT_PREFIX), tmp_path / FILE)
    with pytest.raises(ValueError, match=r"changes the text encoder too \(lora_te_"):
        load_lora(tmp_path, unet)
    lora = load_lora(tmp_path, unet, text_encoder=text)
    with pytest.raises(ValueError, match="changes the text encoder too, and none was given"):
        lora.check({"unet": unet})


@pytest.mark.loads("LoRA", "kohya, alpha of some layers only", "SD 1.x", "refused")
def test_alphas_of_some_layers_only_are_refused(unet, tmp_path):
    save_file(kohya(unet, UNET_PREFIX, alpha=lambda k: 1 if k % 2 else None), tmp_path / FILE)
    with pytest.raises(ValueError, match="says an alpha of some layers and none of"):
        load_lora(tmp_path, unet)


# ---------------------------------------------------------------- diffusers


@pytest.mark.loads(
    "LoRA",
    "diffusers, UNet and text encoder",
    "SD 1.x",
    "loads: the effect that diffusers gives it",
)
@pytest.mark.slow
@pytest.mark.parametrize("alpha", [4, 10])
@pytest.mark.parametrize("said", [False, True])
def test_both_parts_of_diffusers_are_what_diffusers_makes_of_them(
    unet, text, tmp_path, alpha, said
):
    """Its alpha counts where the file says it; diffusers itself takes it for the rank elsewhere."""
    networks, states, configs = (copy.deepcopy(unet), copy.deepcopy(text)), [], []
    for network, targets in zip(networks, ([*ATTENTION, "proj_in", "conv1"], TEXT), strict=True):
        config = LoraConfig(r=4, lora_alpha=alpha, target_modules=targets, init_lora_weights=False)
        with torch.random.fork_rng():
            network.add_adapter(config)
        states.append(get_peft_model_state_dict(network))
        configs.append(config.to_dict() if said else None)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=states[0],
        text_encoder_lora_layers=convert_state_dict_to_diffusers(states[1]),
        unet_lora_adapter_metadata=configs[0], text_encoder_lora_adapter_metadata=configs[1],
    )  # fmt: skip
    got = seen(unet, text, load_lora(tmp_path, unet, text_encoder=text))
    wanted = of_diffusers(unet, text, tmp_path)
    assert_same(got, wanted, seen(unet, text), parts=(0, 1))
    if said or alpha == 4:
        assert_same(got, seen(*networks), seen(unet, text), parts=(0, 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [
        "text_encoder.text_model.{attention}.{short}_lora.{kind}.weight",
        "text_encoder.text_model.{path}.lora_linear_layer.{kind}.weight",
        "text_encoder.text_model.{path}.lora_{letter}.weight",
        "text_encoder.{path}.lora_{letter}.weight",
    ],
)
def test_every_naming_of_a_text_encoder_is_what_diffusers_makes_of_it(unet, text, tmp_path, names):
    shorts = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    tensors = {}
    for k, (path, layer) in enumerate(layers(text).items()):
        attention, _, last = path.rpartition(".")
        if last in shorts:
            for kind, letter, matrix in zip(
                ("down", "up"), "AB", matrices(layer, seed=k), strict=True
            ):
                short = shorts[last]
                key = names.format(
                    path=path, attention=attention, short=short, kind=kind, letter=letter
                )
                tensors[key] = matrix
    save_file(tensors, tmp_path / FILE)
    got = seen(unet, text, load_lora(tmp_path, unet, text_encoder=text))
    assert_same(got, of_diffusers(unet, text, tmp_path), seen(unet, text), parts=(1,))


def named(lora, down, up, **more):
    """A LoRA's tensors under names made from each layer's path."""
    names = {down: lora.down, up: lora.up}
    return {
        name.format(path=path): matrix
        for name, by_path in names.items()
        for path, matrix in by_path.items()
    } | more


@pytest.mark.parametrize("prefix", ["unet.", ""])
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_kohyas_suffixes_on_diffusers_paths_are_scaled_as_kohyas(
    unet, text, tmp_path, prefix, alpha
):
    lora = random_lora(unet)
    tensors = named(lora, f"{prefix}{{path}}.lora_down.weight", f"{prefix}{{path}}.lora_up.weight")
    if alpha is not None:
        tensors |= {f"{prefix}{path}.alpha": torch.tensor(alpha) for path in lora.down}
    save_file(tensors, tmp_path / FILE)
    wanted = lora.map(lambda m: m * ((alpha or 4) / 4) ** 0.5)
    assert_same(
        seen(unet, text, load_lora(tmp_path, unet)), seen(unet, text, wanted), seen(unet, text)
    )


# ---------------------------------------------------------------- peft


def by_peft(network, folder, **options):
    """A folder as peft writes it, and the network as peft has it."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        made = get_peft_model(copy.deepcopy(network), LoraConfig(**options))
    for k, (name, weight) in enumerate(made.named_parameters()):
        if "lora_" in name:
            weight.data += 0.1 * noise(*weight.shape, seed=k)
    made.save_pretrained(folder)
    return made.eval()


PATTERNS = {"rank_pattern": {"attn2.to_k": 2}, "alpha_pattern": {r"^down_blocks\.0.*to_q": 1}}


@pytest.mark.loads(
    "LoRA",
    "peft's folder: rank patterns, rsLoRA, ..",
    "SD 1.x",
    "loads: the effect that peft gives it",
)
@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        PATTERNS,
        {**PATTERNS, "use_rslora": True},
        {"target_modules": [*ATTENTION, "proj_in", "proj_out", "net.0.proj", "conv1", "conv_in"]},
        {"target_modules": ["conv1", "conv2", "conv"], "use_rslora": True},
        {"exclude_modules": ["to_v"]},
        {"layers_to_transform": [0], "layers_pattern": "attentions"},
        {"init_lora_weights": False},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "orthogonal"},
        {"lora_dropout": 0.5},
    ],
    ids=str,
)
def test_a_folder_of_peft_is_what_peft_makes_of_it(unet, text, tmp_path, options):
    by_peft(unet, tmp_path, **{"r": 4, "lora_alpha": 10, "target_modules": ATTENTION, **options})
    theirs = PeftModel.from_pretrained(copy.deepcopy(unet), tmp_path).eval()
    got = seen(unet, text, load_lora(tmp_path, unet))
    assert_same(got, seen(theirs, text), seen(unet, text))


def test_fan_in_fan_out_is_nothing_on_these_layers_as_in_peft(unet, text, tmp_path):
    options = {"r": 4, "lora_alpha": 10, "target_modules": ["to_q"], "fan_in_fan_out": True}
    with pytest.warns(UserWarning, match="Setting fan_in_fan_out to False"):
        theirs = by_peft(unet, tmp_path, **options)
    got = seen(unet, text, load_lora(tmp_path, unet))
    assert_same(got, seen(theirs, text), seen(unet, text))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft's own call
def test_a_text_encoder_of_peft_is_what_peft_makes_of_it(unet, text, tmp_path):
    pattern = {r"layers\.1.*q_proj": 3}
    theirs = by_peft(text, tmp_path, r=4, lora_alpha=10, target_modules=TEXT, alpha_pattern=pattern)
    got = seen(unet, text, load_lora(tmp_path, unet, text_encoder=text))
    assert_same(got, seen(unet, theirs), seen(unet, text), parts=(1,))


@pytest.mark.slow
def test_a_folder_of_peft_that_was_converted_is_what_peft_makes_of_it(unet, text, tmp_path):
    """PiSSA's weights made into a LoRA of the model as it is, by peft itself."""
    options = {"r": 4, "lora_alpha": 4, "target_modules": ATTENTION, "init_lora_weights": "pissa"}
    made = get_peft_model(copy.deepcopy(unet), LoraConfig(**options))
    made.save_pretrained(tmp_path / "start")
    for k, (name, weight) in enumerate(made.named_parameters()):
        if "lora_" in name:
            weight.data += 0.2 * noise(*weight.shape, seed=k)
    made.peft_config["default"].init_lora_weights = True
    made.save_pretrained(
        tmp_path / "end", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    got = seen(unet, text, load_lora(tmp_path / "end", unet))
    assert_same(got, seen(made.eval(), text), seen(unet, text))


@pytest.mark.loads(
    "LoRA",
    "peft's file without its configuration",
    "SD 1.x",
    "refused until `alpha=` says its scale",
)
@pytest.mark.slow
def test_a_file_of_peft_without_its_configuration_is_refused_until_its_alpha_is_told(
    unet, text, tmp_path
):
    theirs = by_peft(unet, tmp_path, r=4, lora_alpha=10, target_modules=ATTENTION)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no adapter_config\.json beside it.*give alpha="):
        load_lora(tmp_path, unet)
    got = seen(unet, text, load_lora(tmp_path, unet, alpha=10))
    assert_same(got, seen(theirs, text), seen(unet, text))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters:RuntimeWarning")  # diffusers'
def test_what_a_live_network_of_peft_holds_is_taken_as_diffusers_does_with_a_warning(
    unet, text, tmp_path
):
    network = copy.deepcopy(unet)
    config = LoraConfig(r=4, lora_alpha=10, target_modules=ATTENTION, init_lora_weights=False)
    with torch.random.fork_rng():
        network.add_adapter(config)
    save_file(get_peft_model_state_dict(network), tmp_path / FILE)
    with pytest.warns(UserWarning, match="does not say its alpha. It counts as the rank") as said:
        got = load_lora(tmp_path, unet)
    assert said[0].filename == __file__
    theirs = copy.deepcopy(unet)
    theirs.load_lora_adapter(load_file(tmp_path / FILE), prefix=None)
    assert_same(seen(unet, text, got), seen(theirs, text), seen(unet, text))
    told = load_lora(tmp_path, unet, alpha=10)
    assert_same(seen(unet, text, told), seen(network, text), seen(unet, text))


# ---------------------------------------------------------------- what we write


@pytest.fixture
def ours(unet, text):
    """A LoRA of both networks, of more than one rank."""
    down, up = {}, {}
    for network, start in ((unet, ""), (text, "text_encoder.")):
        for k, (path, layer) in enumerate(layers(network, ALL).items()):
            if path.startswith(("down_blocks.0", "mid_block", "encoder.layers")):
                down[start + path], up[start + path] = matrices(layer, 2 if k % 3 else 4, seed=k)
    return LoRA(down, up)


@pytest.mark.slow
def test_what_is_saved_has_the_same_effect_in_diffusers(unet, text, tmp_path, ours):
    save_lora(ours, tmp_path)
    wanted = of_diffusers(unet, text, tmp_path)
    assert_same(seen(unet, text, ours), wanted, seen(unet, text), parts=(0, 1))


def test_what_is_saved_has_the_same_effect_in_peft(unet, text, tmp_path, ours):
    """By the configuration in the file's header, and the names without their part."""
    from peft import inject_adapter_in_model, set_peft_model_state_dict
    from safetensors import safe_open

    file = save_lora(ours, tmp_path)
    with safe_open(file, framework="pt") as opened:
        said = json.loads(opened.metadata()["lora_adapter_metadata"])
    networks = {"unet": copy.deepcopy(unet), "text_encoder": copy.deepcopy(text)}
    for part, network in networks.items():
        strips = (f"{part}.", "" if hasattr(text, "text_model") else "text_model.")
        fields = {k.removeprefix(strips[0]): v for k, v in said.items() if k.startswith(strips[0])}
        inject_adapter_in_model(LoraConfig(**fields), network)
        state = {
            key.removeprefix(strips[0]).removeprefix(strips[1]): tensor
            for key, tensor in load_file(file).items()
            if key.startswith(strips[0])
        }
        assert not set_peft_model_state_dict(network, state).unexpected_keys
    wanted = seen(networks["unet"].eval(), networks["text_encoder"].eval())
    assert_same(seen(unet, text, ours), wanted, seen(unet, text), parts=(0, 1))


def test_what_is_saved_comes_back_bit_for_bit(unet, text, tmp_path, ours):
    back = load_lora(save_lora(ours, tmp_path), unet, text_encoder=text)
    assert back.digest == ours.digest
    assert back.summary.startswith("diffusers format, scale 1, ranks 2 to 4, layers: ")
