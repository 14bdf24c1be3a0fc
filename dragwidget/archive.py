"""A session in one file: a zip of ``session.json`` and ``tensors.safetensors``, nothing else.

Kept are the picture, what was drawn, the settings, and every edit of the picture with its LoRA,
inversion and whole history. The source's pass of the render is not: it is large, and made again
by the next render.
"""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save as write_tensors
from torch import Tensor

from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.model import DiffusionModel
from dragwidget.drag.loop import DragStep
from dragwidget.drag.optimizer import Moments
from dragwidget.dragging import Dragging
from dragwidget.history import Node
from dragwidget.instructions import DragInstructions
from dragwidget.picture import SourceImage
from dragwidget.settings import Settings
from dragwidget.source import Generation, Source, inversion_from

if TYPE_CHECKING:
    from dragwidget.session import DragSession

__all__ = ["load", "save"]

FORMAT, VERSION = "dragwidget.session", 1
JSON_NAME, TENSORS_NAME = "session.json", "tensors.safetensors"
MAX_BYTES = 8 * 2**30  # of either part, unpacked
"""Raise it, in this module, for histories of tens of thousands of steps."""

Tensors = dict[str, Tensor]


def save(session: DragSession, path: str | os.PathLike[str]) -> None:
    """Write a session to ``path``; a file that is there is replaced only by a whole one."""
    source, drawn = session.source, session.instructions
    tensors = {
        "original": torch.from_numpy(source.picture.original.copy()),
        "pixels": torch.from_numpy(source.picture.pixels.copy()),
    }
    tensors |= {f"trajectory.{k}": latent for k, latent in enumerate(source.trajectory)}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": {"name": session.model.name, "fingerprint": session.model.fingerprint},
        "prompt": source.prompt,
        "lora_given": None if source.lora is None else source.lora.digest,
        "generation": None if source.generation is None else asdict(source.generation),
        "settings": session.settings.to_dict(),
        "instructions": None if drawn is None else drawn.to_json(),
        "edits": [_write_edit(edit, f"edit.{k}.", tensors) for k, edit in enumerate(session.edits)],
    }
    packed = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    target = Path(path)
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        try:
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr(JSON_NAME, json.dumps(content))
                archive.writestr(TENSORS_NAME, write_tensors(packed))
            file.flush()
            os.fsync(file.fileno())
            os.replace(file.name, target)
        except BaseException:
            os.unlink(file.name)
            raise


def _write_edit(edit: Dragging, name: str, tensors: Tensors) -> dict[str, Any]:
    inversion = edit.inversion
    tensors |= {f"{name}latent.{k}": latent for k, latent in enumerate(inversion.latents)}
    if inversion.lora is not None:
        tensors |= {f"{name}down.{path}": matrix for path, matrix in inversion.lora.down.items()}
        tensors |= {f"{name}up.{path}": matrix for path, matrix in inversion.lora.up.items()}
    for node in edit.history.nodes[1:]:
        tensors[f"{name}node.{node.number}"] = torch.cat(
            [node.latent, node.moments.first, node.moments.second]
        )
    return {
        "prompt": inversion.source.prompt,
        "lora_was_given": inversion.source.lora is not None,
        "settings": inversion.settings.to_dict(),
        "latents": len(inversion.latents),
        "nodes": [_write_node(node) for node in edit.history.nodes[1:]],
        "current": edit.history.current.number,
    }


def _write_node(node: Node) -> dict[str, Any]:
    step = node.step
    assert step is not None
    return {
        "parent": node.parent,
        "count": node.moments.count,
        "still": node.still,
        "drawn": node.drawn,
        "born": node.born,
        "handles": node.handles,
        "index": step.index,
        "loss": step.loss,
        "loss_terms": dict(step.loss_terms),
        "targets": step.targets_xy.tolist(),
        "reached": step.reached.tolist(),
    }


