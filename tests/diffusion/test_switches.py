"""The owner of a network: one pass at a time, nothing of ours between two, others' things stay."""

import threading

import pytest
import torch
from interrupting import inventory, is_free
from tiny_models import make_unet, noise, random_lora

from dragwidget.data.settings import RenderSettings
from dragwidget.diffusion.attention import record_reference, render_latents
from dragwidget.diffusion.low_memory import on_device
from dragwidget.diffusion.sd import Conditioning
from dragwidget.diffusion.switches import Around, Behind, lock_of, run
from dragwidget.diffusion.unet import self_attention_layers

LATENT = noise(1, 4, 8, 12)
META = torch.device("meta")


@pytest.fixture
def model(tiny):
    """On a network of its own, which a test may change."""
    torch.manual_seed(0)
    return tiny.with_parts(unet=make_unet())


def lora_of(model, seed=0):
    """One that differs by seed."""
    return random_lora(model.unet).map(lambda m: m + 0.1 * seed)


def predictor_of(model, seed=0):
    return model.predictor(Conditioning(model.embed("a cat")), lora_of(model, seed))


# ---------------------------------------------------------------- leftovers


def doubled(forward, *args, **kwargs):
    return 2 * forward(*args, **kwargs)


def test_a_pass_removes_what_an_earlier_one_has_left_behind(model):
    predictor, before = predictor_of(model), inventory(model)
    wanted = predictor.predict(LATENT, 500)
    seen = []
    for layer in (model.unet.conv_in, model.unet.mid_block.attentions[0].proj_in):
        Around(layer, doubled).put()
        Around(layer, doubled).put()  # one upon the other
    Behind(model.unet.mid_block, seen.append).put()
    assert inventory(model) != before
    assert torch.equal(predictor.predict(LATENT, 500), wanted)
    assert inventory(model) == before
    assert seen == []


def test_what_others_have_put_into_a_network_stays_there_and_works(model):
    unet, calls = model.unet, []
    attention, resnet = self_attention_layers(unet)[0], unet.mid_block.resnets[0]
    inner, own = attention.processor, resnet.forward

    def processor(*args, **kwargs):
        calls.append("processor")
        return inner(*args, **kwargs)

    def forward(*args, **kwargs):
        calls.append("forward")
        return own(*args, **kwargs)

    attention.processor, resnet.forward = processor, forward
    unet.mid_block.register_forward_hook(lambda *_: calls.append("hook"))
    unet.mid_block.register_forward_pre_hook(lambda *_: calls.append("pre-hook"))
    settings, path, before = RenderSettings(start_layer=0), model.schedule(4), inventory(model)
    predictor = predictor_of(model.with_parts(memory="low"))
    *_, branch = record_reference(predictor, LATENT, path, 1, settings)
    list(render_latents(predictor, LATENT, path, 1, branch, settings))
    predictor(LATENT.clone().requires_grad_(), 500, blocks=(0, 3), predict=False)
    assert inventory(model) == before
    assert {name: calls.count(name) for name in calls} == {
        "processor": 3, "forward": 3, "hook": 3, "pre-hook": 3,
    }  # fmt: skip


def test_a_switch_that_others_have_wrapped_meanwhile_is_silent_when_it_is_off(model):
    layer = model.unet.conv_in
    plain = layer(LATENT)

    def work():
        inside = layer.forward
        layer.forward = lambda *args: inside(*args)

    run(model.unet, [Around(layer, doubled)], work)
    assert torch.equal(layer(LATENT), plain)


# ---------------------------------------------------------------- passes inside passes, failures


def test_a_pass_inside_a_pass_has_its_own_switches_and_the_outer_one_goes_on_with_its(model):
    one, other = predictor_of(model, 1), predictor_of(model, 2)
    alone, inner_alone = one.predict(LATENT, 500), other.predict(LATENT, 300)
    assert not torch.equal(alone, predictor_of(model, 2).predict(LATENT, 500))
    got, before = [], inventory(model)

    def nested(*_):
        hook.remove()
        got.append(other.predict(LATENT, 300))

    hook = model.unet.mid_block.register_forward_pre_hook(nested)
    assert torch.equal(one.predict(LATENT, 500), alone)
    assert torch.equal(got[0], inner_alone)
    assert inventory(model) == before


