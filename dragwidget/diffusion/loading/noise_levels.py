"""The noise levels that a model was trained on and what it predicts, from a scheduler's settings.

Only the class's name and its numbers are read; the classes themselves are diffusers' own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch

from dragwidget.data.quoting import quoted
from dragwidget.data.user_warning import warn_user
from dragwidget.diffusion.weights import Header, first_line
from dragwidget.drag.noise_path import PredictionType, Spacing

__all__ = [
    "MARKS",
    "PREDICTION_TYPES",
    "SchedulerMarks",
    "check_prediction_type",
    "marks_of",
    "noise_scheduler",
    "prediction_named",
    "scheduler_kind",
]

PREDICTION_TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction")
_NAMES: dict[str, PredictionType] = {
    "epsilon": "epsilon",
    "eps": "epsilon",
    "v": "v_prediction",
    "v_prediction": "v_prediction",
    "v-prediction": "v_prediction",
    "vpred": "v_prediction",
    "v_pred": "v_prediction",
    "velocity": "v_prediction",
}
# Classes of diffusers whose betas are those of a discrete forward process, as DDIM's; what differs
# is how each one samples, of which the spacing of the timesteps alone is asked for.
_SAME_FAMILY = (
    "DDIMScheduler", "DDIMInverseScheduler", "DDIMParallelScheduler", "DDPMScheduler",
    "DDPMParallelScheduler", "DEISMultistepScheduler", "DPMSolverMultistepScheduler",
    "DPMSolverMultistepInverseScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler", "LMSDiscreteScheduler",
    "PNDMScheduler", "SASolverScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
_DISTILLED = ("LCMScheduler", "TCDScheduler")  # the same betas, and a network for a few steps
# Betas of a class whose settings leave them out: start, end and schedule.
_USUAL = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
_SECOND_ORDER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear"}
_DEFAULTS = {
    "HeunDiscreteScheduler": _SECOND_ORDER,
    "KDPM2DiscreteScheduler": _SECOND_ORDER,
    "KDPM2AncestralDiscreteScheduler": _SECOND_ORDER,
    "DPMSolverSDEScheduler": _SECOND_ORDER,
    **{kind: {**_SECOND_ORDER, "beta_schedule": "scaled_linear"} for kind in _DISTILLED},
}
_OTHER_FAMILIES = {
    "FlowMatch": "flow matching, as Stable Diffusion 3 and Flux are",
    "EDM": "the continuous noise levels of EDM",
    "CosineDPM": "the continuous noise levels of EDM",
    "ConsistencyModel": "the continuous noise levels of consistency models",
    "CMStochastic": "the continuous noise levels of consistency models",
    "Karras": "the continuous noise levels of Karras et al.",
    "ScoreSde": "a stochastic differential equation",
    "VQDiffusion": "discrete codes",
    "CogVideoX": "the shifted noise levels of CogVideoX",
}
_BETAS = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
# What a file of weights says of its noise, as ComfyUI and others write it: by empty tensors of
# these names, and by metadata (https://github.com/Stability-AI/ModelSpec, and kohya's trainers).
_VELOCITY, _ZERO_SNR = "v_pred", "ztsnr"
MARKS = (_VELOCITY, _ZERO_SNR)
_PREDICTION_FIELDS = ("modelspec.prediction_type", "modelspec.predict_key")
MAX_TIMESTEPS = 1_000_000
_TRAINED_SIGMA = 1.05  # a highest sigma past that of the betas by this factor is another process's
_WHAT_TO_DO = (
    "if it was trained on Stable Diffusion's noise levels all the same, say so by a DDIMScheduler "
    "in its scheduler_config.json"
)


@dataclass(frozen=True, kw_only=True)
class SchedulerMarks:
    """What a model says of its noise beside its scheduler's settings.

    Attributes:
        prediction_type: what the network predicts; ``None``: nothing says so.
        zero_snr: whether the last noise level is pure noise (zero terminal SNR).
        guess: what a model of this kind predicts if nothing says so, where others of the kind
            predict otherwise (Stable Diffusion 2); it is used with a warning.
    """

    prediction_type: PredictionType | None = None
    zero_snr: bool = False
    guess: PredictionType | None = None


def check_prediction_type(value: str | None) -> PredictionType | None:
    """Return the prediction type that a caller names, or ``None``.

    Raises:
        ValueError: none that is supported.
    """
    if value is not None and value not in PREDICTION_TYPES:
        raise ValueError(
            f"prediction_type must be 'epsilon' (the network predicts the noise) or 'v_prediction' "
            f"(the velocity), got {quoted(value)}"
        )
    return value


def prediction_named(value: str, where: str) -> PredictionType:
    """Return the prediction type that a file names in one of several spellings.

    Raises:
        ValueError: one that is not supported; it names ``where`` it stands.
    """
    named = _NAMES.get(str(value).strip().lower())
    if named is None:
        raise ValueError(
            f"{where} says that it predicts {quoted(value)}; supported are 'epsilon' (noise) and "
            "'v_prediction' (velocity). If that is wrong, name the right one by prediction_type="
        )
    return named


def marks_of(
    headers: Iterable[Header],
    name: str,
    guess: PredictionType | None,
    prediction_type: PredictionType | None,
) -> SchedulerMarks:
    """Return what the files of a UNet's weights say: empty tensors of known names, and metadata.

    Args:
        name: what to call the model in an error.
        guess: what it predicts if nothing says so, see ``SchedulerMarks``.
        prediction_type: what the caller says; then the files are not asked for it.

    Raises:
        ValueError: they say two things at once, or what is not supported.
    """
    types: dict[str, PredictionType] = {}
    zero_snr = False
    for header in headers:
        zero_snr |= _ZERO_SNR in header.shapes
        if prediction_type is not None:
            continue
        for field in _PREDICTION_FIELDS:
            if header.metadata.get(field):
                types[field] = prediction_named(header.metadata[field], f"{field} of {name}")
        if _VELOCITY in header.shapes:
            types[f"the tensor {_VELOCITY}"] = "v_prediction"
    if len(set(types.values())) > 1:
        both = " and ".join(f"{kind} ({where})" for where, kind in types.items())
        raise ValueError(f"{name} says that it predicts {both}: name one by prediction_type=")
    return SchedulerMarks(
        prediction_type=next(iter(types.values()), None), zero_snr=zero_snr, guess=guess
    )


def noise_scheduler(
    config: Mapping[str, Any],
    name: str,
    *,
    index_class: str | None = None,
    marks: SchedulerMarks = SchedulerMarks(),
    prediction_type: PredictionType | None = None,
) -> Any:
    """Return a ``DDIMScheduler`` with a model's noise levels, spacing and prediction type.

    Args:
        config: the scheduler's settings, of any class whose noise levels are of this kind.
        name: what to call the model in a message.
        index_class: the scheduler's class that the model's index names.
        marks: what the model itself says; it wins over ``config``.
        prediction_type: what the caller says; it wins over all.

    Raises:
        ValueError: a scheduler of another family, or settings that make no noise levels.
    """
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler, rescale_zero_terminal_snr

    kind = scheduler_kind(config, index_class, name)
    betas = _betas(config, kind, name)
    if marks.zero_snr or config.get("rescale_betas_zero_snr") is True:
        betas = _rescaled(betas, rescale_zero_terminal_snr)
    predicts = _prediction(config, name, marks, prediction_type)
    # As diffusers' pipeline has it without a setting.
    offset = config.get("steps_offset", min(1, len(betas) - 1))
    if type(offset) is not int or not 0 <= offset < len(betas):
        raise ValueError(
            f"the scheduler of {name} has the steps_offset {quoted(offset)}; wanted 0 to "
            f"{len(betas) - 1}"
        )
    make: Any = DDIMScheduler
    made = make(
        num_train_timesteps=len(betas),
        trained_betas=betas.tolist(),
        prediction_type=predicts,
        steps_offset=offset,
        timestep_spacing=_spacing(config, kind, name),
        clip_sample=False,
        set_alpha_to_one=False,
    )
    alphas = made.alphas_cumprod
    if predicts == "epsilon" and not alphas[-1] > 0:
        warn_user(
            f"the noise levels of {name} end in pure noise (zero terminal SNR), where predicted "
            "noise says nothing of an image, and it is taken to predict noise (epsilon): if it "
            "predicts the velocity, say so by prediction_type='v_prediction'"
        )
    return made


def _spacing(config: Mapping[str, Any], kind: str, name: str) -> Spacing:
    """Return where the timesteps lie; ``"leading"`` where the settings say nothing."""
    if kind in _DISTILLED:  # these do not read the setting: they walk down from the noisiest level
        return "trailing"
    spacings: tuple[Spacing, ...] = get_args(Spacing)
    named = config.get("timestep_spacing")
    if named is None:
        return "leading"
    found = next((spacing for spacing in spacings if spacing == named), None)
    if found is None:
        raise ValueError(
            f"the scheduler of {name} has the timestep_spacing {quoted(named)}; wanted one of "
            f"{', '.join(spacings)}"
        )
    return found


def scheduler_kind(config: Mapping[str, Any], index_class: str | None, name: str) -> str:
    """Return a scheduler's class, one of the family's; see ``noise_scheduler``."""
    named = config.get("_class_name")
    for kind in (index_class, named):
        if kind is not None and kind not in (*_SAME_FAMILY, *_DISTILLED):
            what = next((w for part, w in _OTHER_FAMILIES.items() if part in str(kind)), None)
            raise ValueError(
                f"the scheduler of {name} is a {quoted(kind).strip(chr(39))}, "
                f"{f'of {what}' if what else 'which is not known'}; supported are the noise levels "
                f"of Stable Diffusion 1.x and 2.x; {_WHAT_TO_DO}"
            )
    kind = str(named or index_class or "DDIMScheduler")
    for key, wrong in (
        ("use_flow_sigmas", "flow matching"),
        ("use_dynamic_shifting", "flow matching"),
    ):
        if config.get(key):
            raise ValueError(_of_another(name, kind, f"{key} is set: {wrong}"))
    if config.get("timestep_type") == "continuous":
        raise ValueError(_of_another(name, kind, "timestep_type is 'continuous', as in EDM"))
    return kind


def _of_another(name: str, kind: str, why: str) -> str:
    return (
        f"the scheduler of {name} is a {kind} of other noise levels ({why}); supported are those "
        f"of Stable Diffusion 1.x and 2.x; {_WHAT_TO_DO}"
    )


def _betas(config: Mapping[str, Any], kind: str, name: str) -> torch.Tensor:
    """The share of the variance that is replaced by noise in every training timestep, (L,)."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler  # it knows all schedules

    given = {key: config[key] for key in _BETAS if config.get(key) is not None}
    wrong = _wrong_number(given)
    if wrong is not None:
        raise ValueError(f"the scheduler of {name} has {wrong}")
    try:
        make: Any = DDPMScheduler
        betas: torch.Tensor = make(**_DEFAULTS.get(kind, _USUAL) | given).betas.float()
    except Exception as error:  # whatever the class says of its settings
        raise ValueError(
            f"the scheduler of {name} cannot be made of its settings: {first_line(error)}"
        ) from error
    if betas.ndim != 1 or not len(betas) or not bool(((betas >= 0) & (betas <= 1)).all()):
        raise ValueError(f"the scheduler of {name} has betas that are not all between 0 and 1")
    alphas = torch.cumprod(1 - betas, 0)
    sigma = float(((1 - alphas[-1]) / alphas[-1].clamp(min=1e-12)).sqrt())
    asked = config.get("sigma_max")
    if isinstance(asked, int | float) and asked > _TRAINED_SIGMA * sigma:
        raise ValueError(
            _of_another(name, kind, f"sigma_max is {asked}, the betas' own {sigma:.4g}")
        )
    return betas


