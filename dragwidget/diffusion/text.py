"""A prompt as the numbers that a text encoder reads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dragwidget.data.user_warning import warn_user
from dragwidget.diffusion.devices import first_parameter
from dragwidget.diffusion.lora import TEXT_ENCODER, LoRA, Part, StyleLoRAs, switches_of_all
from dragwidget.diffusion.switches import run
from dragwidget.drag.torch_state import ordinary

__all__ = ["MAX_PROMPT", "encoded_text", "token_ids", "token_limit"]

MAX_PROMPT = 8192  # characters that are tokenized; 75 tokens are some 400


def encoded_text(
    network: Any,
    tokenizer: Any,
    prompt: str,
    device: torch.device,
    lora: LoRA | None = None,
    part: Part = TEXT_ENCODER,
    *,
    styles: StyleLoRAs = (),
    warn: bool = True,
    **asked: Any,
) -> Any:
    """Return what a text encoder answers to a text, as transformers has it.

    Args:
        device: where it is meanwhile, should it wait elsewhere.
        lora: switched on meanwhile, where it has a part for this text encoder.
        part: which of a LoRA's parts that is.
        styles: switched on before ``lora``, likewise.
        warn: say where the text is too long.
        asked: options of the network.
    """
    tokens = token_ids(tokenizer, prompt, token_limit(tokenizer, network), warn=warn)
    dtype = first_parameter(network).dtype
    loras = [
        # On the device where the network is in a moment.
        (each.only(part).map(lambda matrix: ordinary(matrix).to(device, dtype)), weight)
        for each, weight in [*styles, *([] if lora is None else [(lora, 1.0)])]
    ]
    with torch.no_grad():
        return run(
            network,
            switches_of_all(network, loras, part),
            lambda: network(tokens.to(first_parameter(network).device), **asked),
            device=device,
        )


def token_limit(tokenizer: Any, text_encoder: Any) -> int:
    """Return how many tokens are read, L, the two at the ends included."""
    # Some tokenizers set no limit of their own.
    return int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))


def token_ids(
    tokenizer: Any, prompt: str, limit: int, *, warn: bool = True, ends: int = 2
) -> Tensor:
    """Return the tokens of a text, (1, L) int64; a longer text is cut, with a warning if wanted.

    Of a text of more than ``MAX_PROMPT`` characters only that many are tokenized at all. ``ends``:
    tokens that stand for its beginning and its end.
    """
    begins = prompt[:MAX_PROMPT]
    read = _with_all_vectors(tokenizer, begins)
    tokens: Tensor = tokenizer(
        read, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    ).input_ids
    # A second full tokenization is cheap; the warning of the first would be another one.
    full = tokenizer(read, padding=False, truncation=False, verbose=False).input_ids
    if warn and (len(full) > limit or len(begins) < len(prompt)):
        of = "" if begins == prompt else f" in the first {len(begins)} of {len(prompt)} characters"
        warn_user(
            f"the prompt has {len(full) - ends} tokens{of} and this model reads {limit - ends}: "
            "the rest is not used"
        )
    return tokens


def _with_all_vectors(tokenizer: Any, prompt: str) -> str:
    """Return a prompt in which a textual inversion of several vectors has a token for each."""
    added = getattr(tokenizer, "added_tokens_encoder", ())
    if not any(token.endswith("_1") for token in added):
        return prompt
    from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin

    converted: str = TextualInversionLoaderMixin().maybe_convert_prompt(prompt, tokenizer)
    return converted
