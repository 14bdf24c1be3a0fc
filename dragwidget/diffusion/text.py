"""A prompt as the numbers that a text encoder reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dragwidget.data.user_warning import warn_user

__all__ = ["MAX_PROMPT", "token_ids", "token_limit"]

MAX_PROMPT = 8192  # characters that are tokenized; 75 tokens are some 400


def token_limit(tokenizer: Any, text_encoder: Any) -> int:
    """Return how many tokens are read, L, the two at the ends included."""
    # Some tokenizers set no limit of their own.
    return int(min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings))


def token_ids(tokenizer: Any, prompt: str, limit: int) -> Tensor:
    """Return the tokens of a text, (1, L) int64; a longer text is cut, with a warning.

    Of a text of more than ``MAX_PROMPT`` characters only that many are tokenized at all.
    """
    read = prompt[:MAX_PROMPT]
    tokens: Tensor = tokenizer(
        read, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
    ).input_ids
    # A second full tokenization is cheap; the warning of the first would be another one.
    full = tokenizer(read, padding=False, truncation=False, verbose=False).input_ids
    if len(full) > limit or len(read) < len(prompt):
        of = "" if read == prompt else f" in the first {len(read)} of {len(prompt)} characters"
        warn_user(
            f"the prompt has {len(full) - 2} tokens{of} and this model reads {limit - 2}: "
            "the rest is not used"
        )
    return tokens
