"""Use another model on the same image.

What is asked for stays: image, prompt, LoRAs, points, mask, and the settings that the user changed.
What was made stays with the model that made it, and comes back with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from dragwidget.data.presets import presets
from dragwidget.data.request import EditRequest
from dragwidget.data.settings import Settings
from dragwidget.diffusion.backbone import Backbone
from dragwidget.session import source
from dragwidget.session.session import DragSession
from dragwidget.session.stages import Stages


@dataclass(frozen=True)
class Switched:
    """How a session came to use another model.

    Attributes:
        model: the name of the model that it uses now.
        before: the name of the one before.
        has_steps: whether drag steps were taken with that one, which are kept.
        reset: changed settings that the new model does not take, as ``stage.name``; they are as it
            recommends.
    """

    model: str
    before: str
    has_steps: bool = False
    reset: tuple[str, ...] = ()


def use_model(session: DragSession, model: Backbone, *, max_side: int | None = None) -> Switched:
    """Make a session with an image use another model; nothing changes on an error.

    Args:
        max_side: longest side of the image that the model edits, as ``set_image`` takes it.

    Raises:
        ValueError: a LoRA that is in use does not fit the model, or ``max_side`` does not.
    """
    switched = Switched(model.name, session.model.name)

    def change() -> EditRequest:
        nonlocal switched
        old, before = session.stages, session.request
        fingerprints = model.fingerprint, session.model.fingerprint
        if fingerprints[0] == fingerprints[1]:
            return before
        new = old.others.get(fingerprints[0])
        if new is None:
            new = Stages(model, session.monitor.check, old.store)
        image = source.fitted(model, before.image.unfitted, max_side, None)
        known = [edit.inversion.request.image for edit in new.edits]  # one may be a generated one
        image = next((one for one in known if one.original is image.original), image)
        settings, reset = settings_for(model, session.model, before.settings)
        request = source.check_request(model, before.replace(image=image, settings=settings))
        has_steps = any(len(edit.history.nodes) > 1 for edit in old.edits)
        others = {name: stages for name, stages in old.others.items() if stages is not new}
        if has_steps:  # else nothing is lost that cannot be made again
            old.set_aside()
            others[fingerprints[1]] = old
        old.others, new.others, new.outdated = {}, others, old.made
        session.model, session.stages = new.model, new
        switched = replace(switched, has_steps=has_steps, reset=reset)
        return request

    session.change(change)
    return switched


def settings_for(
    model: Backbone, before: Backbone, settings: Settings
) -> tuple[Settings, tuple[str, ...]]:
    """Return settings for another model, and the names of those that it does not take.

    Those of a preset become those of the same preset; else what is as the model before recommends
    becomes what this one recommends, and what is not stays.
    """
    offered = _presets(model)
    for name, preset in _presets(before).items():
        if settings == preset and name in offered:
            return offered[name], ()
    then, now = before.numbered(before.recommended), model.numbered(model.recommended)
    changed = [
        (stage.name, field.name, getattr(given, field.name))
        for stage in fields(Settings)
        for given in [getattr(settings, stage.name)]
        for field in fields(given)
        if getattr(given, field.name) != getattr(getattr(then, stage.name), field.name)
    ]
    with suppress(ValueError):
        return model.check(_with(now, changed)), ()
    found, reset = now, []
    for change in changed:
        try:
            found = model.check(_with(found, [change]))
        except ValueError:
            reset.append(".".join(change[:2]))
    return found, tuple(reset)


def _with(settings: Settings, changed: Sequence[tuple[str, str, Any]]) -> Settings:
    """Return settings with values by stage and name; those of a stage are set together."""
    for stage in {stage: None for stage, _, _ in changed}:
        values = {name: value for own, name, value in changed if own == stage}
        settings = replace(settings, **{stage: replace(getattr(settings, stage), **values)})
    return settings


def _presets(model: Backbone) -> Mapping[str, Settings]:
    """Return the settings that the user of a model can choose as a whole, by name."""
    recommended, offered = model.numbered(model.recommended), {}
    with suppress(ValueError):  # the paper's may not fit
        offered["Paper"] = model.check(Settings())
    return {"Recommended": recommended, **offered, **presets(recommended, model.check)}
