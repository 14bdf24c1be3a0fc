"""A CLIP tokenizer whose whole words are those of the captions; anything else becomes letters.

Byte-pair encoding over all 256 bytes, so no text is refused: an unknown word, an accent or an emoji
is spelt out in pieces.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from transformers import CLIPTokenizer

MAX_TOKENS = 40  # a caption of the domain has at most 32, start and end included
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
# Not in any caption of the domain; asked for by people, or used for images from elsewhere.
EXTRA_WORDS = (
    "an", "and", "drawing", "in", "of", "on", "photo", "image", "scribble", "the", "with",
)  # fmt: skip


def write_tokenizer(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Write `vocab.json`, `merges.txt` and settings to `folder`; return the tokenizer read back."""
    words = sorted({w for c in captions for w in re.findall(r"[a-z]+", c)} | set(EXTRA_WORDS))
    merges = learn_merges(words)
    letters = _byte_letters()
    tokens = [*letters, *(x + _WORD_END for x in letters), *(a + b for a, b in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), "utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": START,
        "eos_token": END,
        "unk_token": END,
        "pad_token": END,
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", "utf-8")
    special = {k: v for k, v in settings.items() if k.endswith("_token")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n", "utf-8")
    tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
    return tokenizer


def learn_merges(words: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until each word is a single token.

    >>> learn_merges(["ab", "abc"])
    [('a', 'b'), ('a', 'b</w>'), ('ab', 'c</w>')]
    """
    spelt = [[*word[:-1], word[-1] + _WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(p for s in spelt for p in itertools.pairwise(s))
        if not pairs:
            return merges
        best = min(pairs, key=lambda p: (-pairs[p], p[0] + p[1], p))
        merges.append(best)
        spelt = [_merge(s, best) for s in spelt]


def _merge(spelt: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for piece in spelt:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return out


def _byte_letters() -> list[str]:
    """The printable letter that stands for each byte in GPT-2's and CLIP's files, 256 of them."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in kept]
    return [chr(b) for b in kept] + [chr(256 + i) for i in range(len(others))]
