"""``dragwidget edit``: edit an image from the command line."""

from __future__ import annotations

import argparse
import gc
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dragwidget.cli import inputs
from dragwidget.cli.bars import Bars
from dragwidget.cli.inputs import Files
from dragwidget.cli.model_options import add_model_arguments, model_options
from dragwidget.cli.recording import Recorder, dragged, write_log
from dragwidget.data.bad_input import bad_input, user_file
from dragwidget.data.image_reading import flattened, read_image
from dragwidget.data.presets import METHOD_SETTINGS, PRESETS, WARPS, with_method, with_preset
from dragwidget.data.settings import Settings
from dragwidget.storage.atomic import write_whole
from dragwidget.storage.image_files import write_image

if TYPE_CHECKING:
    from dragwidget.session.session import DragSession

PREVIEWS = 16  # images between the first and the last of an animation
ANIMATION_SIDE = 512  # its longest side, pixels
FIRST, BETWEEN, LAST = 900, 120, 1800  # how long its images are shown, ms
NOTHING_WRITTEN = "before the first drag step: no image was written"
WRITING = "dragwidget: interrupted, rendering the last step; Ctrl-C again writes a preview"
ENDINGS = {
    "reached": "every handle is within {stop:g} feature cells of its target",
    "step limit": "stopped at the step limit",
    "not moving": "stopped, as no handle moved any more",
    "denoised": "stopped, as the dragging timesteps are used up",
    "interrupted": "interrupted",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(whole_process=False)
    parser.add_argument("image", metavar="IMAGE", type=user_file, help="the image to edit")
    what = parser.add_argument_group("what to drag")
    what.add_argument(
        "--pair",
        action="append",
        type=inputs.parse_pair,
        metavar="X,Y:X,Y",
        help="drag the first point to the second; pixels from the top left; repeatable",
    )
    what.add_argument(
        "--mask",
        type=user_file,
        metavar="PNG",
        help="mask of the same size: black or fully transparent pixels are protected, all "
        "others are editable",
    )
    what.add_argument("--prompt", help="description of the image")
    what.add_argument(
        "--instructions",
        type=user_file,
        metavar="FILE",
        help="JSON file of pairs, mask and prompt, or the folder of a DragBench sample; "
        "--pair, --mask and --prompt override it",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--model",
        default="critters",
        help="critters (embedded), a folder, a .safetensors checkpoint or a Hugging Face hub id; "
        "default: %(default)s",
    )
    add_model_arguments(how)
    how.add_argument(
        "--method",
        choices=METHOD_SETTINGS,
        help="the drag method, with the settings that its authors recommend; default: the model's",
    )
    how.add_argument(
        "--preset",
        choices=PRESETS,
        help="few-step: 10 steps and a warp (warp or progressive), for models and LoRAs that were "
        "distilled for a few steps (LCM, Turbo, Hyper-SD)",
    )
    how.add_argument("--steps", type=int, metavar="N", help="maximum number of drag steps")
    lora = how.add_mutually_exclusive_group()
    lora.add_argument("--lora-steps", type=int, metavar="N", help="number of LoRA training steps")
    lora.add_argument(
        "--lora",
        type=Path,
        metavar="FILE",
        help="use this LoRA instead of training one: a .safetensors file or a peft folder",
    )
    how.add_argument(
        "--lora-alpha", type=float, metavar="A", help="alpha of a LoRA file that does not give it"
    )
    how.add_argument(
        "--style",
        nargs=2,
        action="append",
        default=[],
        metavar=("FILE", "WEIGHT"),
        help="add this LoRA file to the model, with this weight (1: its full strength); repeatable",
    )
    how.add_argument("--seed", type=int, metavar="N", help="seed of the LoRA training")
    how.add_argument(
        "--settings",
        type=user_file,
        metavar="FILE",
        help='JSON file of settings, such as {"drag": {"learning_rate": 0.02}}, or the log of an '
        "earlier edit",
    )
    how.add_argument(
        "--max-side",
        type=int,
        metavar="PIXELS",
        help="longest side of the image that the model edits",
    )
    how.add_argument(
        "--no-store",
        action="store_true",
        help="do not use the disk cache of LoRAs and inversions",
    )
    how.add_argument(
        "--device", default="auto", help="cuda, mps, xpu, cpu or auto; default: the fastest"
    )
    how.add_argument(
        "--dtype",
        default="auto",
        help="float16, bfloat16, float32, float64 or auto; default: float16 on CUDA, else float32",
    )
    how.add_argument(
        "--memory", choices=["normal", "low"], default="normal", help="low: less memory, more time"
    )
    out = parser.add_argument_group("what is written")
    out.add_argument(
        "-o",
        "--output",
        type=user_file,
        metavar="OUT.png",
        help="the edited image; default: IMAGE.dragged.png beside it",
    )
    out.add_argument(
        "--log",
        type=user_file,
        metavar="LOG.json",
        help="write settings, timings and every step here",
    )
    out.add_argument(
        "--animation", type=user_file, metavar="OUT.gif", help="write an animation of the drag here"
    )


def run(args: argparse.Namespace) -> int:
    with Bars(disable=None) as bars:
        recorder = Recorder(bars)
        try:
            with bad_input():
                session, files = begin(args)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(NOTHING_WRITTEN) from None
        if warning := session.domain_warning():
            print(f"dragwidget: {inputs.as_options(warning)}", file=sys.stderr)
        recorder.lap("model")
        session.monitor.progress = recorder
        with recorder.interruption:
            return _edit(session, recorder, files)


def begin(args: argparse.Namespace) -> tuple[DragSession, Files]:
    """Check everything, then load the model; return a session with the request, and the files."""
    if args.lora_alpha is not None and args.lora is None:
        raise ValueError("--lora-alpha needs a LoRA file: give --lora too")
    styles = [inputs.parse_style(*words) for words in args.style]
    source = read_image(args.image)
    height, width = source.pixels.shape[:2]
    instructions = inputs.read_instructions(
        (width, height), pairs=args.pair, mask=args.mask, prompt=args.prompt, file=args.instructions
    )
    asked = {
        "drag": {"steps": args.steps},
        "lora": {"steps": args.lora_steps, "seed": args.seed},
    }
    given = {
        stage: {name: value for name, value in values.items() if value is not None}
        for stage, values in asked.items()
    }
    changes = [inputs.read_changes(args.settings) if args.settings else {}, given]
    # What is out of range is refused before the model is loaded.
    inputs.with_changes(_chosen(Settings(), args), *changes)
    files = inputs.files_of(args, source)
    for done in source.metadata.conversions:
        print(f"dragwidget: {args.image}: {done}", file=sys.stderr)
    for x, y in instructions.protected_handles:
        print(
            f"dragwidget: the handle {x:g},{y:g} is in the protected region of the mask: "
            "its content stays",
            file=sys.stderr,
        )

    with _lasting() if args.whole_process else nullcontext():
        from dragwidget.session.session import DragSession
        from dragwidget.session.source import styles_of
        from dragwidget.storage.cache import Store

        session = DragSession.from_pretrained(
            args.model,
            device=args.device,
            dtype=args.dtype,
            memory=args.memory,
            store=None if args.no_store else Store(),
            **model_options(args),
        )
    session.settings = inputs.with_changes(_chosen(session.settings, args), *changes)
    session.set_image(source, max_side=args.max_side)
    if styles:
        session.use_lora(styles)
        for (file, _), (style, weight) in zip(styles, styles_of(session.request), strict=True):
            print(f"LoRA {file} at weight {weight:g}: {style.summary}")
    if args.lora is not None:
        session.use_lora(args.lora, alpha=args.lora_alpha)
    if session.lora is not None:
        print(f"LoRA {args.lora}: {session.lora.summary}")
    session.instructions = instructions
    return session, files


@contextmanager
def _lasting() -> Iterator[None]:
    """Let Python never look for garbage among what is made meanwhile.

    The libraries' modules are more than half a million objects that last as long as the process,
    which must be ours alone. To search them again and again, the last time at its end, takes a
    third of the CPU time of importing them.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _chosen(settings: Settings, args: argparse.Namespace) -> Settings:
    """Return settings with those of ``--method`` and ``--preset``."""
    if args.method is not None:
        settings = with_method(settings, args.method)
    if args.preset is None:
        return settings
    if args.method is not None and args.method not in WARPS:
        raise ValueError(
            f"--preset {args.preset} goes with --method {' or '.join(WARPS)}, got --method "
            f"{args.method}: leave one of them out"
        )
    return with_preset(settings, args.preset)


def _edit(session: DragSession, recorder: Recorder, files: Files) -> int:
    """Drag and write; after Ctrl-C what there is so far."""
    ended = "interrupted"
    try:
        ended = _drag(session)
        if ended == "interrupted":
            if not dragged(session):
                raise KeyboardInterrupt(NOTHING_WRITTEN)
            recorder.bars.close()
            print(WRITING, file=sys.stderr)
        try:
            image = session.render()
        except KeyboardInterrupt:
            ended, image = "interrupted", session.preview()
        recorder.lap("render")
        write_image(image, files.image)
        if files.animation:
            _write_animation(files.animation, session, image, recorder)
    except Exception:
        ended = "failed"
        raise
    finally:
        if files.log:
            write_log(files.log, session, recorder, ended, files)
    recorder.bars.close()
    print(_summary(session, ended, files.image))
    return 130 if ended == "interrupted" else 0


def _drag(session: DragSession) -> str:
    """Drag to the end, or to Ctrl-C; return why it ended."""
    try:
        for _ in session.drag():
            pass
    except KeyboardInterrupt:
        return "interrupted"
    assert session.ended
    return session.ended


def _write_animation(
    path: Path, session: DragSession, image: Image.Image, recorder: Recorder
) -> None:
    """Write the source, previews of steps, and the edited image; Ctrl-C ends the previews."""
    count = len(dragged(session))
    frames: list[Image.Image] = [session.image]
    shown = np.unique(np.linspace(1, count, min(count, PREVIEWS)).round().astype(int))
    with suppress(KeyboardInterrupt):
        for number, step in enumerate(shown.tolist(), start=1):
            frames.append(session.preview(step))
            recorder.lap("animation")
            recorder.bars.show("animation", number, len(shown))
            recorder.interruption.check()
    frames.append(image)
    frames = [flattened(frame) for frame in frames]
    for frame in frames:
        frame.thumbnail((ANIMATION_SIDE, ANIMATION_SIDE))
    durations = [FIRST, *[BETWEEN] * (len(frames) - 2), LAST]
    content = io.BytesIO()
    frames[0].save(
        content, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
    write_whole(path, content.getvalue())


def _summary(session: DragSession, ended: str, path: Path) -> str:
    steps = dragged(session)
    count = f"{len(steps)} drag step{'' if len(steps) == 1 else 's'}"
    why = ENDINGS[ended].format(stop=session.settings.drag.stop_distance)
    text = f"{path}: {count}, {why}"
    if not steps:
        return text
    text += f"; the farthest handle is {steps[-1].distances.max():.1f} px from its target"
    if ended != "reached":
        return text
    from dragwidget.drag.tracking import low_confidence

    found = session.confidence()
    text += f"; confidence {', '.join(f'{value:.2f}' for value in found)}"
    low = low_confidence(tuple(found))
    return f"{text}; low at {low}: content may be lost there" if low else text
