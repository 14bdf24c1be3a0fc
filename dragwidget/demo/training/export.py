"""The model's folder, as diffusers reads it, and a sheet of its samples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from dragwidget.data.presets import METHOD_SETTINGS
from dragwidget.demo.scenes import TRAINING_SEEDS, captions, sample_scenes
from dragwidget.demo.training import architecture
from dragwidget.demo.training.architecture import Model, Networks, Preset

SIZE_LIMIT = 25_000_000  # bytes of the whole folder
# What the session starts from after stage 2: the paper's settings, of the decoder's blocks the one
# that serves best, and all of the decoder's self-attention layers.
RECOMMENDED_BASE: dict[str, dict[str, Any]] = {
    "drag": {"feature_blocks": [2]},
    "render": {"start_layer": 3},
}
# After stage 3: no LoRA, for it knows its own images and a first edit should be quick; many small
# warps, which the model was taught to repair and a user can watch and steer; the protected region
# is held; of the decoder's blocks the middle one serves best; self-attention is mutual in all of
# the decoder.
RECOMMENDED: dict[str, dict[str, Any]] = {
    "inversion": {"strength": 0.6},
    "lora": {"steps": 0},
    "drag": {
        "method": "progressive",
        "feature_blocks": [2],
        **METHOD_SETTINGS["progressive"]["drag"],
    },
    "render": {"start_layer": 3, "keep_protected": True, "keep_source_pixels": True},
}

# What the round trip through the autoencoder gives. Scenes of the domain, drawn at 96 to 512
# pixels, also as JPEG: 28.9 dB and more, and 5 dB and more over averaging the pixels of each
# latent cell
# (crops of them 1.5 dB). Thirty photographs, micrographs and pages of text: 16.7 to 27.3 dB, but
# for the smooth ones, which give up to 32.7 dB and 1.1 dB and more less than that average.
DOMAIN: dict[str, Any] = {
    "images": "drawn animals in a landscape, its own synthetic domain",
    "psnr": 28.0,
    "gain": 0.5,
}


def write_model(
    folder: Path,
    preset: Preset,
    states: dict[str, dict[str, Tensor]],
    autoencoder: Model,
    tokenizer_folder: Path,
    recommended: dict[str, dict[str, Any]],
) -> None:
    """Write the pipeline in float16; an older one at the same place stays until this is whole.

    `states`: weights of "unet" and "text_encoder"; `recommended`: settings that differ from the
    paper's.
    """
    pipeline = _assemble(preset.networks, states, autoencoder, tokenizer_folder)
    temporary = folder.with_name(folder.name + ".new")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary, safe_serialization=True)
    shutil.rmtree(temporary / "tokenizer")
    shutil.copytree(tokenizer_folder, temporary / "tokenizer")
    for file in temporary.rglob("*.safetensors"):
        file.chmod(0o644)  # some writers make them private, which an installed package must not be
    about = {"recommended": recommended, "domain": DOMAIN, "encoding": "sample"}
    (temporary / "dragwidget.json").write_text(json.dumps(about, indent=2) + "\n")
    size = sum(f.stat().st_size for f in temporary.rglob("*"))
    if size > SIZE_LIMIT:
        raise ValueError(f"the model has {size} bytes, more than the limit of {SIZE_LIMIT}")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _assemble(
    networks: Networks,
    states: dict[str, dict[str, Tensor]],
    autoencoder: Model,
    tokenizer_folder: Path,
) -> Any:
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    unet = architecture.build_unet(networks)
    unet.load_state_dict(states["unet"])
    text_encoder = architecture.build_text_encoder(networks, tokenizer)
    text_encoder.load_state_dict(states["text_encoder"])
    half = {
        "unet": unet,
        "text_encoder": text_encoder,
        "vae": architecture.build_autoencoder(networks, autoencoder),
    }
    for module in half.values():
        module.to(torch.float16, memory_format=torch.contiguous_format)
    return StableDiffusionPipeline(  # type: ignore[no-untyped-call]
        **half,
        tokenizer=tokenizer,
        scheduler=architecture.build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write_samples(model: Path, path: Path, device: torch.device, count: int) -> None:
    """A sheet of images that the model makes from captions it has not seen."""
    pipeline: Any = StableDiffusionPipeline.from_pretrained(model)  # type: ignore[no-untyped-call]
    pipeline = pipeline.to(device, torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        captions(sample_scenes(range(TRAINING_SEEDS - count, TRAINING_SEEDS))),
        num_inference_steps=30,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(0),
    ).images
    contact_sheet(images, 8).save(path)


def contact_sheet(images: list[Image.Image], columns: int) -> Image.Image:
    """Images of one size side by side, row by row."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet
