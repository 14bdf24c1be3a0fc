"""LoRAs that change the model, in a session: under its own LoRA, in every key and every file."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tiny_models import random_lora
from tiny_sessions import Passes, ask, session_on, waves

from dragwidget.diffusion.lora import save_lora
from dragwidget.session.journal import Journal, restore
from dragwidget.session.session import DragSession
from dragwidget.storage.cache import Store


@pytest.fixture
def files(tiny, tmp_path):
    """Two LoRA files."""
    return [
        save_lora(random_lora(tiny.unet, rank), tmp_path / f"{rank}.safetensors") for rank in (2, 4)
    ]


@pytest.fixture
def styles(files):
    return [(files[0], 0.3), (str(files[1]), 0.2)]


def test_an_edit_with_styles_is_that_of_a_model_that_has_them(tiny, styles):
    """Training, inversion, drag and render: bit for bit."""
    session = session_on(tiny, lora_steps=2)
    session.use_lora(styles)
    read = [(tiny.read_lora(file), weight) for file, weight in styles]
    wanted = session_on(tiny.with_styles(read), lora_steps=2)
    plain = session_on(tiny, lora_steps=2)
    for each in (session, wanted, plain):
        each.instructions = ask()
        each.step(2)
    own = session.edit.inversion.lora
    assert own.digest == wanted.edit.inversion.lora.digest
    assert own.digest != plain.edit.inversion.lora.digest
    assert torch.equal(session.history.current.latent, wanted.history.current.latent)
    assert np.array_equal(session.render(), wanted.render())
    assert not np.array_equal(session.render(), plain.render())
    assert np.array_equal(session.preview(), wanted.preview())


def test_the_lora_of_the_image_is_trained_on_top_and_may_be_given_on_top(tiny, styles, tmp_path):
    session = session_on(tiny, lora_steps=2)
    session.use_lora(styles)
    trained = session.train_lora()
    latent = session.invert().latents[-1]
    again = session_on(tiny)
    again.use_lora(styles)
    again.use_lora(save_lora(trained, tmp_path / "own.safetensors"))
    assert [weight for _, weight in again.request.styles] == [0.3, 0.2]
    assert torch.equal(again.invert().latents[-1], latent)
    again.use_lora(None)
    assert again.lora is None
    assert len(again.request.styles) == 2
    again.use_lora([])
    assert again.request.styles == ()


def test_each_stage_is_kept_by_the_styles_that_made_it(tiny, styles):
    session = session_on(tiny, lora_steps=2)
    session.prepare()
    session.use_lora(styles)
    status = session.status
    assert {status[name].state for name in ("lora", "inversion")} == {"outdated"}
    assert status["lora"].why == "the model's LoRAs changed since it was made"
    session.prepare()
    with Passes(tiny) as passes:
        session.use_lora([])
        session.prepare()
        session.use_lora(styles)
        session.prepare()
    assert passes.count == 0


def test_a_store_tells_apart_what_other_styles_have_made(tiny, styles, tmp_path):
    store = Store(tmp_path / "store")

    def prepared(given):
        session = session_on(tiny, lora_steps=2)
        session.stages.store = store
        session.use_lora(given)
        with Passes(tiny) as passes:
            latent = session.invert().latents[-1]
        return passes.count, latent

    first, one = prepared(styles)
    other, two = prepared([(styles[0][0], 0.31), styles[1]])
    assert first == other > 0
    assert not torch.equal(one, two)
    again, same = prepared(styles)
    assert again == 0
    assert torch.equal(one, same)


def test_styles_survive_in_a_session_file_and_in_a_journal(tiny, styles, tmp_path):
    session = session_on(tiny, lora_steps=2)
    session.prepare()
    session.use_lora(styles)
    session.instructions = ask()
    session.step(2)
    session.save(tmp_path / "edit.drag")
    opened = DragSession.load(tmp_path / "edit.drag", tiny)
    assert opened.request == session.request
    assert opened.request.style_digests == session.request.style_digests
    assert len(opened.edits) == 2
    with Passes(tiny) as passes:
        opened.prepare()
    assert passes.count == 0
    for each in (session, opened):
        each.step(1)
    assert torch.equal(opened.history.current.latent, session.history.current.latent)

    journal = Journal(tmp_path / "journal")
    journal.drew(session)
    session.use_lora(styles[:1])
    journal.drew(session)
    assert restore(tmp_path / "journal", tiny)[0].request == session.request


def test_another_image_keeps_the_styles_and_drops_the_lora(tiny, styles):
    session = session_on(tiny)
    session.use_lora(styles)
    session.use_lora(random_lora(tiny.unet))
    session.set_image(waves(seed=3))
    assert session.lora is None
    assert len(session.request.styles) == 2


def test_an_estimate_counts_the_styles(tiny, styles):
    session = session_on(tiny, lora_steps=2)
    before = session.estimate(timed=False)
    session.use_lora(styles)
    after = session.estimate(timed=False)
    size = sum(
        m.nbytes
        for lora, _ in session.request.styles
        for m in (*lora.down.values(), *lora.up.values())
    )
    assert after.weights - before.weights == size
    assert after.memory > before.memory + size


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["style.safetensors"], TypeError, "pairs of a LoRA or its file and a weight"),
        ([(None, 0.5)], TypeError, "pairs of a LoRA or its file and a weight"),
        (("style.safetensors", 0.5), TypeError, "pairs of a LoRA or its file and a weight"),
        ([("gone.safetensors", 0.5)], FileNotFoundError, "there is no LoRA file gone"),
    ],
)
def test_what_are_no_styles_is_refused_and_changes_nothing(tiny, given, error, message):
    session = session_on(tiny)
    before = session.request
    with pytest.raises(error, match=message):
        session.use_lora(given)
    with pytest.raises(ValueError, match="alpha is for one LoRA file"):
        session.use_lora([], alpha=2.0)
    assert session.request is before


@pytest.mark.parametrize("weight", ["0.5", None, True, float("nan"), float("inf")])
def test_a_weight_must_be_a_number(tiny, weight):
    session = session_on(tiny)
    with pytest.raises(ValueError, match="the weight of a LoRA must be a number"):
        session.use_lora([(random_lora(tiny.unet), weight)])
    with pytest.raises(TypeError, match="styles must be pairs of a LoRA and its weight"):
        dataclasses.replace(session.request, styles=(random_lora(tiny.unet),))
    with pytest.raises(TypeError, match="must be its weights"):
        dataclasses.replace(session.request, styles=(("style.safetensors", 1.0),))


def test_a_style_of_another_family_is_refused_by_name(tiny, xl):
    session = session_on(tiny)
    with pytest.raises(ValueError, match="belongs to another model"):
        session.use_lora([(random_lora(xl.unet), 0.5)])
    with pytest.raises(ValueError, match="belongs to another model"):
        session.update_request(styles=((random_lora(xl.unet), 0.5),))
