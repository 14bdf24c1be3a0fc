"""A session in one file: a zip of ``session.json`` and ``tensors.safetensors``, nothing else.

Kept are the image, what was drawn, the settings, and every edit of the image with its LoRA,
inversion and whole history. The source's pass of the render is not: it is large, and made again
by the next render.
"""

from __future__ import annotations

import errno
import json
import lzma
import os
import struct
import zipfile
import zlib
from dataclasses import asdict, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from torch import Tensor

from dragwidget.data.image import SourceImage
from dragwidget.data.image_reading import Metadata, read_dpi
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.limits import parse_json
from dragwidget.data.paths import user_path
from dragwidget.data.quoting import quoted
from dragwidget.data.settings import DragSettings, Settings
from dragwidget.diffusion.loading import load_model
from dragwidget.diffusion.lora import LoRA
from dragwidget.diffusion.model import DiffusionModel, loaded_models
from dragwidget.drag.loop import DragStep
from dragwidget.drag.method import Ended
from dragwidget.drag.noise_path import Time
from dragwidget.drag.optimizer import Moments
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.session.history import Node
from dragwidget.session.snapshot import EditSnapshot, Snapshot
from dragwidget.session.source import Generation, Source, TrainedLoRA, inversion_from
from dragwidget.storage.atomic import remove_abandoned, whole_file
from dragwidget.storage.tensors import Later, size, write_tensors

__all__ = ["load", "read_node", "save", "write_node"]

FORMAT, VERSION = "dragwidget.session", 2
EMBEDDED = "critters"  # the only model that a file opens by its name
DTYPES = {"float32", "float16", "bfloat16"}
JSON_NAME, TENSORS_NAME = "session.json", "tensors.safetensors"
MAX_BYTES = 8 * 2**30  # of either part, unpacked
"""Raise it, in this module, for histories of tens of thousands of steps."""

# What reading a file that is no such archive, or a damaged one, may raise beside ValueError.
_UNREADABLE = (
    zipfile.BadZipFile,
    SafetensorError,
    EOFError,
    zlib.error,
    RuntimeError,
    OverflowError,
    lzma.LZMAError,
    struct.error,
)

Tensors = dict[str, Tensor]


@in_plain_torch
def save(snapshot: Snapshot, path: str | os.PathLike[str]) -> None:
    """Write a session to ``path``; a file that is there is replaced only by a whole one."""
    source, model = snapshot.source, snapshot.model
    metadata = source.image.metadata
    # Each LoRA once, by what it is: several edits may have been made with one.
    all_loras = [source.lora, *(made.lora for made in snapshot.trained)]
    all_loras += [edit.inversion.lora for edit in snapshot.edits]
    loras = {lora.digest: lora for lora in all_loras if lora is not None}
    tensors: dict[str, Tensor | Later] = {
        "original": torch.from_numpy(source.image.original.copy()),
        "pixels": torch.from_numpy(source.image.pixels.copy()),
    }
    if metadata.alpha is not None:
        tensors["alpha"] = torch.from_numpy(metadata.alpha.copy())
    if source.trajectory:
        tensors["trajectory"] = torch.cat(source.trajectory)
    for digest, lora in loras.items():
        tensors |= {f"lora.{digest}.down.{name}": matrix for name, matrix in lora.down.items()}
        tensors |= {f"lora.{digest}.up.{name}": matrix for name, matrix in lora.up.items()}
    drawn = None if snapshot.instructions is None else snapshot.instructions.to_json()
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": {
            "name": model.name,
            "fingerprint": model.fingerprint,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "prompt": source.prompt,
        "image": {"exif": metadata.exif.hex(), "dpi": metadata.dpi},
        "lora": _digest(source.lora),
        "generation": None if source.generation is None else asdict(source.generation),
        "settings": snapshot.settings.to_dict(),
        "instructions": drawn,
        "ended": snapshot.ended,
        "loras": list(loras),
        "trained": [
            {
                "prompt": made.source.prompt,
                "settings": made.settings.to_dict(),
                "lora": made.lora.digest,
            }
            for made in snapshot.trained
        ],
        "edits": [
            _write_edit(edit, f"edit.{k}.", tensors) for k, edit in enumerate(snapshot.edits)
        ],
    }
    _write(user_path(path), content, tensors)


