"""LoRA: its weights and how they are applied, its files, and (in ``training``) its training."""

from dragwidget.diffusion.lora.files import GivenLoRA, given_lora, load_lora, save_lora
from dragwidget.diffusion.lora.peft_config import TEXT_ENCODER, UNET
from dragwidget.diffusion.lora.weights import LoRA, enabled, projections, switches_of

__all__ = [
    "TEXT_ENCODER",
    "UNET",
    "GivenLoRA",
    "LoRA",
    "enabled",
    "given_lora",
    "load_lora",
    "projections",
    "save_lora",
    "switches_of",
]
