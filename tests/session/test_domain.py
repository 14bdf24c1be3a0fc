"""The warning about images that a model does not know: it comes where it should, and only there."""

from __future__ import annotations

import io
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from tiny_sessions import blocks_of, waves

from dragwidget.__main__ import main
from dragwidget.bench.dev.networks import SIZES
from dragwidget.data.settings import Settings
from dragwidget.demo.scenes import TUNING_SEEDS, render, sample_scenes
from dragwidget.demo.training.export import DOMAIN
from dragwidget.diffusion.domain import Domain, RoundTrip, round_trip
from dragwidget.diffusion.loading import EMBEDDED, load_model
from dragwidget.session.domain_check import PHOTOGRAPHS
from dragwidget.session.estimate import _Costs
from dragwidget.session.session import DragSession
from dragwidget.ui.widget import DragWidget


@pytest.fixture(scope="module", params=EMBEDDED)
def session(request):
    return DragSession.from_pretrained(request.param, device="cpu")


def warning(session, image):
    session.set_image(image)
    return session.domain_warning()


def scenes(size, count=6):
    seeds = range(TUNING_SEEDS + 400, TUNING_SEEDS + 400 + count)
    pixels = render(sample_scenes(seeds), size).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray((each * 255).round().astype(np.uint8)) for each in pixels]


def as_jpeg(image):
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return Image.open(file)


@pytest.mark.slow
@pytest.mark.parametrize("size", [96, 128, 256, 512])
def test_images_of_the_domain_raise_no_warning(session, size):
    for image in scenes(size):
        for given in (image, as_jpeg(image), image.resize((400, 320))):
            assert warning(session, given) == ""


def clouds(side=160, smooth=6.0, seed=0):
    """Noise of natural images' spectrum, 1 / f: what photographs have in common."""
    random = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    fall = 1 / np.maximum(np.hypot(fx, fy), 1 / side) ** (1 + smooth / 10)
    planes = [
        np.fft.ifft2(np.fft.fft2(random.normal(size=(side, side))) * fall).real for _ in "rgb"
    ]
    stacked = np.stack([(p - p.min()) / (p.max() - p.min()) for p in planes], -1)
    return Image.fromarray((stacked * 255).astype(np.uint8))


def page_of_text():
    image = Image.new("RGB", (640, 400), "white")
    draw = ImageDraw.Draw(image)
    for y in range(10, 390, 14):
        draw.text((10, y), "def edit(image): return drag(image) # " * 3, fill="black")
    draw.rectangle((400, 80, 600, 200), fill="#2266cc")
    return image


def sky():
    y = np.linspace(0, 1, 120)[:, None, None]
    blue = (1 - y) * np.array([60, 120, 200]) + y * np.array([200, 220, 240])
    return Image.fromarray((blue * np.ones((1, 160, 1))).astype(np.uint8))