def _write(path: Path, content: dict[str, Any], tensors: dict[str, Tensor | Later]) -> None:
    if size(tensors) > MAX_BYTES:
        raise ValueError(f"the session is larger than {MAX_BYTES} bytes: no file is written")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save in: make it first")
    remove_abandoned(path.parent)
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        archive.writestr(JSON_NAME, json.dumps(content))
        with archive.open(TENSORS_NAME, "w", force_zip64=True) as part:
            write_tensors(part, tensors)


def _digest(lora: LoRA | None) -> str | None:
    return None if lora is None else lora.digest


def _write_edit(
    edit: EditSnapshot, name: str, tensors: dict[str, Tensor | Later]
) -> dict[str, Any]:
    inversion, nodes = edit.inversion, edit.nodes
    if inversion.source.generation is None:
        tensors[f"{name}latents"] = torch.cat(inversion.latents)
    for node in nodes[1:]:
        tensors[f"{name}node.{node.number}"] = _packed_later(node, inversion.latents[0])
    # Each once, not with every step: a mask is as large as the image.
    drawn = {id(n.instructions): n.instructions for n in nodes if n.instructions}
    places = {key: place for place, key in enumerate(drawn)}
    return {
        "prompt": inversion.source.prompt,
        "settings": inversion.settings.to_dict(),
        "drawn": [instructions.to_json() for instructions in drawn.values()],
        "lora": _digest(inversion.lora),
        "lora_was_given": inversion.source.lora is not None,
        "nodes": [write_node(node, places[id(node.instructions)]) for node in nodes[1:]],
        "current": edit.current,
        "tip": edit.tip,
    }


def _packed_later(node: Node, like: Tensor) -> Later:
    """Read when it is written: a long history is on disk, and need not be in memory for this."""
    return Later(like, (3, *like.shape[1:]), lambda: node.packed)


def write_node(node: Node, drawn: int) -> dict[str, Any]:
    """A node as JSON holds it; ``drawn`` is the place of its instructions in a list of them."""
    step, settings = node.step, node.settings
    assert step is not None
    assert settings is not None
    return {
        "parent": node.parent,
        "count": node.moments.count,
        "timestep": node.timestep,
        "still": node.still,
        "drawn": drawn,
        "settings": asdict(settings),
        "anchor_nodes": node.anchor_nodes,
        "handles": node.handles,
        "index": step.index,
        "loss": step.loss,
        "loss_terms": dict(step.loss_terms),
        "targets": step.targets_xy.tolist(),
        "reached": step.reached.tolist(),
    }


