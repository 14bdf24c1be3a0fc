"""Eleven edits of the embedded model, as hashes: whether a change of code changes a bit of them.

    python tests/system/same_bits.py            compare with the stored hashes
    python tests/system/same_bits.py --write    store those of the code as it is

Bits repeat on one kind of CPU with one release of torch, so both are stored beside the hashes, and
on another machine the comparison is refused: write the hashes with the code of before, then
compare.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dragwidget import (
    DragSession,
    DragSettings,
    InversionSettings,
    LoRASettings,
    RenderSettings,
    Settings,
)
from dragwidget.demo.tasks import drag_task

# What suits the network; of the method, what the first hashes were made with.
BASE = Settings(
    lora=LoRASettings(steps=0),
    drag=DragSettings(start="warped", feature_blocks=(2,)),
    render=RenderSettings(start_layer=3, keep_protected=True),
)
STORED = Path(__file__).with_name("same_bits.json")


def session_of(kind: str, seed: int, *, given: bool = True, **options: Any) -> tuple[Any, Any]:
    """A session on a task's image, and its instructions; an inversion of eight steps."""
    task = drag_task(kind, seed)
    session = DragSession.from_pretrained("critters", device="cpu", **options)
    pixels = (task.source.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    if given:
        session.set_image(pixels, task.instructions.prompt)
    session.settings = replace(BASE, inversion=InversionSettings(steps=12, strength=0.7))
    return session, task.instructions


def tuned(session: Any, **stages: dict[str, Any]) -> None:
    """Change some settings, by stage."""
    new = {name: replace(getattr(session.settings, name), **v) for name, v in stages.items()}
    session.settings = replace(session.settings, **new)


def recommended() -> Any:
    session, drawn = session_of("turn", 970_000)
    session.settings = replace(session.model.recommended, inversion=session.settings.inversion)
    list(session.drag(drawn))
    return session


def warped_start() -> Any:
    session, drawn = session_of("turn", 970_000)
    list(session.drag(drawn))
    return session


def papers(kind: str = "mouth", seed: int = 970_001, **options: Any) -> Any:
    session, drawn = session_of(kind, seed, **options)
    tuned(session, drag={"start": "inverted", "steps": 3})
    list(session.drag(drawn))
    return session


def without_a_mask() -> Any:
    session, drawn = session_of("move", 970_002)
    tuned(session, drag={"start": "inverted", "steps": 3})
    list(session.drag(drawn.replace(mask=None)))
    return session


def with_a_lora() -> Any:
    session, drawn = session_of("nod", 970_003)
    tuned(session, lora={"steps": 3, "rank": 4}, drag={"start": "inverted", "steps": 3})
    list(session.drag(drawn))
    return session


def two_pairs_original_template() -> Any:
    session, drawn = session_of("two", 970_004)
    drag = {"start": "inverted", "steps": 3, "template": "original", "step_length": 2.0}
    tuned(session, drag=drag)
    list(session.drag(drawn))
    return session


def steered_rewound_branched() -> Any:
    session, drawn = session_of("sun", 970_005)
    tuned(session, drag={"start": "inverted", "steps": 3})
    list(session.drag(drawn))
    session.rewind(1)
    (pair,) = drawn.pairs
    list(session.drag(drawn.with_pairs([(pair.handle, (64.0, 40.0))]), steps=2))
    return session


def warped_then_gradient() -> Any:
    session, drawn = session_of("mountain", 970_006)
    tuned(session, drag={"start": "warped", "steps": 3, "stop_distance": 0.25})
    list(session.drag(drawn))
    return session


def with_a_prior_and_no_reference() -> Any:
    session, drawn = session_of("ears", 970_007)
    drag = {"start": "inverted", "steps": 2, "prior_weight": 5.0, "feature_blocks": (1, 2)}
    tuned(session, drag=drag, render={"mutual_self_attention": False, "keep_protected": False})
    list(session.drag(drawn))
    return session


def generated() -> Any:
    session, _ = session_of("eyes", 970_008, given=False)
    session.generate("a fox", "a cat", 3.0, seed=4)
    tuned(session, drag={"start": "inverted", "steps": 2})
    _, drawn = session_of("eyes", 970_008, given=False)
    list(session.drag(drawn.replace(prompt="")))
    return session


def low_memory() -> Any:
    return papers("turn", 970_009, memory="low")


EDITS: dict[str, Callable[[], Any]] = {
    edit.__name__: edit
    for edit in (
        recommended,
        warped_start,
        papers,
        without_a_mask,
        with_a_lora,
        two_pairs_original_template,
        steered_rewound_branched,
        warped_then_gradient,
        with_a_prior_and_no_reference,
        generated,
        low_memory,
    )
}


def digest(session: Any) -> dict[str, str]:
    """Hashes of the latent at the end, of Adam's moments, and of the final render."""
    node = session.history.current
    parts = {
        "latent": node.latent,
        "moments": torch.cat([node.moments.first, node.moments.second]),
    }
    found = {name: t.contiguous().numpy().tobytes() for name, t in parts.items()}
    found["render"] = np.asarray(session.render()).tobytes()
    return {name: hashlib.sha256(content).hexdigest()[:16] for name, content in found.items()}


def machine() -> dict[str, str]:
    """What the bits depend on beside the code."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        cpu = next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), cpu)
    return {"cpu": cpu, "isa": torch.backends.cpu.get_cpu_capability(), "torch": torch.__version__}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="store the hashes")
    write = parser.parse_args().write
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    if not write:
        stored = json.loads(STORED.read_text())
        if stored["machine"] != machine():
            print(f"the hashes are of {stored['machine']}, this is {machine()}: no comparison")
            return 2
    found = {}
    for name, edit in EDITS.items():
        found[name] = digest(edit())
        told = "" if write else ("same" if found[name] == stored["edits"][name] else "DIFFERENT")
        print(f"{name:32} {found[name]} {told}", flush=True)
    if write:
        STORED.write_text(json.dumps({"machine": machine(), "edits": found}, indent=1) + "\n")
        return 0
    return int(found != stored["edits"])


if __name__ == "__main__":
    sys.exit(main())