STRANGERS = {
    "noise": lambda: np.random.default_rng(0).integers(0, 256, (200, 128, 3), dtype=np.uint8),
    "clouds": clouds,
    "fine clouds": lambda: clouds(smooth=0.0, seed=1),
    "blurred clouds": lambda: clouds(seed=2).filter(ImageFilter.GaussianBlur(4)),
    "a page of text": page_of_text,
    "a clear sky": sky,
    "black": lambda: Image.new("RGB", (90, 90), "black"),
    "white": lambda: Image.new("RGB", (90, 90), "white"),
    "one colour": lambda: Image.new("RGB", (90, 90), "#c03030"),
    "waves": lambda: waves(128, 128),
    "a chessboard": lambda: np.kron(
        np.indices((8, 8)).sum(0)[..., None] % 2 * np.ones(3), np.full((16, 16, 1), 255)
    ).astype(np.uint8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STRANGERS)
def test_images_of_other_kinds_raise_one(session, name):
    said = warning(session, STRANGERS[name]())
    name = session.model.name
    assert said.startswith(f"The model {name} does not know images like this one")
    assert session.model.domain.images in said
    assert f'model="{PHOTOGRAPHS}"' in said
    assert "2.1 GB to download and about 9 GB of GPU memory" in said


@pytest.mark.slow
def test_a_generated_image_is_of_the_models_domain(tiny):
    session = DragSession(tiny)
    session.generate("a cat", seed=1, size=(64, 64))
    assert session.domain_warning() == ""


def test_a_model_that_was_not_trained_on_anything_warns_by_its_own_name(tiny):
    session = DragSession(tiny)  # its weights are random
    said = warning(session, waves())
    assert said.startswith(f"The autoencoder of {tiny.name} reproduces this image poorly")
    assert 'vae="' in said
    assert PHOTOGRAPHS not in said


def test_a_model_whose_autoencoder_is_good_enough_does_not_warn(tiny):
    session = DragSession(blocks_of(tiny))
    assert warning(session, np.kron(waves(8, 8), np.ones((8, 8, 1))).astype(np.uint8)) == ""


def test_values_that_are_not_finite_are_told(tiny_folder):
    model = load_model(tiny_folder, device="cpu")
    with torch.no_grad():
        model.vae.decoder.conv_out.bias += float("nan")
    said = warning(DragSession(model), waves())
    assert "values that are not finite" in said


def test_the_round_trip_is_measured_as_it_says(tiny):
    model = blocks_of(tiny)
    blocks = np.kron(waves(8, 8), np.ones((model.vae_factor, model.vae_factor, 1))).astype(np.uint8)
    exact = round_trip(model, blocks)
    assert exact.psnr > 60  # this autoencoder keeps the mean of every cell
    assert exact.gain > 0  # interpolating between cells is worse than the cells themselves
    noise = np.random.default_rng(0).integers(0, 256, blocks.shape, dtype=np.uint8)
    cells = noise.reshape(8, model.vae_factor, 8, model.vae_factor, 3).mean((1, 3))
    error = ((noise - np.kron(cells, np.ones((model.vae_factor,) * 2 + (1,)))) ** 2).mean()
    assert round_trip(model, noise).psnr == pytest.approx(
        20 * math.log10(255) - 10 * math.log10(error), abs=0.1
    )


@pytest.mark.parametrize(
    ("found", "known"),
    [((30, 1), True), ((27, 5), False), ((40, 0), False), ((-math.inf, -math.inf), False)],
)
def test_both_bounds_count(found, known):
    domain = Domain(psnr=28, gain=0.5)
    assert RoundTrip(*found).is_in(domain) is known


@pytest.mark.slow
def test_the_bounds_are_read_from_the_models_folder(broken):
    other = {"images": "cats", "psnr": 3.0, "gain": None}
    settings = {"recommended": Settings().to_dict(), "domain": other}
    (broken / "dragwidget.json").write_text(json.dumps(settings))
    assert load_model(broken, device="cpu").domain == Domain(psnr=3.0, gain=None, images="cats")
    for wrong in ({}, {"psnr": "x", "images": ""}, {"psnr": float("nan"), "images": ""}, 7):
        (broken / "dragwidget.json").write_text(json.dumps({**settings, "domain": wrong}))
        with pytest.raises(
            ValueError, match=r"dragwidget.json describes no domain that can be read"
        ):
            load_model(broken, device="cpu")


def test_the_embedded_models_bounds_are_those_that_training_writes(session):
    assert session.model.domain == Domain.from_dict(DOMAIN)


@pytest.mark.slow
def test_sizes_named_in_the_warning_are_those_of_the_network():
    meta = torch.device("meta")
    model = SIZES["sd15"].make(meta, True)
    parts = [model.unet, model.vae, model.text_encoder]
    weights = sum(p.numel() for part in parts for p in part.parameters())
    assert weights * 2 / 1e9 == pytest.approx(2.1, abs=0.05)
    assert weights * 4 / 1e9 == pytest.approx(4.3, abs=0.05)
    for part in parts:
        part.to(torch.float16)
    for memory, wanted in (("normal", 9), ("low", 3)):
        costs = _Costs(model.with_parts(memory=memory), (512, 512), Settings(), mask=True)
        assert costs.estimate(None).memory / 1e9 == pytest.approx(wanted, abs=0.5)


# ---------------------------------------------------------------- where it is shown


@pytest.mark.slow
def test_the_widget_names_its_model_and_warns_before_the_run(tmp_path):
    page_of_text().save(tmp_path / "page.png")
    widget = DragWidget(tmp_path / "page.png", clock="sync", journal=False, store=None)
    assert "<b>critters</b>" in widget._view.model.value
    assert "float32 on cpu" in widget._view.model.value
    shown = widget._view.warning
    assert shown.layout.display != "none"
    assert 'role="alert"' in shown.value
    assert "does not know images like this one" in shown.value
    assert widget.error == ""
    widget.close()


@pytest.mark.slow
def test_the_widget_does_not_warn_of_an_image_of_the_domain():
    widget = DragWidget(scenes(128, 1)[0], clock="sync", journal=False, store=None)
    assert widget._view.warning.layout.display == "none"
    assert widget._view.warning.value == ""
    widget.close()


@pytest.mark.slow
@pytest.mark.parametrize("known", [True, False])
def test_the_command_line_warns_too(tmp_path, capsys, known):
    image = scenes(128, 1)[0] if known else page_of_text()
    image.save(tmp_path / "image.png")
    words = ["edit", str(tmp_path / "image.png"), "--pair", "30,30:34,30", "--steps", "1"]
    assert main([*words, "--no-store", "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    assert ("dragwidget: The model critters does not know" in said) is not known
    assert ("--model stable-diffusion-v1-5/stable-diffusion-v1-5 (2.1 GB" in said) is not known
    assert 'model="' not in said
