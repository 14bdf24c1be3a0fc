"""What every setting is called, what it means, and what it may be: for people.

One entry for every field of every record in ``settings``. The ranges are those that the records
accept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["FIELDS", "TITLES", "Blocks", "Choice", "Field", "Flag", "Number", "shown"]


@dataclass(frozen=True, kw_only=True)
class Field:
    """One setting.

    Attributes:
        label: at most 16 characters.
        meaning: what it is and what it does, in sentences.
        source: symbol and place in the paper, or where else it comes from.
        unit: at most 6 characters.
    """

    label: str
    meaning: str
    source: str
    unit: str = ""

    @property
    def range(self) -> str:
        """What it may be, as a sentence."""
        return ""

    @property
    def help(self) -> str:
        """All there is to say about it."""
        return " ".join(filter(None, [self.meaning, self.range, f"{self.source}."]))


@dataclass(frozen=True, kw_only=True)
class Number(Field):
    """A number in [low, high], or in (low, high] where ``open_low``.

    Attributes:
        step: of the arrows beside it.
        whole: whole numbers only.
        slider: shown as a slider.
    """

    low: float
    high: float
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
    """One of several words.

    Attributes:
        options: what is shown, and the word.
    """

    options: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Flag(Field):
    """Yes or no."""


@dataclass(frozen=True, kw_only=True)
class Blocks(Field):
    """Some of the decoder's blocks, by number."""


TITLES = {"inversion": "Inversion", "lora": "LoRA", "drag": "Drag", "render": "Render"}

