"""A session in one file: a zip of these parts, stored as they are, and of nothing else.

    session.json                     the request, and what made each edit
    tensors.safetensors              the image, LoRAs and inversions
    edit-<k>/node-<n>.safetensors    every node of every history

A long session opens quickly, and only what is used comes to the device: of a node the header is
read, and its tensors when the edit goes there. A zip and not one safetensors file of all nodes,
because it states checksums after the parts: nodes that are on disk are read once to save them, and
a damaged one does not take the others with it. The file stays open as long as nodes are read from
it; one that is saved in its place does not touch it.

The reference branch is not in it: it is large, and the next render computes it again.
"""

from __future__ import annotations

import errno
import json
import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
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
from dragwidget.data.request import EditRequest
from dragwidget.data.settings import Settings
from dragwidget.diffusion.backbone import Backbone, loaded_models
from dragwidget.diffusion.loading import EMBEDDED, load_model
from dragwidget.diffusion.lora import LoRA
from dragwidget.drag.method import Ended
from dragwidget.drag.torch_state import in_plain_torch
from dragwidget.session import source
from dragwidget.session.cached_stages import lora_tensors, read_lora
from dragwidget.session.node import Node, instructions_json, node_bytes, open_node
from dragwidget.session.snapshot import EditSnapshot, Snapshot
from dragwidget.session.source import GeneratedImage, Generation, Inversion, TrainedLoRA
from dragwidget.storage.atomic import remove_abandoned, whole_file
from dragwidget.storage.tensors import digest, size, write_tensors

__all__ = ["load", "save"]

FORMAT, VERSION = "dragwidget.session", 3
DTYPES = {"float32", "float16", "bfloat16"}
JSON_NAME, TENSORS_NAME = "session.json", "tensors.safetensors"
MAX_BYTES = 8 * 2**30  # of a part that is read whole; the size of a node is known beforehand

