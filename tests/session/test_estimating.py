"""How long an edit will take and how much memory: arithmetic on shapes, held against the truth."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from tiny_models import make_unet, make_vae, random_lora
from tiny_sessions import FAR, ask, session_on, waves
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from dragwidget.data.settings import InversionSettings, LoRASettings
from dragwidget.diffusion.backbone import SelfAttention
from dragwidget.diffusion.costs import bytes_of, cost_of
from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.drag.correspondence import correspondence
from dragwidget.session import estimate as estimating


def test_operations_are_those_of_a_real_pass(tiny):
    latent, text = (torch.zeros(shape) for shape in ((1, 4, 12, 16), (1, 77, 16)))
    # The one kernel whose operations PyTorch's own counter sees on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tiny.unet(latent, 500, encoder_hidden_states=text)
    copy = tiny.on_meta()
    latent, text = latent.to("meta"), text.to("meta")
    got = cost_of(
        copy.networks.values(), lambda: copy.unet(latent, 500, encoder_hidden_states=text)
    )
    assert got.flops == counter.get_total_flops()


def test_weights_are_not_counted_and_results_are():
    unet = make_unet()
    copy = StableDiffusion(**{**_parts(unet), "unet": unet.to("meta")})
    one = torch.empty(1000, device="meta")
    cost = cost_of(copy.networks.values(), lambda: [copy.unet.conv_in.weight.view(-1)[:5], one * 2])
    assert (cost.peak, cost.left) == (4000, 4000)
    cost = cost_of(copy.networks.values(), lambda: (one * 2).sum())
    assert (cost.peak, cost.left) == (4004, 4)


def _parts(unet):
    return {
        "unet": unet,
        "vae": make_vae(),
        "text_encoder": make_vae(),
        "tokenizer": None,
        "alphas_cumprod": torch.linspace(0.99, 0.01, 10),
    }


def saved_bytes(model, size):
    """What a real pass keeps for its gradient."""
    seen = {}

    def note(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    latent = torch.zeros(1, 4, size[1] // 4, size[0] // 4, requires_grad=True)
    text = torch.zeros(1, 77, 16)
    weights = {w.untyped_storage().data_ptr() for w in model.unet.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.unet(latent, 500, encoder_hidden_states=text).sample.sum()
    return sum(count for where, count in seen.items() if where not in weights)


@pytest.mark.parametrize("size", [(64, 48), (128, 128)])
def test_a_step_takes_what_a_real_pass_keeps_and_a_little_more(tiny, size):
    session = session_on(tiny)
    session.set_image(waves(*size), max_side=max(size))
    made = estimating._Costs(tiny, session.request.image.fitted_size, session.settings, mask=True)
    kept = saved_bytes(tiny, session.request.image.fitted_size)
    assert 0.9 * kept < made.step().peak < 2 * kept


def phases(session, **options):
    return {phase.name: phase for phase in session.estimate(timed=False, **options).phases}


@pytest.mark.slow
def test_a_mask_and_a_lora_cost_what_they_cost(tiny):
    session = session_on(tiny, lora_steps=2)
    session.instructions = ask(FAR)
    free = phases(session)["drag"]
    session.instructions = ask(FAR, mask=np.ones((48, 64), dtype=bool))
    assert phases(session)["drag"].memory > free.memory  # the whole network is seen
    assert phases(session)["lora"].passes == 2
    session.use_lora(random_lora(tiny.unet))
    assert "lora" not in phases(session)


@pytest.mark.slow
def test_low_memory_is_less(tiny):
    normal = session_on(tiny, lora_steps=2)
    low = session_on(tiny.with_parts(memory="low"), lora_steps=2)
    for name in ("lora", "drag"):
        assert phases(low)[name].memory < phases(normal)[name].memory


@pytest.mark.slow
def test_on_an_accelerator_low_memory_leaves_only_the_unet_there(tiny, monkeypatch):
    elsewhere = torch.device("cuda")

    def device(model):
        here = next(model.unet.parameters()).device
        return here if here.type == "meta" else elsewhere

    monkeypatch.setattr(type(tiny), "device", property(device))
    monkeypatch.setattr(estimating, "free_memory", lambda _: 10**9)
    model = tiny.with_parts(memory="low")
    made = estimating._Costs(model, (64, 48), model.recommended, mask=True).estimate(None)
    assert made.weights == bytes_of(tiny.unet)
    assert {p.name: p for p in made.phases}["decode"].memory > made.weights + bytes_of(tiny.vae)


@pytest.mark.slow
def test_the_time_is_that_of_the_passes(tiny):
    session = session_on(tiny)
    made = session.estimate()
    assert made.seconds == pytest.approx(sum(phase.seconds for phase in made.phases))
    assert 0 < made.seconds < 60
    assert session.estimate(timed=False).seconds is None


@pytest.mark.slow
def test_an_estimate_changes_nothing_and_makes_nothing(tiny):
    session = session_on(tiny, lora_steps=2)
    session.estimate()
    assert session.status["inversion"].state == "missing"
    assert session.status["lora"].state == "missing"
    assert all(weight.device.type == "cpu" for weight in tiny.unet.parameters())


def unet_passes(work):
    """How many passes of a UNet, the meta copy's too, the work takes."""
    calls = []

    def note(module, _):
        if type(module) is UNet2DConditionModel:
            calls.append(module)

    hook = register_module_forward_pre_hook(note)
    try:
        work()
    finally:
        hook.remove()
    return len(calls)


