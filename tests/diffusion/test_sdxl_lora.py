"""LoRA files for Stable Diffusion XL have the effect that diffusers' own pipeline gives them."""

from __future__ import annotations

import pytest
import torch
from original_layout import unet_name
from safetensors.torch import load_file, save_file
from tiny_models import kohya_names, noise, random_lora
from tiny_sessions import session_on
from tiny_xl import xl_pipeline

from dragwidget.diffusion.loading.reading import quiet
from dragwidget.diffusion.lora import LoRA, load_lora, save_lora
from dragwidget.session.session import DragSession

FILE = "pytorch_lora_weights.safetensors"
SIZE = (64, 48)


def layers(network, kinds=(torch.nn.Linear,)):
    return {
        path.removeprefix("text_model."): layer
        for path, layer in network.named_modules()
        if isinstance(layer, kinds)
    }


def matrices(network, kinds=(torch.nn.Linear,), rank=2):
    """Down and up of every layer, by path."""
    made = {}
    for k, (path, layer) in enumerate(layers(network, kinds).items()):
        outputs, inputs, *kernel = layer.weight.shape
        down = noise(rank, inputs, *kernel, seed=k) / inputs**0.5
        made[path] = down, 0.3 * noise(outputs, rank, *[1 for _ in kernel], seed=k + 1)
    return made


def kohya(names, alpha=1.0):
    """The tensors of a LoRA as kohya's scripts write them, by their names of layers."""
    tensors = {}
    for name, (down, up) in names.items():
        name = name.replace(".", "_")
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    return tensors


def texts_of(model, **options):
    """Of both text encoders; kohya's scripts have no place for the projection behind the second."""
    first, second = matrices(model.text_encoder), matrices(model.text_encoder_2)
    second.pop("text_projection")
    named = {"lora_te1_text_model_": first, "lora_te2_text_model_": second}
    return kohya({p + path: pair for p, pairs in named.items() for path, pair in pairs.items()},
                 **options)  # fmt: skip


def seen(model, lora=None):
    """What the model answers with a LoRA of ours: prediction, embeddings, pooled text."""
    text = model.encode_text("a cat", SIZE, lora=lora)
    prediction = model.predictor(text, lora).predict(noise(1, 4, 12, 16), 321)
    return prediction, text.prompt.embeddings, text.prompt.pooled


def of_diffusers(folder, lora_folder):
    """What diffusers' pipeline answers with what it makes of the file."""
    pipeline = xl_pipeline(folder)
    with quiet():
        pipeline.load_lora_weights(lora_folder, weight_name=FILE)
    sides = SIZE[::-1]
    ids = torch.tensor([[*sides, 0, 0, *sides]], dtype=torch.float32)
    with torch.no_grad():
        embeddings, _, pooled, _ = pipeline.encode_prompt(
            "a cat", device="cpu", do_classifier_free_guidance=False
        )
        prediction = pipeline.unet(
            noise(1, 4, 12, 16), 321, encoder_hidden_states=embeddings,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": ids},
        ).sample  # fmt: skip
    return prediction, embeddings, pooled


def assert_same(got, wanted, plain, texts):
    for part, (ours, theirs, without) in enumerate(zip(got, wanted, plain, strict=True)):
        differs = float((theirs - without).abs().max())
        assert differs > 0.05 if part == 0 or texts else differs == 0
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=5e-4)


ATTENTION = ("attn1", "attn2")


def attention_of(unet):
    return {p: m for p, m in matrices(unet).items() if any(word in p for word in ATTENTION)}


def original_name(path, state):
    return unet_name(f"{path}.weight", state).removesuffix(".weight")


@pytest.mark.loads(
    "LoRA",
    "kohya, UNet in either naming, both text encoders",
    "SDXL",
    "loads: the effect that diffusers gives it",
)
@pytest.mark.slow
@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("texts", [True, False])
def test_a_lora_of_kohya_is_what_diffusers_makes_of_it(xl, xl_folder, tmp_path, original, texts):
    """Its layers have Stability AI's names, as most have, or diffusers' own."""
    state = xl.unet.state_dict()
    named = {
        f"lora_unet_{original_name(path, state) if original else path}": pair
        for path, pair in attention_of(xl.unet).items()
    }
    tensors = kohya(named, 2.0) | (texts_of(xl, alpha=2.0) if texts else {})
    assert any("input_blocks" in key for key in tensors) == original
    save_file(tensors, tmp_path / FILE)
    lora = xl.read_lora(tmp_path)
    assert_same(seen(xl, lora), of_diffusers(xl_folder, tmp_path), seen(xl), texts)


