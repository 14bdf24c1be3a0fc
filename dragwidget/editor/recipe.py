"""The Python that repeats an edit without a hand."""

from __future__ import annotations

import pprint
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dragwidget.data.settings import Settings
    from dragwidget.session.history import Node
    from dragwidget.session.session import DragSession

__all__ = ["python_of"]

PICTURE = "image.png"


def python_of(
    session: DragSession, image: str | None = None, *, max_side: int | None = None
) -> str:
    """Plain Python that makes ``session``'s image as it is now again, bit for bit.

    Everything that was asked for on the way is there: where targets were moved between two steps,
    the steps before and after are asked for apart.

    Args:
        image: path of the image; without one, the code says how to write it.
        max_side: as it was passed to ``set_image``.
    """
    lines = [*_start(session, image, max_side), ""]
    drag = session.settings.drag
    nodes = _nodes(session)
    if not nodes and session.instructions is not None:
        lines += [f"session.instructions = {_instructions(session.instructions.to_json())}"]
    shown = None
    for node, count in _stretches(nodes):
        assert node.settings is not None
        assert node.instructions is not None
        if node.settings != (drag if shown is None else shown):
            fields = ", ".join(f"{name}={value!r}" for name, value in asdict(node.settings).items())
            lines += [f"drag = DragSettings({fields})"]
            lines += ["session.settings = replace(session.settings, drag=drag)"]
        shown = node.settings
        lines += [f"session.instructions = {_instructions(node.instructions.to_json())}"]
        lines += [f"session.step({count})", ""]
    if shown not in (None, drag):
        lines += ["# The settings as they were when the image was rendered"]
        lines += [f"session.settings = {_settings(session.settings)}"]
    last = nodes[-1].instructions if nodes else session.instructions
    if session.instructions is not None and session.instructions != last:
        lines += [f"session.instructions = {_instructions(session.instructions.to_json())}"]
    lines += ["result = session.render()", 'result.save("result.png")']
    text = "\n".join(lines) + "\n"
    return _imports(text) + text


def _imports(text: str) -> str:
    names = [
        n
        for n in ("DragInstructions", "DragSession", "DragSettings", "Settings")
        if f"{n}(" in text or f"{n}." in text
    ]
    first = "from dataclasses import replace\n\n" if "replace(" in text else ""
    return f"{first}from dragwidget import {', '.join(names)}\n\n"


def _start(session: DragSession, image: str | None, max_side: int | None) -> Iterator[str]:
    source = session.source
    yield f"session = DragSession.from_pretrained({session.model.name!r})"
    yield f"session.settings = {_settings(session.settings)}"
    made = source.generation
    if made is not None:
        yield (
            f"session.generate({made.prompt!r}, {made.negative_prompt!r}, "
            f"guidance_scale={made.guidance_scale!r}, seed={made.seed}, size={made.size})"
        )
        return
    if image is None:
        image = PICTURE
        yield "# The image was no file: write it with  widget.image.save('image.png')"
    side = "" if max_side is None else f", max_side={max_side}"
    yield f"session.set_image({image!r}, {source.prompt!r}{side})"
    if source.lora is not None:
        yield "# A LoRA was given: write it with  dragwidget.diffusion.lora.save_lora"
        yield "session.use_lora('lora.safetensors')"


def _settings(settings: Settings) -> str:
    return (
        f"Settings.from_dict(\n{pprint.pformat(settings.to_dict(), width=96, sort_dicts=False)}\n)"
    )


def _instructions(text: str) -> str:
    return f"DragInstructions.from_json(\n    {text!r}\n)"


def _nodes(session: DragSession) -> list[Node]:
    edit = session.stages.edit(session.source, session.settings)
    return [] if edit is None else edit.history.path()[1:]


def _stretches(nodes: list[Node]) -> Iterator[tuple[Node, int]]:
    """Nodes that were asked for alike, one after the other: the first, and how many there are."""
    start = 0
    for k in range(1, len(nodes) + 1):
        first = nodes[start]
        if k == len(nodes) or (nodes[k].instructions, nodes[k].settings) != (
            first.instructions,
            first.settings,
        ):
            yield first, k - start
            start = k
