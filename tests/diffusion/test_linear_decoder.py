"""The linear stand-in for the autoencoder's decoder, and the previews that it draws."""

import numpy as np
import pytest
import torch

from dragwidget.bench.metrics import psnr
from dragwidget.demo.tasks import drag_task
from dragwidget.diffusion.linear_decoder import LinearDecoder
from dragwidget.editor.work import PreviewRateLimiter
from dragwidget.session.session import DragSession

FACTOR = 4


def linear_case(seed=0, channels=4, size=(12, 20)):
    """A latent, and the image (H, W, 3) uint8 that a linear map makes of its cells."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.rand(1, channels, *size, generator=generator)
    mixing = torch.rand(3 * FACTOR**2, channels, generator=torch.Generator().manual_seed(1))
    cells = torch.einsum("oc,bchw->bohw", mixing / channels, latent)
    image = torch.nn.functional.pixel_shuffle(cells, FACTOR)
    pixels = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    return latent, pixels


def drawn(decoder, latent):
    return (decoder.decode(latent)[0].permute(1, 2, 0) * 255).round().byte().numpy().astype(int)


def test_the_images_own_latent_is_the_image():
    latent, pixels = linear_case()
    decoder = LinearDecoder.fit(latent, pixels)
    assert np.array_equal(drawn(decoder, latent), pixels)


def test_a_decoder_that_is_linear_is_found():
    latent, pixels = linear_case(size=(24, 40))
    other, wanted = linear_case(seed=5, size=(24, 40))
    decoder = LinearDecoder.fit(latent, pixels)
    assert np.abs(wanted.astype(int) - pixels).mean() > 20
    assert np.abs(drawn(decoder, other) - wanted).mean() < 3


def test_what_did_not_change_keeps_its_pixels():
    latent, pixels = linear_case()
    decoder = LinearDecoder.fit(latent, pixels)
    other = latent.clone()
    other[..., 15:] += 0.5
    left = slice(0, FACTOR * (15 - 2) - 4)  # past the kernel's reach, and that of the blend
    assert np.array_equal(drawn(decoder, other)[:, left], pixels[:, left])
    assert not np.array_equal(drawn(decoder, other)[:, 60:], pixels[:, 60:])


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_an_image_of_one_colour_can_be_fitted(shade):
    pixels = np.full((32, 32, 3), shade, dtype=np.uint8)
    decoder = LinearDecoder.fit(torch.zeros(1, 4, 8, 8), pixels)
    assert np.abs(drawn(decoder, torch.zeros(1, 4, 8, 8)) - shade).max() <= 1


@pytest.fixture(scope="module")
def dragged():
    """The embedded model after a drag that moved much, and the task."""
    task = drag_task("move", 910_001)
    session = DragSession.from_pretrained("critters")
    session.set_image((task.source.permute(1, 2, 0) * 255).round().byte().numpy())
    session.instructions = task.instructions
    session.run(steps=2)
    return session, task


@pytest.mark.slow
def test_a_quick_preview_looks_like_the_exact_image(dragged):
    session, task = dragged

    def like_the_exact_one(image):
        images = (torch.from_numpy(np.array(i)).permute(2, 0, 1) / 255 for i in (image, exact))
        return psnr(*images, task.instructions.mask)

    exact = session.render()
    source, quick = (like_the_exact_one(i) for i in (session.image, session.preview(quick=True)))
    assert quick > 22  # dB
    assert quick > source + 4


@pytest.mark.slow
def test_a_quick_preview_does_not_decode(dragged):
    session, _ = dragged
    decoded = []
    hook = session.model.vae.decoder.register_forward_hook(lambda *_: decoded.append(1))
    try:
        session.preview(quick=True)
        assert not decoded
        session.preview()
        assert decoded
    finally:
        hook.remove()


def test_previews_are_quick_once_one_was_slow():
    limiter = PreviewRateLimiter(interval=0.5)
    limiter.took(0.1)
    assert not limiter.quick
    limiter.took(0.4)
    assert limiter.quick
    limiter.took(0.01)
    assert limiter.quick  # these are the quick ones: to go back would make it slow again
