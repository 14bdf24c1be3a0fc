"""Python code that repeats an edit."""

from __future__ import annotations

import pprint
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from dragwidget.data.image import fit
from dragwidget.data.paths import absolute, user_path
from dragwidget.diffusion.loading import EMBEDDED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dragwidget.data.instructions import DragInstructions
    from dragwidget.data.settings import Settings
    from dragwidget.session.history import Node
    from dragwidget.session.session import DragSession

__all__ = ["python_of"]

_IMPORTED = ("DragInstructions", "DragSession", "DragSettings", "Settings")
_FILL_IN = {
    "image": "it was not read from a file: a path, a Pillow image or an array; here widget.image",
    "model": "it was not loaded by name: a DiffusionModel; here widget.session.model",
    "lora": "it was not read from a file: a LoRA or a path; here widget.session.source.lora",
}


def python_of(session: DragSession) -> str:
    """Return plain Python that repeats the edit, bit for bit on the CPU.

    It holds everything that made the image: the model with its options, device and type, the image
    with its size, prompt and LoRA, all settings, and every change of points, mask and settings
    between two steps. What has no name, such as an array, stays an undefined variable, and a
    comment at the top says what to assign to it.
    """
    lines = [*_model(session), *_source(session), "", *_drags(session)]
    lines += ["result = session.render()", 'result.save("result.png")']
    text = "\n".join(lines) + "\n"
    return _imports(text) + _to_fill_in(session) + text


def _imports(text: str) -> str:
    names = [name for name in _IMPORTED if f"{name}(" in text or f"{name}." in text]
    first = "from dataclasses import replace\n\n" if "replace(" in text else ""
    return f"{first}from dragwidget import {', '.join(names)}\n\n"


def _to_fill_in(session: DragSession) -> str:
    """Comments on the variables that whoever runs the code has to assign."""
    source = session.source
    missing = {
        "image": source.generation is None and source.call.image is None,
        "model": session.model.loaded_with is None,
        "lora": source.lora is not None and source.call.lora is None,
    }
    lines = [
        f"# {name} = ...  # {_FILL_IN[name]}" for name, is_missing in missing.items() if is_missing
    ]
    return "\n".join(["# Fill in:", *lines, "\n"]) if lines else ""


def _model(session: DragSession) -> Iterator[str]:
    model = session.model
    if model.loaded_with is None:
        yield "session = DragSession(model)"
        return
    device = str(model.device).removesuffix(":0")
    options: dict[str, Any] = {
        "device": device,
        "dtype": str(model.dtype).removeprefix("torch."),
        **{word: _place(value) for word, value in model.loaded_with.items()},
    }
    if model.memory != "normal":
        options["memory"] = model.memory
    if device != "cpu":
        yield f"# Made on {device}: another device gives slightly different values."
    name = model.name if model.name in EMBEDDED else _place(model.name)
    yield f"session = DragSession.from_pretrained({name!r}{_arguments(options)})"


def _place(word: str) -> str:
    """The absolute path of a file or folder that is here; any other word as it is."""
    return absolute(word) if user_path(word).exists() else word


def _source(session: DragSession) -> Iterator[str]:
    source, settings = session.source, session.settings
    made = source.generation
    if made is not None:
        own = replace(settings, inversion=replace(settings.inversion, steps=made.steps))
        yield f"session.settings = {_settings(own)}"
        yield (
            f"session.generate({made.prompt!r}, {made.negative_prompt!r}, "
            f"guidance_scale={made.guidance_scale!r}, seed={made.seed}, size={made.size})"
        )
        if source.prompt != made.prompt:
            yield f"session.prompt = {source.prompt!r}"
    if made is None or settings.inversion.steps != made.steps:
        yield f"session.settings = {_settings(settings)}"
    if made is None:
        image = "image" if source.call.image is None else repr(source.call.image)
        size = _arguments(_size_arguments(session))
        yield f"session.set_image({image}, {source.prompt!r}{size})"
        width, height = source.image.fitted_size
        yield f"assert session.source.image.fitted_size == ({width}, {height})"
    if source.lora is not None:
        lora = "lora" if source.call.lora is None else repr(source.call.lora)
        alpha = {} if source.call.alpha is None else {"alpha": source.call.alpha}
        yield f"session.use_lora({lora}{_arguments(alpha)})"


def _size_arguments(session: DragSession) -> dict[str, int]:
    """The arguments of ``set_image`` that fit the image to the size that was worked at."""
    model, call, image = session.model, session.source.call, session.source.image
    given = {"max_side": call.max_side, "multiple": call.multiple}
    known = {name: value for name, value in given.items() if value is not None}
    if known:
        return known
    # Of a session that was opened from a file only the size is known.
    side, factor = model.image_side, model.vae_factor
    longest = max(image.fitted_size)
    for multiple in (model.image_multiple, *(factor * 2**k for k in range(5))):
        for max_side in (side, longest):
            if (
                multiple > max_side
                or fit(image.size, multiple, max_side, side) != image.fitted_size
            ):
                continue
            found = {"max_side": max_side, "multiple": multiple}
            usual = {"max_side": side, "multiple": model.image_multiple}
            return {name: value for name, value in found.items() if value != usual[name]}
    return {}  # the assertion after ``set_image`` fails


def _drags(session: DragSession) -> Iterator[str]:
    """The steps of the present branch, with what was asked for in each."""
    drag = session.settings.drag
    nodes = _nodes(session)
    shown = None
    for node, count in _stretches(nodes):
        assert node.settings is not None
        assert node.instructions is not None
        if node.settings != (drag if shown is None else shown):
            yield f"drag = DragSettings({_arguments(asdict(node.settings))[2:]})"
            yield "session.settings = replace(session.settings, drag=drag)"
        shown = node.settings
        yield f"session.instructions = {_instructions(session, node.instructions)}"
        yield f"session.step({count})"
        yield ""
    if shown not in (None, drag):
        yield "# The settings at the time of the render"
        yield f"session.settings = {_settings(session.settings)}"
    last = nodes[-1].instructions if nodes else None
    if session.instructions is not None and session.instructions != last:
        yield f"session.instructions = {_instructions(session, session.instructions)}"


def _arguments(values: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in values.items())


def _settings(settings: Settings) -> str:
    return (
        f"Settings.from_dict(\n{pprint.pformat(settings.to_dict(), width=96, sort_dicts=False)}\n)"
    )


def _instructions(session: DragSession, instructions: DragInstructions) -> str:
    """Instructions with the prompt of the edit, which setting them would replace."""
    text = instructions.replace(prompt=session.prompt).to_json()
    return f"DragInstructions.from_json(\n    {text!r}\n)"


def _nodes(session: DragSession) -> list[Node]:
    edit = session.stages.edit(session.source, session.settings)
    return [] if edit is None else edit.history.path()[1:]


def _stretches(nodes: list[Node]) -> Iterator[tuple[Node, int]]:
    """Runs of nodes with equal instructions and settings: the first node and their number."""
    start = 0
    for k in range(1, len(nodes) + 1):
        first = nodes[start]
        if k == len(nodes) or (nodes[k].instructions, nodes[k].settings) != (
            first.instructions,
            first.settings,
        ):
            yield first, k - start
            start = k
