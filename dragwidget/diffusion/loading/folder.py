"""The files of one model's folder: read only inside it, and only JSON and safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dragwidget.data.quoting import quoted
from dragwidget.diffusion.weights import read_header, read_weights

__all__ = [
    "MAX_JSON", "STEMS", "ModelFolder", "bytes_needed", "choose_weights", "shards",
    "weight_variants",
]  # fmt: skip

STEMS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
    "text_encoder_3": "model",
    "transformer": "diffusion_pytorch_model",
}
MAX_JSON = 16 * 2**20  # bytes; the largest, a CLIP tokenizer.json, has 3.6 million
_PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_PLAIN_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")


@dataclass(frozen=True)
class ModelFolder:
    """A folder, and how its files are read.

    Nothing outside it is opened. A link may lead elsewhere inside it; in a snapshot of the hub's
    cache also to that model's ``blobs``, where the cache keeps the bytes.

    Attributes:
        path: of the folder.
        variant: which weights are read, see ``choose_weights``.
        dtype: the number format that the weights will have; float16 takes part in that choice.
        root: the folder that nothing outside is read of; ``path`` by default.
    """

    path: Path
    variant: str | None = None
    dtype: torch.dtype | None = None
    root: Path | None = None

    def part(self, name: str) -> ModelFolder:
        """Return the sub-folder of one part of the model, within the same root."""
        return ModelFolder(self.path / name, self.variant, self.dtype, self.root or self.path)

    def has(self, name: str) -> bool:
        """Return whether there is such a file."""
        return (self.path / name).is_file()

    def file(self, name: str) -> Path:
        """Return the real path of a file of this folder.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it lies outside, or is no regular file.
        """
        path = self.path / name
        real, root = path.resolve(), (self.root or self.path).resolve()
        roots = [root, root.parents[1] / "blobs"] if root.parent.name == "snapshots" else [root]
        if not any(real.is_relative_to(allowed) for allowed in roots):
            raise ValueError(
                f"{path} leads out of the model's folder, to {real}, and is not read: copy the "
                "file into the folder"
            )
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}{self._instead()}")
        if not real.is_file():
            raise ValueError(f"{path} is not a regular file")
        return real

    def json(self, name: str) -> dict[str, Any]:
        """Return the JSON object in a file."""
        text = self.text(name).strip()
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            cut = not text or (text.startswith("{") and not text.endswith("}"))
            why = f"{error}; it is cut off, fetch it again" if cut else str(error)
            raise ValueError(f"{self.path / name} cannot be read as JSON ({why})") from error
        if not isinstance(content, dict):
            raise ValueError(f"{self.path / name} holds no JSON object, but {quoted(content)}")
        return content

    def text(self, name: str) -> str:
        """Return what is written in a file of at most ``MAX_JSON`` bytes."""
        path = self.file(name)
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"{self.path / name} has more than {MAX_JSON} bytes")
        try:
            return path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.path / name} is not text in UTF-8 ({error})") from error

    def weights(self, part: str) -> dict[str, Tensor]:
        """Return all tensors of a network whose folder this is, in one file or several."""
        tensors: dict[str, Tensor] = {}
        for file in self.weight_files(part):
            tensors.update(read_weights(file))
        return tensors

    def weight_files(self, part: str) -> list[Path]:
        """Return the safetensors files with a network's weights, see ``choose_weights``.

        Raises:
            FileNotFoundError: there are none.
            ValueError: they lie outside the folder, or an index names anything else.
        """
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no folder {self.path}")
        stem = STEMS[part]
        names = [entry.name for entry in self.path.iterdir()]
        half = self.dtype == torch.float16
        chosen = choose_weights(names, stem, self.variant, half=half)
        if chosen is None:
            raise FileNotFoundError(
                f"there is no {stem}.safetensors in {self.path}{self._instead()}"
            )
        names = self._shards(chosen) if chosen.endswith(".json") else [chosen]
        return [self.file(name) for name in names]

    def _shards(self, index: str) -> list[str]:
        content = self.json(index).get("weight_map")
        named = list(content.values()) if isinstance(content, dict) else []
        if not named:
            raise ValueError(f"{self.path / index} names no files")
        for shard in named:
            if not isinstance(shard, str) or not _PLAIN_NAME.fullmatch(shard):
                raise ValueError(
                    f"{self.path / index} names {quoted(shard)}: only .safetensors files of the "
                    "same folder are read, never a pickle"
                )
        return list(dict.fromkeys(named))

    def _instead(self) -> str:
        """Return what a folder has where a file is missing, in words."""
        if not self.path.is_dir():
            return ""
        names = sorted(entry.name for entry in self.path.iterdir())
        if any(name.endswith(_PICKLED) for name in names):
            return (
                ", only pickled weights (.bin, .ckpt), which are not read, because they can run "
                "code when they are opened: get the safetensors version, or convert them in a "
                "place that you trust"
            )
        return f"; it has {', '.join(names[:5]) or 'no files'}{', ..' if len(names) > 5 else ''}"


def bytes_needed(folder: ModelFolder, dtype: torch.dtype) -> dict[str, int]:
    """Return the bytes that each network in a model's folder takes, by the headers of its files.

    A network without readable weights is left out.

    Args:
        dtype: of its weights once they are loaded.
    """
    needed: dict[str, int] = {}
    for part in STEMS:
        try:
            headers = [read_header(file) for file in folder.part(part).weight_files(part)]
        except (OSError, ValueError):
            continue
        needed[part] = dtype.itemsize * sum(header.numbers for header in headers)
    return needed


def weight_variants(names: Collection[str], stem: str) -> dict[str | None, str]:
    """Return the weights in a folder by variant, ``None`` for the plain ones: a file, or its index.

    Where weights are there both whole and in several files, the index wins, as in diffusers.
    """
    found: dict[str | None, str] = {}
    for pattern in (
        rf"{stem}(?:\.(?!.*-of-)([\w-]+))?\.safetensors",  # a shard is no variant
        rf"{stem}\.safetensors\.index(?:\.([\w-]+))?\.json",
        rf"{stem}\.([\w-]+)\.safetensors\.index\.json",
    ):
        for name in sorted(names):
            if match := re.fullmatch(pattern, name):
                found[match[1]] = name
    return found


def shards(names: Collection[str], stem: str, variant: str | None) -> list[str]:
    """Return the files beside an index that may hold weights of its variant."""
    mark = f".{re.escape(variant)}" if variant else ""
    pattern = rf"{stem}(?:{mark}-\d+-of-\d+|-\d+-of-\d+{mark})\.safetensors"
    return [name for name in names if re.fullmatch(pattern, name)]


def choose_weights(
    names: Collection[str], stem: str, variant: str | None, *, half: bool
) -> str | None:
    """Which file (or index of files) holds a network's weights; ``None``: there is none.

    The variant that is named wins, and where this network does not have it, the plain file. Where
    none is named: for float16 the ``fp16`` file before the plain one, else the plain one before
    ``fp16``, then whatever single variant there is.

    Raises:
        ValueError: several variants, and nothing that chooses between them.
    """
    there = weight_variants(names, stem)
    usual = ("fp16", None) if half else (None, "fp16")
    for wanted in (variant, None) if variant else usual:
        if wanted in there:
            return there[wanted]
    if variant or not there:
        return None if not there else _refuse_variant(there, variant)
    if len(there) > 1:
        return _refuse_variant(there, variant)
    return next(iter(there.values()))


def _refuse_variant(there: Mapping[str | None, str], variant: str | None) -> str:
    raise ValueError(
        f"there are weights of the variants {', '.join(sorted(map(str, there)))}"
        f"{f', and none of {quoted(variant)}' if variant else ''}: name one by variant="
    )