def _wrong_number(given: Mapping[str, Any]) -> str | None:
    """Return what of the settings of betas is of the wrong kind or size, in words."""
    count = given.get("num_train_timesteps", 1000)
    if type(count) is not int or not 1 <= count <= MAX_TIMESTEPS:
        return f"num_train_timesteps {quoted(count)}; wanted 1 to {MAX_TIMESTEPS}"
    for key in ("beta_start", "beta_end"):
        if key in given and not _is_beta(given[key]):
            return f"{key} {quoted(given[key])}; wanted a number between 0 and 1"
    trained = given.get("trained_betas", [0.5])
    if not isinstance(trained, list) or not 1 <= len(trained) <= MAX_TIMESTEPS:
        return f"trained_betas {quoted(trained)}; wanted a list of 1 to {MAX_TIMESTEPS} numbers"
    for beta in trained:
        if not _is_beta(beta):
            return f"{quoted(beta)} among its trained_betas; wanted numbers between 0 and 1"
    return None


def _is_beta(value: Any) -> bool:
    """False for a bool, NaN, and all that is no number."""
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1


def _rescaled(betas: torch.Tensor, rescale: Any) -> torch.Tensor:
    alphas = torch.cumprod(1 - betas, 0)
    if len(betas) < 2 or float(alphas[-1]) == 0:  # it ends in pure noise already
        return betas
    rescaled: torch.Tensor = rescale(betas)
    return rescaled


def _prediction(
    config: Mapping[str, Any],
    name: str,
    marks: SchedulerMarks,
    prediction_type: PredictionType | None,
) -> PredictionType:
    if prediction_type is not None:
        return prediction_type
    if marks.prediction_type is not None:
        return marks.prediction_type
    named = config.get("prediction_type")
    if named is None and config.get("predict_epsilon") is False:  # as it was called before
        named = "sample"
    if named is not None:
        return prediction_named(named, f"the scheduler of {name}")
    if marks.guess is None:
        return "epsilon"
    warn_user(
        f"nothing in {name} says whether it predicts the noise or the velocity, and models of "
        f"Stable Diffusion 2 do either: {marks.guess} is a guess. Be explicit by prediction_type="
        "'v_prediction' (the models of 768 pixels) or 'epsilon' (the base models of 512 pixels)"
    )
    return marks.guess
