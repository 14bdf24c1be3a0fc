"""Several LoRAs with weights are what diffusers' ``set_adapters`` makes of the same files."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from tiny_models import kohya_names, noise, random_lora
from tiny_xl import xl_pipeline

from dragwidget.diffusion.loading.reading import quiet
from dragwidget.diffusion.lora import LoRA, save_lora

FILE = "pytorch_lora_weights.safetensors"
SIZE = (64, 48)
WEIGHTS = (0.8, -0.5, 0.3)
ALL = (torch.nn.Linear, torch.nn.Conv2d)


def matrices(network, kinds=ALL, *, start="", rank=4, seed=0):
    """Down and up of every layer of these kinds, by path."""
    down, up = {}, {}
    for k, (name, layer) in enumerate(network.named_modules()):
        if isinstance(layer, kinds):
            outputs, inputs, *kernel = layer.weight.shape
            path = start + name.removeprefix("text_model.")
            size = (inputs * len(kernel) ** 2 or inputs) ** 0.5
            down[path] = noise(rank, inputs, *kernel, seed=seed + k) / size
            up[path] = 0.3 * noise(outputs, rank, *[1 for _ in kernel], seed=seed + k + 1)
    return down, up


def of_all(model, seed):
    """A LoRA of all layers of the UNet and of each text encoder."""
    down, up = matrices(model.unet, seed=seed)
    for part in [name for name in model.networks if name.startswith("text_encoder")]:
        more = matrices(getattr(model, part), start=f"{part}.", seed=seed + 7)
        down, up = down | more[0], up | more[1]
    return LoRA(down, up)


def write_kohya(model, folder):
    """Attention of the UNet, with an alpha of half the rank, and the first text encoder."""
    tensors = kohya_names(random_lora(model.unet), alpha=2.0)
    short = "te1" if "text_encoder_2" in model.networks else "te"
    down, up = matrices(model.text_encoder, seed=3)
    for path in down:
        name = f"lora_{short}_text_model_{path.replace('.', '_')}"
        tensors |= {f"{name}.lora_down.weight": down[path], f"{name}.lora_up.weight": up[path]}
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    folder.mkdir()
    save_file(tensors, folder / FILE)
    return folder


def write_peft(model, folder):
    """A folder as peft itself writes it, and what diffusers' reader of peft's layout takes."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v", "conv1"])
    with torch.random.fork_rng():
        made = get_peft_model(copy.deepcopy(model.unet), config)
    for k, (name, weight) in enumerate(made.named_parameters()):
        if "lora_" in name:
            weight.data += 0.1 * noise(*weight.shape, seed=k)
    made.save_pretrained(folder)
    state = get_peft_model_state_dict(made)
    return {key.removeprefix("base_model.model."): value for key, value in state.items()}, config


@pytest.fixture(params=["1.x", "XL"])
def family(request, tmp_path):
    """A model, and diffusers' pipeline of the same folder, with one LoRA of each format in both.

    Returns the model, the pipeline and the places of the files.
    """
    xl = request.param == "XL"
    model = request.getfixturevalue("xl" if xl else "tiny")
    folder = request.getfixturevalue("xl_folder" if xl else "tiny_folder")
    with quiet():
        pipeline = (
            xl_pipeline(folder)
            if xl
            else StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
        )
        kohya = write_kohya(model, tmp_path / "kohya")
        pipeline.load_lora_weights(kohya, weight_name=FILE, adapter_name="kohya")
        save_lora(of_all(model, seed=50), tmp_path / "diffusers")
        pipeline.load_lora_weights(
            tmp_path / "diffusers", weight_name=FILE, adapter_name="diffusers"
        )
        state, config = write_peft(model, tmp_path / "peft")
        pipeline.unet.load_lora_adapter(
            state, prefix=None, adapter_name="peft", metadata=config.to_dict()
        )
    for network in (
        pipeline.unet,
        pipeline.text_encoder,
        getattr(pipeline, "text_encoder_2", None),
    ):
        for weight in network.parameters() if network else ():
            weight.data = weight.data.clone()  # see ``aligned``
    return model, pipeline, [tmp_path / name for name in ("kohya", "diffusers", "peft")]


def aligned(lora):
    """The same in memory of its own: on some CPUs a product's last bits depend on the alignment."""
    return lora.map(torch.clone)


def seen(model):
    """What a model answers: prediction, and what the text encoders gave it."""
    text = model.encode_text("a cat", SIZE)
    prediction = model.predictor(text).predict(noise(1, 4, 12, 16), 321)
    prompt = text.prompt
    return prediction, *([prompt] if isinstance(prompt, torch.Tensor) else vars(prompt).values())


