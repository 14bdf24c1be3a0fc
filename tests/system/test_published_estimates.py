"""The memory that the pages promise is what the estimate says, on tensors that have no content."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tiny_models import TOKENIZER
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from dragwidget import DragSession
from dragwidget.diffusion.loading.checkpoint import PACKAGED
from dragwidget.diffusion.sd import StableDiffusion
from dragwidget.diffusion.sdxl import StableDiffusionXL
from dragwidget.session.estimate import estimate

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guide" / "performance.md").read_text()
CONFIGS = {"Stable Diffusion 1.5": PACKAGED[1], "SDXL": PACKAGED[1].with_name("sdxl")}
SIDES = {"Stable Diffusion 1.5": 512, "SDXL": 1024}
NOTEBOOK = (ROOT / "notebooks" / "03_edit_your_image.ipynb").read_text("utf-8")
ROWS = re.findall(r"^\| ([\w .]+), `memory=\"(\w+)\"` \| (.+) \|$", PAGE, re.M)


def shape_of(name):
    """The model without weights, in float16; the autoencoder of XL in float32, as it needs."""

    def config(part):
        return json.loads(next((CONFIGS[name] / part).glob("*config.json")).read_text())

    unet: type = UNet2DConditionModel
    with torch.device("meta"):
        parts = {
            "unet": unet.from_config(config("unet")).half(),
            "vae": AutoencoderKL.from_config(config("vae")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**config("text_encoder"))).half(),
        }
        if name == "SDXL":
            second = CLIPTextConfig(**config("text_encoder_2"))
            parts["text_encoder_2"] = CLIPTextModelWithProjection(second).half()
        else:
            parts["vae"] = parts["vae"].half()
    parts["tokenizer"] = CLIPTokenizer.from_pretrained(TOKENIZER)
    parts["tokenizer"].model_max_length = 77
    schedule = DDIMScheduler.from_config(config("scheduler"))
    parts |= {"alphas_cumprod": schedule.alphas_cumprod, "name": name}
    if name == "SDXL":
        return StableDiffusionXL(tokenizer_2=parts["tokenizer"], **parts)
    return StableDiffusion(**parts)


def test_the_page_has_both_models_in_both_ways():
    assert [(name, memory) for name, memory, _ in ROWS] == [
        (name, memory) for name in SIDES for memory in ("normal", "low")
    ]


@pytest.mark.parametrize(("name", "memory", "numbers"), ROWS, ids=lambda part: part)
def test_a_row_is_what_the_estimate_says(name, memory, numbers):
    session = DragSession(shape_of(name).with_memory(memory))
    side = SIDES[name]
    session.set_image(np.zeros((side, side, 3), dtype=np.uint8), prompt="a lion")
    made = estimate(session.model, session.request, timed=False)
    phases = {phase.name: phase.memory for phase in made.phases}
    without = max(held for phase, held in phases.items() if phase != "lora")
    expected = [made.memory, phases["lora"], without, phases["drag"], made.weights]
    said = [float(cell.removesuffix(" GB")) for cell in numbers.split(" | ")]
    assert said == [round(count / 1e9, 1) for count in expected]


@pytest.mark.parametrize(
    ("name", "title"), [("Stable Diffusion 1.5", None), ("SDXL", "Diffusion XL")]
)
def test_the_notebook_has_the_numbers_of_the_page(name, title):
    cells = [cell for cell in json.loads(NOTEBOOK)["cells"] if cell["cell_type"] == "markdown"]
    lines = [line for cell in cells for line in cell["source"] if line.startswith("| ")]
    (row,) = (line for line in lines if f"{title or name} |" in line)
    page = {memory: numbers.split(" | ") for other, memory, numbers in ROWS if other == name}
    everything, _, without, *_ = page["normal"]
    expected = f"| {everything}; {without} without LoRA training; {page['low'][0]} with `memory"
    assert expected in row
