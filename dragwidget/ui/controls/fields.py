"""The label, meaning and range of every setting, as the user reads them.

One entry for every field of every record in ``settings``, which knows the ranges.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from dragwidget.data.presets import METHOD_TITLES
from dragwidget.data.settings import Between, Settings, hints


@dataclass(frozen=True, kw_only=True)
class Field:
    """One setting.

    Attributes:
        label: at most 16 characters.
        meaning: what it does, in sentences.
        source: symbol and place in the paper, or where else it comes from.
        unit: at most 6 characters.
    """

    label: str
    meaning: str
    source: str
    unit: str = ""

    @property
    def range(self) -> str:
        """The accepted range, as a sentence."""
        return ""

    @property
    def help(self) -> str:
        """The whole tooltip: meaning, range and source."""
        return " ".join(filter(None, [self.meaning, self.range, f"{self.source}."]))


@dataclass(frozen=True, kw_only=True)
class Number(Field):
    """A number in [low, high], or in (low, high] where ``open_low``, as the record has it.

    Attributes:
        step: increment of the arrows beside it.
        whole: whole numbers only.
        slider: shown as a slider.
    """

    low: float = 0
    high: float = 0
    step: float = 1
    whole: bool = False
    open_low: bool = False
    slider: bool = False

    @property
    def range(self) -> str:
        low = f"more than {self.low:g}" if self.open_low else f"{self.low:g}"
        high = f", at most {self.high:,.12g}" if self.open_low else f" to {self.high:,.12g}"
        high = " or more" if self.high >= 2**62 else high
        return f"{low}{high}{' ' + self.unit if self.unit else ''}.".capitalize()


@dataclass(frozen=True, kw_only=True)
class Choice(Field):
    """One of several options.

    Attributes:
        options: (label, value) of each; by default the record's, labelled as they are.
    """

    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Flag(Field):
    """On or off."""


@dataclass(frozen=True, kw_only=True)
class Blocks(Field):
    """A set of decoder blocks, by number."""


TITLES = {"inversion": "Inversion", "lora": "LoRA", "drag": "Drag", "render": "Render"}

_DESCRIBED: dict[str, dict[str, Field]] = {
    "inversion": {
        "steps": Number(
            label="DDIM steps",
            meaning="Number of DDIM steps T between image and noise. More steps reconstruct the "
            "image better and take longer.",
            source="T in the paper, 50 in section 4",
        ),
        "strength": Number(
            label="Strength",
            meaning="Share of the DDIM steps that are inverted before the drag. A higher value "
            "lets shapes change more; a lower one preserves more of the image.",
            source="Section 3.1; figure 7 compares, 0.7 is the paper's",
            step=0.01,
            slider=True,
        ),
        "method": Choice(
            label="Method",
            meaning="Where an inversion step evaluates the network. Look-ahead evaluates it at a "
            "guess of the latent that the step leads to: it reconstructs the image better, and "
            "records the reference branch of the render. Fixed point repeats each step at its "
            "result. Cycle-SDE adds new noise, and keeps the noise that leads back exactly.",
            source="DDIM inversion is the paper's; fixed-point iteration is AIDI's (arXiv "
            "2309.04907); look-ahead is ours; Cycle-SDE is RegionDrag's (ECCV 2024)",
            options=(
                ("DDIM", "plain"),
                ("look-ahead", "lookahead"),
                ("fixed point", "fixed_point"),
                ("Cycle-SDE", "cycle_sde"),
            ),
        ),
        "iterations": Number(
            label="Iterations",
            meaning="Fixed point only: how often each step is repeated.",
            source="Not in the paper",
        ),
        "seed": Number(
            label="Seed",
            meaning="Cycle-SDE only: seed of the noise that is added.",
            source="Not in the paper",
        ),
        "spacing": Choice(
            label="Timesteps",
            meaning="Where the DDIM steps lie: as the model's scheduler has them, or by one of "
            "diffusers' spacings. Trailing starts at pure noise: a LoRA that makes a model one of "
            "a few steps (LCM-LoRA, Hyper-SD) needs it.",
            source="Lin et al. (arXiv 2305.08891), table 2",
            options=(
                ("as the model", "model"),
                ("leading", "leading"),
                ("linspace", "linspace"),
                ("trailing", "trailing"),
            ),
        ),
        "embedded_guidance": Number(
            label="LCM guidance",
            meaning="Guidance scale g that a latent consistency model reads as an input, w = g - "
            "1. 1: no guidance. Other models read none.",
            source="Luo et al. (arXiv 2310.04378); g as in diffusers",
            step=0.5,
        ),
    },
    "lora": {
        "steps": Number(
            label="Training steps",
            meaning="Number of LoRA training steps on this image, which preserve its identity in "
            "the edit. 0: no LoRA.",
            source="Section 3.2; the paper's 80 take about 25 s on an A100",
            step=10,
        ),
        "rank": Number(
            label="Rank",
            meaning="Rank of the LoRA matrices added to every attention projection: its capacity.",
            source="Section 3.2, 16 in section 4",
        ),
        "learning_rate": Number(
            label="Learning rate",
            meaning="Step size of AdamW on the LoRA weights.",
            source="Section 4, 5e-4",
            step=1e-4,
        ),
        "batch_size": Number(
            label="Batch size",
            meaning="Number of noised copies of the image per training step. Fewer need less "
            "memory.",
            source="Section 4, 4",
        ),
        "weight_decay": Number(
            label="Weight decay",
            meaning="Decay of the LoRA weights towards zero in each step, relative to the "
            "learning rate.",
            source="The authors' code, 0.01",
            step=0.01,
        ),
        "random_crop": Flag(
            label="Random crop",
            meaning="Train on random square crops of the image, as the authors do, instead of the "
            "whole image. Images that are not square lose content.",
            source="On in the authors' code, off by default here",
        ),
        "early_stop_ratio": Number(
            label="Early-stop ratio",
            meaning="Ends the training once its fixed-noise validation loss is at most this ratio "
            "of the loss without a LoRA. 0: never.",
            source="Not in the paper",
            step=0.05,
        ),
        "seed": Number(
            label="Seed",
            meaning="Seed of the training's random numbers. The same seed gives the same LoRA.",
            source="Not in the paper",
        ),
    },
    "drag": {
        "method": Choice(
            label="Method",
            meaning="The drag method: how a step moves the latent and finds the handles again.",
            source="DragDiffusion is the paper's; GoodDrag (arXiv 2404.07206) drags and denoises "
            "in turn; Warp is one step without a gradient, after FastDrag (arXiv 2405.15769); "
            "Progressive warp, which repairs many small warps, is ours. Each has a preset",
            options=tuple((title, name) for name, title in METHOD_TITLES.items()),
        ),
        "steps": Number(
            label="Max steps",
            meaning="Maximum number of latent updates in one drag.",
            source="Section 4, 80",
            step=10,
        ),
        "learning_rate": Number(
            label="Learning rate",
            meaning="Step size of Adam on the latent. A higher value drags faster and less "
            "precisely.",
            source="Section 4, 0.01",
            step=0.005,
        ),
        "motion_radius": Number(
            label="Motion radius",
            meaning="Radius r_m of the patch around each handle that motion supervision moves; "
            "the patch is 2 r_m + 1 cells wide.",
            source="r1 in equation 3, r_m in the authors' code; 1 in section 4",
            unit="cells",
        ),
        "tracking_radius": Number(
            label="Tracking radius",
            meaning="Radius r_p of the window in which each handle is tracked after a step; the "
            "window is 2 r_p + 1 cells wide.",
            source="r2 of point tracking, section 3.3, r_p in the authors' code; 3 in section 4",
            unit="cells",
        ),
        "tracking": Choice(
            label="Tracking",
            meaning="Cells of the window that a handle may move to: all of them, those nearer to "
            "its target, or those in a cone of 30 degrees around the direction to it.",
            source="All in the paper; nearer is CLIPDrag's, the cone DragLoRA's",
        ),
        "trace_back": Number(
            label="Trace back",
            meaning="A handle stays, for up to 3 steps, where the best match of its features "
            "differs by more than this on average. 0: never.",
            source="DragLoRA, 1.3; not in the paper, so 0",
            step=0.1,
        ),
        "step_length": Number(
            label="Step length",
            meaning="Distance that motion supervision, or a progressive warp, moves a patch in one "
            "step, never past its target.",
            source="The unit vector d in equation 3, so 1; up to 4 in GoodDrag; 0.4 in progressive "
            "warp",
            unit="cells",
            step=0.5,
        ),
        "region_weight": Number(
            label="Region weight",
            meaning="Weight lambda of the region loss, which keeps the protected region "
            "unchanged. 0: it may drift.",
            source="Lambda in equation 3, 0.1 in section 4",
            step=0.05,
        ),
        "prior_weight": Number(
            label="Prior weight",
            meaning="Weight of the prior loss, which keeps mean and spread of the latent as at "
            "this noise level.",
            source="Not in the paper, so 0",
            step=0.05,
        ),
        "stop_distance": Number(
            label="Stop distance",
            meaning="A handle closer to its target than this has reached it.",
            source="2 in the authors' code",
            unit="cells",
            step=0.5,
        ),
        "patience": Number(
            label="Patience",
            meaning="End the drag after this many steps in which no handle moved; GoodDrag counts "
            "trackings. 0: never.",
            source="Not in the paper, so 0; 10 in GoodDrag",
            unit="steps",
        ),
        "extra_weight": Number(
            label="Extra points",
            meaning="Weight of more supervised points, which the near warp field moves between and "
            "around the pairs. 0: none.",
            source="After FlowDrag (arXiv 2507.08285), without its mesh; not in the paper, so 0",
            step=0.1,
        ),
        "template": Choice(
            label="Patch template",
            meaning="Features that a moved patch is compared with: those at the current handle, "
            "or those at its initial position, which drift less.",
            source="Equation 3 takes the current one; GoodDrag, section 4.2, the original",
            options=(("current handle", "current"), ("initial handle", "original")),
        ),
        "start": Choice(
            label="Start from",
            meaning="Latent that the drag starts from: the inverted latent, or the same warped so "
            "that every handle begins at its target.",
            source="Inverted in the paper; warped initialization as in FastDrag",
            options=(("inverted latent", "inverted"), ("warped latent", "warped")),
        ),
        "reference_attention": Flag(
            label="Ref. attention",
            meaning="Reference attention: in every pass of the drag the decoder attends to keys "
            "and values of the undragged latent, which preserves identity.",
            source="EasyDrag (CVPR 2024), without its second pass; not in the paper, so off",
        ),
        "correspondence": Number(
            label="Correspondence",
            meaning="Correspondence attention in the drag: reference attention by the map of the "
            "drag so far, with this share of the source's own output at the cell that a cell's "
            "content came from. 0: none.",
            source="LazyDrag (arXiv 2509.12203), carried over to a U-Net; not in the paper, so 0",
            step=0.05,
            slider=True,
        ),
        "feature_blocks": Blocks(
            label="Feature blocks",
            meaning="Decoder blocks whose features are compared: the mid block (0) or a later "
            "one (1 and on). Early blocks represent shapes, late ones details.",
            source="Figure 8 compares; the paper's choice is the last but one",
        ),
        "feature_scale": Number(
            label="Feature scale",
            meaning="Size of the feature grid relative to the image, feature cells per pixel. "
            "0.5: a cell is 2 x 2 pixels.",
            source="The authors' code, 0.5",
            step=0.05,
            slider=True,
        ),
        "drag_timesteps": Number(
            label="Drag timesteps",
            meaning="GoodDrag only: at how many denoising timesteps the latent is dragged; after "
            "each it is denoised by one step.",
            source="7 in the authors' code",
        ),
        "tracks_per_timestep": Number(
            label="Tracks/timestep",
            meaning="GoodDrag only: how often the handles are tracked at each of its timesteps.",
            source="B in GoodDrag, 10",
        ),
        "updates_per_track": Number(
            label="Updates/track",
            meaning="GoodDrag and progressive warp only: updates of the latent between two "
            "trackings, or in each step.",
            source="J in GoodDrag, 3",
        ),
        "loss_threshold": Number(
            label="Loss threshold",
            meaning="GoodDrag only: track at once when the motion loss is at most this times "
            "(2 r)^2, r being the motion radius. 0 means never.",
            source="The authors' code, 0",
            step=0.05,
        ),
        "warp_field": Choice(
            label="Warp field",
            meaning="How latent cells move in a warp. Near: the clean part, by fractions of a "
            "cell, around the targets. Stretch: whole cells with their noise, less with distance "
            "from the handle, and not at all on a circle around the mask.",
            source="Near is ours; stretch is FastDrag's, section 3.2",
        ),
        "warp_combine": Choice(
            label="Warp combine",
            meaning="How a cell follows several pairs in a warp: a mean weighted by nearness, or "
            "the nearest pair alone.",
            source="FastDrag takes the mean; LazyDrag (arXiv 2509.12203) the winner",
        ),
        "warp_holes": Choice(
            label="Warp holes",
            meaning="Stretch only: what vacated cells hold after a warp.",
            source="FastDrag interpolates between neighbours; LazyDrag takes new noise",
        ),
        "warp_reach": Number(
            label="Warp reach",
            meaning="Near only: how far from its target a pair moves cells, in lengths of its "
            "displacement.",
            source="Not in a paper; 2.5 suits the embedded model",
            step=0.25,
        ),
    },
    "render": {
        "mutual_self_attention": Flag(
            label="Mutual attention",
            meaning="Mutual self-attention: while the edited image is denoised, it attends to "
            "keys and values of the source image, which preserves texture and identity.",
            source="Reference latent control, section 3.4",
        ),
        "start_step": Number(
            label="From step",
            meaning="First denoising step that attends to the source image; 0 is the first.",
            source="Section 3.4; 0 in the authors' code",
        ),
        "start_layer": Number(
            label="From layer",
            meaning="First self-attention layer that attends to the source image, counted from 0 "
            "in the order down, mid, up. Stable Diffusion 1 has 16.",
            source="Section 3.4; 10 in the authors' code, the decoder's last two blocks",
        ),
        "keep_protected": Flag(
            label="Keep protected",
            meaning="Replace the protected region with the source's latent after each denoising "
            "step: it stays unchanged, but seams may appear.",
            source="Not in the paper; DragFlow's hard constraint",
        ),
        "keep_source_pixels": Flag(
            label="Source pixels",
            meaning="Outside the mask, the edited image has the source's own pixels, at its full "
            "size; over one latent cell around the mask the two are blended.",
            source="Not in the paper, so off; on in the presets of the other methods",
        ),
        "correspondence": Number(
            label="Correspondence",
            meaning="Correspondence attention: a cell attends to itself and to the source cell "
            "that its content came from, and takes this share of the source's own output there in "
            "the first step. 0: mutual attention alone.",
            source="LazyDrag (arXiv 2509.12203), carried over to a U-Net; not in the paper, so 0",
            step=0.05,
            slider=True,
        ),
        "correspondence_share": Number(
            label="Corresp. share",
            meaning="Share of the denoising steps, from the first, with correspondence attention; "
            "its weight falls to 0 over them.",
            source="LazyDrag, 40 of 50 steps: 0.8",
            step=0.05,
            slider=True,
        ),
    },
}


def _completed(field: Field, hint: Any) -> Field:
    """Return a field with what the record says of its range or its options."""
    match field, get_args(hint):
        case Number(), (kind, Between(low=low, high=high, open_low=open_low)):
            return replace(field, low=low, high=high, open_low=open_low, whole=kind is int)
        case Choice(options=()), words:
            return replace(field, options=tuple((word, word) for word in words))
    return field


FIELDS: Mapping[str, Mapping[str, Field]] = {
    stage: {
        name: _completed(field, hints(getattr(Settings(), stage).__class__)[name])
        for name, field in described.items()
    }
    for stage, described in _DESCRIBED.items()
}


def shown(value: Any) -> str:
    """Return a value as text for the user."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)