def seen_by_diffusers(pipeline):
    added = {}
    with torch.no_grad():
        embeddings, _, *pooled = pipeline.encode_prompt(
            "a cat", device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        if pooled:
            ids = torch.tensor([[*SIZE[::-1], 0, 0, *SIZE[::-1]]], dtype=torch.float32)
            added = {"added_cond_kwargs": {"text_embeds": pooled[0], "time_ids": ids}}
        prediction = pipeline.unet(
            noise(1, 4, 12, 16), 321, encoder_hidden_states=embeddings, **added
        ).sample
    return prediction, embeddings, *pooled[:1]


@pytest.mark.loads(
    "LoRA",
    "several at once, with weights, of kohya, diffusers and peft",
    "SD 1.x, SDXL",
    "loads: the effect that diffusers gives them",
)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")  # peft's own
def test_loras_of_three_formats_with_weights_are_what_diffusers_makes_of_them(family):
    """Bit for bit: each adds its own change, in the order that they were given in."""
    model, pipeline, places = family
    plain = seen(model)
    for chosen in ((0, 1), (1, 0), (2, 1), (0, 1, 2)):
        names = [places[k].name for k in chosen]
        weights = [WEIGHTS[k] for k in chosen]
        pipeline.set_adapters(names, weights)
        wanted = seen_by_diffusers(pipeline)
        read = [(aligned(model.read_lora(places[k])), WEIGHTS[k]) for k in chosen]
        got = seen(model.with_styles(read))
        for ours, theirs, without in zip(got, wanted, plain, strict=True):
            assert (theirs - without).abs().max() > 0.01
            assert torch.equal(ours, theirs)
    assert all(map(torch.equal, seen(model), plain))


def test_a_lora_of_a_pass_comes_on_top_of_those_of_the_model(tiny):
    first, second = random_lora(tiny.unet), random_lora(tiny.unet, rank=2)
    text = tiny.encode_text("a cat", SIZE)
    latent = noise(1, 4, 12, 16)
    styled = tiny.with_styles([(first, 0.5)])
    got = styled.predictor(text, second).predict(latent, 321)
    wanted = tiny.with_styles([(first, 0.5), (second, 1.0)]).predictor(text).predict(latent, 321)
    assert torch.equal(got, wanted)
    assert not torch.equal(got, tiny.predictor(text, second).predict(latent, 321))
    again = styled.with_styles([(second, 1.0)])  # after those that it has
    assert torch.equal(again.predictor(text).predict(latent, 321), wanted)


def test_gradients_reach_the_lora_on_top_and_none_below(tiny):
    styled = tiny.with_styles([(random_lora(tiny.unet), 0.5)])
    top = random_lora(tiny.unet, rank=2).map(lambda m: m.requires_grad_())
    text = tiny.encode_text("a cat", SIZE)
    out = styled(noise(1, 4, 12, 16), 321, text, lora=top).prediction
    out.sum().backward()
    assert all(m.grad is not None for m in top.up.values())
    assert not any(m.requires_grad for m in styled.styles[0][0].down.values())


def test_a_fingerprint_tells_which_loras_a_model_has_and_how_strongly(tiny):
    one, other = random_lora(tiny.unet), random_lora(tiny.unet, rank=2)
    styles = [[], [(one, 0.5)], [(one, 0.6)], [(other, 0.5)], [(one, 0.5), (other, 0.5)],
              [(other, 0.5), (one, 0.5)]]  # fmt: skip
    prints = [tiny.with_styles(each).fingerprint for each in styles]
    assert len(set(prints)) == len(prints)
    assert prints[0] == tiny.fingerprint
    assert tiny.with_styles([(random_lora(tiny.unet), 0.5)]).fingerprint == prints[1]
    assert tiny.with_styles(styles[1]).with_memory("low").fingerprint == prints[1]


@pytest.mark.parametrize(("model", "other"), [("tiny", "xl"), ("xl", "tiny")])
def test_a_lora_of_another_family_is_refused_by_name(model, other, request, tmp_path):
    model, other = (request.getfixturevalue(name) for name in (model, other))
    foreign = random_lora(other.unet)
    with pytest.raises(ValueError, match="belongs to another model"):
        model.with_styles([(random_lora(model.unet), 1.0), (foreign, 0.5)])
    with pytest.raises(ValueError, match="belongs to another model"):
        model.read_lora(save_lora(foreign, tmp_path))


def test_memory_of_a_models_loras_is_counted(tiny):
    lora = random_lora(tiny.unet)
    size = sum(m.nbytes for m in (*lora.down.values(), *lora.up.values()))
    styled = tiny.with_styles([(lora, 1.0), (lora, 1.0)])
    assert styled.weight_bytes[0] - tiny.weight_bytes[0] == 2 * size
    assert styled.on_meta().weight_bytes[0] - tiny.on_meta().weight_bytes[0] == 2 * size
