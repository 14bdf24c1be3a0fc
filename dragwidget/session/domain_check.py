"""The warning about an image that a model does not know, before an edit destroys it."""

from __future__ import annotations

from dragwidget.data.image import source_image
from dragwidget.data.request import EditRequest
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.domain import SIDE, round_trip
from dragwidget.diffusion.loading import EMBEDDED
from dragwidget.session.source import generation_of

PHOTOGRAPHS = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# Its weights: 1066 million, two or four bytes each. Its GPU memory: ``session.estimate()`` of an
# edit at 512 pixels with the default settings and a mask, in float16.
_SIZES = (
    "2.1 GB to download and about 9 GB of GPU memory, or 3 GB with memory='low'; on a CPU 4.3 GB "
    "to download"
)


def domain_warning(model: Backbone, request: EditRequest) -> str:
    """Return a warning where the model does not know images like this one; empty where it does.

    A generated image is of the model's domain.
    """
    if generation_of(request) is not None:
        return ""
    side = min(SIDE, model.image_side)
    multiple = model.image_multiple
    image = source_image(
        request.image.unfitted,
        multiple=multiple,
        max_side=max(side, multiple),
        min_side=side,
    )
    found, domain = round_trip(model, image.pixels), model.domain
    if found.is_in(domain):
        return ""
    got = f"{found.psnr:.1f} dB" if found.psnr > domain.psnr - 100 else "values that are not finite"
    name = model.name
    if name not in EMBEDDED:
        return (
            f"The autoencoder of {name} reproduces this image poorly: encoding and decoding it "
            f"gives {got} PSNR, where {domain.images or 'photographs'} give {domain.psnr:g} dB or "
            "more. "
            "The edit will lose details. Another autoencoder may keep them: "
            'vae="stabilityai/sd-vae-ft-mse"'
        )
    why = f"where its own images give {domain.psnr:g} dB or more"
    if found.psnr >= domain.psnr:
        average = found.psnr - found.gain
        why = f"not more than averaging the pixels of each latent cell ({average:.1f} dB)"
    return (
        f"The model {name} does not know images like this one, and the edit will destroy it. It "
        f"knows {domain.images}. Encoding and decoding it gives {got} PSNR, {why}. For "
        f'photographs: model="{PHOTOGRAPHS}" ({_SIZES})'
    )
