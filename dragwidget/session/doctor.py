"""What this machine has, and whether every stage of an edit runs on it."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dragwidget import __version__
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.presets import with_method
from dragwidget.data.settings import Settings
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.devices import calculates_fast
from dragwidget.diffusion.loading import choose_device, load_model
from dragwidget.diffusion.loading.reading import first_line
from dragwidget.session.replaying import replay_once
from dragwidget.session.session import DragSession

__all__ = ["Finding", "Report", "examine"]

# Looked up, not loaded: the widget's own packages have no place in the model's process.
_PACKAGES = (
    "torch", "diffusers", "transformers", "safetensors", "huggingface_hub", "numpy",
    "pillow", "platformdirs", "ipywidgets", "ipycanvas",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is, what it is like, and whether it will do."""

    name: str
    value: str
    ok: bool = True


@dataclass(frozen=True)
class Report:
    """All findings, in the order in which they were made; ``str`` of it is the report."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)

    def __str__(self) -> str:
        width = max((len(finding.name) for finding in self.findings), default=0)
        lines = [f"{' ' if f.ok else '!'} {f.name:<{width}}  {f.value}" for f in self.findings]
        wrong = [finding.name for finding in self.findings if not finding.ok]
        lines.append("all is well" if not wrong else f"not well: {', '.join(wrong)}")
        return "\n".join(lines)


def examine(
    model: str | os.PathLike[str] = "critters",
    *,
    device: str | torch.device = "auto",
    **options: Any,
) -> Report:
    """Look at everything that an edit needs; a few seconds with the embedded model.

    ``options`` are ``load_model``'s. Nothing is raised: what fails is a finding that is not ``ok``.
    """
    findings = [Finding("dragwidget", __version__), Finding("python", _python())]
    findings += map(_package, _PACKAGES)
    findings += [_device(device), Finding("memory", _memory()), _cache()]
    return Report((*findings, *_try_model(model, device, options)))


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _package(name: str) -> Finding:
    try:
        return Finding(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, f"not installed: pip install {name}", ok=False)


def _device(wanted: str | torch.device) -> Finding:
    try:
        device = choose_device(wanted)
    except ValueError as error:
        return Finding("device", str(error), ok=False)
    if device.type != "cuda":
        slow = "" if calculates_fast(device, torch.bfloat16) else ", no instructions for bfloat16"
        return Finding("device", f"{device}, {torch.get_num_threads()} threads{slow}")
    free, total = torch.cuda.mem_get_info(device)
    name = torch.cuda.get_device_name(device)
    return Finding("device", f"{device}, {name}, {_size(free)} of {_size(total)} free")


def _memory() -> str:
    try:
        return _size(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):  # not on every system
        return "unknown"


def _cache() -> Finding:
    """Where models from the hub are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not os.access(there, os.W_OK):
        return Finding("cache folder", f"{folder}, which cannot be written to", ok=False)
    return Finding("cache folder", f"{folder}, {_size(shutil.disk_usage(there).free)} free")


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _try_model(
    source: str | os.PathLike[str], device: str | torch.device, options: dict[str, Any]
) -> Iterator[Finding]:
    loaded: list[Backbone] = []

    def load() -> str:
        loaded.append(load_model(source, device=device, **options))
        count = sum(p.numel() for n in loaded[0].networks.values() for p in n.parameters())
        return f"{source} loads: {count / 1e6:.1f} million weights in {loaded[0].dtype}"

    yield _timed("model", load)
    if not loaded:
        yield Finding("drag step", "not tried: there is no model to try it with", ok=False)
        return
    try:
        stages = list(_stages(loaded[0]))
    except Exception as error:
        yield Finding("edit", f"{type(error).__name__}: {first_line(error)}", ok=False)
        return
    failed = ""  # each stage needs those before it
    for name, work in stages:
        if failed:
            yield Finding(name, f"not tried: {failed} failed", ok=False)
            continue
        yield (finding := _timed(name, work))
        failed = "" if finding.ok else name


def _stages(model: Backbone) -> Iterator[tuple[str, Callable[[], str]]]:
    """All stages of the shortest edit, so that what a device lacks is met before it is needed."""
    side = model.image_side
    session = DragSession(model)
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    session.set_image(pixels)
    way = (side / 4, side / 2), (3 * side / 4, side / 2)
    session.instructions = DragInstructions.from_points(way, size=(side, side))
    lora_steps = 0 if model.trainable is None else 1

    def short(method: str) -> Settings:
        settings = with_method(model.recommended, method)
        return replace(
            settings,
            inversion=replace(settings.inversion, steps=4, strength=0.7),
            lora=replace(settings.lora, steps=lora_steps, batch_size=1),
            drag=replace(settings.drag, steps=1),
        )

    def train() -> str:
        session.train_lora()
        return "one step"

    def drag(method: str) -> str:
        session.settings = short(method)
        step = session.step()
        assert step is not None
        return f"runs on a {side} x {side} image" + (f", loss {step.loss:.3g}" if step.loss else "")

    def render() -> str:
        session.render()
        return "an image"

    gradients = _takes(model, short("dragdiffusion"))
    session.settings = short("dragdiffusion" if gradients else "warp")
    if lora_steps:
        yield "LoRA training", train
    yield "inversion", lambda: f"{session.invert().count} steps"
    if gradients:
        yield "drag step", lambda: drag("dragdiffusion")
        if model.device.type == "cuda":
            yield "CUDA graphs", lambda: replay_once(session.invert())
    yield "warp", lambda: drag("warp")
    yield "render", render


def _takes(model: Backbone, settings: Settings) -> bool:
    try:
        model.check(settings)
    except ValueError:
        return False
    return True


def _timed(name: str, work: Callable[[], str]) -> Finding:
    started = time.perf_counter()
    try:
        result = work()
    except Exception as error:  # whatever it is, it is what was asked for
        return Finding(name, f"{type(error).__name__}: {first_line(error)}", ok=False)
    return Finding(name, f"{result}, {time.perf_counter() - started:.1f} s")
