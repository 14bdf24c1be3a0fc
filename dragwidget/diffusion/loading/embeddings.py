"""Add textual inversions (Gal et al., arXiv 2208.01618): words that files teach a text encoder.

A file holds one vector or more, which stand where the word stands in a prompt. Its layout is that
of diffusers (the vectors by the word), of A1111's web UI (``emb_params``), or of trainers for
Stable Diffusion XL (``clip_l`` and ``clip_g``, one for each text encoder). diffusers' own loader
adds them to tokenizer and text encoder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dragwidget.data.paths import user_path
from dragwidget.data.quoting import quoted
from dragwidget.diffusion.loading.folder import ModelFolder
from dragwidget.diffusion.loading.reading import TOKENIZERS, quiet
from dragwidget.diffusion.weights import read_weights

__all__ = ["GivenEmbeddings", "add_embeddings"]

GivenEmbeddings: TypeAlias = Mapping[str, str | os.PathLike[str]]
"""Files with vectors, by the word that stands for each in a prompt."""

FILE_NAME = "learned_embeds.safetensors"  # that diffusers gives it in a folder
_OF_XL = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
_FAMILIES = {768: " of Stable Diffusion 1.x", 1024: " of Stable Diffusion 2.x",
             1280: " of one text encoder of Stable Diffusion XL"}  # fmt: skip
_MOST = 75  # vectors; a prompt has no more places
_LONGEST = 100  # characters of a word


def add_embeddings(parts: Mapping[str, Any], embeddings: GivenEmbeddings, name: str) -> None:
    """Teach the text encoders of a model words, by the files with their vectors.

    Args:
        parts: text encoders and tokenizers, which are changed.
        embeddings: a ``.safetensors`` file, or a folder with ``learned_embeds.safetensors``, by the
            word that stands for it in a prompt.
        name: what to call the model in an error.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: no such mapping.
        ValueError: a file that is no textual inversion, or one of another model; a word that the
            tokenizer has already.
    """
    if not isinstance(embeddings, Mapping):
        raise TypeError(
            f"embeddings must be files by the words that stand for them, as in "
            f'{{"<cat>": "cat.safetensors"}}, got {quoted(embeddings)}'
        )
    texts = [part for part in TOKENIZERS if part in parts]
    for word, given in embeddings.items():
        file = _file(given)
        vectors = _vectors(file, texts, name)
        for part in texts:
            tokenizer, network = parts[TOKENIZERS[part]], parts[part]
            _check_word(word, tokenizer, name)
            _check_width(vectors[part], network, file, name)
            _add(word, vectors[part], tokenizer, network)


def _add(word: str, vectors: Tensor, tokenizer: Any, network: Any) -> None:
    from diffusers.loaders.textual_inversion import TextualInversionLoaderMixin

    class Pipeline(TextualInversionLoaderMixin):  # what its loader wants to know of one
        hf_device_map = None
        components: Mapping[str, Any] = {}

    # transformers draws numbers for new rows, which the vectors then take the place of.
    with quiet(), torch.random.fork_rng(devices=[]):
        Pipeline().load_textual_inversion(
            {word: vectors}, token=word, tokenizer=tokenizer, text_encoder=network
        )


def _file(given: str | os.PathLike[str]) -> Path:
    path = user_path(given)
    if path.is_dir():
        return ModelFolder(path).file(FILE_NAME)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path.name} is not a .safetensors file; pickled textual inversions (.pt, .bin) can "
            "run code and are not read"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with a textual inversion")
    return path


def _vectors(file: Path, texts: list[str], name: str) -> dict[str, Tensor]:
    """Return a file's vectors (n, width) by the text encoder that they are for."""
    tensors = read_weights(file)
    if tensors.keys() == _OF_XL.keys():
        found = {_OF_XL[key]: tensor for key, tensor in tensors.items()}
    elif len(tensors) == 1:
        found = {"text_encoder": next(iter(tensors.values()))}
    else:
        raise ValueError(
            f"{file} is no textual inversion: it holds {len(tensors)} tensors, first "
            f"{quoted(min(tensors, default=''))}; wanted one (of diffusers or A1111), or clip_l "
            "and clip_g (of Stable Diffusion XL)"
        )
    for tensor in found.values():
        _check_vectors(tensor, file)
    if found.keys() != set(texts):
        width = found["text_encoder"].shape[-1]
        family = " of Stable Diffusion XL" if len(found) > 1 else _FAMILIES.get(width, "")
        raise ValueError(
            f"{file} is a textual inversion{family} with vectors for {len(found)} text "
            f"encoder{'s' * (len(found) > 1)}, and {name} has {len(texts)}: it belongs to another "
            "model"
        )
    return found


def _check_vectors(tensor: Tensor, file: Path) -> None:
    rows = tensor.shape[0] if tensor.ndim == 2 else 1
    if tensor.ndim not in (1, 2) or not tensor.numel() or rows > _MOST:
        raise ValueError(
            f"{file} is no textual inversion: it holds a tensor of {tuple(tensor.shape)}; wanted 1 "
            f"to {_MOST} vectors"
        )
    if not tensor.is_floating_point() or not tensor.float().isfinite().all():
        raise ValueError(f"{file} holds no finite numbers ({tensor.dtype}): the file is damaged")


def _check_width(vectors: Tensor, network: Any, file: Path, name: str) -> None:
    got, wanted = vectors.shape[-1], network.get_input_embeddings().weight.shape[-1]
    if got != wanted:
        raise ValueError(
            f"{file} is a textual inversion{_FAMILIES.get(got, '')} with vectors of {got} numbers, "
            f"and the text encoder of {name} reads {wanted}: it belongs to another model"
        )


def _check_word(word: object, tokenizer: Any, name: str) -> None:
    if not isinstance(word, str) or not 0 < len(word) <= _LONGEST or not word.isprintable():
        raise ValueError(
            f"a textual inversion is named by a word of 1 to {_LONGEST} characters, got "
            f"{quoted(word)}"
        )
    if word != "".join(word.split()):
        raise ValueError(f"the name of a textual inversion has no spaces, got {quoted(word)}")
    if not {word, f"{word}_1"}.isdisjoint(tokenizer.get_vocab()):
        raise ValueError(
            f"the tokenizer of {name} has the word {quoted(word)} already: name the textual "
            f"inversion otherwise, such as {quoted(f'<{word}-1>')}"
        )