@in_plain_torch
def load(
    path: str | os.PathLike[str], model: DiffusionModel | None = None, **options: Any
) -> Snapshot:
    """The session that ``save`` wrote.

    A file says which model it was made with; it never makes us fetch or open one. Without
    ``model`` it opens on the embedded model, if that is what it was made with, or on a model of the
    same weights that this process has loaded already.

    Args:
        model: the one that it was made with.
        options: of the embedded model, as ``load_model`` takes them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a session's file, a damaged one, or of another model, which it names.
    """
    content, tensors = _read(user_path(path))
    try:
        made_with = content["model"]
        name, fingerprint = str(made_with["name"]), str(made_with["fingerprint"])
        dtype = str(made_with["dtype"])
    except (KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    if model is None:
        model = _model_here(path, name, fingerprint, dtype, options)
    if model.fingerprint != fingerprint:
        raise ValueError(
            f"{path} was made with the model {quoted(name)} ({quoted(dtype)}), whose weights are "
            f"not those of {model.name!r} ({str(model.dtype).removeprefix('torch.')}): pass that "
            "model"
        )
    try:
        return _restored(content, tensors, model)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise _damaged(path, error) from error


def _model_here(
    path: str | os.PathLike[str], name: str, fingerprint: str, dtype: str, options: dict[str, Any]
) -> DiffusionModel:
    """The model that a file was made with, where it needs no loading by a name from the file."""
    if name == EMBEDDED:
        if dtype not in DTYPES:
            raise _damaged(path, ValueError(f"its number format is {quoted(dtype)}"))
        return load_model(EMBEDDED, **{"dtype": dtype, **options})
    for loaded in loaded_models():
        here = {
            "device": str(loaded.device),
            "dtype": str(loaded.dtype).removeprefix("torch."),
            "memory": loaded.memory,
        }
        asked = {key: str(value).removeprefix("torch.") for key, value in options.items()}
        if loaded.fingerprint == fingerprint and asked.items() <= here.items():
            return loaded
    raise ValueError(
        f"{path} was made with the model {quoted(name)}, which a file may not load: load it "
        "yourself, if you trust it, and pass it as model=load_model(...)"
    )


def _damaged(path: str | os.PathLike[str], error: Exception) -> ValueError:
    what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
    return ValueError(f"{path} is not a session that can be opened: {what[:500]}")


def _restored(content: dict[str, Any], tensors: Tensors, model: DiffusionModel) -> Snapshot:
    tensors = {key: tensor.to(model.device) for key, tensor in tensors.items()}
    loras = {digest: _read_lora(digest, tensors, model) for digest in content["loras"]}
    source = _read_source(content, tensors)
    trained = []
    for made in content["trained"]:
        bare = replace(source, prompt=made["prompt"])
        trained.append(TrainedLoRA(loras[made["lora"]], bare, Settings.from_dict(made["settings"])))
    edits = []
    for k, data in enumerate(content["edits"]):
        lora = None if data["lora"] is None else loras[data["lora"]]
        given = lora if data["lora_was_given"] else None
        described = replace(source, prompt=data["prompt"], lora=given)
        edits.append(_read_edit(data, f"edit.{k}.", tensors, described, lora, model))
    given = None if content["lora"] is None else loras[content["lora"]]
    drawn = content["instructions"]
    instructions = None if drawn is None else _read_drawn(drawn, source)
    return Snapshot(
        model=model,
        source=replace(source, lora=given),
        settings=Settings.from_dict(content["settings"]),
        instructions=instructions,
        ended=None if content["ended"] is None else Ended(content["ended"]),
        trained=tuple(trained),
        edits=tuple(edits),
    )


def _read(path: Path) -> tuple[dict[str, Any], Tensors]:
    try:
        with zipfile.ZipFile(path) as archive:
            if sorted(archive.namelist()) != sorted([JSON_NAME, TENSORS_NAME]):
                raise ValueError(f"it holds {archive.namelist()[:5]}")
            for part in archive.infolist():
                if part.file_size > MAX_BYTES:
                    raise ValueError(f"its {part.filename} is larger than {MAX_BYTES} bytes")
                if part.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(
                        f"its {part.filename} is compressed: dragwidget stores it plainly, and "
                        "reads no other, as a small file could fill the memory"
                    )
            content = parse_json(archive.read(JSON_NAME), "its session.json")
            if not isinstance(content, dict) or content.get("format") != FORMAT:
                raise ValueError("it was not saved by dragwidget")
            if content.get("version") != VERSION:
                raise ValueError(
                    f"it is of format {quoted(content.get('version'))}, and this dragwidget reads "
                    f"format {VERSION}: open it with the release that wrote it"
                )
            return content, read_tensors(archive.read(TENSORS_NAME))
    except (*_UNREADABLE, ValueError) as error:
        raise _damaged(path, error) from error
    except OSError as error:
        # A directory that points before the file's start, or a damaged bzip2; else it is the disk.
        if error.errno not in (errno.EINVAL, None):
            raise
        raise _damaged(path, ValueError("its parts lie outside of it")) from error


def _read_source(content: dict[str, Any], tensors: Tensors) -> Source:
    original, pixels = tensors["original"].cpu().numpy(), tensors["pixels"].cpu().numpy()
    for array in (original, pixels):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"its image is {array.dtype} of shape {array.shape}")
        array.setflags(write=False)
    generation = content["generation"]
    trajectory: tuple[Tensor, ...] = ()
    if generation is not None:
        generation = Generation(**{**generation, "size": tuple(generation["size"])})
        trajectory = _single(tensors["trajectory"])
        if len(trajectory) != generation.steps + 1:
            raise ValueError(f"it has {len(trajectory)} latents of {generation.steps} steps")
    image = SourceImage(original, pixels, _read_metadata(content, tensors, original))
    return Source.of(image, content["prompt"], generation, trajectory)


def _read_metadata(content: dict[str, Any], tensors: Tensors, like: npt.NDArray[Any]) -> Metadata:
    """What the source carries beside its colours; nothing where that was not written yet."""
    alpha = tensors["alpha"].cpu().numpy() if "alpha" in tensors else None
    if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != like.shape[:2]):
        raise ValueError(f"its alpha is {alpha.dtype} of shape {alpha.shape}")
    data = content.get("image", {})
    return Metadata(alpha, bytes.fromhex(data.get("exif", "")), read_dpi(data.get("dpi")))


