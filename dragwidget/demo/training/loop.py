"""What the training of every network shares: schedule, averaged weights, checkpoints, the curve."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dragwidget.demo.training.architecture import Stage
from dragwidget.demo.training.gradient_workers import SharedGradients
from dragwidget.demo.training.muon import make_optimizers

_LOG_EVERY = 10  # steps; a line of the curve is a mean over them


class Training:
    """One network's (or several networks') training, resumable to the bit.

    Args:
        name: of the checkpoint and of the curve's file.
        parts: the modules trained, by name.
        stage: how long and how.
        folder: where checkpoint and curve go.
        seed: of every random draw.
    """

    def __init__(
        self, name: str, parts: dict[str, nn.Module], stage: Stage, folder: Path, seed: int
    ) -> None:
        self.name, self.parts, self.stage, self.folder = name, parts, stage, folder
        self.parameters = {
            f"{part}.{n}": p
            for part, module in parts.items()
            for n, p in module.named_parameters()
            if p.requires_grad
        }
        self.averages = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimizers = make_optimizers(
            self.parameters, lr=stage.learning_rate, weight_decay=stage.weight_decay
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.seconds = 0.0  # of training, over all runs
        self.recent: list[float] = []
        self.curve: list[dict[str, float]] = []
        self.shared: SharedGradients | None = None  # of gradient workers, if there are any
        self.images = 0  # trained on, counting repetitions

    @property
    def progress(self) -> float:
        """Share of the budget that is used up, 0 .. 1."""
        by_steps = self.step / self.stage.steps
        if self.stage.minutes is None:
            return min(1.0, by_steps)
        return min(1.0, max(by_steps, self.seconds / (60 * self.stage.minutes)))

    def run(
        self, loss_of: Callable[[], Tensor], checked: Callable[[], None] | None = None
    ) -> Iterator[dict[str, float]]:
        """Train to the end of the budget, or until the caller stops asking.

        Yields `{"step", "seconds", "learning_rate", "loss"}` every 10 steps. `checked` is called
        after each checkpoint.
        """
        clock = time.monotonic()
        saved = self.seconds
        while self.progress < 1.0:
            self._update(loss_of())
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            if self.step % _LOG_EVERY == 0:
                self.curve.append(self._record())
                self.recent = []
                yield self.curve[-1]
                clock += time.monotonic() - now  # the caller's own time is not training
                now = clock
            if self.seconds - saved > 60 * self.stage.checkpoint_minutes:
                self.save()
                saved = self.seconds
                if checked is not None:
                    checked()
        self.save()

    def _update(self, loss: Tensor) -> None:
        warmed = min(1.0, (self.step + 1) / self.stage.warmup)
        rate = self.stage.learning_rate * warmed * 0.5 * (1 + math.cos(math.pi * self.progress))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = list(self.parameters.values())
        count = self.stage.batch
        self.images += self.shared.merge(parameters, count) if self.shared else count
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.shared:
            self.shared.publish(parameters)
        self.step += 1
        decay = min(self.stage.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            live = [p.detach() for p in parameters]
            torch._foreach_lerp_(list(self.averages.values()), live, 1 - decay)
        self.recent.append(float(loss.detach()))

    def _record(self) -> dict[str, float]:
        return {
            "step": self.step,
            "images": self.images,
            "seconds": round(self.seconds, 1),
            "learning_rate": self.optimizers[0].param_groups[0]["lr"],
            "loss": sum(self.recent) / len(self.recent),
        }

    @torch.no_grad()
    def average(self) -> None:
        """Put the averaged weights into the modules."""
        for name, parameter in self.parameters.items():
            parameter.copy_(self.averages[name])

    @torch.no_grad()
    def averaged_states(self) -> dict[str, dict[str, Tensor]]:
        """Return the state of each part with averaged weights, for an export at a checkpoint."""
        states = {}
        for part, module in self.parts.items():
            state = {n: t.clone() for n, t in module.state_dict().items()}
            for n in state:
                if f"{part}.{n}" in self.averages:
                    state[n] = self.averages[f"{part}.{n}"].clone()
            states[part] = state
        return states

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.checkpoint.pt"

    def save(self) -> None:
        """Write the checkpoint (old one kept until the new one is whole) and the curve."""
        state: dict[str, Any] = {
            "parts": {n: m.state_dict() for n, m in self.parts.items()},
            "averages": self.averages,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "generator": self.generator.get_state(),
            "step": self.step,
            "images": self.images,
            "seconds": self.seconds,
            "recent": self.recent,
            "curve": self.curve,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)
        self.write_curve()

    def load(self) -> bool:
        """Go on from the checkpoint, if there is one."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=True)
        for name, module in self.parts.items():
            module.load_state_dict(state["parts"][name])
        for name, value in state["averages"].items():
            self.averages[name].copy_(value)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.images = state.get("images", self.step * self.stage.batch)
        self.recent, self.curve = state["recent"], state["curve"]
        return True

    def write_report(self, **numbers: float) -> None:
        """`<name>.json`: how long the training was, how it ended, and these numbers."""
        about = {
            "steps": self.step,
            "minutes": round(self.seconds / 60, 1),
            "loss": self.curve[-1]["loss"] if self.curve else None,
            **numbers,
        }
        (self.folder / f"{self.name}.json").write_text(json.dumps(about, indent=2) + "\n")

    def write_curve(self) -> None:
        """`<name>.csv` and `<name>.png` beside the checkpoint."""
        if not self.curve:
            return
        with (self.folder / f"{self.name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self.curve[-1]), restval="")
            writer.writeheader()
            writer.writerows(self.curve)
        plot_curve(self.curve, self.name, self.folder / f"{self.name}.png")


def plot_curve(curve: list[dict[str, float]], title: str, path: Path) -> None:
    """Loss against steps, both axes logarithmic."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    axes.loglog([r["step"] for r in curve], [r["loss"] for r in curve], linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(visible=True, which="both", alpha=0.3)
    figure.savefig(path, dpi=100)