def load(
    path: str | os.PathLike[str], model: DiffusionModel | None = None, **options: Any
) -> DragSession:
    """A session from what ``save`` wrote.

    Args:
        model: the one that it was made with; by default it is loaded by its name, with ``options``
            as ``load_model`` takes them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a session's file, a damaged one, or of another model.
    """
    from dragwidget.session import DragSession

    content, tensors = _read(Path(path))
    try:
        name, fingerprint = content["model"]["name"], content["model"]["fingerprint"]
        model = model or load_model(name, **options)
        if model.fingerprint != fingerprint:
            raise ValueError(
                f"it was made with the model {name!r}, whose weights are not those of "
                f"{model.name!r}: pass that model"
            )
        session = DragSession(model)
        session.settings = Settings.from_dict(content["settings"])
        source = _read_source(content, tensors)
        edits = [
            _read_edit(edit, f"edit.{k}.", tensors, source, model)
            for k, edit in enumerate(content["edits"])
        ]
        # A LoRA that was given lies with the edits that were made with it.
        for given in (edit.inversion.source.lora for edit in edits):
            if given is not None and given.digest == content["lora_given"]:
                source = replace(source, lora=given)
        drawn = content["instructions"]
        session.restore(source, edits, None if drawn is None else DragInstructions.from_json(drawn))
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        raise ValueError(f"{path} is not a session that can be opened: {error}") from error
    return session


def _read(path: Path) -> tuple[dict[str, Any], Tensors]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sorted(archive.namelist()) != sorted([JSON_NAME, TENSORS_NAME]):
                raise ValueError(f"it holds {archive.namelist()[:5]}")
            for part in archive.infolist():
                if part.file_size > MAX_BYTES:
                    raise ValueError(f"its {part.filename} is larger than {MAX_BYTES} bytes")
            content = json.loads(archive.read(JSON_NAME))
            tensors = read_tensors(archive.read(TENSORS_NAME))
    except (zipfile.BadZipFile, SafetensorError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a session that can be opened: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not a session that dragwidget saved")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {content.get('version')}, this dragwidget reads version "
            f"{VERSION}: upgrade dragwidget"
        )
    return content, tensors


def _read_source(content: dict[str, Any], tensors: Tensors) -> Source:
    original, pixels = tensors["original"].numpy(), tensors["pixels"].numpy()
    for array in (original, pixels):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"its picture is {array.dtype} of shape {array.shape}")
        array.setflags(write=False)
    generation = content["generation"]
    if generation is not None:
        generation = Generation(**{**generation, "size": tuple(generation["size"])})
    count = 0 if generation is None else generation.steps + 1
    trajectory = tuple(tensors[f"trajectory.{k}"] for k in range(count))
    return Source.of(SourceImage(original, pixels), content["prompt"], generation, trajectory)


def _read_edit(
    data: dict[str, Any], name: str, tensors: Tensors, source: Source, model: DiffusionModel
) -> Dragging:
    latents = tuple(tensors[f"{name}latent.{k}"].to(model.device) for k in range(data["latents"]))
    down, up = (
        {key[len(start) :]: matrix for key, matrix in tensors.items() if key.startswith(start)}
        for start in (f"{name}down.", f"{name}up.")
    )
    lora = LoRA(down, up) if down else None
    if lora is not None:
        lora.check(model.unet)
    settings = Settings.from_dict(data["settings"])
    given = lora if data["lora_was_given"] else None
    source = replace(source, prompt=data["prompt"], lora=given)
    edit = Dragging(inversion_from(latents, model, source, settings, lora))
    for number, node in enumerate(data["nodes"], start=1):
        packed = tensors[f"{name}node.{number}"].to(model.device)
        edit.history.nodes.append(_read_node(number, node, packed))
    edit.history.go_to(data["current"])
    return edit


def _read_node(number: int, data: dict[str, Any], packed: Tensor) -> Node:
    if not 0 <= data["parent"] < number:
        raise ValueError(f"step {number} of its history comes from step {data['parent']}")
    latent, first, second = packed[0:1], packed[1:2], packed[2:3]
    handles, targets = np.array(data["handles"]), np.array(data["targets"])
    step = DragStep(
        index=data["index"],
        loss=data["loss"],
        loss_terms=data["loss_terms"],
        handles_xy=handles,
        targets_xy=targets,
        distances=np.linalg.norm(targets - handles, axis=-1),
        reached=np.array(data["reached"], dtype=bool),
        latent=latent,
    )
    return Node(
        number=number,
        parent=data["parent"],
        latent=latent,
        moments=Moments(first, second, data["count"]),
        still=data["still"],
        drawn=tuple((x, y) for x, y in data["drawn"]),
        born=tuple(data["born"]),
        handles=tuple((x, y) for x, y in data["handles"]),
        step=step,
    )
