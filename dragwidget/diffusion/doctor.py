"""What this machine has, and whether a model loads and takes a drag step on it."""

from __future__ import annotations

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from dragwidget import __version__
from dragwidget.data.instructions import DragInstructions
from dragwidget.data.settings import DragSettings
from dragwidget.diffusion.backbone import Backbone
from dragwidget.diffusion.devices import calculates_fast
from dragwidget.diffusion.loading import choose_device, load_model
from dragwidget.diffusion.loading.reading import first_line
from dragwidget.drag import drag

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
    else:
        yield _timed("drag step", lambda: _drag_once(loaded[0]))


def _timed(name: str, work: Callable[[], str]) -> Finding:
    started = time.perf_counter()
    try:
        result = work()
    except Exception as error:  # whatever it is, it is what was asked for
        return Finding(name, f"{type(error).__name__}: {first_line(error)}", ok=False)
    return Finding(name, f"{result}, {time.perf_counter() - started:.1f} s")


def _drag_once(model: Backbone) -> str:
    side = model.image_side
    cells = side // model.vae_factor
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn((1, model.latent_channels, cells, cells), generator=generator)
    way = (side / 4, side / 2), (3 * side / 4, side / 2)
    instructions = DragInstructions.from_points(way, size=(side, side))
    schedule = model.schedule(50)
    settings = DragSettings(steps=1, feature_blocks=model.recommended.drag.feature_blocks)
    (step,) = drag(
        model.predictor(model.encode_text("", (side, side))),
        latent.to(model.device),
        instructions,
        schedule,
        schedule.timesteps[15],
        settings,
    )
    return f"runs on a {side} x {side} image, loss {step.loss:.3g}"
