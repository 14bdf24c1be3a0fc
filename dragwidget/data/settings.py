"""What the user tuned: one small frozen record per stage of an edit.

Every default is the one of DragDiffusion (Shi et al., arXiv 2306.14435, section 4 and the authors'
released code). A record is validated when it is made, and hashable, so that it can key the
stage it made. A model may recommend other values (``Backbone.recommended``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from dragwidget.data.quoting import quoted


@dataclass(frozen=True)
class Between:
    """The range of a number: ``low`` to ``high``; ``low`` itself is outside where ``open_low``."""

    low: float
    high: float
    open_low: bool = False


@cache
def hints(record: type) -> dict[str, Any]:
    """Return what the fields of a record say of their values: see ``check_fields``."""
    return get_type_hints(record, include_extras=True)


def check_fields(record: Any) -> None:
    """Refuse what a field may not hold, naming it: numbers ``Between``, bools, ``Literal``s.

    Raises:
        TypeError: a value of the wrong kind.
        ValueError: one out of its range, or none of its choices.
    """
    for name, hint in hints(record.__class__).items():
        value, field = getattr(record, name), f"{type(record).__name__}.{name}"
        kind, *limits = get_args(hint) or (hint,)
        if limits and isinstance(limits[0], Between):
            _check_number(field, value, kind, limits[0])
        elif hint is bool and not isinstance(value, bool):
            raise TypeError(f"{field} must be True or False, got {quoted(value)}")
        elif get_origin(hint) is Literal and value not in get_args(hint):
            wanted = ", ".join(map(repr, get_args(hint)))
            raise ValueError(f"{field} must be one of {wanted}, got {quoted(value)}")


def _check_number(field: str, value: Any, kind: type, limits: Between) -> None:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        wanted = "a whole number" if kind is int else "a number"
        raise TypeError(f"{field} must be {wanted}, got {quoted(value)}")
    low, high = limits.low, limits.high
    if not low <= value <= high or (value == low and limits.open_low):
        bracket = "(" if limits.open_low else "["
        raise ValueError(f"{field} must lie in {bracket}{low:g}, {high:g}], got {quoted(value)}")


def _check_mapping(what: str, values: object) -> None:
    if not isinstance(values, Mapping):
        raise TypeError(f"{what} must be names with values, got {quoted(values)}")


@dataclass(frozen=True, kw_only=True)
class InversionSettings:
    """DDIM inversion of the source image (paper, section 3.1).

    Attributes:
        steps: DDIM steps between noise and image, T, 1 to 1000.
        strength: share of them that is inverted, in (0, 1]; the drag edits the latent there.
            0.7 of 50 steps edits at t = 681 (figure 7 of the paper).
        method: where a step evaluates the network, which should be at the latent where it ends:
            ``"plain"``: where it begins (the paper); ``"lookahead"``: at a guess of where it ends,
            which costs one pass in all and records the reference branch too; ``"fixed_point"``:
            where it begins, and again at the result, ``iterations`` times. ``"cycle_sde"`` adds
            new noise instead, and keeps what leads back exactly (RegionDrag, ECCV 2024); it
            records the reference branch too.
        iterations: iterations of each step with ``"fixed_point"``, 1 to 100.
        seed: seed of the noise of ``"cycle_sde"``.
        spacing: where the timesteps lie: as the ``"model"``'s scheduler has them, or by one of
            diffusers' spacings (Lin et al., arXiv 2305.08891, table 2). A LoRA that makes a model
            one of a few steps (LCM-LoRA, Hyper-SD) needs ``"trailing"``.
        embedded_guidance: guidance scale g, 1 to 1000, that a network is told that takes it as an
            input (latent consistency models, Luo et al., arXiv 2310.04378), in inversion, drag and
            render of a given image: it reads an embedding of w = g - 1, as in diffusers'
            ``LatentConsistencyModelPipeline``. 1, which is w = 0, means no guidance.

    Examples:
        >>> InversionSettings(steps=50, strength=0.7).count
        35
    """

    steps: Annotated[int, Between(1, 1000)] = 50
    strength: Annotated[float, Between(0, 1, open_low=True)] = 0.7
    method: Literal["plain", "lookahead", "fixed_point", "cycle_sde"] = "plain"
    iterations: Annotated[int, Between(1, 100)] = 1
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0
    spacing: Literal["model", "leading", "linspace", "trailing"] = "model"
    embedded_guidance: Annotated[float, Between(1, 1000)] = 1.0

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def records_reference(self) -> bool:
        """Whether its passes are those of the reference branch, where a latent is inverted."""
        return self.method in ("lookahead", "cycle_sde")

    @property
    def count(self) -> int:
        """The number of ``steps`` that are inverted, N = round(strength x steps), at least 1."""
        return max(1, round(self.strength * self.steps))


@dataclass(frozen=True, kw_only=True)
class LoRASettings:
    """Identity-preserving fine-tuning on the source image (paper, section 3.2).

    Attributes:
        rank: rank of each update, 1 to 256.
        steps: optimiser steps; 0 means no LoRA.
        learning_rate: learning rate of AdamW, > 0.
        batch_size: noised copies of the image in one step, 1 to 64.
        weight_decay: weight decay of AdamW, >= 0.
        random_crop: train on random square crops, as the authors do, in place of the whole
            image. Off by default, because images that are not square lose content to it.
        early_stop_ratio: end before ``steps`` once the fixed-noise validation loss, measured every
            10 steps, is at most this ratio of its value without a LoRA; 0 means never. Not in the
            paper.
        seed: seed of the initial weights, the noise and the timesteps.

    Examples:
        >>> LoRASettings(rank=4, steps=40).rank
        4
    """

    rank: Annotated[int, Between(1, 256)] = 16
    steps: Annotated[int, Between(0, 100_000)] = 80
    learning_rate: Annotated[float, Between(0, 1, open_low=True)] = 5e-4
    batch_size: Annotated[int, Between(1, 64)] = 4
    weight_decay: Annotated[float, Between(0, 1)] = 1e-2
    random_crop: bool = False
    early_stop_ratio: Annotated[float, Between(0, 1)] = 0.0
    seed: Annotated[int, Between(0, 2**63 - 1)] = 0

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class DragSettings:
    """The drag itself: motion supervision and point tracking (paper, section 3.3).

    Attributes:
        method: name of the drag method: ``"dragdiffusion"`` is the paper's, ``"gooddrag"`` is
            GoodDrag (Zhang et al., arXiv 2404.07206), which drags and denoises in turn,
            ``"warp"`` moves the content in one step without a gradient (after FastDrag), and
            ``"progressive"`` warps a little further in each step and repairs it by updates.
        steps: maximum number of updates of the latent in one drag, 1 to 100,000.
        learning_rate: learning rate of Adam on the latent, > 0.
        motion_radius: r_m, feature cells; the supervised patch has side 2 r_m + 1.
        tracking_radius: r_p, feature cells; the searched window has side 2 r_p + 1.
        step_length: how far one step asks a patch to move, feature cells, never past its target;
            how far it moves every handle, with method ``"progressive"``.
        tracking: which cells of the window a handle may move to: all of the ``"window"`` (the
            paper), those ``"nearer"`` to the target (CLIPDrag), or those in a ``"cone"`` of 30
            degrees around the direction to it (DragLoRA).
        trace_back: a handle stays, for up to 3 steps, where the best match of its features is worse
            than this mean absolute difference (DragLoRA, 1.3), >= 0; 0 means never.
        region_weight: lambda, weight of the region loss, which keeps the protected region, >= 0.
        prior_weight: weight of the divergence of the latent's statistics from those of the
            forward process, >= 0. Not in the paper.
        stop_distance: a handle nearer than this to its target has reached it, feature cells.
        patience: end after this many steps in which no handle moved; 0 means never. GoodDrag
            counts trackings, and ends after 10.
        extra_weight: weight, next to a pair's 1, of the motion loss on average over up to 16 more
            points, which the near field moves between and around the pairs (after FlowDrag,
            arXiv 2507.08285, without its mesh), >= 0.
        template: what the patch should look like after its step: the patch at the ``"current"``
            handle (the paper, equation 3), or at the ``"original"`` one (GoodDrag, section 4.2).
        start: where the latent starts: ``"inverted"``, as it is (the paper), or ``"warped"`` in
            the first step so that handles lie on their targets (after FastDrag, arXiv
            2405.15769), and again whenever a target is new.
        reference_attention: in every pass of a session's drag the decoder's self-attention
            takes its keys and values from the undragged latent at the same timestep (after
            EasyDrag, Hou et al., CVPR 2024). Not in the paper.
        correspondence: weight of the source's own output in a session's drag, 0 to 1, the same in
            every step: once a handle has moved, ``reference_attention`` by the map of the drag so
            far, as in ``RenderSettings.correspondence``. 0: no correspondence attention.
        feature_blocks: which decoder features are compared: 0 is the mid block, i the
            decoder's i-th, -1 its last. The paper's choice is the last but one (figure 8), which
            is 3 in Stable Diffusion.
        feature_scale: cells of the feature grid per image pixel, in (0, 1].
        drag_timesteps: GoodDrag only: how many denoising timesteps it drags at, from the first,
            1 to 999 and fewer than the inversion has.
        tracks_per_timestep: GoodDrag only: trackings of the handles at each of them (its B).
        updates_per_track: updates of the latent between two trackings of GoodDrag (its J), or in
            each step of a progressive warp.
        loss_threshold: GoodDrag only: track at once when the motion loss is at most this times
            (2 r_m)^2; 0 means never.
        warp_field: how the cells of the latent move, with methods ``"warp"`` and ``"progressive"``
            and ``start="warped"``. ``"near"``: the clean part by fractions of a cell, near the
            targets, its noise staying in place; ``"stretch"``: whole cells, the less the farther
            from the handle, and not at all on a circle around the mask (FastDrag).
        warp_combine: how a cell follows several pairs: a ``"mean"`` weighted by nearness, or the
            ``"winner"``, the nearest pair, alone (LazyDrag, arXiv 2509.12203).
        warp_holes: with ``"stretch"`` only: what a cell holds that was vacated and not moved to:
            ``"keep"``: what it held; ``"neighbours"``: their mean (FastDrag); ``"noise"``: what it
            held with new noise (LazyDrag).
        warp_reach: with ``"near"`` only: how far from its target a pair moves cells, in lengths of
            its displacement (a standard deviation), in (0, 100].

    Examples:
        >>> DragSettings(feature_scale=0.5).grid(512, 768)  # rows, columns
        (256, 384)
    """

    method: str = "dragdiffusion"
    steps: Annotated[int, Between(1, 100_000)] = 80
    learning_rate: Annotated[float, Between(0, 10, open_low=True)] = 0.01
    motion_radius: Annotated[int, Between(0, 64)] = 1
    tracking_radius: Annotated[int, Between(0, 64)] = 3
    tracking: Literal["window", "nearer", "cone"] = "window"
    trace_back: Annotated[float, Between(0, 1e6)] = 0.0
    step_length: Annotated[float, Between(0, 64, open_low=True)] = 1.0
    region_weight: Annotated[float, Between(0, 1e6)] = 0.1
    prior_weight: Annotated[float, Between(0, 1e6)] = 0.0
    stop_distance: Annotated[float, Between(0, 1000, open_low=True)] = 2.0
    patience: Annotated[int, Between(0, 100_000)] = 0
    extra_weight: Annotated[float, Between(0, 1e6)] = 0.0
    template: Literal["current", "original"] = "current"
    start: Literal["inverted", "warped"] = "inverted"
    reference_attention: bool = False
    correspondence: Annotated[float, Between(0, 1)] = 0.0
    feature_blocks: tuple[int, ...] = (-2,)
    feature_scale: Annotated[float, Between(0, 1, open_low=True)] = 0.5
    drag_timesteps: Annotated[int, Between(1, 999)] = 7
    tracks_per_timestep: Annotated[int, Between(1, 1000)] = 10
    updates_per_track: Annotated[int, Between(1, 1000)] = 3
    loss_threshold: Annotated[float, Between(0, 1e6)] = 0.0
    warp_field: Literal["near", "stretch"] = "near"
    warp_combine: Literal["mean", "winner"] = "mean"
    warp_holes: Literal["keep", "neighbours", "noise"] = "keep"
    warp_reach: Annotated[float, Between(0, 100, open_low=True)] = 2.5

    def __post_init__(self) -> None:
        if not isinstance(self.method, str) or not 0 < len(self.method) <= 100:
            raise TypeError(
                f"DragSettings.method must be the name of a method, got {quoted(self.method)}"
            )
        check_fields(self)
        if self.method == "gooddrag":
            self._check_gooddrag()
        object.__setattr__(self, "feature_blocks", _blocks(self.feature_blocks))

    def _check_gooddrag(self) -> None:
        if self.motion_radius < 1:
            raise ValueError(
                "DragSettings.motion_radius must be at least 1 with method 'gooddrag', whose loss "
                "is weighted by (2 r_m)^2, got 0"
            )
        if self.prior_weight > 0:
            raise ValueError(
                "DragSettings.prior_weight must be 0 with method 'gooddrag', which leaves the "
                f"noise level that the prior belongs to, got {quoted(self.prior_weight)}"
            )

    @property
    def attends(self) -> bool:
        """Whether the dragged latent attends to the undragged one."""
        return self.reference_attention or self.correspondence > 0

    @property
    def seen_by(self) -> tuple[object, ...]:
        """What the features of a pass depend on, beside latent and grid."""
        return self.feature_blocks, self.attends, self.correspondence

    @property
    def without_map(self) -> DragSettings:
        """The same, with reference attention in place of correspondence attention."""
        return replace(self, correspondence=0.0, reference_attention=self.attends)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the feature grid (rows, columns) for an image of ``height`` x ``width`` pixels."""
        return max(1, int(self.feature_scale * height)), max(1, int(self.feature_scale * width))