def test_every_layer_has_its_place_under_its_original_name(xl, tmp_path):
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    state, wanted = xl.unet.state_dict(), matrices(xl.unet, kinds)
    named = {f"lora_unet_{original_name(path, state)}": pair for path, pair in wanted.items()}
    assert len(named) == len(wanted) > 100
    save_file(kohya(named, alpha=2.0), tmp_path / FILE)
    lora = load_lora(tmp_path, xl.unet)
    assert lora.down.keys() == wanted.keys()
    assert all(torch.equal(lora.up[path], up) for path, (_, up) in wanted.items())


@pytest.fixture
def of_all(xl):
    """A LoRA of all three networks."""
    lora = random_lora(xl.unet)
    down, up = dict(lora.down), dict(lora.up)
    for part in ("text_encoder", "text_encoder_2"):
        for path, (first, second) in matrices(getattr(xl, part)).items():
            down[f"{part}.{path}"], up[f"{part}.{path}"] = first, second
    return LoRA(down, up)


@pytest.mark.loads(
    "LoRA",
    "diffusers, UNet and both text encoders",
    "SDXL",
    "loads: the effect that diffusers gives it",
)
@pytest.mark.slow
def test_a_lora_in_diffusers_format_is_what_diffusers_makes_of_it(xl, xl_folder, of_all, tmp_path):
    save_lora(of_all, tmp_path)
    keys = load_file(tmp_path / FILE).keys()
    assert "text_encoder_2.text_projection.lora_A.weight" in keys
    lora = xl.read_lora(tmp_path)
    assert lora.digest == of_all.digest
    assert_same(seen(xl, lora), of_diffusers(xl_folder, tmp_path), seen(xl), texts=True)


@pytest.mark.slow
def test_all_parts_are_used_by_a_session_and_survive_in_an_archive(xl, of_all, tmp_path):
    session = session_on(xl)
    plain = session.invert().latents[-1]
    session.use_lora(save_lora(of_all, tmp_path))
    with_all = session.invert().latents[-1]
    session.use_lora(random_lora(xl.unet))
    assert (with_all - plain).abs().max() > 0.1
    assert (with_all - session.invert().latents[-1]).abs().max() > 0.1
    session.use_lora(of_all)
    session.prepare()
    session.save(tmp_path / "edit.drag")
    assert DragSession.load(tmp_path / "edit.drag", xl).lora.digest == of_all.digest


# ---------------------------------------------------------------- the other family's


@pytest.mark.loads("LoRA", "of the other family", "SD 1.x, SDXL", "refused by name")
def test_a_lora_of_the_other_family_is_refused_both_ways(xl, tiny, tmp_path):
    for model, other in ((xl, tiny), (tiny, xl)):
        folder = tmp_path / other.unet.config["down_block_types"][0]
        save_lora(random_lora(other.unet), folder)
        with pytest.raises(ValueError, match="belongs to another model"):
            model.read_lora(folder)
        save_file(kohya_names(random_lora(other.unet)), folder / FILE)
        with pytest.raises(ValueError, match="belongs to another model"):
            model.read_lora(folder)


@pytest.mark.parametrize(
    ("width", "family"), [(768, "Diffusion 1.x"), (1024, "Diffusion 2.x"), (2048, "Diffusion XL")]
)
def test_a_lora_of_another_family_is_named_by_the_width_of_its_text(xl, tmp_path, width, family):
    path = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = kohya({path: (torch.zeros(2, width), torch.zeros(8, 2))})
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(ValueError, match=rf"belongs to another model \(Stable {family}\)"):
        xl.read_lora(tmp_path)


def test_the_text_encoder_of_the_other_family_is_refused_by_name(xl, tmp_path):
    key = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    save_file(kohya({key: (torch.zeros(2, 16), torch.zeros(32, 2))}), tmp_path / FILE)
    with pytest.raises(ValueError, match="is a LoRA of Stable Diffusion 1 or 2, which is not"):
        xl.read_lora(tmp_path)


def test_a_second_text_encoders_part_needs_that_text_encoder(xl, of_all, tmp_path):
    save_file(texts_of(xl), tmp_path / FILE)
    with pytest.raises(ValueError, match=r"text encoder too \(lora_te2_.*give text_encoder_2="):
        load_lora(tmp_path, xl.unet, text_encoder=xl.text_encoder)
    with pytest.raises(ValueError, match=r"changes the second text encoder too.*text_encoder_2="):
        of_all.check({"unet": xl.unet, "text_encoder": xl.text_encoder})