# What reading a file that is no such archive, or a damaged one, may raise.
_DAMAGE = (
    LookupError, TypeError, ValueError, OverflowError, AttributeError, RuntimeError, EOFError,
    OSError, struct.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip

Tensors = dict[str, Tensor]


@in_plain_torch
def save(snapshot: Snapshot, path: str | os.PathLike[str]) -> None:
    """Write a session to ``path``; a file that is there is replaced only by a whole one."""
    request, model = snapshot.request, snapshot.model
    image, given, generation = request.image, source.lora_of(request), source.generation_of(request)
    metadata = image.metadata
    # Each LoRA once, by what it is: several edits may have been made with one.
    all_loras = [given, *(made.lora for made in snapshot.trained)]
    all_loras += [edit.inversion.lora for edit in snapshot.edits]
    requests = [request, *(made.request for made in snapshot.trained)]
    requests += [edit.inversion.request for edit in snapshot.edits]
    all_loras += [style for each in requests for style, _ in source.styles_of(each)]
    loras = {lora.digest: lora for lora in all_loras if lora is not None}
    tensors: Tensors = {
        "original": torch.from_numpy(image.original.copy()),
        "pixels": torch.from_numpy(image.pixels.copy()),
    }
    if metadata.alpha is not None:
        tensors["alpha"] = torch.from_numpy(metadata.alpha.copy())
    if isinstance(image, GeneratedImage):
        tensors["trajectory"] = torch.cat(image.trajectory)
    for name, lora in loras.items():
        tensors |= lora_tensors(lora, f"lora.{name}.")
    # Each once, not with every step: a mask is as large as the image.
    asked = [node.instructions for edit in snapshot.edits for node in edit.nodes[1:]]
    drawn = {id(each): instructions_json(each)[1] for each in asked if each}
    edits = [_write_edit(edit, f"latents.{k}", tensors) for k, edit in enumerate(snapshot.edits)]
    content = {
        "format": FORMAT,
        "version": VERSION,
        "model": {
            "name": model.name,
            "fingerprint": model.fingerprint,
            "dtype": str(model.dtype).removeprefix("torch."),
        },
        "prompt": request.prompt,
        "styles": request.style_digests,
        "image": {"exif": metadata.exif.hex(), "dpi": metadata.dpi},
        "lora": given and given.digest,
        "generation": generation and asdict(generation),
        "settings": request.settings.to_dict(),
        "instructions": request.instructions and request.instructions.to_json(),
        "drawn": list(dict.fromkeys(drawn.values())),
        "ended": snapshot.ended,
        "loras": list(loras),
        "trained": [
            {
                "prompt": made.request.prompt,
                "styles": made.request.style_digests,
                "settings": made.request.settings.to_dict(),
                "lora": made.lora.digest,
            }
            for made in snapshot.trained
        ],
        "edits": edits,
    }
    path = user_path(path)
    if size(tensors) > MAX_BYTES:
        raise ValueError(f"the session is larger than {MAX_BYTES} bytes: no file is written")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to save in: make it first")
    remove_abandoned(path.parent)
    with whole_file(path) as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(TENSORS_NAME, "w", force_zip64=True) as part:
            write_tensors(part.write, tensors)
        for k, (edit, written) in enumerate(zip(snapshot.edits, edits, strict=True)):
            for node in edit.nodes[1:]:
                header, data = node_bytes(node)
                archive.writestr(_node_name(k, node.number), header + data)
                written["nodes"].append(digest(header))
        archive.writestr(JSON_NAME, json.dumps(content))


def _node_name(edit: int, number: int) -> str:
    return f"edit-{edit}/node-{number}.safetensors"


def _write_edit(edit: EditSnapshot, name: str, tensors: Tensors) -> dict[str, Any]:
    inversion, request = edit.inversion, edit.inversion.request
    if source.generation_of(request) is None:
        tensors[name] = torch.cat(inversion.latents)
    if inversion.noises:
        tensors[f"{name}.noises"] = torch.cat(inversion.noises)
    return {
        "prompt": request.prompt,
        "styles": request.style_digests,
        "settings": request.settings.to_dict(),
        "lora": inversion.lora and inversion.lora.digest,
        "lora_was_given": request.lora is not None,
        "current": edit.current,
        "tip": edit.tip,
        "nodes": [],  # the name of each, when it is written
    }


@in_plain_torch
def load(path: str | os.PathLike[str], model: Backbone | None = None, **options: Any) -> Snapshot:
    """The session that ``save`` wrote; nodes are read from its file when they are asked for.

    A file says which model it was made with; it never makes us fetch or open one. Without
    ``model`` it opens on the embedded model, if that is what it was made with, or on a model of the
    same weights that this process has loaded already.

    Args:
        model: the one that it was made with.
        options: options of the embedded model, as ``load_model`` takes them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a session's file, a damaged one, or of another model, which it names.
    """
    path = user_path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no session file {path}: DragSession.save writes one")
    with _naming(path):
        try:
            archive = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ValueError("it is no ZIP archive, or is cut off") from error
    try:
        with _naming(path):
            content = _read_content(archive)
            made_with = content["model"]
            name, fingerprint, dtype = (str(made_with[k]) for k in ("name", "fingerprint", "dtype"))
            if name in EMBEDDED and dtype not in DTYPES:
                raise ValueError(f"its number format is {quoted(dtype)}")
        if model is None:
            model = _model_here(path, name, fingerprint, dtype, options)
        if model.fingerprint != fingerprint:
            raise ValueError(
                f"{path} was made with the model {quoted(name)} ({quoted(dtype)}), whose weights "
                f"are not those of {model.name!r} ({str(model.dtype).removeprefix('torch.')}): "
                "pass that model"
            )
        with _naming(path):
            return _restored(archive, content, model)
    except BaseException:
        archive.close()
        raise


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let damage to a file be one kind of error, which names it."""
    try:
        yield
    except _DAMAGE as error:
        # A directory that points before the file's start, or what we found; else it is the disk.
        if isinstance(error, OSError) and error.errno not in (errno.EINVAL, None):
            raise
        what = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path} is not a session that can be opened: {what[:500]}") from error


def _model_here(
    path: Path, name: str, fingerprint: str, dtype: str, options: dict[str, Any]
) -> Backbone:
    """The model that a file was made with, where it needs no loading by a name from the file."""
    if name in EMBEDDED:
        return load_model(name, **{"dtype": dtype, **options})
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


def _read_content(archive: zipfile.ZipFile) -> dict[str, Any]:
    held = archive.namelist()
    for part in archive.infolist():
        if part.filename in (JSON_NAME, TENSORS_NAME) and part.file_size > MAX_BYTES:
            raise ValueError(f"its {part.filename} is larger than {MAX_BYTES} bytes")
        if part.compress_type != zipfile.ZIP_STORED:
            raise ValueError(
                f"its {part.filename} is compressed: dragwidget stores it plainly, and reads no "
                "other, as a small file could fill the memory"
            )
    if JSON_NAME not in held:
        raise ValueError(f"it holds {held[:5]}")
    content = parse_json(archive.read(JSON_NAME), "its session.json")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("it was not saved by dragwidget")
    if content.get("version") != VERSION:
        raise ValueError(
            f"it is of format {quoted(content.get('version'))}, and this dragwidget reads format "
            f"{VERSION}: open it with the release that wrote it"
        )
    wanted = [JSON_NAME, TENSORS_NAME]
    for k, edit in enumerate(content["edits"]):
        wanted += [_node_name(k, number) for number in range(1, len(edit["nodes"]) + 1)]
    if missing := sorted(set(wanted) - set(held)):
        raise ValueError(f"it lacks {missing[0]}")
    if len(held) != len(wanted):
        raise ValueError(f"it holds {sorted(set(held) - set(wanted))[:5] or 'a part twice'}")
    return content


def _restored(archive: zipfile.ZipFile, content: dict[str, Any], model: Backbone) -> Snapshot:
    tensors = read_tensors(archive.read(TENSORS_NAME))
    loras = {name: read_lora(tensors, f"lora.{name}.", model) for name in content["loras"]}
    image = _read_image(content, tensors, model)

    def asked(data: dict[str, Any], lora: LoRA | None = None) -> EditRequest:
        settings = Settings.from_dict(data["settings"])
        styles = tuple((loras[name], weight) for name, weight in data.get("styles", ()))
        return EditRequest(image, data["prompt"], lora, settings=settings, styles=styles)

    if len(content["drawn"]) > sum(len(edit["nodes"]) for edit in content["edits"]):
        raise ValueError("more was drawn than steps were taken")
    drawn = {digest(text.encode()): _read_drawn(text, image) for text in content["drawn"]}
    trained = [TrainedLoRA(loras[made["lora"]], asked(made)) for made in content["trained"]]
    edits = []
    styled: dict[Any, Backbone] = {}  # the model by the LoRAs that change it
    for k, data in enumerate(content["edits"]):
        lora = None if data["lora"] is None else loras[data["lora"]]
        given = lora if data["lora_was_given"] else None
        request = asked(data, given)
        latents = source.known_trajectory(request)
        latents = latents or torch.split(tensors[f"latents.{k}"].to(model.device), 1)
        settings = source.inversion_settings(request)
        if len(latents) != settings.count + 1:
            raise ValueError(f"it has {len(latents)} latents of an inversion with {settings}")
        noises: tuple[Tensor, ...] = ()
        if source.keeps_noises(request):
            noises = torch.split(tensors[f"latents.{k}.noises"].to(model.device), 1)
            if {noise.shape for noise in noises} != {latents[0].shape}:
                raise ValueError(f"it has noises of shape {tuple(noises[0].shape)}")
        if len(noises) != (settings.count if source.keeps_noises(request) else 0):
            raise ValueError(f"it has {len(noises)} noises of an inversion with {settings}")
        if request.styles not in styled:
            styled[request.styles] = model.with_styles(source.styles_of(request))
        with_styles = styled[request.styles]
        inversion = source.inversion_from(latents, with_styles, request, lora, noises)
        edits.append(_read_edit(archive, k, data, inversion, drawn))
    text = content["instructions"]
    request = asked(content, None if content["lora"] is None else loras[content["lora"]])
    return Snapshot(
        model=model,
        request=request.replace(instructions=None if text is None else _read_drawn(text, image)),
        ended=None if content["ended"] is None else Ended(content["ended"]),
        trained=tuple(trained),
        edits=tuple(edits),
    )


def _read_image(content: dict[str, Any], tensors: Tensors, model: Backbone) -> SourceImage:
    original, pixels = tensors["original"].numpy(), tensors["pixels"].numpy()
    for array in (original, pixels):
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise ValueError(f"its image is {array.dtype} of shape {array.shape}")
        array.setflags(write=False)
    alpha = tensors["alpha"].numpy() if "alpha" in tensors else None
    if alpha is not None and (alpha.dtype != np.uint8 or alpha.shape != original.shape[:2]):
        raise ValueError(f"its alpha is {alpha.dtype} of shape {alpha.shape}")
    carried = content["image"]
    metadata = Metadata(alpha, bytes.fromhex(carried["exif"]), read_dpi(carried["dpi"]))
    if content["generation"] is None:
        return SourceImage(original, pixels, metadata)
    said = content["generation"]
    generation = Generation(**{**said, "size": tuple(said["size"])})
    trajectory = torch.split(tensors["trajectory"].to(model.device), 1)
    if len(trajectory) != generation.steps + 1:
        raise ValueError(f"it has {len(trajectory)} latents of {generation.steps} steps")
    return GeneratedImage(original, pixels, metadata, generation=generation, trajectory=trajectory)


def _read_edit(
    archive: zipfile.ZipFile,
    place: int,
    data: dict[str, Any],
    inversion: Inversion,
    drawn: dict[str, DragInstructions],
) -> EditSnapshot:
    nodes = [Node.start(inversion)]
    for name in data["nodes"]:
        part = _node_name(place, len(nodes))
        size = archive.getinfo(part).file_size
        nodes.append(open_node(zipfile.Path(archive, part), size, name, nodes, drawn))
    current, tip = index(data["current"]), index(data["tip"])
    if not (0 <= current < len(nodes) and 0 <= tip < len(nodes)):
        raise ValueError(f"it stands at step {current}, and has {len(nodes) - 1} steps")
    for number in (current, tip):
        nodes[number].tensors.held = nodes[number].tensors.read()
    return EditSnapshot(inversion, tuple(nodes), current, tip)


def _read_drawn(text: str, image: SourceImage) -> DragInstructions:
    """One of many: checked at once, as a mask of another size may be large."""
    instructions = DragInstructions.from_json(text)
    EditRequest(image, instructions=instructions)
    return instructions
