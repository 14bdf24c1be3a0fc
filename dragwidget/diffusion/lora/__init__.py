"""LoRA: its weights and how they are applied, its files, and (in ``training``) its training."""

from dragwidget.diffusion.lora.files import GivenLoRA, given_lora, load_lora, save_lora
from dragwidget.diffusion.lora.peft_config import PARTS, TEXT_ENCODER, TEXT_ENCODER_2, UNET, Part
from dragwidget.diffusion.lora.weights import (
    LoRA,
    StyleLoRAs,
    enabled,
    projections,
    switches_of,
    switches_of_all,
)

__all__ = [
    "PARTS",
    "TEXT_ENCODER",
    "TEXT_ENCODER_2",
    "UNET",
    "GivenLoRA",
    "LoRA",
    "Part",
    "StyleLoRAs",
    "enabled",
    "given_lora",
    "load_lora",
    "projections",
    "save_lora",
    "switches_of",
    "switches_of_all",
]
