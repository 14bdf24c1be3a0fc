"""CLIP's and T5's tokenizers, made of nothing but vocabulary, rules and a few settings.

A tokenizer's folder can name files elsewhere, classes to import and patterns without end. So the
library never sees it: it reads a temporary folder in which only what is listed here is written.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from dragwidget.data.quoting import quoted
from dragwidget.diffusion.loading.folder import ModelFolder

__all__ = ["CLIP_VOCABULARIES", "read_t5_tokenizer", "read_tokenizer"]

# Where CLIP's vocabulary is on the hub: it is the same for all Stable Diffusion 1.x and 2.x.
CLIP_VOCABULARIES = (
    ("openai/clip-vit-large-patch14", ""),
    ("stable-diffusion-v1-5/stable-diffusion-v1-5", "tokenizer"),
    ("CompVis/stable-diffusion-v1-4", "tokenizer"),
)
_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
_SETTINGS = (
    *_SPECIAL, "model_max_length", "add_prefix_space", "errors", "do_lower_case",
    "clean_up_tokenization_spaces", "padding_side", "added_tokens_decoder",
)  # fmt: skip
_SPACES = " {2,}"  # the one pattern that T5's rules may have


def read_tokenizer(folder: ModelFolder, settings: ModelFolder | None = None) -> Any:
    """Return the tokenizer in a folder.

    Args:
        folder: with ``vocab.json`` and ``merges.txt``, or with a ``tokenizer.json``.
        settings: the folder whose ``tokenizer_config.json`` counts; by default the same.

    Raises:
        FileNotFoundError: there is no vocabulary.
        ValueError: files that cannot be read.
    """
    from transformers import CLIPTokenizer

    source = settings or folder
    files = {
        "tokenizer_config.json": _settings_of(source),
        **(_of_one_file(folder) if _in_one_file(folder) else _of_two_files(folder)),
    }
    if settings is None and folder.has("special_tokens_map.json"):
        tokens = folder.json("special_tokens_map.json")
        files["special_tokens_map.json"] = json.dumps(
            {k: tokens[k] for k in _SPECIAL if k in tokens}
        )
    with tempfile.TemporaryDirectory(prefix="dragwidget-") as name:
        for file, text in files.items():
            (Path(name) / file).write_text(text, "utf-8")
        return CLIPTokenizer.from_pretrained(name, local_files_only=True)


def read_t5_tokenizer(folder: ModelFolder) -> Any:
    """Return T5's tokenizer, of the ``tokenizer.json`` in a folder.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another kind, or has patterns of its own, which can run without end.
    """
    from transformers import T5TokenizerFast  # type: ignore[attr-defined]

    content = folder.json("tokenizer.json")
    model = content.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if kind != "Unigram":
        raise ValueError(f"tokenizer.json of {folder.path} is {quoted(kind)}; wanted T5's Unigram")
    if other := _patterns(content) - {_SPACES}:
        raise ValueError(
            f"tokenizer.json of {folder.path} has the pattern {quoted(min(other))}; wanted T5's, "
            "which has none but that of spaces"
        )
    files = {
        "tokenizer.json": json.dumps(content),
        "tokenizer_config.json": _settings_of(folder, (*_SETTINGS, "extra_ids")),
    }
    with tempfile.TemporaryDirectory(prefix="dragwidget-") as name:
        for file, text in files.items():
            (Path(name) / file).write_text(text, "utf-8")
        return T5TokenizerFast.from_pretrained(name, local_files_only=True)


def _patterns(content: object) -> set[str]:
    """Return all regular expressions in the rules of a ``tokenizer.json``."""
    if isinstance(content, dict):
        own = {str(content["Regex"])} if "Regex" in content else set[str]()
        return own.union(*(_patterns(v) for k, v in content.items() if k != "vocab"))
    return set[str]().union(*map(_patterns, content)) if isinstance(content, list) else set()


def _settings_of(folder: ModelFolder, names: tuple[str, ...] = _SETTINGS) -> str:
    if not folder.has("tokenizer_config.json"):
        return "{}"
    config = folder.json("tokenizer_config.json")
    return json.dumps({key: config[key] for key in names if config.get(key) is not None})


def _in_one_file(folder: ModelFolder) -> bool:
    return folder.has("tokenizer.json") and not (
        folder.has("vocab.json") and folder.has("merges.txt")
    )


def _of_two_files(folder: ModelFolder) -> dict[str, str]:
    vocabulary = folder.json("vocab.json")
    files = {"vocab.json": _vocabulary(vocabulary), "merges.txt": folder.text("merges.txt")}
    if folder.has("added_tokens.json"):
        files["added_tokens.json"] = _vocabulary(folder.json("added_tokens.json"))
    return files


def _of_one_file(folder: ModelFolder) -> dict[str, str]:
    content = folder.json("tokenizer.json")
    try:
        model = content["model"]
        merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
        return {
            "vocab.json": _vocabulary(model["vocab"]),
            "added_tokens.json": _vocabulary(
                {word: number for word, number in added.items() if word not in model["vocab"]}
            ),
            "merges.txt": "#version: 0.2\n" + "\n".join(merges) + "\n",
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"tokenizer.json of {folder.path} holds no vocabulary of CLIP") from error


def _vocabulary(content: dict[str, Any]) -> str:
    wrong = next((value for value in content.values() if type(value) is not int or value < 0), None)
    if wrong is not None:
        raise ValueError(f"its vocabulary numbers a token {quoted(wrong)}")
    return json.dumps(content)