FIELDS: Mapping[str, Mapping[str, Field]] = {
    "inversion": {
        "steps": Number(
            label="DDIM steps",
            meaning="Into how many steps the way between noise and image is cut. More steps "
            "reconstruct the image better and take longer.",
            source="T in the paper, 50 in section 4",
            low=1,
            high=1000,
            whole=True,
        ),
        "strength": Number(
            label="Strength",
            meaning="How far towards noise the image is taken before it is dragged, as a share "
            "of the DDIM steps. More lets shapes change more; less keeps more of the image.",
            source="Section 3.1; figure 7 compares, 0.7 is the paper's",
            low=0,
            high=1,
            step=0.01,
            open_low=True,
            slider=True,
        ),
    },
    "lora": {
        "steps": Number(
            label="Training steps",
            meaning="How long the model is tuned on this one image, so that the edit keeps what "
            "it shows. 0 means no LoRA.",
            source="Section 3.2; the paper's 80 take about 25 s on an A100",
            low=0,
            high=100_000,
            step=10,
            whole=True,
        ),
        "rank": Number(
            label="Rank",
            meaning="How much the LoRA can learn: the rank of what is added to every attention "
            "matrix.",
            source="Section 3.2, 16 in section 4",
            low=1,
            high=256,
            whole=True,
        ),
        "learning_rate": Number(
            label="Learning rate",
            meaning="How far AdamW moves the weights in one training step.",
            source="Section 4, 5e-4",
            low=0,
            high=1,
            step=1e-4,
            open_low=True,
        ),
        "batch_size": Number(
            label="Batch size",
            meaning="How many noised copies of the image are learnt from in one step. Fewer "
            "need less memory.",
            source="Section 4, 4",
            low=1,
            high=64,
            whole=True,
        ),
        "weight_decay": Number(
            label="Weight decay",
            meaning="By what share of the learning rate AdamW pulls the weights towards zero "
            "in every step.",
            source="The authors' code, 0.01",
            low=0,
            high=1,
            step=0.01,
        ),
        "random_crop": Flag(
            label="Random crop",
            meaning="Learn from random square pieces of the image, as the authors do, and not "
            "from all of it. Images that are not square lose content to it.",
            source="The authors' code does; the default here is not to",
        ),
        "early_stop_ratio": Number(
            label="Early-stop ratio",
            meaning="Ends the training once its fixed-noise validation loss is at most this ratio "
            "of the loss without a LoRA. 0: never.",
            source="Not in the paper",
            low=0,
            high=1,
            step=0.05,
        ),
        "seed": Number(
            label="Seed",
            meaning="Of all that is random in the training. The same seed gives the same LoRA.",
            source="Not in the paper",
            low=0,
            high=2**63 - 1,
            whole=True,
        ),
    },
    "drag": {
        "method": Choice(
            label="Method",
            meaning="The drag method: how a step moves the latent and finds the handles again.",
            source="DragDiffusion is the paper's",
            options=(("DragDiffusion", "dragdiffusion"),),
        ),
        "steps": Number(
            label="Steps at most",
            meaning="After so many updates of the latent one drag ends, wherever the handles are.",
            source="Section 4, 80",
            low=1,
            high=100_000,
            step=10,
            whole=True,
        ),
        "learning_rate": Number(
            label="Learning rate",
            meaning="How far Adam moves the latent in one step. More is faster and rougher.",
            source="Section 4, 0.01",
            low=0,
            high=10,
            step=0.005,
            open_low=True,
        ),
        "motion_radius": Number(
            label="Motion radius",
            meaning="Half the side of the patch round each handle that is asked to move; the patch "
            "is 2 r + 1 cells wide.",
            source="r1 in equation 3, r_m in the authors' code; 1 in section 4",
            unit="cells",
            low=0,
            high=64,
            whole=True,
        ),
        "tracking_radius": Number(
            label="Tracking radius",
            meaning="How far from its last place a handle is looked for after every step; the "
            "window is 2 r + 1 cells wide.",
            source="r2 of point tracking, section 3.3, r_p in the authors' code; 3 in section 4",
            unit="cells",
            low=0,
            high=64,
            whole=True,
        ),
        "step_length": Number(
            label="Step length",
            meaning="How far one step asks a patch to move, never past its target.",
            source="The unit vector d in equation 3, so 1; up to 4 in GoodDrag",
            unit="cells",
            low=0,
            high=64,
            step=0.5,
            open_low=True,
        ),
        "region_weight": Number(
            label="Region weight",
            meaning="How strongly what the mask freezes is held. 0 lets it drift.",
            source="Lambda in equation 3, 0.1 in section 4",
            low=0,
            high=1e6,
            step=0.05,
        ),
        "prior_weight": Number(
            label="Prior weight",
            meaning="How strongly the statistics of the latent are held to what noise of this "
            "level has.",
            source="Not in the paper, so 0",
            low=0,
            high=1e6,
            step=0.05,
        ),
        "stop_distance": Number(
            label="Stop distance",
            meaning="A handle nearer than this to its target has arrived.",
            source="2 in the authors' code",
            unit="cells",
            low=0,
            high=1000,
            step=0.5,
            open_low=True,
        ),
        "patience": Number(
            label="Patience",
            meaning="Give up after so many steps in which no handle moved. 0 means never.",
            source="Not in the paper, so 0; 10 in GoodDrag",
            unit="steps",
            low=0,
            high=100_000,
            whole=True,
        ),
        "template": Choice(
            label="Patch template",
            meaning="What a patch should look like after its step: as it does where the handle is "
            "now, or as it did where the handle started, which drifts less.",
            source="Equation 3 takes the current one; GoodDrag, section 4.2, the original",
            options=(("where it is now", "current"), ("where it began", "original")),
        ),
        "start": Choice(
            label="Start from",
            meaning="The latent that the drag starts from: the inverted one as it is, or warped so "
            "that every handle lies on its target from the first step on.",
            source="The paper starts from the inverted one; warping is after FastDrag",
            options=(("inverted latent", "inverted"), ("warped latent", "warped")),
        ),
        "feature_blocks": Blocks(
            label="Feature blocks",
            meaning="Which features of the decoder are compared: the mid block (0) or what an up "
            "block (1 and on) gives. Early ones know shapes, late ones know details.",
            source="Figure 8 compares; the paper's choice is 3",
        ),
        "feature_scale": Number(
            label="Feature scale",
            meaning="Cells of the grid in which features are compared, for each pixel of the "
            "image. 0.5 makes a cell of 2 x 2 pixels.",
            source="The authors' code, 0.5",
            low=0,
            high=1,
            step=0.05,
            open_low=True,
            slider=True,
        ),
    },
    "render": {
        "mutual_self_attention": Flag(
            label="Mutual attention",
            meaning="While the edited image is made, its self-attention looks at the keys and "
            "values of the source image, so that it keeps texture and identity.",
            source="Reference latent control, section 3.4",
        ),
        "start_step": Number(
            label="From step",
            meaning="The first denoising step that looks at the source image; 0 is the first of "
            "all.",
            source="Section 3.4; 0 in the authors' code",
            low=0,
            high=1000,
            whole=True,
        ),
        "start_layer": Number(
            label="From layer",
            meaning="The first self-attention layer that looks at the source image, counted from "
            "0 in the order down, mid, up. Stable Diffusion 1 has 16.",
            source="Section 3.4; 10 in the authors' code, the decoder's last two blocks",
            low=0,
            high=1000,
            whole=True,
        ),
        "keep_protected": Flag(
            label="Keep protected",
            meaning="Put the source's own latent back outside the mask at every denoising step: "
            "the protected region stays exactly, at the price of possible seams.",
            source="Not in the paper; DragFlow's hard constraint",
        ),
    },
}


def shown(value: Any) -> str:
    """A value, as people read it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value)
