"""Python code that repeats an edit."""

from __future__ import annotations

import pprint
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from dragwidget.data.image import fit
from dragwidget.data.paths import absolute, user_path
from dragwidget.diffusion.loading import EMBEDDED
from dragwidget.session.source import generation_of, styles_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dragwidget.data.instructions import DragInstructions
    from dragwidget.data.request import EditRequest
    from dragwidget.data.settings import Settings
    from dragwidget.diffusion.lora import LoRA
    from dragwidget.session.node import Node
    from dragwidget.session.session import DragSession

_IMPORTED = ("DragInstructions", "DragSession", "DragSettings", "Settings")
_FILL_IN = {
    "image": "it was not read from a file: a path, a Pillow image or an array; here widget.image",
    "model": "it was not loaded by name; here widget.session.model",
    "lora": "it was not read from a file: a LoRA or a path; here widget.session.lora",
    "styles": "not all were read from files: LoRAs or paths, each with its weight; here "
    "widget.session.request.styles",
}


def python_of(session: DragSession) -> str:
    """Return plain Python that repeats the edit: bit for bit on this CPU, by as many threads.

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
    request, lora = session.request, session.lora
    missing = {
        "image": generation_of(request) is None and request.image.path is None,
        "model": session.model.loaded_with is None,
        "styles": any(style.path is None for style, _ in styles_of(request)),
        "lora": lora is not None and lora.path is None,
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


def _place(word: Any) -> Any:
    """Return the absolute path of a file or folder that is here; any other word as it is."""
    if isinstance(word, dict):
        return {name: _place(file) for name, file in word.items()}
    return absolute(word) if user_path(word).exists() else word


def _source(session: DragSession) -> Iterator[str]:
    request, lora = session.request, session.lora
    settings, made = request.settings, generation_of(request)
    own = settings
    if made is not None:
        as_made = replace(settings.inversion, steps=made.steps, spacing=made.spacing)
        own = replace(settings, inversion=as_made)
        yield f"session.settings = {_settings(own)}"
        yield (
            f"session.generate({made.prompt!r}, {made.negative_prompt!r}, "
            f"guidance_scale={made.guidance_scale!r}, seed={made.seed}, size={made.size})"
        )
        if request.prompt != made.prompt:
            yield f"session.prompt = {request.prompt!r}"
    if made is None or settings != own:
        yield f"session.settings = {_settings(settings)}"
    if made is None:
        image = "image" if request.image.path is None else repr(request.image.path)
        size = _arguments(_size_arguments(session))
        yield f"session.set_image({image}, {request.prompt!r}{size})"
        yield f"assert session.request.image.fitted_size == {request.image.fitted_size}"
    if request.styles:
        yield f"session.use_lora({_styles(request)})"
    if lora is not None:
        given = "lora" if lora.path is None else repr(lora.path)
        alpha = {} if lora.alpha is None else {"alpha": lora.alpha}
        yield f"session.use_lora({given}{_arguments(alpha)})"


def _styles(request: EditRequest) -> str:
    styles = styles_of(request)
    if any(style.path is None for style, _ in styles):
        return "styles"
    pairs = ", ".join(f"({_style(style)}, {weight!r})" for style, weight in styles)
    return f"[{pairs}]"


def _style(style: LoRA) -> str:
    path, alpha = repr(style.path), style.alpha
    return path if alpha is None else f"session.model.read_lora({path}, {alpha!r})"


def _size_arguments(session: DragSession) -> dict[str, int]:
    """The arguments of ``set_image`` that fit the image to the size that was worked at."""
    model, image = session.model, session.request.image
    side, factor, sides = model.longer_side(image.size), model.vae_factor, image.fitted_size
    usual = {"max_side": side, "multiple": model.image_multiple}
    # Any other multiple that may have been asked for divides both sides.
    others = [m for m in range(factor, min(sides) + 1, factor) if not any(s % m for s in sides)]
    for multiple in (model.image_multiple, *others):
        for max_side in (side, max(sides)):
            if multiple <= max_side and fit(image.size, multiple, max_side, side) == sides:
                found = {"max_side": max_side, "multiple": multiple}
                return {name: value for name, value in found.items() if value != usual[name]}
    return {}  # the assertion after ``set_image`` fails


def _drags(session: DragSession) -> Iterator[str]:
    """The steps of the present branch, with what was asked for in each."""
    drag = session.settings.drag
    nodes = [] if session.edit is None else session.edit.history.path()[1:]
    shown = None
    for node, count in _stretches(nodes):
        assert node.settings is not None
        assert node.instructions is not None
        if node.settings != (drag if shown is None else shown):
            yield f"drag = DragSettings({_arguments(asdict(node.settings))[2:]})"
            yield "session.settings = replace(session.settings, drag=drag)"
        shown = node.settings
        yield f"session.instructions = {_instructions(node.instructions)}"
        yield f"session.step({count})"
        yield ""
    if shown not in (None, drag):
        yield "# The settings at the time of the render"
        yield f"session.settings = {_settings(session.settings)}"
    last = nodes[-1].instructions if nodes else None
    if session.instructions is not None and session.instructions != last:
        yield f"session.instructions = {_instructions(session.instructions)}"


def _arguments(values: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value!r}" for name, value in values.items())


def _settings(settings: Settings) -> str:
    return (
        f"Settings.from_dict(\n{pprint.pformat(settings.to_dict(), width=96, sort_dicts=False)}\n)"
    )


def _instructions(instructions: DragInstructions) -> str:
    return f"DragInstructions.from_json(\n    {instructions.to_json()!r}\n)"


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