@pytest.mark.slow
def test_an_estimate_takes_few_passes_however_long_the_edit_and_its_advice(tiny, monkeypatch):
    short, long = session_on(tiny, lora_steps=2), session_on(tiny, lora_steps=500, steps=1000)
    long.settings = replace(long.settings, inversion=InversionSettings(steps=900, strength=1.0))
    fitting = [unet_passes(lambda s=s: s.estimate(timed=False)) for s in (short, long)]
    assert fitting == [4, 4]  # LoRA, pass, step, reference
    monkeypatch.setattr(estimating, "free_memory", lambda _: 1)
    for session in (short, long):
        made = []
        passes = unet_passes(lambda s=session, m=made: m.append(s.estimate(timed=False)))
        assert not made[0].fits
        assert passes <= 4 + 2 + 4 * 4  # low memory: LoRA and step; each of four sizes: all


@pytest.mark.slow
def test_what_does_not_fit_is_said_with_what_to_lower(tiny, monkeypatch):
    session = session_on(tiny)
    session.settings = replace(session.settings, lora=LoRASettings(steps=2, rank=2, batch_size=8))
    fits = session.estimate(timed=False)
    assert fits.fits
    assert fits.advice == ()
    assert "it fits" in str(fits)
    monkeypatch.setattr(estimating, "free_memory", lambda _: 100_000)
    made = session.estimate(timed=False)
    assert not made.fits
    assert "it does not fit" in str(made)
    first, second, *rest = made.advice
    assert 'load_model(.., memory="low")' in first
    assert "LoRASettings(batch_size=1)" in second
    assert all("max_side=" in line for line in rest)
    assert all(line in str(made) for line in made.advice)


@pytest.mark.slow
def test_advice_ends_with_what_is_enough(tiny, monkeypatch):
    session = session_on(tiny)
    session.settings = replace(session.settings, lora=LoRASettings(steps=2, rank=2, batch_size=8))
    low = session_on(tiny.with_parts(memory="low"))
    low.settings = session.settings
    made = low.estimate(timed=False)
    monkeypatch.setattr(estimating, "free_memory", lambda _: made.memory - made.weights)
    assert len(session.estimate(timed=False).advice) == 1


def test_where_nothing_is_known_of_memory_nothing_is_said(tiny, monkeypatch):
    monkeypatch.setattr(estimating, "free_memory", lambda _: None)
    made = session_on(tiny).estimate(timed=False)
    assert made.fits is None
    assert "free" not in str(made)


MAPPED = 0.5  # the weight of the source at the first step


@pytest.mark.slow
def test_attention_by_a_map_is_counted_as_a_real_pass_takes_it(tiny):
    settings = replace(
        tiny.recommended, inversion=InversionSettings(steps=10, strength=0.6),
        render=replace(tiny.recommended.render, correspondence=MAPPED, correspondence_share=0.5),
    )  # fmt: skip
    costs = estimating._Costs(tiny, (64, 48), settings, mask=True)
    (mapped, by_map), (others, plain) = costs.render()
    assert (mapped, others) == (3, 3)
    assert plain == costs.one_pass()
    layers = tuple(range(settings.render.start_layer, tiny.self_attention_count))
    predictor = tiny.predictor(tiny.encode_text("", (64, 48)))
    latent = torch.zeros(costs.shape)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        states = predictor(latent, 500, attention=SelfAttention(layers)).states
        moved = correspondence((12, 16), torch.tensor([[3.0, 3.0]]), torch.tensor([[6.0, 9.0]]))
        with FlopCounterMode(display=False) as counter:
            predictor.predict(latent, 500, SelfAttention(layers, states, moved, MAPPED))
    assert by_map.flops == counter.get_total_flops()
    assert by_map.flops > plain.flops
    assert by_map.peak > plain.peak


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_a_drag_that_attends_to_the_source_takes_more(tiny, memory):
    model = tiny.with_parts(memory=memory)

    def step(**drag):
        settings = replace(model.recommended, drag=replace(model.recommended.drag, **drag))
        return estimating._Costs(model, (64, 48), settings, mask=True).step()

    plain, reference, mapped = step(), step(reference_attention=True), step(correspondence=MAPPED)
    assert plain.peak < reference.peak < mapped.peak
    assert plain.flops < mapped.flops


@pytest.mark.slow
def test_a_progressive_step_counts_all_of_its_updates(tiny):
    session = session_on(tiny)
    steps = session.settings.drag.steps
    assert phases(session)["drag"].passes == steps + 1
    drag = replace(session.settings.drag, method="progressive", updates_per_track=4)
    session.settings = replace(session.settings, drag=drag)
    assert phases(session)["drag"].passes == 4 * steps + 1