@pytest.mark.slow
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
@pytest.mark.parametrize("nested", [False, True])
def test_an_error_in_somebodys_hook_leaves_the_network_as_it_was(model, error, nested):
    predictor, other = predictor_of(model.with_parts(memory="low")), predictor_of(model, 2)
    wanted = predictor.predict(LATENT, 500)

    def fails(*_):
        hook.remove()
        if nested:
            again = model.unet.mid_block.register_forward_pre_hook(raises)
            try:
                other.predict(LATENT, 300)
            finally:
                again.remove()
        raise error("in a hook")

    def raises(*_):
        raise error("in a hook of the pass inside")

    before = inventory(model)
    hook = model.unet.up_blocks[1].register_forward_pre_hook(fails)
    with pytest.raises(error):
        predictor(LATENT.clone().requires_grad_(), 500, blocks=(3,))
    assert inventory(model) == before
    assert torch.equal(predictor.predict(LATENT, 500), wanted)


def test_a_walk_that_is_abandoned_midway_leaves_nothing(model):
    predictor, before = predictor_of(model), inventory(model)
    settings, path = RenderSettings(start_layer=0), model.schedule(4)
    walk = record_reference(predictor, LATENT, path, 3, settings)
    branch = next(walk)
    assert inventory(model) == before  # though the walk is still alive
    del walk
    render = render_latents(predictor, LATENT, path, 1, branch, settings)
    next(render)
    render.close()
    assert inventory(model) == before


# ---------------------------------------------------------------- threads


@pytest.mark.slow
@pytest.mark.parametrize("memory", ["normal", "low"])
def test_threads_of_models_that_share_a_network_do_not_meet_in_it(model, memory):
    shared = [model.with_parts(memory=memory) for _ in range(3)]
    predictors = [predictor_of(each, seed) for seed, each in enumerate(shared)]
    wanted = [predictor.predict(LATENT, 500) for predictor in predictors]
    got = [[] for _ in predictors]
    together = threading.Barrier(len(predictors))

    def passes(predictor, results):
        together.wait()
        results.extend(predictor.predict(LATENT, 500) for _ in range(5))

    threads = [
        threading.Thread(target=passes, args=pair) for pair in zip(predictors, got, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, result in zip(got, wanted, strict=True):
        assert len(results) == 5
        assert all(torch.equal(each, result) for each in results)


class Traveller(torch.nn.Linear):
    """Notes where it is sent, and is there by its own account."""

    def __init__(self):
        super().__init__(1, 1)
        self.trips = []

    def _apply(self, fn, recurse=True):
        del recurse
        self.trips.append(fn(torch.empty(0)).device.type)
        return self


def test_a_part_in_use_by_one_thread_goes_home_before_another_fetches_it():
    part = Traveller()
    first_is_in, second_is_in = threading.Event(), threading.Event()
    first_saw = []

    def first():
        with on_device(part, META):
            first_is_in.set()
            second_is_in.wait(0.3)  # the second has its chance
            first_saw.append((second_is_in.is_set(), part.trips[-1]))

    def second():
        first_is_in.wait()
        with on_device(part, META):
            second_is_in.set()

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert first_saw == [(False, "meta")]
    assert part.trips == ["meta", "cpu", "meta", "cpu"]


def test_interrupts_on_the_way_home_do_not_keep_a_part_from_getting_there():
    class Interrupted(Traveller):
        def _apply(self, fn, recurse=True):
            super()._apply(fn, recurse)
            if 1 < len(self.trips) < 5:  # a key that is held down
                raise KeyboardInterrupt
            return self

    part = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        run(part, (), lambda: None, device=META)
    assert part.trips == ["meta", "cpu", "cpu", "cpu", "cpu"]
    assert is_free(lock_of(part))


def test_a_pass_inside_a_visit_neither_fetches_a_part_nor_sends_it_home():
    part = Traveller()
    part.bias = None
    with on_device(part, META):
        run(part, (), lambda: part.trips.append("work"))
    assert part.trips == ["meta", "work", "cpu"]
