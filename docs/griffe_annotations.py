"""Shows the type of a field in the reference, without the range that ``Annotated`` adds to it."""

from __future__ import annotations

from typing import Any

import griffe


def shown(annotation: Any) -> Any:
    """What is annotated; anything else as it is."""
    if getattr(annotation, "canonical_path", "") != "typing.Annotated":
        return annotation
    return annotation.slice.elements[0]


class WithoutRanges(griffe.Extension):
    """Ranges stand in the descriptions of the fields."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Called once all of the package is read, and its dataclasses have their parameters."""
        for record in pkg["data.settings"].classes.values():
            for field in record.attributes.values():
                field.annotation = shown(field.annotation)
            for parameter in record.parameters:
                parameter.annotation = shown(parameter.annotation)