def _timestep(value: Any) -> Time:
    if type(value) not in (int, float):
        raise TypeError(f"a timestep is {value!r}")
    return value  # type: ignore[no-any-return]


def _single(batch: Tensor) -> tuple[Tensor, ...]:
    return tuple(batch[k : k + 1] for k in range(len(batch)))


def _read_lora(digest: str, tensors: Tensors, model: DiffusionModel) -> LoRA:
    down, up = (
        {key[len(start) :]: matrix for key, matrix in tensors.items() if key.startswith(start)}
        for start in (f"lora.{digest}.down.", f"lora.{digest}.up.")
    )
    lora = LoRA(down, up)
    lora.check(model.unet, model.text_encoder)
    return lora


def _read_edit(
    data: dict[str, Any],
    name: str,
    tensors: Tensors,
    source: Source,
    lora: LoRA | None,
    model: DiffusionModel,
) -> EditSnapshot:
    settings = Settings.from_dict(data["settings"])
    latents = source.known_way(settings) or _single(tensors[f"{name}latents"])
    if len(latents) != source.inversion(settings).count + 1:
        raise ValueError(f"it has {len(latents)} latents of an inversion with {settings.inversion}")
    inversion = inversion_from(latents, model, source, settings, lora)
    if len(data["drawn"]) > len(data["nodes"]):
        raise ValueError("more was drawn than steps were taken")
    drawn = [_read_drawn(text, source) for text in data["drawn"]]
    nodes = [Node.start(inversion)]
    for number, node in enumerate(data["nodes"], start=1):
        read = read_node(number, node, tensors[f"{name}node.{number}"], drawn, latents[0])
        if read.index != nodes[read.parent].index + 1:
            raise ValueError(f"step {number} of its history does not come after its parent")
        nodes.append(read)
    current, tip = index(data["current"]), index(data["tip"])
    if not (0 <= current < len(nodes) and 0 <= tip < len(nodes)):
        raise ValueError(f"it stands at step {current}, and has {len(nodes) - 1} steps")
    return EditSnapshot(inversion, tuple(nodes), current, tip)


def _read_drawn(text: str, source: Source) -> DragInstructions:
    """One of many: checked at once, as a mask of another size may be large."""
    instructions = DragInstructions.from_json(text)
    source.check(instructions)
    return instructions


def read_node(
    number: int,
    data: dict[str, Any],
    packed: Tensor,
    drawn: list[DragInstructions],
    like: Tensor,
) -> Node:
    """A node from what ``write_node`` and ``Node.packed`` made of it.

    Args:
        number: its place in the history.
        drawn: the list that holds its instructions.
        like: a latent of the same edit.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    if packed.shape != (3, *like.shape[1:]):
        raise ValueError(f"step {number} of its history is of shape {tuple(packed.shape)}")
    if not 0 <= data["drawn"] < len(drawn):
        raise ValueError(f"step {number} of its history was not drawn")
    if not all(0 <= earlier < number for earlier in (data["parent"], *data["anchor_nodes"])):
        raise ValueError(f"step {number} of its history does not come from earlier ones")
    latent, first, second = _single(packed)
    handles, targets = (np.array(data[key], dtype=float) for key in ("handles", "targets"))
    pairs = len(drawn[data["drawn"]].pairs)
    counts = len(data["anchor_nodes"]), len(data["reached"])
    if counts != (pairs, pairs) or handles.shape != (pairs, 2) or targets.shape != (pairs, 2):
        raise ValueError(f"step {number} of its history has not the points that were drawn")
    step = DragStep(
        index=index(data["index"]),
        loss=float(data["loss"]),
        loss_terms={key: float(value) for key, value in data["loss_terms"].items()},
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
        moments=Moments(first, second, index(data["count"])),
        timestep=_timestep(data["timestep"]),
        still=index(data["still"]),
        instructions=drawn[data["drawn"]],
        settings=DragSettings(**data["settings"]),
        anchor_nodes=tuple(data["anchor_nodes"]),
        handles=tuple((x, y) for x, y in data["handles"]),
        step=step,
    )
