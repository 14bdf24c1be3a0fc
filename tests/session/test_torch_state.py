"""The user's PyTorch settings change no result, reach no cache, and are left as they were."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny_models import make_text_encoder, make_unet, make_vae, noise, random_lora
from tiny_sessions import ask, left_half, session_on
from torch_states import State, now, states

from dragwidget.data.settings import DragSettings, LoRASettings
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import LoRA, load_lora, save_lora
from dragwidget.diffusion.lora.training import LoRABatch, train_lora
from dragwidget.diffusion.sd import Conditioning
from dragwidget.drag import GaussianPrior, denoise, drag, invert
from dragwidget.drag.torch_state import PlainTorch, in_plain_torch
from dragwidget.session.session import DragSession
from dragwidget.storage.cache import Store


def both(lora):
    return lora.down, lora.up


def edit(model, prepared: State = nullcontext, dragged: State = nullcontext, store=None, **drag):
    """All that an edit leaves, prepared in one state and dragged in another."""
    with prepared():
        before = now()
        session = session_on(model, lora_steps=2, template="original", **drag)
        session.stages.store = store
        session.instructions = ask(mask=left_half())
        session.prepare()
        assert now() == before
    with dragged():
        before = now()
        inversion = session.invert()
        for step in session.drag(steps=2):
            assert now() == before
            assert step.latent.dtype == torch.float32
        quick, preview = session.preview(quick=True), session.preview()
        similar = session.similarity((10, 10))
        render = session.render()
        assert now() == before
    found = [*inversion.latents, session.history.current.latent]
    found += [each[path] for path in sorted(inversion.lora.up) for each in both(inversion.lora)]
    images = [np.asarray(image) for image in (quick, preview, render)]
    return [tensor.numpy() for tensor in found] + images + [*similar.values()]


def assert_alike(got, wanted):
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.fixture(scope="module")
def plain(tiny):
    return edit(tiny)


@pytest.mark.slow
@states
def test_an_edit_may_be_prepared_in_one_state_and_dragged_in_another(tiny, plain, state):
    assert_alike(edit(tiny, prepared=state), plain)
    assert_alike(edit(tiny, dragged=state), plain)


@pytest.mark.slow
@states
def test_an_edit_has_the_same_bits_in_any_state_and_leaves_them_in_a_store(
    tiny, plain, state, tmp_path
):
    store = Store(tmp_path)
    assert_alike(edit(tiny, state, state, store), plain)
    assert_alike(edit(tiny, store=store), plain)


OTHERS = {"start": "warped", "prior_weight": 0.5}


@pytest.fixture(scope="module")
def plain_with_others(tiny):
    return edit(tiny, **OTHERS)


@pytest.mark.slow
@states
def test_an_edit_with_a_prior_and_a_warped_start_has_the_same_bits(tiny, plain_with_others, state):
    assert_alike(edit(tiny, state, state, **OTHERS), plain_with_others)


@pytest.mark.slow
@states
def test_a_progress_callback_is_called_in_the_users_own_state(tiny, state):
    with state():
        before = now()
        seen = []
        session = session_on(tiny, lora_steps=2, progress=lambda _: seen.append(now() == before))
        session.instructions = ask()
        session.step()
        session.render()
    assert len(seen) > 5
    assert all(seen)


@pytest.mark.slow
@states
def test_a_generated_image_has_the_same_bits(tiny, state):
    found = []
    for each in (nullcontext, state):
        with each():
            before = now()
            session = session_on(tiny)
            image = np.asarray(session.generate("a cat", "a dog", 3.0, 0, (64, 48)))
            session.instructions = ask()
            session.step()
            found.append([image, session.history.current.latent.numpy()])
            assert now() == before
    assert_alike(found[1], found[0])


@pytest.mark.slow
@states
def test_a_model_is_loaded_the_same(tiny_folder, tiny, state):
    before = torch.random.get_rng_state()
    with state():
        inside = now()
        model = load_model(tiny_folder, device="cpu", dtype="float32")
        assert now() == inside
    assert model.fingerprint == tiny.fingerprint
    assert {p.is_inference() for p in model.unet.parameters()} == {False}
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
@states
def test_an_estimate_is_the_same(tiny, state):
    wanted = session_on(tiny, lora_steps=2).estimate(timed=False)
    with state():
        before = now()
        got = session_on(tiny, lora_steps=2).estimate(timed=False)
        timed = session_on(tiny, lora_steps=2).estimate()
        assert now() == before
    assert [(p.passes, p.memory) for p in got.phases] == [
        (p.passes, p.memory) for p in wanted.phases
    ]
    assert timed.seconds > 0


@pytest.mark.slow
@states
def test_a_session_file_is_written_and_read_the_same(tiny, state, tmp_path):
    session = session_on(tiny, lora_steps=2)
    session.instructions = ask()
    session.step(2)
    with state():
        session.save(tmp_path / "edit.drag")
        read = DragSession.load(tmp_path / "edit.drag", tiny)
        read.step()
    session.step()
    assert torch.equal(read.history.current.latent, session.history.current.latent)


@states
def test_a_lora_file_is_read_the_same(tiny, state, tmp_path):
    lora = random_lora(tiny.unet)
    file = save_lora(lora, tmp_path)
    with state():
        assert load_lora(file, tiny.unet).digest == lora.digest


# ---------------------------------------------------------------- the parts, called on their own


@pytest.mark.slow
@states
def test_the_loops_have_the_same_bits(tiny, state):
    found = []
    for each in (nullcontext, state):
        predictor = tiny.predictor(Conditioning(tiny.embed("a cat")))
        schedule = tiny.schedule(6)
        start = noise(1, 4, 12, 16)
        with each():
            before = now()
            way = []
            for latent in invert(predictor.predict, start, schedule, 3):
                assert now() == before
                way.append(latent)
            way += list(denoise(predictor.predict, way[-1], schedule, 3))
            settings = DragSettings(steps=2, feature_blocks=tiny.recommended.drag.feature_blocks)
            steps = drag(predictor, way[2], ask(), schedule, schedule.timesteps[3], settings)
            for step in steps:
                assert now() == before
                way.append(step.latent)
        found.append([latent.numpy() for latent in way])
    assert_alike(found[1], found[0])


@pytest.mark.slow
@states
def test_a_lora_is_trained_to_the_same_bits(tiny, state):
    settings = LoRASettings(steps=2, rank=2, batch_size=1)

    given = (noise(1, 4, 12, 16), noise(1, 4, 12, 16, seed=1), torch.tensor([500]))

    def trained(each):
        with each():
            batches = [LoRABatch(*(tensor.clone() for tensor in given))] * 2
            return list(train_lora(tiny, Conditioning(tiny.embed("a cat")), batches, settings))[
                -1
            ].lora

    assert trained(state).digest == trained(nullcontext).digest


# ---------------------------------------------------------------- what was made in inference mode


def test_tensors_made_in_inference_mode_can_be_given(tiny):
    found, schedule = [], tiny.schedule(6)
    for each in (nullcontext, torch.inference_mode):
        with each():
            text, start, clean = (
                tiny.embed("a cat").clone(),
                noise(1, 4, 12, 16),
                noise(1, 4, 12, 16),
            )
            lora = random_lora(tiny.unet)
            prior = GaussianPrior.of(clean, schedule, schedule.timesteps[3])
        assert lora.up[next(iter(lora.up))].is_inference() is (each is torch.inference_mode)
        predictor = tiny.predictor(Conditioning(text), lora)
        blocks = tiny.recommended.drag.feature_blocks
        settings = DragSettings(steps=2, feature_blocks=blocks, prior_weight=1.0, start="warped")
        steps = drag(
            predictor, start, ask(mask=left_half()), schedule, schedule.timesteps[3], settings,
            prior=prior, clean=clean,
        )  # fmt: skip
        latents = [step.latent for step in steps]
        batches = [LoRABatch(clean, start, torch.tensor([500]))]
        (trained,) = train_lora(
            tiny, Conditioning(text), batches, LoRASettings(steps=1, rank=4), initial=lora
        )
        found.append((latents[-1], trained.lora.digest))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.slow
def test_a_network_made_in_inference_mode_can_be_dragged_with(tiny):
    def made():
        torch.manual_seed(0)
        return {"unet": make_unet(), "vae": make_vae(), "text_encoder": make_text_encoder()}

    with torch.inference_mode():
        inside = made()
    assert next(inside["unet"].parameters()).is_inference()
    models = [tiny.with_parts(**parts) for parts in (made(), inside)]
    assert models[0].fingerprint == models[1].fingerprint
    assert_alike(edit(models[1]), edit(models[0]))


def test_a_lora_given_from_inference_mode_has_the_same_bits(tiny):
    found = []
    for each in (nullcontext, torch.inference_mode):
        with each():
            lora = random_lora(tiny.unet)
        session = session_on(tiny)
        session.use_lora(LoRA(lora.down, lora.up))
        session.instructions = ask()
        session.step()
        found.append(session.history.current.latent)
    assert torch.equal(*found)


# ---------------------------------------------------------------- the context itself


def test_a_transform_of_functions_is_refused_by_name(tiny):
    session = session_on(tiny)
    session.instructions = ask()

    def through(x):
        session.step()
        return x.sum()

    for transform in (torch.func.grad, torch.func.vmap):
        with pytest.raises(RuntimeError, match=r"inside a transform of torch\.func"):
            transform(through)(torch.ones(3))
    session.step()


@states
def test_inside_it_all_is_plain_and_after_it_all_is_back_even_after_an_error(state):
    @in_plain_torch
    def fails():
        assert torch.empty(0).device.type == "cpu"
        assert torch.empty(0).dtype == torch.float32
        assert not torch.empty(0).is_inference()
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
        raise KeyError

    with state():
        before = now()
        with pytest.raises(KeyError):
            fails()
        assert now() == before


@states
def test_a_generator_is_plain_within_its_steps_and_the_users_between_them(state):
    seen = []

    @in_plain_torch
    def work():
        try:
            for k in range(3):
                seen.append(torch.empty(0).device.type)
                seen.append((yield k))
        except KeyError:
            yield "caught"
        finally:
            seen.append(torch.empty(0).device.type)
        return "done"

    with state():
        before = now()
        walk = work()
        assert next(walk) == 0
        assert now() == before
        assert walk.send("sent") == 1
        assert walk.throw(KeyError()) == "caught"
        assert now() == before
        with pytest.raises(StopIteration, match="done"):
            next(walk)
        closed = work()
        next(closed)
        closed.close()
        assert now() == before
    assert seen == ["cpu", "sent", "cpu", "cpu", "cpu", "cpu"]


def test_whether_gradients_are_recorded_is_left_to_whoever_needs_them():
    for mode in (True, False):
        with torch.set_grad_enabled(mode), PlainTorch():
            assert torch.is_grad_enabled() is mode