def _blocks(value: Any) -> tuple[int, ...]:
    blocks = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    if not blocks or not all(type(b) is int and -1000 <= b <= 1000 for b in blocks):
        raise ValueError(
            "DragSettings.feature_blocks must name decoder blocks by whole numbers: 0 is the "
            f"mid block, 1 the first, -1 the last; got {quoted(value)}"
        )
    return blocks


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """Denoising the edited latent under mutual self-attention control (paper, section 3.4).

    Attributes:
        mutual_self_attention: whether the edited image attends to the source's keys and values.
        start_step: first denoising step that attends to the source, from 0.
        start_layer: first self-attention layer that does, in execution order (down, mid, up) from
            0; 10 of Stable Diffusion's 16 is the first of the last decoder block but one.
        keep_protected: put the source's latent back outside the mask at every denoising step
            (DragFlow's hard constraint). The paper's soft term alone is the default.
        keep_source_pixels: outside the mask the edited image has the source's own pixels, at the
            source's size; over one latent cell around the mask the two are blended. Without a mask
            it changes nothing. The paper does not; the other methods' presets do.
        correspondence: lets these layers attend to their own keys and values and to those of the
            source cells that their content came from, by the map of the drag (LazyDrag, arXiv
            2509.12203): the weight at the first step of the source's own output there, 0 to 1; it
            falls evenly to 0. 0: no correspondence attention.
        correspondence_share: share of the denoising steps that use it, from the first, in (0, 1];
            the others use mutual self-attention. LazyDrag's 40 of 50 are 0.8.

    Examples:
        >>> RenderSettings(correspondence=1.0, correspondence_share=0.8).gate(20, 50)
        0.5
    """

    mutual_self_attention: bool = True
    start_step: Annotated[int, Between(0, 1000)] = 0
    start_layer: Annotated[int, Between(0, 1000)] = 10
    keep_protected: bool = False
    keep_source_pixels: bool = False
    correspondence: Annotated[float, Between(0, 1)] = 0.0
    correspondence_share: Annotated[float, Between(0, 1, open_low=True)] = 0.8

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def attends(self) -> bool:
        """Whether the edited image attends to the source image."""
        return self.mutual_self_attention or self.correspondence > 0

    @property
    def needs_reference(self) -> bool:
        """Whether a render needs the reference branch, the source image's own render."""
        return self.attends or self.keep_protected

    def gate(self, index: int, count: int) -> float:
        """Return the weight of correspondence at denoising step ``index`` of ``count``."""
        steps = max(1, round(self.correspondence_share * count))
        return self.correspondence * max(0.0, 1 - index / steps)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings of an edit, by stage; a model recommends one of these.

    Examples:
        >>> Settings(drag=DragSettings(learning_rate=0.02)).drag.learning_rate
        0.02
    """

    inversion: InversionSettings = InversionSettings()
    lora: LoRASettings = LoRASettings()
    drag: DragSettings = DragSettings()
    render: RenderSettings = RenderSettings()

    def __post_init__(self) -> None:
        for stage in fields(self):
            value, wanted = getattr(self, stage.name), type(stage.default)
            if not isinstance(value, wanted):
                raise TypeError(
                    f"Settings.{stage.name} must be {wanted.__name__}, got {type(value).__name__}"
                )
        if self.drag.method == "gooddrag":
            self._check_gooddrag()

    def _check_gooddrag(self) -> None:
        if self.inversion.strength == 1:
            raise ValueError(
                "InversionSettings.strength must be below 1 with method 'gooddrag' (0.75 is its "
                "authors'), got 1"
            )
        if self.drag.drag_timesteps >= self.inversion.count:
            raise ValueError(
                f"DragSettings.drag_timesteps must be below {self.inversion.count}, the steps of "
                f"this inversion, with method 'gooddrag', got {self.drag.drag_timesteps}: lower "
                "it, or raise InversionSettings.steps or strength"
            )

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain data, ready for JSON; ``from_dict`` undoes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> Settings:
        """Return the settings in plain data; what is left out keeps its default.

        Raises:
            TypeError: a value of the wrong kind.
            ValueError: an unknown stage or field, named, or a value out of range.
        """
        stages: dict[str, Any] = {f.name: type(f.default) for f in fields(cls)}
        _check_mapping("settings", data)
        if unknown := [name for name in data if name not in stages]:
            raise ValueError(f"unknown settings {quoted(unknown)}; there are {sorted(stages)}")
        made = {}
        for stage, values in data.items():
            _check_mapping(f"{stage} settings", values)
            known = {f.name for f in fields(stages[stage])}
            if unknown := [name for name in values if name not in known]:
                raise ValueError(
                    f"unknown {stage} settings {quoted(unknown)}; there are {sorted(known)}"
                )
            made[stage] = stages[stage](**values)
        return cls(**made)
