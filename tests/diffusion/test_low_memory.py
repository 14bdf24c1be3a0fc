"""``memory="low"``: the same results, bit for bit, with less kept."""

import numpy as np
import pytest
import torch
from tiny_models import make_unet, random_lora
from tiny_sessions import FAR, ask, left_half, session_on

from dragwidget.diffusion.lora import switches_of
from dragwidget.diffusion.low_memory import checkpoints, on_device
from dragwidget.diffusion.sd import Conditioning
from dragwidget.diffusion.switches import run

CPU = torch.device("cpu")


@pytest.mark.slow
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("lora_steps", [0, 2])
def test_an_edit_in_low_memory_is_the_same_bit_for_bit(tiny, mask, lora_steps):
    made = []
    for memory in ("normal", "low"):
        session = session_on(tiny.with_parts(memory=memory), lora_steps=lora_steps)
        session.instructions = ask(FAR, mask=left_half() if mask else None)
        session.run(steps=3)
        made.append((session.history.current.latent, np.asarray(session.render())))
    (latent, image), (low_latent, low_image) = made
    assert torch.equal(latent, low_latent)
    assert np.array_equal(image, low_image)


def kept(model, blocks=(3,)):
    """Bytes that one pass keeps for its gradient, and that gradient."""
    seen = {}

    def note(tensor):
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latent.requires_grad_()
    predictor = model.predictor(Conditioning(model.embed("a cat")), random_lora(model.unet))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = predictor(latent, 500, blocks=blocks)
    (gradient,) = torch.autograd.grad(output.prediction.sum(), latent)
    weights = {w.untyped_storage().data_ptr() for w in model.unet.parameters()}
    return sum(size for where, size in seen.items() if where not in weights), gradient


def test_a_pass_in_low_memory_keeps_a_small_part_for_its_gradient(tiny):
    normal, wanted = kept(tiny.with_parts(memory="normal"))
    low, gradient = kept(tiny.with_parts(memory="low"))
    assert low < 0.4 * normal
    assert torch.equal(gradient, wanted)


def test_a_pass_without_a_gradient_is_not_computed_twice(tiny):
    passes = []
    unet = tiny.unet
    hook = unet.mid_block.attentions[0].register_forward_hook(lambda *_: passes.append(1))
    try:
        predictor = tiny.with_parts(memory="low").predictor(Conditioning(tiny.embed("a cat")))
        with torch.no_grad():
            predictor.predict(torch.zeros(1, 4, 16, 16), 500)
        assert len(passes) == 1
    finally:
        hook.remove()


def alone(_within, work):
    return work()


def test_a_network_is_as_it_was_after_a_failure_in_it():
    unet = make_unet()
    forwards = [module.forward for module in unet.modules()]
    with pytest.raises(RuntimeError, match="inside"):
        run(unet, checkpoints(unet, [], alone), raises)
    assert all(
        "forward" not in module.__dict__ and module.forward == forward
        for module, forward in zip(unet.modules(), forwards, strict=True)
    )


def raises():
    raise RuntimeError("inside")


def test_what_others_put_in_place_of_a_forward_stays_there():
    """Such as the hooks of accelerate, which move weights."""
    unet = make_unet()
    resnet = unet.mid_block.resnets[0]
    calls, own = [], resnet.forward
    resnet.forward = lambda *args, **kwargs: calls.append(1) or own(*args, **kwargs)
    others = resnet.forward
    x = torch.zeros(1, 4, 16, 16, requires_grad=True)
    text = torch.zeros(1, 3, 16)
    out = run(
        unet, checkpoints(unet, [], alone), lambda: unet(x, 5, encoder_hidden_states=text).sample
    )
    out.sum().backward()
    assert len(calls) == 2  # once for the gradient
    assert resnet.forward is others


def test_a_lora_is_on_when_a_layer_is_computed_again():
    unet = make_unet().requires_grad_(False)
    lora = random_lora(unet)
    text = torch.ones(1, 3, 16)

    def gradient(again):
        x = torch.ones(1, 4, 16, 16, requires_grad=True)
        on = switches_of(unet, lora)
        if again:
            on += checkpoints(unet, on, again)
        out = run(unet, on, lambda: unet(x, 5, encoder_hidden_states=text).sample)
        return torch.autograd.grad(out.square().sum(), x)[0]

    with_lora = gradient(lambda within, work: run(unet, within, work))
    assert torch.equal(with_lora, gradient(None))
    with pytest.raises(torch.utils.checkpoint.CheckpointError):  # it takes the LoRA
        gradient(alone)


class Traveller(torch.nn.Linear):
    """Notes where it is sent, and stays."""

    def __init__(self):
        super().__init__(1, 1)
        self.trips = []

    def _apply(self, fn, recurse=True):
        del recurse
        self.trips.append(fn(torch.empty(0)).device.type)
        return self


def test_a_part_that_waits_goes_to_the_device_and_back():
    part = Traveller()
    with on_device(part, torch.device("meta")):
        assert part.trips == ["meta"]
    assert part.trips == ["meta", "cpu"]


def test_a_part_comes_back_after_a_failure():
    part = Traveller()
    with pytest.raises(MemoryError), on_device(part, torch.device("meta")):
        raise MemoryError
    assert part.trips == ["meta", "cpu"]


def test_a_part_that_is_there_does_not_move():
    part = Traveller()
    with on_device(part, CPU):
        pass
    assert part.trips == []


def test_memory_is_normal_or_low(tiny):
    with pytest.raises(ValueError, match="'normal' or 'low', got 'tiny'"):
        tiny.with_parts(memory="tiny")
