"""The method as pure tensor maths: DDIM, motion supervision, point tracking and the drag loop.

Nothing here knows where a network comes from; any object with the small ``DragModel`` protocol
can be dragged.
"""

from dragwidget.drag.evaluation import DragModel, ModelOutput
from dragwidget.drag.features import FeatureMap
from dragwidget.drag.loop import DragStep, drag
from dragwidget.drag.method import DragMethod, DragState, Ended, Problem, StepReport
from dragwidget.drag.noise_path import NoisePath, Schedule, denoise, invert
from dragwidget.drag.supervision import GaussianPrior, motion_supervision, region_loss
from dragwidget.drag.tracking import track_points

__all__ = [
    "DragMethod",
    "DragModel",
    "DragState",
    "DragStep",
    "Ended",
    "FeatureMap",
    "GaussianPrior",
    "ModelOutput",
    "NoisePath",
    "Problem",
    "Schedule",
    "StepReport",
    "denoise",
    "drag",
    "invert",
    "motion_supervision",
    "region_loss",
    "track_points",
]
